"""Records of every kind of source to data sets in the schema; `data_scripts.sources` is the door to it.

Text columns are small and are built in memory; audio stays where it is: a path, or bytes in memory-mapped Arrow files
that no step of loading copies.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import datasets
import pyarrow as pa
import pyarrow.parquet
from datasets import ClassLabel, Dataset, Features, IterableDataset
from datasets.table import InMemoryTable
from datasets.utils.file_utils import xopen

from data_scripts import readers
from data_scripts.audio import AudioError, SoundfileAudio, audio_info
from data_scripts.readers import PathResolver, SourceError
from data_scripts.schema import FEATURES, TEXT_FEATURES, Row, coerce_metadata
from data_scripts.sources import SourceArguments
from data_scripts.text.normalize import normalize_with_spans

logger = logging.getLogger(__name__)

TABLE_ROWS = 4096
STREAM_SHARDS = 64
SPLIT_NAMES = {"train", "validation", "valid", "val", "dev", "test"}


@dataclass(frozen=True)
class RowOptions:
    """What `load_source` was asked for."""

    need_text: bool = True
    need_audio: bool = True
    normalise: bool = True
    fill_durations: bool = True

    @property
    def features(self) -> Features:
        return FEATURES if self.need_audio else TEXT_FEATURES


class RowMaker:
    """A record of a source → a row of the schema. Picklable, for streams read in worker processes.

    Args:
        matched: schema name → name in the source.
        resolver: decides which audio paths may be read; None where no column holds audio.
        labels: names of the classes of columns that hold class numbers, by schema name.
    """

    def __init__(
        self,
        source: SourceArguments,
        options: RowOptions,
        matched: Mapping[str, str],
        resolver: "Resolver | None" = None,
        labels: Mapping[str, list[str]] | None = None,
    ) -> None:
        self.source, self.options, self.matched = source, options, dict(matched)
        self.resolver, self.labels = resolver, dict(labels or {})
        self.corpus = source.corpus or corpus_name(source.path)

    def __call__(self, record: Mapping[str, Any], where: str, default_id: str | None = None) -> Row:
        """One row. Where the source has no ids, `default_id` or the audio path serves, after the corpus name.

        Raises:
            SchemaError, SourceError: naming `where`.
        """
        raw = {key: record.get(theirs) for key, theirs in self.matched.items()}
        for key, names in self.labels.items():
            number = raw[key]
            raw[key] = names[number] if isinstance(number, int) and number >= 0 else None
        raw.setdefault("duration_s", None)
        row = coerce_metadata(raw, where)
        if not self.options.need_audio:
            row.pop("duration_s")
        row["corpus"] = row["corpus"] or self.corpus
        if self.options.normalise:
            row["text"], row["spans"] = normalize_with_spans(row["text"], row["spans"])
        if self.resolver:
            row["audio"] = self._audio(raw.get("audio"), self.resolver, where)
            if row["duration_s"] is None and self.options.fill_durations:
                row["duration_s"] = header_duration(row["audio"])
        row["id"] = self.source.id_prefix + self._id(raw, default_id)
        return cast(Row, row)

    def _id(self, raw: Mapping[str, Any], default: str | None) -> str:
        value = raw.get("id")
        if value is not None and value != "":
            return str(value)
        if default is None:
            audio = raw.get("audio")
            default = str(audio.get("path") if isinstance(audio, Mapping) else audio or "")
        return f"{self.corpus}/{default}"

    def _audio(self, value: Any, resolver: "Resolver", where: str) -> dict[str, Any] | None:
        if isinstance(value, bytes):
            return {"bytes": value, "path": None}
        if isinstance(value, Mapping) and value.get("bytes") is not None:
            return {"bytes": value["bytes"], "path": value.get("path")}
        path = resolver.resolve(value, where)
        return {"bytes": None, "path": path} if path else None


class StreamMapper:
    """`IterableDataset.map` over records of a columnar source."""

    def __init__(self, make: RowMaker, name: str) -> None:
        self.make, self.name = make, name

    def __call__(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        audio = record.get(self.make.matched.get("audio", ""))
        if isinstance(audio, Mapping) and audio.get("bytes") is None and _is_remote(audio.get("path")):
            # A file of its own on the Hub: fetched once here, not once for the header and again for the samples.
            with xopen(audio["path"], "rb") as file:
                record = {**record, self.make.matched["audio"]: {"path": audio["path"], "bytes": file.read()}}
        return dict(self.make(record, f"{self.name} row {index}", default_id=f"{self.make.source.split}/{index:08d}"))


def _is_remote(path: Any) -> bool:
    return isinstance(path, str) and (path.startswith("hf://") or "::hf://" in path)


def corpus_name(path: str) -> str:
    """The folder, file stem or Hub id of a source."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local.resolve().name
    return local.name.split(".")[0] if local.exists() else path


