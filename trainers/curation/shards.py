"""A source in pieces that are scored alone, so that any number of processes gives the same rows.

A shard of a prepared folder is one of its parquet files, read without copying the corpus into a cache; of any other
source, `rows_per_shard` rows in a row.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_scripts.schema import COLUMNS
from data_scripts.sources import SourceArguments, load_source
from data_scripts.tables import parquet_files

# Marks a folder that prepare_data.py, or an export of kept rows, wrote.
STATE = ".prepared"
DESCRIPTION = ("id", "text", "duration_s", "corpus", "speaker", "dialect", "emotion")


@dataclass(frozen=True, slots=True)
class Shard:
    """Some rows of a source.

    number: position; shards in order give the rows in order. file: parquet file, or None for rows [start, stop) of
    the source. digest: changes with the rows.
    """

    number: int
    file: str | None
    start: int
    stop: int
    digest: str

    @property
    def name(self) -> str:
        """How messages call it."""
        return Path(self.file).name if self.file else f"rows {self.start} to {self.stop - 1}"

    def __len__(self) -> int:
        return self.stop - self.start


def list_shards(source: SourceArguments, rows_per_shard: int) -> list[Shard]:
    """All shards of a source, in order.

    Raises:
        SourceError, SchemaError: see `load_source`.
        ValueError: no rows.
    """
    files = _prepared_files(source)
    if files is not None:
        shards = [_of_file(number, file) for number, file in enumerate(files)]
    else:
        texts = _whole(json.dumps(asdict(source))).select_columns(["id", "text", "duration_s"])
        starts = range(0, len(texts), rows_per_shard)
        stops = [min(start + rows_per_shard, len(texts)) for start in starts]
        shards = [
            Shard(number, None, start, stop, _digest(texts[start:stop]))
            for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
        ]
    if not sum(map(len, shards)):
        raise ValueError(f"{source.path}: split {source.split!r} has no rows")
    return shards


def read_rows(source: SourceArguments, shard: Shard, *, audio: bool = True) -> Iterator[dict[str, Any]]:
    """Rows of a shard in the schema, audio encoded; without it the columns of `DESCRIPTION` and `spans` alone."""
    columns = list(COLUMNS) if audio else [*DESCRIPTION, "spans"]
    if shard.file is None:
        rows = _whole(json.dumps(asdict(source))).select_columns(columns)
        # A few rows at a time: a slice holds the audio of all of its rows.
        for index in range(shard.start, shard.stop):
            yield rows[index]
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(shard.file) as file:
        for batch in file.iter_batches(batch_size=64 if audio else 4096, columns=columns):
            for row in batch.to_pylist():
                if audio and row["audio"] and row["audio"]["bytes"] is None:
                    row["audio"] = None  # prepared folders hold the bytes; nothing else on the disk is opened
                yield {**row, "text": row["text"] or "", "spans": row["spans"] or []}


def _prepared_files(source: SourceArguments) -> list[str] | None:
    """The parquet files of a prepared folder; None for a source that is read otherwise."""
    import pyarrow.parquet as pq

    local = Path(source.path).expanduser()
    if source.kind not in ("auto", "parquet") or not local.is_dir() or source.columns or source.max_rows:
        return None
    if not (local / STATE).is_dir():
        return None
    files = parquet_files(source)
    return files if all(set(COLUMNS) <= set(pq.read_schema(file).names) for file in files[:1]) else None


def _of_file(number: int, path: str) -> Shard:
    """A parquet file as a shard; its digest is that of its footer, which states place and range of every column."""
    import pyarrow.parquet as pq

    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        file.seek(size - 8)
        length = struct.unpack("<I", file.read(4))[0]
        file.seek(max(0, size - 8 - length))
        digest = hashlib.blake2b(file.read() + str(size).encode(), digest_size=12).hexdigest()
    return Shard(number, path, 0, pq.read_metadata(path).num_rows, digest)


@lru_cache(maxsize=1)
def _whole(source: str) -> Any:
    """A source that is no prepared folder, loaded once a process; text is normalised."""
    arguments = SourceArguments(**json.loads(source))
    return load_source(replace(arguments, weight=1.0), need_text=False)


def _digest(columns: dict[str, list[Any]]) -> str:
    return hashlib.blake2b(json.dumps(columns, ensure_ascii=False).encode(), digest_size=12).hexdigest()
