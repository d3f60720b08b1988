"""Check rows before training: what is broken is dropped and listed, what can be mended is mended and counted.

Cost on one core for each hour of 16 kHz speech in clips of 3 s, text and hashing included: 1.4 s for FLAC, 8.5 s for
Opus, nearly all of it decoding.
"""

import hashlib
import logging
import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar, cast

import datasets
from datasets import Dataset, Features, IterableDataset

from data_scripts.audio import MIN_DURATION_S, SAMPLING_RATE_HZ, AudioError, DecodedAudio, decode_audio, source_name
from data_scripts.decoding import EXTENSIONS
from data_scripts.drop_report import CODES, DropReport, Finding
from data_scripts.schema import FEATURES, TEXT_FEATURES, Row
from data_scripts.tables import table_from_rows
from data_scripts.text.normalize import PROBLEM_CODES, normalize_with_spans, text_problems, text_repairs

__all__ = ["CODES", "DropReport", "Finding", "Limits", "RowChecker", "Seen", "TooManyDropped", "validate_rows"]

logger = logging.getLogger(__name__)

Rows = TypeVar("Rows", Dataset, IterableDataset)

CHUNK_ROWS = 32
STREAM_BATCH_ROWS = 64
ROWS_TO_JUDGE = 1000  # of a stream, before its drop fraction means anything
HASH_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Limits:
    """What a row must satisfy.

    Args:
        min_duration_s, max_duration_s: outside of them a recording is dropped (codes too_short, too_long).
        duration_tolerance_s: how far a recording may be from the duration that its manifest states.
        keep_text_problems: problems of the text that are no reason to drop a row: any of digits, symbols, emoji,
            other_script, mojibake.
        max_drop_fraction: stop if more than this part of the rows is dropped.
        need_text: a row without text is dropped.
    """

    min_duration_s: float = MIN_DURATION_S
    max_duration_s: float = 30.0
    duration_tolerance_s: float = 0.5
    keep_text_problems: tuple[str, ...] = ()
    max_drop_fraction: float | None = None
    need_text: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.min_duration_s < self.max_duration_s:
            raise ValueError(f"0 <= min_duration_s < max_duration_s, got {self.min_duration_s}, {self.max_duration_s}")
        if self.max_drop_fraction is not None and not 0 <= self.max_drop_fraction <= 1:
            raise ValueError(f"max_drop_fraction is between 0 and 1, got {self.max_drop_fraction}")
        for code in self.keep_text_problems:
            if code not in PROBLEM_CODES or code == "empty":
                allowed = ", ".join(code for code in PROBLEM_CODES if code != "empty")
                raise ValueError(f"keep_text_problems: {code!r} is none of {allowed}")


class TooManyDropped(ValueError):
    """More rows were dropped than `max_drop_fraction` allows; `.report` has them all."""

    def __init__(self, report: DropReport, limit: float) -> None:
        dropped = {code: count for code, count in report.counts.most_common() if CODES[code][0] == "dropped"}
        worst = ", ".join(f"{code} {count}" for code, count in list(dropped.items())[:4])
        super().__init__(f"{report.summary()}; max_drop_fraction is {limit:g}. Most often: {worst}")
        self.report = report


@dataclass
class Seen:
    """Ids and recordings met so far; hand the same one to several `validate_rows` to find repeats across sources."""

    ids: set[str] = field(default_factory=set)
    audio: dict[str, str] = field(default_factory=dict)  # digest of the file → id


class Outcome(NamedTuple):
    """What checking one row gave. `code` is None for a row that is kept; `notes` are (code, detail) of repairs."""

    code: str | None
    detail: str
    file: str
    notes: tuple[tuple[str, str], ...]
    text: str
    spans: list[Any]
    duration_s: float | None
    digest: str | None


def check_row(row: Mapping[str, Any], limits: Limits, need_audio: bool) -> Outcome:
    """Check one row by itself (repeats are the caller's to find). Text comes first: it is cheaper."""
    audio = row.get("audio")
    file = source_name(audio) if audio else ""
    raw = row.get("text") or ""
    text, spans = normalize_with_spans(raw, row.get("spans") or [])
    notes = [(f"text_{code}", "") for code in text_repairs(raw)]
    if text != raw and not notes:
        notes.append(("text_normalised", f"{raw[:60]!r} → {text[:60]!r}"))
    result = Outcome(None, "", file, tuple(notes), text, spans, row.get("duration_s"), None)
    if not text and limits.need_text:
        return result._replace(code="no_text", detail=f"text is {raw[:60]!r}" if raw else "")
    problems = [code for code in text_problems(raw) if code != "empty" and code not in limits.keep_text_problems]
    if problems:
        return result._replace(code=f"text_{problems[0]}", detail=raw[:200])
    if not need_audio:
        return result
    if not audio:
        return result._replace(code="missing", detail="the row names no audio")
    try:
        decoded, digest = _decode(audio, limits)
    except AudioError as error:
        return result._replace(code=error.code, detail=error.detail)
    decoded_s, stated_s = decoded.info.duration_s, row.get("duration_s")
    if stated_s is not None and abs(decoded_s - stated_s) > limits.duration_tolerance_s:
        code = "truncated" if decoded_s < stated_s else "duration_mismatch"
        return result._replace(code=code, detail=f"{decoded_s:.2f} s of audio, {stated_s:.2f} s stated")
    notes += _audio_notes(decoded, audio)
    return result._replace(notes=tuple(notes), duration_s=decoded_s, digest=digest)


