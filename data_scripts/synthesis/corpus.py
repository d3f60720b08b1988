"""Labelled sentences to a folder of FLAC files and a `metadata.csv`: parallel, resumable, the same bytes every time.

A file's name carries a digest of everything that shaped it (text, spans, speaker, seed, recipe), and a file appears
under its name only when it is complete. So a run that was killed goes on where it stopped, a run with other settings
never mistakes an old file for its own, and a finished file means the same whoever made it, in whatever order.
"""

import csv
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from data_scripts.spans import Span, SpanError
from data_scripts.synthesis.espeak import Espeak, EspeakCrashError
from data_scripts.synthesis.sentences import SentenceRow, generate_sentences
from data_scripts.synthesis.speech import SAMPLING_RATE_HZ, Speaker, UnvoicedTextError, make_speakers, voice_sentence
from data_scripts.text.normalize import text_problems

logger = logging.getLogger(__name__)

COLUMNS = ("file_name", "id", "text", "spans", "speaker", "dialect", "duration_s", "corpus")
RECIPE = 1
"""Changes whenever the same arguments would give other samples."""

_CHUNK = 32


class Skipped(NamedTuple):
    """A sentence that was not voiced: `code` is "unvoiced", "spans" or one of `text_problems`."""

    id: str
    code: str
    detail: str


@dataclass(slots=True)
class SynthesisReport:
    """What one call of `synthesise_corpus` did.

    Attributes:
        rendered: files written by this call.
        kept: files that an earlier call had finished.
        duration_s: audio in the folder, in seconds.
        skipped: sentences without a file, also listed in `skipped.csv`.
    """

    rendered: int = 0
    kept: int = 0
    duration_s: float = 0.0
    skipped: list[Skipped] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{code} {n}" for code, n in Counter(s.code for s in self.skipped).most_common())
        skipped = f"{len(self.skipped)} skipped{f' ({counts})' if counts else ''}"
        return f"{self.rendered} rendered, {self.kept} kept, {skipped}; {self.duration_s / 3600:.2f} h of audio"


class _Job(NamedTuple):
    row: SentenceRow
    speaker: Speaker
    path: Path


class _Outcome(NamedTuple):
    duration_s: float
    fresh: bool
    skipped: Skipped | None


def synthesise_corpus(
    rows: Iterable[SentenceRow],
    speakers: Sequence[Speaker],
    out_dir: str | Path,
    num_workers: int = 1,
    seed: int = 0,
    *,
    progress: bool = False,
) -> SynthesisReport:
    """Voice sentences into `out_dir`: FLAC files (16 kHz, mono, 16 bit) and `metadata.csv` in AudioFolder layout.

    Which speaker says a sentence, and how, depends on (seed, row id, speakers) alone. Run the same call again after an
    interruption: finished files are kept, and the folder ends up equal to that of an uninterrupted run, byte for byte
    on one platform. `metadata.csv` is written last, in the order of the rows; rows are streamed, not held.

    Args:
        rows: sentences with id, text, English spans and corpus.
        speakers: voices to draw from.
        out_dir: folder of one split; created if needed.
        num_workers: processes.
        seed: choice of speaker and small changes of rate and pitch.
        progress: show a bar.

    Raises:
        ValueError: no speakers, or `num_workers` below 1.
        EspeakError: espeak-ng is not installed, or has no such voice.
        RuntimeError: a worker process died.
    """
    if not speakers:
        raise ValueError("speakers is empty; make some with make_speakers(seen=24)")
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    report = SynthesisReport()
    bar = _progress_bar(rows, out_dir.name, progress)
    part = out_dir / "metadata.csv.part"
    with open(part, "w", encoding="utf-8", newline="") as file, closing(bar):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for job, outcome in _render_all(_jobs(rows, speakers, out_dir, seed), num_workers):
            bar.update()
            if outcome.skipped:
                report.skipped.append(outcome.skipped)
                logger.warning("not voiced: %s: %s", outcome.skipped.id, outcome.skipped.detail)
                continue
            report.rendered += outcome.fresh
            report.kept += not outcome.fresh
            report.duration_s += outcome.duration_s
            writer.writerow(_metadata(job, outcome.duration_s, out_dir))
    os.replace(part, out_dir / "metadata.csv")
    _write_skipped(out_dir / "skipped.csv", report.skipped)
    return report


def synthesise_splits(
    out_dir: str | Path,
    *,
    train: int,
    validation: int,
    test: int,
    seen_speakers: int = 24,
    unseen_speakers: int = 6,
    code_switched_share: float = 0.5,
    seed: int = 0,
    num_workers: int = 1,
    progress: bool = False,
) -> dict[str, SynthesisReport]:
    """The embedded domain as a corpus: `train`, `validation`, `test_seen` and `test_unseen` under `out_dir`.

    No sentence of one split occurs in another, except that both test splits hold the same sentences: `test_seen` in
    the voices of training, `test_unseen` in voices (and timbres) training never heard, so that the difference
    between them is the voice alone.

    Args:
        out_dir: parent of the four folders.
        train: sentences for training.
        validation: sentences for validation, in seen voices.
        test: sentences in each of the test splits.
        seen_speakers: voices of train, validation and test_seen.
        unseen_speakers: voices of test_unseen.
        code_switched_share: share of sentences with English words.
        seed: choice of sentences, speakers and renderings.
        num_workers: processes.
        progress: show a bar for each split.

    Returns:
        One report for each split.
    """
    seen, unseen = make_speakers(seen_speakers, unseen_speakers, seed)
    plan = [
        ("train", train, "train", seen),
        ("validation", validation, "validation", seen),
        ("test_seen", test, "test", seen),
        ("test_unseen", test, "test", unseen),
    ]
    reports = {}
    for folder, count, split, speakers in plan:
        rows = generate_sentences(count, seed, split=split, code_switched_share=code_switched_share)
        reports[folder] = synthesise_corpus(
            list(rows) if progress else rows, speakers, Path(out_dir) / folder, num_workers, seed, progress=progress
        )
        logger.info("%s: %s", folder, reports[folder])
    return reports


