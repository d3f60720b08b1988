"""A source cut into blocks of rows, the tasks that workers check.

A block is small: the rows of a manifest without their audio, a range of a parquet file, a shard of a stream. Workers
open the recordings themselves. Only a stream that has one reader and carries audio inside goes through this process:
a block of it is spooled to disk. How a source is cut depends on the source alone, never on the workers.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, IterableDataset

from data_scripts import readers, tables
from data_scripts.files import whole_file
from data_scripts.preparing.writing import ShardWriter
from data_scripts.schema import FEATURES, TEXT_FEATURES, Row
from data_scripts.sources import SourceArguments, load_source
from data_scripts.tables import RowOptions

IsDone = Callable[[int], bool]
SpoolPath = Callable[[int], Path]

READ_ROWS = 64
READ_BUFFER_BYTES = 1 << 20  # else a reader takes in a whole column of a row group, 100 MB of audio


@dataclass(frozen=True)
class Done:
    """A block whose rows have been checked before: nothing is left for a worker to do."""

    number: int


@dataclass(frozen=True)
class RowBlock:
    """Rows that point at their recordings, or of text alone."""

    number: int
    name: str
    items: list[Row]

    def rows(self) -> Iterator[Row]:
        return iter(self.items)

    def num_bytes(self) -> int:
        """Size of the recordings."""
        audio = (row.get("audio") or {} for row in self.items)
        paths = (source.get("path") for source in audio if source.get("bytes") is None)
        return sum(os.path.getsize(path) for path in paths if path and os.path.isfile(path))


@dataclass(frozen=True)
class FileBlock:
    """Rows `start` to `stop` of a parquet file.

    `source` is None for a file in the schema, spooled by this job; `first_index` is the place of the file's first row
    in the source, of which ids are made where there are none.
    """

    number: int
    name: str
    file: str
    start: int
    stop: int
    options: RowOptions
    source: SourceArguments | None = None
    first_index: int = 0

    def rows(self) -> Iterator[Row]:
        schema = pq.read_schema(self.file)
        make, columns = None, schema.names
        if self.source:
            features = Features.from_arrow_schema(schema)
            make = tables.record_maker(self.source, "parquet", self.options, columns, features)
            columns = sorted(set(make.matched.values()))
        records = read_range(self.file, columns, self.start, self.stop)
        for place, record in enumerate(records, self.first_index + self.start):
            if self.source and make:
                yield make(record, f"{self.source.path} row {place}", default_id=f"{self.source.split}/{place:08d}")
            else:
                yield cast(Row, record)

    def num_bytes(self) -> int:
        metadata = pq.read_metadata(self.file)
        return os.path.getsize(self.file) * (self.stop - self.start) // max(1, metadata.num_rows)


@dataclass(frozen=True)
class StreamBlock:
    """One shard of a stream of many, for instance a file of the Hub; its length shows when it is read."""

    number: int
    name: str
    source: SourceArguments
    options: RowOptions
    num_shards: int

    def rows(self) -> Iterator[Row]:
        shard = _open_stream(self.source, self.options).shard(self.num_shards, self.number)
        return iter(cast(Iterable[Row], shard))

    def num_bytes(self) -> int:
        return 0


Block = RowBlock | FileBlock | StreamBlock


@dataclass(frozen=True)
class Plan:
    """The blocks of a source, made as they are drawn; `num_rows` is None where only reading would tell."""

    blocks: Iterable[Block | Done]
    features: Features
    num_rows: int | None = None


def plan_blocks(
    source: SourceArguments,
    need_text: bool,
    rows_per_block: int,
    done: IsDone,
    spool: SpoolPath,
) -> Plan:
    """Cut a source.

    Args:
        rows_per_block: rows of a block; a shard of a stream is a block whatever its length.
        done: whether the block of a number was checked before.
        spool: where a block that passes through this process is put, by its number.

    Raises:
        SourceError, SchemaError: see `load_source`; those of single rows when their block is drawn or read.
    """
    options = RowOptions(need_text=need_text, normalise=False, fill_durations=False)
    kind = readers.detect_kind(source.path, source.columns) if source.kind == "auto" else source.kind
    if kind == "text":
        options = replace(options, need_audio=False, need_text=True)
        path = Path(source.path).expanduser()
        if path.is_file() and readers.suffix_of(path) != ".parquet":
            rows = _opened(tables.text_rows(source, options))
            return Plan(_row_blocks(rows, rows_per_block, done), TEXT_FEATURES)
        kind = readers.detect_kind(source.path, source.columns)
    if kind in ("folder", "manifest"):
        rows = _opened(tables.manifest_rows(source, kind, options))
        return Plan(_row_blocks(rows, rows_per_block, done), options.features)
    if kind == "parquet":
        return _parquet_plan(source, options, rows_per_block, done)
    return _stream_plan(source, options, rows_per_block, done, spool)


def _opened(rows: Iterator[Row]) -> Iterator[Row]:
    """The same, with the first row read: missing columns are told before anything is written."""
    first = list(islice(rows, 1))
    return chain(first, rows)


def _row_blocks(rows: Iterable[Row], rows_per_block: int, done: IsDone) -> Iterator[RowBlock | Done]:
    rows = iter(rows)
    for number in count():
        if not (items := list(islice(rows, rows_per_block))):
            return
        yield Done(number) if done(number) else RowBlock(number, _name(number, rows_per_block), items)


def _name(number: int, rows_per_block: int) -> str:
    return f"the shard from row {number * rows_per_block}"


def _parquet_plan(source: SourceArguments, options: RowOptions, rows_per_block: int, done: IsDone) -> Plan:
    files = tables.parquet_files(source)
    schema = pq.read_schema(files[0])
    # Missing columns are told now, not by the first worker.
    tables.record_maker(source, "parquet", options, schema.names, Features.from_arrow_schema(schema))
    lengths = [pq.read_metadata(file).num_rows for file in files]
    allowed = sum(lengths) if source.max_rows is None else min(source.max_rows, sum(lengths))

    def blocks() -> Iterator[FileBlock | Done]:
        number, first = 0, 0
        for file, length in zip(files, lengths, strict=True):
            end = min(length, allowed - first)
            for start in range(0, end, rows_per_block):
                stop = min(start + rows_per_block, end)
                name = f"the shard from row {start} of {file}"
                yield (
                    Done(number)
                    if done(number)
                    else FileBlock(number, name, file, start, stop, options, source, first)
                )
                number += 1
            first += length

    return Plan(blocks(), options.features, allowed)


def _stream_plan(
    source: SourceArguments,
    options: RowOptions,
    rows_per_block: int,
    done: IsDone,
    spool: SpoolPath,
) -> Plan:
    stream = _open_stream(source, options)
    first = next(iter(stream), None)
    if first is None:
        return Plan([], options.features)
    features = FEATURES if "audio" in first else TEXT_FEATURES
    if (first.get("audio") or {}).get("bytes") is None:
        return Plan(_row_blocks(cast(Iterable[Row], stream), rows_per_block, done), features)
    # Ids that are counted while reading would begin anew in every shard.
    counted = first["id"].endswith(f"/{source.split}/{0:08d}")
    if stream.num_shards > 1 and not counted and not source.max_rows:
        blocks = (
            Done(number)
            if done(number)
            else StreamBlock(number, f"shard {number} of {source.path}", source, options, stream.num_shards)
            for number in range(stream.num_shards)
        )
        return Plan(blocks, features)
    return Plan(_spooled(cast(Iterable[Row], stream), options, rows_per_block, done, spool), features)


def _spooled(
    rows: Iterable[Row],
    options: RowOptions,
    rows_per_block: int,
    done: IsDone,
    spool: SpoolPath,
) -> Iterator[FileBlock | Done]:
    rows = iter(rows)
    for number in count():
        block = islice(rows, rows_per_block)
        if done(number):
            if not sum(1 for _ in block):
                return
            yield Done(number)
            continue
        if (first := next(block, None)) is None:
            return
        path, length = spool(number), 1
        with whole_file(path) as file, ShardWriter(file, options.features, embed=False) as writer:
            writer.write(first)
            for row in block:
                writer.write(row)
                length += 1
        yield FileBlock(number, _name(number, rows_per_block), str(path), 0, length, options)


_streams: dict[str, IterableDataset] = {}


def _open_stream(source: SourceArguments, options: RowOptions) -> IterableDataset:
    """Opened once in a process: finding the files of a Hub data set takes requests."""
    key = repr((source, options))
    if key not in _streams:
        _streams.clear()
        stream = load_source(
            replace(source, streaming=True), need_text=options.need_text, normalise=False, fill_durations=False
        )
        _streams[key] = cast(IterableDataset, stream)
    return _streams[key]


def read_range(file: str, columns: list[str], start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Rows `start` to `stop` of a parquet file, few in memory at a time.

    Raises:
        SourceError: the file is damaged.
    """
    try:
        options = {"buffer_size": READ_BUFFER_BYTES, "pre_buffer": False, "page_checksum_verification": True}
        with pq.ParquetFile(file, **options) as parquet:
            first = 0
            for group in range(parquet.num_row_groups):
                after = first + parquet.metadata.row_group(group).num_rows
                if first < stop and start < after:
                    for batch in parquet.iter_batches(READ_ROWS, row_groups=[group], columns=columns):
                        here = batch.slice(
                            max(0, start - first), max(0, min(stop, first + len(batch)) - max(start, first))
                        )
                        yield from here.to_pylist()
                        first += len(batch)
                first = after
    except (pa.ArrowException, OSError) as error:
        raise readers.SourceError(f"{file}: cannot be read as parquet (damaged?): {error}") from error