def line_id(where: str) -> str:
    """ "metadata.csv:17" → "00000017"."""
    return where.rpartition(":")[2].zfill(8)


def header_duration(audio: Mapping[str, Any] | None) -> float | None:
    """Seconds by the header, None for a file that cannot be read (validation says why)."""
    if audio is None:
        return None
    try:
        return audio_info(audio).duration_s
    except AudioError:
        return None


def table_from_rows(rows: Iterable[Mapping[str, Any]], features: Features) -> Dataset:
    """An in-memory data set."""
    rows = iter(rows)
    schema = features.arrow_schema
    tables = []
    while chunk := list(islice(rows, TABLE_ROWS)):
        tables.append(pa.Table.from_pydict({key: [row[key] for row in chunk] for key in features}, schema=schema))
    table = pa.concat_tables(tables) if tables else schema.empty_table()
    return Dataset(InMemoryTable(table), info=datasets.DatasetInfo(features=features))


def load_manifest(source: SourceArguments, kind: str, options: RowOptions) -> Dataset | IterableDataset:
    """A folder with a metadata file, or a manifest beside its audio."""
    return _streamed(table_from_rows(manifest_rows(source, kind, options), options.features), source)


def manifest_rows(source: SourceArguments, kind: str, options: RowOptions) -> Iterator[Row]:
    """Rows of a folder with a metadata file or of a manifest, read as they are used."""
    path, start = Path(source.path).expanduser(), ""
    if kind == "folder":
        if not path.is_dir():
            raise SourceError(f"{source.path}: no such folder")
        path, start = readers.metadata_file(path, source.split)
    found, records = readers.peek(readers.read_records(path))
    matched = _match(found, source, str(path), options)
    resolver = PathResolver(path.parent, source.allow_outside_root) if options.need_audio else None
    make = RowMaker(source, options, matched, resolver)
    if start:
        column = (
            matched.get("audio")
            or readers.match_columns(found, source.columns, str(path), need_audio=True, need_text=False)["audio"]
        )
        records = (record for record in records if str(record[1].get(column, "")).startswith(start))
    for where, record in islice(records, source.max_rows):
        # Where audio is left out, so is the name that ids are made of: the line number serves.
        yield make(record, where, default_id=None if resolver else line_id(where))


def load_text(source: SourceArguments, options: RowOptions) -> Dataset | IterableDataset:
    """Sentences: the lines of a text file, or the text column of any other source."""
    options = replace(options, need_audio=False, need_text=True)
    path = Path(source.path).expanduser()
    if not path.is_file() or readers.suffix_of(path) == ".parquet":
        kind = readers.detect_kind(source.path, source.columns)
        if kind == "corpus":
            return load_named(source, options)
        return load_manifest(source, kind, options) if kind == "folder" else load_columnar(source, kind, options)
    if source.streaming:
        return IterableDataset.from_generator(
            text_rows, features=TEXT_FEATURES, gen_kwargs={"source": source, "options": options}
        )
    return table_from_rows(text_rows(source, options), TEXT_FEATURES)


def text_rows(source: SourceArguments, options: RowOptions) -> Iterator[Row]:
    """Rows of text alone of a .txt, CSV, TSV or JSONL file, read as they are used."""
    path = Path(source.path).expanduser()
    lines = readers.suffix_of(path) in readers.SENTENCE_SUFFIXES
    found, records = readers.peek(readers.read_sentences(path) if lines else readers.read_records(path))
    matched = {"text": "text"}
    if found or not lines:
        matched = _match(found, source, source.path, options)
    make = RowMaker(source, options, matched)
    for where, record in islice(records, source.max_rows):
        yield make(record, where, default_id=line_id(where))


