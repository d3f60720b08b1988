"""The builder behind every corpus: the Hub's parquet files or a local tree in, rows of the schema out.

A corpus module states its facts (`INFO`) and, if it has a local form, `read(tree, split)`. Where file names are codes,
`name_fields(stem)` gives what they say, for both forms. Everything else is here, once.
"""

import argparse
import errno
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, cast

import datasets
import pyarrow.parquet
from datasets import ClassLabel, Features, IterableDataset
from datasets.exceptions import DatasetGenerationError
from datasets.utils.file_utils import xopen

from data_scripts.audio import SAMPLING_RATE_HZ, SoundfileAudio
from data_scripts.corpora.facts import LEFT_OUT, CorpusError, CorpusInfo, Record
from data_scripts.corpora.hub import explained, hub_files, layout_of
from data_scripts.corpora.tree import Tree
from data_scripts.readers import SourceError, match_columns
from data_scripts.schema import FEATURES, Row
from data_scripts.sources import SourceArguments
from data_scripts.tables import STREAM_SHARDS, RowMaker, RowOptions
from data_scripts.text.normalize import NORMALIZER_VERSION

logger = logging.getLogger(__name__)

# Part of the cache key: rows made by another version of the readers are not used again.
READER_VERSION = "1"
BATCH_ROWS = 64


@dataclass
class CorpusConfig(datasets.BuilderConfig):
    """What a corpus can be asked for; `data_dir` is a local copy, official or of the Hub."""

    split: str | None = None
    """This split only; its files alone are fetched. All of them if not given."""
    revision: str | None = None
    """Branch, tag or commit of the Hub form."""
    columns: dict[str, str] | None = None
    """Schema name → column, where a copy of the Hub form has other names."""
    normalise: bool = True
    """Text and spans by `normalize_with_spans`; validation does it itself, to count repairs."""
    fill_durations: bool = True
    """Durations from the headers of the recordings."""
    max_rows: int | None = None
    """The first rows of each split; of the Hub, only as much is read as they need."""
    corpus: str | None = None
    """Name in the `corpus` column and in ids, if not that of the corpus."""
    id_prefix: str = ""
    """Put before every id."""
    decode: bool = False
    """Mark the audio column as decodable, for files that others read."""


class _AnyFile:
    """Audio paths of a tree: they were found by walking it."""

    def resolve(self, value: Any, where: str) -> str | None:
        return value.get("path") if isinstance(value, Mapping) else value


class _NoFile:
    """Audio paths in parquet from elsewhere: a recording is inside or missing; a path would be one of this machine."""

    def resolve(self, value: Any, where: str) -> str | None:
        return None