def _decode(audio: Mapping[str, Any], limits: Limits) -> tuple[DecodedAudio, str | None]:
    """The samples and a digest of the file, which is read once; None for a file too big to hold beside its samples."""
    digest = None
    content, path = audio.get("bytes"), audio.get("path")
    if content is None and path and os.path.isfile(path) and os.path.getsize(path) <= HASH_LIMIT_BYTES:
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            content = None  # decode_audio says what is wrong
    if content is not None:
        audio = {"path": path, "bytes": content}
        digest = hashlib.blake2b(content, digest_size=12).hexdigest()
    decoded = decode_audio(audio, min_duration_s=limits.min_duration_s, max_duration_s=limits.max_duration_s)
    return decoded, digest


def _audio_notes(decoded: DecodedAudio, audio: Mapping[str, Any]) -> list[tuple[str, str]]:
    info = decoded.info
    details = {"downmixed": f"{info.num_channels} channels"}
    notes = [(code, details.get(code, "")) for code in decoded.notes]
    if info.sampling_rate_hz != SAMPLING_RATE_HZ:
        notes.append(("resampled", f"{info.sampling_rate_hz} Hz"))
    suffix = PurePath(audio.get("path") or "").suffix.lower()
    if suffix and suffix not in EXTENSIONS.get(info.container, {suffix}):
        notes.append(("wrong_extension", f"is {info.container}"))
    return notes


def _check_chunk(rows: list[dict[str, Any]], limits: Limits, need_audio: bool) -> list[Outcome]:
    return [check_row(row, limits, need_audio) for row in rows]


class RowChecker:
    """Checks rows in this process or in `num_workers` others; outcomes come in the order of the rows.

    A context manager, so that one set of processes serves many calls.
    """

    def __init__(self, limits: Limits, num_workers: int = 0) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}")
        self.limits, self.num_workers = limits, num_workers
        # Not forked: the parent may hold threads of Arrow or of a training loop.
        context = get_context("spawn")
        self._pool = ProcessPoolExecutor(num_workers, mp_context=context) if num_workers else None

    def __enter__(self) -> "RowChecker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def check(self, rows: Iterable[Mapping[str, Any]], need_audio: bool) -> Iterator[Outcome]:
        """Outcome of each row.

        Raises:
            RuntimeError: a worker process died (out of memory, or a decoder crashed on a file).
        """
        rows = iter(rows)
        if not self._pool:
            for row in rows:
                yield check_row(row, self.limits, need_audio)
            return
        pending: deque[tuple[str, Future[list[Outcome]]]] = deque()
        while True:
            # A bounded queue: rows may carry the bytes of whole recordings.
            while len(pending) < 4 * self.num_workers and (chunk := [dict(row) for row in islice(rows, CHUNK_ROWS)]):
                job = self._pool.submit(_check_chunk, chunk, self.limits, need_audio)
                pending.append((str(chunk[0].get("id")), job))
            if not pending:
                return
            first, job = pending.popleft()
            try:
                yield from job.result()
            except BrokenProcessPool as error:
                raise RuntimeError(
                    f"a worker process died while checking the {CHUNK_ROWS} rows from {first!r}: out of memory, or a "
                    "decoder crashed on a file; num_workers=0 finds which"
                ) from error


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
            if record(report, seen, row, outcome):
                kept.append(index)
            yield _updated(row, outcome)

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
            _updated(row, outcome)
            for row, outcome in zip(rows, outcomes, strict=True)
            if record(self.report, self.seen, row, outcome)
        ]
        _stop_if_too_many(self.report, self.checker.limits, ROWS_TO_JUDGE)
        return {key: [row[key] for row in kept] for key in batch}


def _updated(row: Mapping[str, Any], outcome: Outcome) -> Row:
    updated = {**row, "text": outcome.text, "spans": outcome.spans}
    if "duration_s" in row:
        updated["duration_s"] = outcome.duration_s
    return updated  # type: ignore[return-value]


def record(report: DropReport, seen: Seen, row: Mapping[str, Any], outcome: Outcome) -> bool:
    """Enter one outcome into the report; whether the row is kept."""
    report.num_rows += 1
    row_id = row["id"]
    repeated = row_id in seen.ids
    seen.ids.add(row_id)
    code, detail = ("duplicate_id", "") if repeated else (outcome.code, outcome.detail)
    if code:
        report.add(code, row_id, outcome.file, detail)
        report.seconds_dropped += outcome.duration_s or 0.0
        return False
    for note, about in outcome.notes:
        report.add(note, row_id, outcome.file, about)
    if outcome.digest:
        first = seen.audio.setdefault(outcome.digest, row_id)
        if first != row_id:
            report.add("duplicate_audio", row_id, outcome.file, f"same as {first}")
    report.seconds_kept += outcome.duration_s or 0.0
    return True


def _stop_if_too_many(report: DropReport, limits: Limits, after_rows: int) -> None:
    allowed = limits.max_drop_fraction
    if allowed is not None and report.num_rows >= after_rows and report.exceeds(allowed):
        raise TooManyDropped(report, allowed)
