"""Check rows before training: what is broken is dropped and listed, what can be mended is mended and counted."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar, cast

import datasets
from datasets import Dataset, Features, IterableDataset

from data_scripts.audio import MIN_DURATION_S
from data_scripts.drop_report import CODES, DropReport, Finding
from data_scripts.engines import make_engine
from data_scripts.row_checks import Limits, Outcome, check_row
from data_scripts.schema import FEATURES, TEXT_FEATURES, Row
from data_scripts.tables import table_from_rows

__all__ = ["CODES", "DropReport", "Finding", "Limits", "RowChecker", "Seen", "TooManyDropped", "validate_rows"]

Rows = TypeVar("Rows", Dataset, IterableDataset)

CHUNK_ROWS = 32
STREAM_BATCH_ROWS = 64
ROWS_TO_JUDGE = 1000  # of a stream, before its drop fraction means anything


class TooManyDropped(ValueError):
    """More rows were dropped than `max_drop_fraction` allows; `.report` has them all."""

    def __init__(self, report: DropReport, limit: float) -> None:
        dropped = {code: count for code, count in report.counts.most_common() if CODES[code][0] == "dropped"}
        worst = ", ".join(f"{code} {count}" for code, count in list(dropped.items())[:4])
        super().__init__(f"{report.summary()}; max_drop_fraction is {limit:g}. Most often: {worst}")
        self.report = report


class SeenRows(Protocol):
    """What finds repeats; see `Seen`."""

    def is_new(self, row_id: str) -> bool: ...

    def first_with(self, digest: str, row_id: str) -> str: ...


@dataclass
class Seen:
    """Ids and recordings met so far; hand the same one to several `validate_rows` to find repeats across sources."""

    ids: set[str] = field(default_factory=set)
    audio: dict[str, str] = field(default_factory=dict)  # digest of the file → id

    def is_new(self, row_id: str) -> bool:
        """Enter an id; whether it was not there."""
        repeated = row_id in self.ids
        self.ids.add(row_id)
        return not repeated

    def first_with(self, digest: str, row_id: str) -> str:
        """Enter a recording; the id of the first row that had it."""
        return self.audio.setdefault(digest, row_id)


@dataclass(frozen=True)
class _Chunk:
    """A task for the workers of a RowChecker."""

    rows: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return f"the {len(self.rows)} rows from {self.rows[0].get('id')!r}"


def _check_chunk(chunk: _Chunk, limits: Limits, need_audio: bool) -> list[Outcome]:
    return [check_row(row, limits, need_audio) for row in chunk.rows]


class RowChecker:
    """Checks rows in this process or in `num_workers` others; outcomes come in the order of the rows.

    A context manager, so that one set of processes serves many calls.

    Raises:
        ValueError: fewer than 0 workers.
    """

    def __init__(self, limits: Limits, num_workers: int = 0) -> None:
        self.limits, self.num_workers = limits, num_workers
        self._engine = make_engine("local", num_workers)

    def __enter__(self) -> "RowChecker":
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def check(self, rows: Iterable[Mapping[str, Any]], need_audio: bool) -> Iterator[Outcome]:
        """Outcome of each row.

        Raises:
            EngineError: a worker process died twice on the same rows (out of memory, or a decoder crashed on a file).
        """
        if not self.num_workers:
            yield from (check_row(row, self.limits, need_audio) for row in rows)
            return
        rows = iter(rows)
        # The engine draws few chunks at a time: rows may carry the bytes of whole recordings.
        chunks = iter(lambda: _Chunk([dict(row) for row in islice(rows, CHUNK_ROWS)]), _Chunk([]))
        check = partial(_check_chunk, limits=self.limits, need_audio=need_audio)
        for outcomes in self._engine.map(check, chunks):
            yield from outcomes


def validate_rows(
    dataset: Rows,
    *,
    need_audio: bool = True,
    need_text: bool = True,
    min_duration_s: float = MIN_DURATION_S,
    max_duration_s: float = 30.0,
    duration_tolerance_s: float = 0.5,
    keep_text_problems: Collection[str] = (),
    max_drop_fraction: float | None = None,
    num_workers: int = 0,
    source: str = "",
    seen: Seen | None = None,
    checker: RowChecker | None = None,
) -> tuple[Rows, DropReport]:
    """The rows that are fit for training, and a report of the others.

    A kept row has normalised text, its spans moved along, and the duration that was measured. A row whose id an
    earlier row has is dropped, whatever became of that one. A map-style data set is checked now and keeps its audio
    where it is; a stream is checked while it is read, in the reading process, and the report fills meanwhile (each
    pass over the stream counts anew).

    Args:
        dataset: rows of `load_source`; with `normalise=False` repairs of the text are counted, and problems are found
            that normalisation hides (emoji, signs that are read aloud).
        need_audio: check the recordings; False for rows of text alone.
        need_text, min_duration_s, max_duration_s, duration_tolerance_s, keep_text_problems, max_drop_fraction: see
            `Limits`.
        num_workers: processes that check; 0 checks in this one. The result does not depend on it.
        source: name of the source in the report.
        seen: ids and recordings of earlier sources, extended by this one's.
        checker: use this one (its limits count) instead of making one.

    Raises:
        TooManyDropped: with the complete report of a map-style data set, or of a stream so far.
    """
    limits = Limits(
        min_duration_s, max_duration_s, duration_tolerance_s, tuple(keep_text_problems), max_drop_fraction, need_text
    )
    report, seen = DropReport(source), Seen() if seen is None else seen
    if isinstance(dataset, IterableDataset):
        stream_check = _StreamCheck(checker or RowChecker(limits), report, seen, need_audio)
        columns = {"batched": True, "batch_size": STREAM_BATCH_ROWS, "features": dataset.features}
        return dataset.map(stream_check, **columns), report
    if checker:
        return _validate_map(dataset, checker, report, seen, need_audio), report
    with RowChecker(limits, num_workers) as checker:
        return _validate_map(dataset, checker, report, seen, need_audio), report


def _validate_map(dataset: Dataset, checker: RowChecker, report: DropReport, seen: Seen, need_audio: bool) -> Dataset:
    if dataset._indices is not None:
        dataset = dataset.flatten_indices()  # columns are replaced below, which needs rows in place
    kept: list[int] = []

    def checked() -> Iterator[Row]:
        texts = dataset.remove_columns("audio") if "audio" in dataset.column_names else dataset
        outcomes = checker.check((dataset[index] for index in range(len(dataset))), need_audio)
        for index, (row, outcome) in enumerate(zip(cast(Iterable[dict[str, Any]], texts), outcomes, strict=True)):
            if record(report, seen, row["id"], outcome):
                kept.append(index)
            yield updated(row, outcome)

    features = FEATURES if "audio" in dataset.column_names else TEXT_FEATURES
    clean = table_from_rows(checked(), Features({key: value for key, value in features.items() if key != "audio"}))
    _stop_if_too_many(report, checker.limits, 1)
    if "audio" in dataset.column_names:
        clean = datasets.concatenate_datasets([dataset.select_columns(["audio"]), clean], axis=1)
    return clean.select_columns(list(features)).select(kept)


class _StreamCheck:
    """`IterableDataset.map` over batches; drops rows."""

    def __init__(self, checker: RowChecker, report: DropReport, seen: Seen, need_audio: bool) -> None:
        self.checker, self.report, self.seen, self.need_audio = checker, report, seen, need_audio

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        outcomes = self.checker.check(rows, self.need_audio)
        kept = [
            updated(row, outcome)
            for row, outcome in zip(rows, outcomes, strict=True)
            if record(self.report, self.seen, row["id"], outcome)
        ]
        _stop_if_too_many(self.report, self.checker.limits, ROWS_TO_JUDGE)
        return {key: [row[key] for row in kept] for key in batch}


def updated(row: Mapping[str, Any], outcome: Outcome) -> Row:
    """A kept row with what checking mended and measured."""
    mended = {**row, "text": outcome.text, "spans": outcome.spans}
    if "duration_s" in row:
        mended["duration_s"] = outcome.duration_s
    return cast(Row, mended)


def record(report: DropReport, seen: SeenRows, row_id: str, outcome: Outcome) -> bool:
    """Enter one outcome into the report; whether the row is kept."""
    report.num_rows += 1
    code, detail = (outcome.code, outcome.detail) if seen.is_new(row_id) else ("duplicate_id", "")
    if code:
        report.add(code, row_id, outcome.file, detail)
        report.seconds_dropped += outcome.duration_s or 0.0
        return False
    for note, about in outcome.notes:
        report.add(note, row_id, outcome.file, about)
    if outcome.digest:
        first = seen.first_with(outcome.digest, row_id)
        if first != row_id:
            report.add("duplicate_audio", row_id, outcome.file, f"same as {first}")
    report.seconds_kept += outcome.duration_s or 0.0
    return True


def _stop_if_too_many(report: DropReport, limits: Limits, after_rows: int) -> None:
    allowed = limits.max_drop_fraction
    if allowed is not None and report.num_rows >= after_rows and report.exceeds(allowed):
        raise TooManyDropped(report, allowed)