class CorpusBuilder(datasets.GeneratorBasedBuilder):
    """One corpus; `facts.builder_of` makes the class of each module.

    Raises:
        CorpusError: gated, unreachable, another layout, missing columns.
    """

    BUILDER_CONFIG_CLASS = CorpusConfig
    DEFAULT_WRITER_BATCH_SIZE = 256
    corpus: ModuleType

    def __init__(self, cache_dir: str | None = None, data_dir: str | None = None, **options: Any) -> None:
        facts: CorpusInfo = self.corpus.INFO
        split = options.get("split")
        if split is not None and split not in facts.splits:
            raise CorpusError(f"{facts.name} has no split {split!r}; it has {', '.join(facts.splits)}")
        if data_dir:
            self.tree = Tree.of(data_dir)
            state = self.tree.fingerprint()
        else:
            files, state = hub_files(facts, options.get("revision"))
            self.tree = Tree(files, facts.hub_id or facts.name)
        self.parquet = [name for name in self.tree.files if name.endswith(".parquet")]
        self.local = bool(data_dir)
        options.setdefault("hash", f"{READER_VERSION}-{NORMALIZER_VERSION}-{state}")
        super().__init__(cache_dir=cache_dir, data_dir=data_dir, **options)

    @property
    def facts(self) -> CorpusInfo:
        return self.corpus.INFO

    def _info(self) -> datasets.DatasetInfo:
        audio = SoundfileAudio(sampling_rate=SAMPLING_RATE_HZ, decode=self.config.decode)
        return datasets.DatasetInfo(
            description=self.corpus.__doc__ or "",
            citation=self.facts.citation,
            homepage=self.facts.homepage,
            license=self.facts.licence,
            features=Features({**FEATURES, "audio": audio}),
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        wanted = [self.config.split] if self.config.split else list(self.facts.splits)
        parts = {split: self._parquet_of(split) if self.parquet else self._tree_of(split) for split in wanted}
        generators = []
        for split, part in parts.items():
            if not part:
                continue
            if not self.local and not self.config.max_rows:
                part = self._fetched(part, dl_manager)
            places: Any = list(part.values()) if self.parquet else Tree(part, self.tree.where)
            key = "files" if self.parquet else "tree"
            generators.append(datasets.SplitGenerator(split, gen_kwargs={key: places, "split": split}))
        if not generators:
            raise self._wrong_layout(wanted)
        return generators

    def _parquet_of(self, split: str) -> dict[str, str]:
        """The parquet files of a split: `data/train-00000-of-00002.parquet`, `default/train/0000.parquet`."""
        sources = "|".join(re.escape(name) for name in self.facts.splits[split])
        pattern = re.compile(rf"(^|[/-])(partial-)?({sources})([-./]|$)")
        return {name: self.tree.files[name] for name in sorted(self.parquet) if pattern.search(name)}

    def _tree_of(self, split: str) -> dict[str, str]:
        """The files that hold a split of the official tree; empty if it is not there."""
        if not self.local:
            patterns = self.facts.hub_archives.get(split, ())
            return {
                n: place for n, place in self.tree.files.items() if any(PurePosixPath(n).match(p) for p in patterns)
            }
        return self.tree.files if self.tree.holds(*self.facts.local_parts.get(split, ())) else {}

    def _fetched(self, part: dict[str, str], dl_manager: Any) -> dict[str, str]:
        try:
            return dl_manager.download(part)
        except Exception as error:
            if clear := explained(error, self.facts, self.config.revision):
                raise clear from None
            raise

    def _wrong_layout(self, wanted: Sequence[str]) -> CorpusError:
        names = sorted(self.tree.names())
        some = "".join(f"\n  {name}" for name in names[:8]) + (
            f"\n  … {len(names) - 8} more" if len(names) > 8 else ""
        )
        found = f"{len(names)} files found:{some}" if names else "it is empty"
        if self.parquet or not self.local:
            looked = ", ".join(f"{name}-*.parquet" for split in wanted for name in self.facts.splits[split])
        else:
            looked = (
                ", ".join(part for split in wanted for part in self.facts.local_parts.get(split, ())) or "*.parquet"
            )
        return CorpusError(
            f"{self.tree.where}: nothing of {self.facts.title} for the split {' or '.join(wanted)}: looked for "
            f"{looked}; {found}\n{layout_of(self.facts)}"
        )

    def _generate_examples(
        self, split: str, files: Sequence[str] = (), tree: Tree | None = None
    ) -> Iterator[tuple[str, Row]]:
        tally = _Tally(self.facts)
        options = RowOptions(normalise=self.config.normalise, fill_durations=self.config.fill_durations)
        corpus = self.config.corpus or self.facts.name
        source = SourceArguments(self.facts.name, kind="corpus", corpus=corpus, id_prefix=self.config.id_prefix)
        keys = {key: key for key in (*FEATURES, "marked_text")}
        make = RowMaker(source, options, keys, _AnyFile() if tree else _NoFile())
        records = self.corpus.read(tree, split) if tree else self._parquet_records(files)
        number = kept = 0
        try:
            for number, record in enumerate(records, start=1):
                record = {"duration_s": None, **record, "corpus": corpus}
                where = f"{self.facts.name} {split} {record['id']}"
                if tally.label(record, where):
                    kept += 1
                    row = make({**record, "id": None}, where, default_id=str(record["id"]))
                    yield f"{record['id']}-{number}", row
                    if kept == self.config.max_rows:
                        break
        except SourceError:
            raise
        except Exception as error:
            if clear := explained(error, self.facts, self.config.revision):
                raise clear from None
            raise
        tally.report(split)
        if tree and not number:
            raise self._wrong_layout([split])
        if number and not kept and tally.unknown:
            raise CorpusError(f"{self.tree.where}: no row of {split} has a label known here: {tally.unknown}")

    def _parquet_records(self, files: Sequence[str]) -> Iterator[Record]:
        for place in files:
            with xopen(place, "rb") as file:
                try:
                    parquet = pyarrow.parquet.ParquetFile(file)
                except pyarrow.ArrowInvalid as error:
                    raise CorpusError(f"{place}: not a readable parquet file (cut off?): {error}") from error
                features = Features.from_arrow_schema(parquet.schema_arrow)
                matched = self._columns(list(features), place)
                classes = {k: features[v].names for k, v in matched.items() if isinstance(features[v], ClassLabel)}
                batches = parquet.iter_batches(BATCH_ROWS, columns=sorted(set(matched.values())))
                rows = (values for batch in batches for values in batch.to_pylist())
                for number, values in enumerate(rows):
                    record = {key: values[theirs] for key, theirs in matched.items()}
                    for key, names in classes.items():
                        label = record[key]
                        record[key] = names[label] if label is not None and label >= 0 else None
                    yield self._named(record, f"{PurePosixPath(place).stem}/{number:06d}", place, list(features))

    def _named(self, record: Record, default_id: str, place: str, found: Sequence[str]) -> Record:
        """The record of a row of parquet with its id, and with what the name of its file says, which goes first."""
        stem = PurePosixPath(str(record.get("id") or _path_of(record["audio"]))).stem
        name_fields = getattr(self.corpus, "name_fields", None)
        said = (name_fields(stem) or {}) if name_fields else {}
        if name_fields and not said and "emotion" not in record:
            raise CorpusError(
                f"{place}: neither an emotion column nor file names of {self.facts.title} ({stem!r} is none). Columns "
                f"found: {', '.join(found)}. Name it with columns: {{emotion: THEIRS}}"
            )
        return {**record, "id": stem if said or record.get("id") else default_id, **said}

    def _columns(self, found: list[str], place: str) -> dict[str, str]:
        """Schema name → column of a parquet file; the rest of `INFO.columns` may be missing, these may not."""
        asked = self.config.columns or {}
        needed = {"audio", "text" if self.facts.has_text else "", "emotion" if self.facts.has_emotion else ""}
        if hasattr(self.corpus, "name_fields"):
            needed = {"audio"}  # names of files may say the rest
        stated = {k: v for k, v in self.facts.columns.items() if v in found or k in needed}
        wanted = {**stated, **asked}
        matched = match_columns(found, wanted, f"{self.facts.title} ({place})", need_audio=True, need_text=False)
        return {key: matched[key] for key in wanted}

    def download_and_prepare(self, *arguments: Any, **options: Any) -> None:
        """As the stock method, but an error of the corpus arrives as it was raised."""
        try:
            super().download_and_prepare(*arguments, **options)
        except DatasetGenerationError as error:
            cause = error.__cause__
            if isinstance(cause, ValueError):
                raise cause from None
            if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
                raise CorpusError(
                    f"no space left for {self.facts.name} in {self._output_dir}: free some, or set HF_HOME to a "
                    "folder on another disk; files fetched so far are kept"
                ) from None
            raise


class _Tally:
    """Translates labels and counts what they leave out."""

    def __init__(self, facts: CorpusInfo) -> None:
        self.facts = facts
        self.left_out: Counter[str] = Counter()
        self.unknown = ""

    def label(self, record: Record, where: str) -> bool:
        """Set `emotion` and `dialect` to values of the schema in place; False: the row is left out."""
        for key, labels in self.facts.labels.items():
            value = record.get(key)
            if value is None or not str(value).strip():
                continue
            label = str(value).strip().lower()
            if label not in labels and not self.unknown:
                self.unknown = f"{key} {value!r}; known: {', '.join(labels)}"
                logger.warning("%s: rows of an unknown label are left out: %s", where, self.unknown)
            record[key] = labels.get(label, LEFT_OUT)
            if record[key] == LEFT_OUT:
                self.left_out[f"{key} {label}"] += 1
                return False
        return True

    def report(self, split: str) -> None:
        if self.left_out:
            counts = ", ".join(f"{count} of {label}" for label, count in sorted(self.left_out.items()))
            logger.info(
                "%s %s: rows left out, their label has no place in the schema: %s", self.facts.name, split, counts
            )


def _path_of(audio: Any) -> str:
    return str(audio.get("path") or "") if isinstance(audio, Mapping) else ""


def load(builder: CorpusBuilder, split: str, *, streaming: bool) -> datasets.Dataset | IterableDataset:
    """A split of a builder. A folder of files is listed and then streamed: its rows are names, not audio."""
    if streaming and (builder.parquet or builder.tree.has_archives):
        rows = cast(IterableDataset, builder.as_streaming_dataset(split=split))
        # Each shard stops there by itself; together they are more.
        return rows.take(builder.config.max_rows) if builder.config.max_rows else rows
    builder.download_and_prepare()
    rows = builder.as_dataset(split=split)
    assert isinstance(rows, datasets.Dataset)
    return rows.to_iterable_dataset(num_shards=max(1, min(STREAM_SHARDS, len(rows)))) if streaming else rows


def run(name: str, argv: Sequence[str] | None = None) -> int:
    """`python -m data_scripts.corpora.NAME`: all rows as parquet, unchecked, with the audio inside."""
    from rich.console import Console

    from data_scripts.corpora import corpus_module, describe

    module = corpus_module(name)
    parser = argparse.ArgumentParser(
        prog=f"python -m {module.__name__}",
        description=describe(name),
        epilog="scripts/prepare_data.py also checks the rows.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output_dir", required=True, help="a new folder for the parquet files")
    parser.add_argument("--data_dir", help="a local copy: the official tree, its archives, or the parquet of the Hub")
    parser.add_argument("--split", help="this split only")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub form")
    parser.add_argument("--num_proc", type=int, help="processes; each reads files of its own")
    arguments = parser.parse_args(argv)
    output = Path(arguments.output_dir)
    console = Console(stderr=True)
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise CorpusError(f"{output}: is not empty; choose a new folder")
        builder = module.Builder(
            data_dir=arguments.data_dir, split=arguments.split, revision=arguments.revision, decode=True
        )
        builder.download_and_prepare(str(output), file_format="parquet", num_proc=arguments.num_proc)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    for split in (builder.info.splits or {}).values():
        console.print(f"{output}: {split.num_examples:,} rows of {split.name}", soft_wrap=True)
    return 0


def run_module(name: str) -> None:
    """The last line of every corpus module."""
    sys.exit(run(name))
