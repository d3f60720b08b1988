"""Prepared parquet shards, read where they lie: no second copy on disk, no second check of what was checked.

    files, problem = trusted_files("data/clean", "train", Limits())     # problem: why the rows must be checked again
    rows = ShardRows(files)                                             # rows[17], rows["duration_s"], len(rows)

A row group is the smallest thing that parquet reads, so single rows are cheap only beside others of their group.
`ShardRows` therefore keeps the groups that it read last, and tells the sampler (`blocks`) where groups begin: an epoch
then shuffles groups, and rows within a window of some of them. Where rows are wanted in any order, as in evaluation,
`open_mapped` gives the same rows as memory-mapped Arrow, at the price of a copy of the shards in the cache.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.readers import SourceError
from data_scripts.schema import FEATURES
from data_scripts.text.normalize import NORMALIZER_VERSION

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from data_scripts.validate import Limits

# Where `data_scripts.prepare` notes how a split was made, and what it found.
STATE, RUN_FILE, REPORT_FILE = ".prepared", "run.json", "drop_report.json"
# Rows of the groups kept in memory: a window of the sampler and some. About 100 MB of FLAC.
CACHED_ROWS = 2048


class Group(NamedTuple):
    """A row group of a shard; `rows` are those of it that count, None: all."""

    file: str
    number: int
    size: int
    rows: np.ndarray | None = None


class ShardRows:
    """Rows of parquet shards by number, read by row group.

    Holds no file open and may be used by forked or spawned workers, each with groups of its own.

    Args:
        files (`Sequence[str]`): shards of one schema.
        keep (`np.ndarray`, *optional*): numbers of the rows that count, rising; by default all.

    Raises:
        SourceError: a file that is cut off or is no parquet, by name.
    """

    def __init__(self, files: Sequence[str], keep: np.ndarray | None = None):
        groups = []
        first = 0
        for file in files:
            metadata = footer(file)
            for number in range(metadata.num_row_groups):
                size = metadata.row_group(number).num_rows
                if keep is None:
                    group = Group(str(file), number, size)
                else:
                    rows = keep[np.searchsorted(keep, first) : np.searchsorted(keep, first + size)] - first
                    group = Group(str(file), number, len(rows), rows if len(rows) < size else None)
                groups += [group] if group.size else []
                first += size
        self._set(groups)

    def _set(self, groups: list[Group]) -> None:
        self._groups = groups
        self._starts = np.concatenate([[0], np.cumsum([group.size for group in groups], dtype=np.int64)])
        self._cached: OrderedDict[int, pa.Table] = OrderedDict()

    @classmethod
    def joined(cls, parts: "Sequence[ShardRows]") -> "ShardRows":
        """Several as one, rows numbered in the order of the parts."""
        rows = cls([])
        rows._set([group for part in parts for group in part._groups])
        return rows

    def select(self, numbers: np.ndarray) -> "ShardRows":
        """Some of the rows, by rising numbers, numbered anew."""
        chosen = ShardRows([])
        groups = []
        for number, group in enumerate(self._groups):
            first, end = self._starts[number], self._starts[number + 1]
            rows = numbers[np.searchsorted(numbers, first) : np.searchsorted(numbers, end)] - first
            rows = rows if group.rows is None else group.rows[rows]
            if len(rows):
                groups.append(group._replace(size=len(rows), rows=rows))
        chosen._set(groups)
        return chosen

    @property
    def blocks(self) -> np.ndarray:
        """Numbers of the rows that begin a row group."""
        return self._starts[:-1]

    @property
    def column_names(self) -> list[str]:
        return list(FEATURES)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, key: int | str) -> Any:
        """One row as a dict, or one column as a list."""
        if isinstance(key, str):
            return self._column(key)
        if not 0 <= key < len(self):
            raise IndexError(f"row {key} of {len(self)}")
        group = int(np.searchsorted(self._starts, key, side="right")) - 1
        return self._table(group).slice(key - int(self._starts[group]), 1).to_pylist()[0]

    def to_stream(self) -> "IterableDataset":
        """The same rows as a stream, a shard for each row group."""
        from datasets import IterableDataset

        return IterableDataset.from_generator(stream_groups, features=FEATURES, gen_kwargs={"groups": self._groups})  # type: ignore[return-value]

    def __getstate__(self) -> dict[str, Any]:
        # Workers read for themselves: sending what is in memory here would cost more.
        return {**self.__dict__, "_cached": OrderedDict()}

    def _column(self, name: str) -> list[Any]:
        values: list[Any] = []
        for group in self._groups:
            values += read_group(group, [name]).column(name).to_pylist()
        return values

    def _table(self, number: int) -> pa.Table:
        if number in self._cached:
            self._cached.move_to_end(number)
            return self._cached[number]
        table = read_group(self._groups[number], list(FEATURES))
        self._cached[number] = table
        held = sum(len(one) for one in self._cached.values())
        while held > CACHED_ROWS and len(self._cached) > 1:
            held -= len(self._cached.popitem(last=False)[1])
        return table


def read_group(group: Group, columns: Sequence[str]) -> pa.Table:
    """Columns of one row group; one thread, because every data loader worker calls it.

    Raises:
        SourceError: the shard has changed since it was opened, or its bytes are not those that were written.
    """
    try:
        shard = pq.ParquetFile(group.file, memory_map=True, page_checksum_verification=True)
        table = shard.read_row_group(group.number, columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{group.file}: row group {group.number} cannot be read ({error}); the file is damaged: prepare it again"
        ) from error
    return table if group.rows is None else table.take(pa.array(group.rows))


def stream_groups(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Rows of row groups, one after the other."""
    for group in groups:
        table = read_group(group, list(FEATURES))
        for index in range(len(table)):
            yield table.slice(index, 1).to_pylist()[0]