def load_named(source: SourceArguments, options: RowOptions) -> Dataset | IterableDataset:
    """A corpus known by name."""
    from data_scripts.corpora import CORPORA, load_corpus  # builders import this module

    if source.name:
        raise SourceError(
            f"name of source {source.path}: {source.name!r} is for Hub data sets, {source.path} is a corpus"
        )
    if options.need_text and source.path in CORPORA and not CORPORA[source.path].has_text:
        raise SourceError(f"{source.path} has no transcripts: it serves emotion recognition, not speech recognition")
    rows = load_corpus(
        source.path,
        source.split,
        source.data_dir,
        streaming=source.streaming,
        max_rows=source.max_rows,
        revision=source.revision,
        columns=source.columns,
        normalise=options.normalise,
        fill_durations=options.fill_durations,
        corpus=source.corpus,
        id_prefix=source.id_prefix,
    )
    return rows if options.need_audio else rows.select_columns(list(TEXT_FEATURES))


def load_columnar(source: SourceArguments, kind: str, options: RowOptions) -> Dataset | IterableDataset:
    """Parquet shards or a Hub data set."""
    # The first rows of a Hub data set are streamed: downloading all of it for them would be a surprise.
    if source.streaming or (kind == "hub" and source.max_rows):
        stream = _open_columnar(source, kind, streaming=True)
        if source.max_rows:
            stream = stream.take(source.max_rows)
        rows = _stream_rows(stream, source, kind, options)
        return rows if source.streaming else table_from_rows(rows, options.features)
    loaded = _open_columnar(source, kind, streaming=False)
    if source.max_rows:
        loaded = loaded.select(range(min(source.max_rows, len(loaded))))
    return _map_rows(loaded, source, kind, options)