def _jobs(rows: Iterable[SentenceRow], speakers: Sequence[Speaker], out_dir: Path, seed: int) -> Iterator[_Job]:
    for row in rows:
        draw = blake2b(f"{seed}/{row['id']}".encode(), digest_size=8).digest()
        speaker = speakers[int.from_bytes(draw, "big") % len(speakers)]
        shaped_by = [row["text"], row["spans"], asdict(speaker), seed, row["id"], RECIPE]
        digest = blake2b(json.dumps(shaped_by, sort_keys=True).encode(), digest_size=8).hexdigest()
        yield _Job(row, speaker, out_dir / digest[:2] / f"{_file_stem(row['id'])}.{digest}.flac")


def _file_stem(row_id: str) -> str:
    """A row id as a file name on any system; the digest beside it keeps names apart."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in row_id)[:80]


def _render_all(jobs: Iterator[_Job], num_workers: int) -> Iterator[tuple[_Job, _Outcome]]:
    """Outcomes in the order of the jobs, with a bounded number of jobs in flight."""
    if num_workers == 1:
        with Espeak() as espeak:
            for job in jobs:
                yield job, _render(espeak, job)
        return
    # spawn: a fork of a process that holds PyTorch threads can hang.
    pool = ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"))
    waiting: deque[tuple[list[_Job], Future[list[_Outcome]]]] = deque()
    try:
        while chunk := list(islice(jobs, _CHUNK)):
            waiting.append((chunk, pool.submit(_render_chunk, chunk)))
            if len(waiting) > 4 * num_workers:
                yield from _finish(*waiting.popleft())
        while waiting:
            yield from _finish(*waiting.popleft())
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a synthesis process died (killed, or out of memory); run the same command again: finished files are kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finish(chunk: list[_Job], future: Future[list[_Outcome]]) -> Iterator[tuple[_Job, _Outcome]]:
    yield from zip(chunk, future.result(), strict=True)


# Opened with the first job rather than by an initializer, whose errors would only show as a broken pool.
_worker_espeak: Espeak | None = None


def _render_chunk(chunk: list[_Job]) -> list[_Outcome]:
    global _worker_espeak
    if _worker_espeak is None:
        _worker_espeak = Espeak()
    return [_render(_worker_espeak, job) for job in chunk]


def _render(espeak: Espeak, job: _Job) -> _Outcome:
    import soundfile

    row = job.row
    try:
        info = soundfile.info(job.path)
        return _Outcome(info.frames / info.samplerate, False, None)
    except soundfile.LibsndfileError:
        pass  # absent, or damaged by other means: render it
    problems = text_problems(row["text"])
    if problems:
        return _skip(row, problems[0], f"{row['text']!r} has {', '.join(problems)}: write it in spoken words first")
    try:
        samples = voice_sentence(espeak, row["text"], row["spans"], job.speaker, key=job.path.stem)
    except SpanError as error:
        return _skip(row, "spans", str(error))
    except UnvoicedTextError as error:
        return _skip(row, "unvoiced", str(error))
    except EspeakCrashError as error:
        return _skip(row, "crashed", f"{error} in the voice of {job.speaker.id}")
    job.path.parent.mkdir(exist_ok=True)
    part = job.path.with_suffix(".part")
    # Compression only trades time for size; 0.2 is the fastest level that libFLAC also compresses well.
    soundfile.write(part, samples, SAMPLING_RATE_HZ, subtype="PCM_16", format="FLAC", compression_level=0.2)
    os.replace(part, job.path)
    return _Outcome(samples.size / SAMPLING_RATE_HZ, True, None)


def _skip(row: SentenceRow, code: str, detail: str) -> _Outcome:
    return _Outcome(0.0, False, Skipped(row["id"], code, detail))


def _metadata(job: _Job, duration_s: float, out_dir: Path) -> list[str]:
    spans: list[Span] = job.row["spans"]
    return [
        job.path.relative_to(out_dir).as_posix(),
        job.row["id"],
        job.row["text"],
        json.dumps(spans),
        job.speaker.id,
        job.speaker.dialect,
        f"{duration_s:.4f}",
        job.row["corpus"],
    ]


def _write_skipped(path: Path, skipped: list[Skipped]) -> None:
    if not skipped:
        path.unlink(missing_ok=True)
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Skipped._fields)
        writer.writerows(skipped)


def _progress_bar(rows: Iterable[SentenceRow], name: str, shown: bool):
    from tqdm.auto import tqdm

    total = len(rows) if isinstance(rows, Sequence) else None
    return tqdm(total=total, desc=f"voicing {name}", unit="utt", disable=not shown)