def open_mapped(files: Sequence[str]) -> "Dataset":
    """Shards as a memory-mapped data set: any row in 0.04 ms, after one copy of the shards into the cache."""
    import datasets

    from data_scripts.audio import SAMPLING_RATE_HZ, SoundfileAudio

    rows = datasets.load_dataset("parquet", data_files={"train": list(files)}, split="train")
    encoded = SoundfileAudio(sampling_rate=SAMPLING_RATE_HZ, decode=False)
    return rows.cast_column("audio", encoded).select_columns(list(FEATURES))  # type: ignore[union-attr,return-value]


def read_column(files: Sequence[str], name: str) -> list[Any]:
    """One column of some shards, reading nothing else of them."""
    return [value for file in files for value in pq.read_table(file, columns=[name]).column(0).to_pylist()]


def durations(files: Sequence[str]) -> np.ndarray:
    """Seconds of every row of some shards; NaN where there is none."""
    return np.array(read_column(files, "duration_s"), dtype=np.float64)


def footer(file: str | Path) -> Any:
    """What a shard says about itself.

    Raises:
        SourceError: it is cut off or is no parquet.
    """
    try:
        return pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file}: not a readable parquet file (cut off?): {error}") from error


def trusted_files(folder: str | Path, split: str, limits: "Limits") -> tuple[list[str], str]:
    """The shards of a prepared split, if its rows passed checks at least as strict as these limits.

    Limits of the duration are left out: durations are in the shards, so rows outside can be left out without decoding.

    Returns:
        The files in order and an empty string, or no files and why the rows must be checked again.
    """
    folder = Path(folder).expanduser()
    try:
        run = json.loads((folder / STATE / split / RUN_FILE).read_text(encoding="utf-8"))
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))[split]
        made, versions, num_kept = run["limits"], run["versions"], report["num_kept"]
    except (OSError, ValueError, KeyError, TypeError):
        return [], "it was not prepared to the end"
    if versions.get("normalizer_version") != NORMALIZER_VERSION:
        return [], f"it was prepared by text rules {versions.get('normalizer_version')}, now {NORMALIZER_VERSION}"
    more = set(made.get("keep_text_problems", ())) - set(limits.keep_text_problems)
    if more:
        return [], f"it was prepared with keep_text_problems {', '.join(sorted(more))}"
    for name in ("need_text", "spoken_form"):
        if getattr(limits, name) and not made.get(name, False):
            return [], f"it was prepared without {name}"
    if made.get("duration_tolerance_s", float("inf")) > limits.duration_tolerance_s:
        return [], f"it was prepared with duration_tolerance_s {made.get('duration_tolerance_s')}"
    files = [str(path) for path in sorted(folder.glob(f"{split}-*.parquet"))]
    schemas = [pq.read_schema(file) for file in files] if files else []
    if not files or any(set(FEATURES) - set(schema.names) for schema in schemas):
        return [], "its shards lack columns of the schema"
    there = sum(footer(file).num_rows for file in files)
    if there != num_kept:
        return [], f"its shards hold {there} rows, but its report says {num_kept}"
    return files, ""