def _open_columnar(source: SourceArguments, kind: str, *, streaming: bool) -> Any:
    if kind == "parquet":
        files = parquet_files(source)
        return datasets.load_dataset("parquet", data_files={"train": files}, split="train", streaming=streaming)
    try:
        return datasets.load_dataset(
            source.path, source.name, split=source.split, revision=source.revision, streaming=streaming
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        wanted = (
            f"configuration {source.name or 'default'}, split {source.split}, revision {source.revision or 'main'}"
        )
        raise SourceError(f"Hub data set {source.path!r} ({wanted}) cannot be loaded: {error}") from error


def parquet_files(source: SourceArguments) -> list[str]:
    """The shards of a split, all readable and of one schema."""
    path = Path(source.path).expanduser()
    if path.is_file():
        files = [path]
    else:
        every = sorted(path.rglob("*.parquet"))
        if not every:
            raise SourceError(f"{source.path}: no *.parquet files")
        splits = {file: _split_of(file.relative_to(path)) for file in every}
        files = [file for file, split in splits.items() if split == source.split]
        if not files and source.split == "train" and not any(splits.values()):
            files = every
        if not files:
            there = ", ".join(sorted({split for split in splits.values() if split})) or "none"
            raise SourceError(
                f"{source.path}: no split {source.split!r} among its parquet files; splits found: {there}"
            )
    first = None
    for file in files:
        try:
            schema = pyarrow.parquet.read_schema(file).remove_metadata()
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{file}: not a readable parquet file (cut off?): {error}") from error
        first = first or schema
        if schema.names != first.names:
            raise SourceError(f"{file}: columns {schema.names}, but {files[0]} has {first.names}")
    return [str(file) for file in files]


def _split_of(file: Path) -> str | None:
    # train-00000.parquet, and what the builders of corpora write: vivos-train-00000-of-00002.parquet
    for part in (*file.parts[:-1], *file.name.split(".")[0].split("-")):
        if part in SPLIT_NAMES:
            return part
    return None


def _map_rows(loaded: Dataset, source: SourceArguments, kind: str, options: RowOptions) -> Dataset:
    matched = _match(loaded.column_names, source, source.path, options)
    audio = None
    if options.need_audio:
        audio = _audio_column(loaded.select_columns([matched.pop("audio")]), source, kind)
    measure = audio is not None and options.fill_durations
    if measure and "duration_s" not in matched:
        logger.info("%s: no durations, reading the headers of %d recordings", source.path, len(loaded))
    # Without a resolver the maker leaves audio alone: its column is not copied but set beside the others below.
    make = RowMaker(source, options, matched, labels=_labels(loaded.features, matched))
    texts = loaded.select_columns(sorted(set(matched.values())))

    def rows() -> Iterator[Row]:
        for start in range(0, len(loaded), TABLE_ROWS):
            batch = texts[start : start + TABLE_ROWS]
            for index in range(start, min(start + TABLE_ROWS, len(loaded))):
                record = {name: values[index - start] for name, values in batch.items()}
                row = make(record, f"{source.path} row {index}", default_id=f"{source.split}/{index:08d}")
                if audio is not None and row.get("duration_s") is None and options.fill_durations:
                    row["duration_s"] = header_duration(audio[index]["audio"])
                yield row

    metadata = table_from_rows(rows(), Features({k: v for k, v in options.features.items() if k != "audio"}))
    if audio is None:
        return metadata
    return datasets.concatenate_datasets([audio, metadata], axis=1).select_columns(list(FEATURES))


def _audio_column(column: Dataset, source: SourceArguments, kind: str) -> Dataset:
    """The audio alone under its schema name, as encoded files; paths are checked."""
    name = column.column_names[0]
    column = column.rename_column(name, "audio") if name != "audio" else column
    feature = SoundfileAudio(sampling_rate=FEATURES["audio"].sampling_rate, decode=False)
    try:
        column = column.cast_column("audio", feature)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SourceError(f"{source.path}: column {name!r} does not hold audio: {error}") from error
    resolver = _resolver(source, kind)
    chunks = column.data.column("audio").chunks
    embedded = [valid for chunk in chunks for valid in chunk.field("bytes").is_valid().to_pylist()]
    paths = [path for chunk in chunks for path in chunk.field("path").to_pylist()]
    for index, (path, inside) in enumerate(zip(paths, embedded, strict=True)):
        if path and not inside:
            paths[index] = resolver.resolve(path, f"{source.path} row {index}")
    if any(embedded):
        return column
    rows = ({"audio": {"path": path, "bytes": None} if path else None} for path in paths)
    return table_from_rows(rows, Features({"audio": feature}))


def _stream_rows(stream: IterableDataset, source: SourceArguments, kind: str, options: RowOptions) -> IterableDataset:
    features = stream.features
    found = stream.column_names
    if found is None:  # JSON lines and the like tell their columns with the first row
        found = list(next(iter(stream), {}))
    make = record_maker(source, kind, options, found, features or {})
    audio = make.matched.get("audio")
    if audio and features is not None and isinstance(features[audio], datasets.Audio):
        stream = stream.cast_column(audio, SoundfileAudio(decode=False))
    mapper = StreamMapper(make, source.path)
    return stream.map(mapper, with_indices=True, remove_columns=found, features=options.features)


def record_maker(
    source: SourceArguments, kind: str, options: RowOptions, found: list[str], features: Mapping[str, Any]
) -> RowMaker:
    """What makes rows of the records of a columnar source.

    Args:
        found: its columns.
        features: their types; class numbers become names.

    Raises:
        SourceError: a column is missing.
    """
    matched = _match(found, source, source.path, options)
    resolver = _resolver(source, kind) if options.need_audio else None
    return RowMaker(source, options, matched, resolver, _labels(features, matched))


class CacheResolver:
    """Audio paths of a Hub data set: files of the Hub, or of the caches that `datasets` unpacked them into."""

    def __init__(self, allow_outside: bool) -> None:
        places = (datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE)
        self.caches = tuple(os.path.realpath(str(place)) + os.sep for place in places)
        self.allow_outside = allow_outside

    def resolve(self, value: Any, where: str) -> str | None:
        path = value.get("path") if isinstance(value, Mapping) else value
        if not path or self.allow_outside or _is_remote(path) or os.path.realpath(path).startswith(self.caches):
            return path
        raise SourceError(f"{where}: audio path {path!r} is outside of the cache; set allow_outside_root to read it")


class Resolver(Protocol):
    """Decides which audio paths may be read."""

    def resolve(self, value: Any, where: str) -> str | None: ...


def _resolver(source: SourceArguments, kind: str) -> Resolver:
    if kind == "hub":
        return CacheResolver(source.allow_outside_root)
    path = Path(source.path).expanduser()
    return PathResolver(path if path.is_dir() else path.parent, source.allow_outside_root)


def _labels(features: Mapping[str, Any], matched: Mapping[str, str]) -> dict[str, list[str]]:
    return {
        key: features[theirs].names for key, theirs in matched.items() if isinstance(features.get(theirs), ClassLabel)
    }


def _match(found: list[str], source: SourceArguments, name: str, options: RowOptions) -> dict[str, str]:
    return readers.match_columns(
        found, source.columns, name, need_audio=options.need_audio, need_text=options.need_text
    )


def _streamed(rows: Dataset, source: SourceArguments) -> Dataset | IterableDataset:
    return rows.to_iterable_dataset(num_shards=max(1, min(STREAM_SHARDS, len(rows)))) if source.streaming else rows
