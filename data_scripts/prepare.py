"""From any source to clean parquet shards with the audio inside, resumable by shard.

The output folder loads with `load_dataset(folder)` or as a source of its own, and holds any number of splits:

    train-00000.parquet ...         rows that passed, files embedded as they were (FLAC stays FLAC, Opus stays Opus)
    drop_report.json                by split: every dropped row with its reason, repairs counted; written last
    .prepared/train/run.json        source and limits: a split is made by one run only
    .prepared/train/00000.json      what a shard was made of; a shard with such a record is not made again
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, IterableDataset
from rich.progress import Progress

from data_scripts import readers
from data_scripts.audio import SAMPLING_RATE_HZ, SoundfileAudio, embed_audio
from data_scripts.drop_report import DropReport, write_json
from data_scripts.schema import FEATURES, TEXT_FEATURES
from data_scripts.sources import SourceArguments, SourceError, load_source
from data_scripts.tables import parquet_files, table_from_rows
from data_scripts.text.normalize import NORMALIZER_VERSION
from data_scripts.validate import ROWS_TO_JUDGE, Limits, RowChecker, Seen, TooManyDropped, validate_rows

logger = logging.getLogger(__name__)

DEFAULT_LIMITS = Limits()
REPORT_FILE, STATE, RUN_FILE = "drop_report.json", ".prepared", "run.json"


class OutputError(ValueError):
    """The output folder holds something else."""


def prepare_validated(
    source: SourceArguments,
    output_dir: str,
    limits: Limits = DEFAULT_LIMITS,
    rows_per_shard: int = 1000,
    num_workers: int = 0,
) -> DropReport:
    """Validate a source and write what passed.

    Args:
        source: where the rows come from.
        output_dir: a new folder, that of the same run stopped earlier, which is continued, or that of other splits.
        limits: what a row must satisfy.
        rows_per_shard: rows of the source that one shard is made of; 1,000 utterances of 5 s are about 120 MB of FLAC.
        num_workers: processes that check recordings; 0 checks in this one.

    Returns:
        The report over all rows, also written to drop_report.json.

    Raises:
        OutputError: the folder holds another run for this split, or files that are no run.
        SourceError, SchemaError: see `load_source`.
        TooManyDropped: more rows dropped than `limits.max_drop_fraction`; shards and report stay for inspection.
    """
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}")
    if num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")
    output = Path(output_dir)
    dataset = load_source(source, need_text=limits.need_text, normalise=False, fill_durations=False)
    _claim(output, source.split, _run(source, limits, rows_per_shard))
    report, seen = DropReport(source.path), Seen()
    total = len(dataset) if isinstance(dataset, Dataset) else None
    datasets.disable_progress_bars()  # one bar for the run, not two for each shard
    # The drop limit is for the whole, not for each shard.
    each = replace(limits, max_drop_fraction=None)
    with RowChecker(each, num_workers) as checker, Progress(transient=True) as progress:
        task = progress.add_task(f"checking {source.path}", total=total)
        for number, block in enumerate(_blocks(dataset, rows_per_shard)):
            part = _finished(output, source.split, number, seen)
            if part is None:
                part = _write(output, source.split, number, block, checker, seen)
            report.merge(part)
            progress.update(task, completed=report.num_rows)
            if report.num_rows >= ROWS_TO_JUDGE and report.exceeds(limits.max_drop_fraction):
                break
    _save_report(output, source.split, report)
    if limits.max_drop_fraction is not None and report.exceeds(limits.max_drop_fraction):
        raise TooManyDropped(report, limits.max_drop_fraction)
    return report


def _run(source: SourceArguments, limits: Limits, rows_per_shard: int) -> dict[str, Any]:
    """What decides the output; workers and the drop limit do not."""
    settings = asdict(limits)
    settings.pop("max_drop_fraction")
    settings["keep_text_problems"] = list(limits.keep_text_problems)
    described = asdict(source)
    described.pop("weight")
    if Path(source.path).expanduser().exists():
        described["path"] = str(Path(source.path).expanduser().resolve())
        described["content"] = _content(source)
    return {
        "format": 1,
        "source": described,
        "limits": settings,
        "rows_per_shard": rows_per_shard,
        "normalizer_version": NORMALIZER_VERSION,
    }


def _content(source: SourceArguments) -> str:
    """Changes when the manifest does, or the names or sizes of the parquet shards."""
    path = Path(source.path).expanduser()
    kind = source.kind if source.kind != "auto" else readers.detect_kind(source.path, source.columns)
    if kind == "parquet":
        sizes = [(os.path.basename(file), os.path.getsize(file)) for file in parquet_files(source)]
        return hashlib.blake2b(json.dumps(sizes).encode(), digest_size=12).hexdigest()
    if path.is_dir():
        path, _ = readers.metadata_file(path, source.split)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()


def _claim(output: Path, split: str, run: dict[str, Any]) -> None:
    """Make a split of the folder ours, or make sure that it was."""
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file, a folder is wanted")
    state = output / STATE / split
    if not state.is_dir():
        foreign = output.is_dir() and any(output.iterdir()) and not (output / STATE).is_dir()
        if foreign or any(output.glob(f"{split}-*.parquet")):
            raise OutputError(f"{output}: holds files that this command did not write; choose a new folder")
        state.mkdir(parents=True)
        write_json(state / RUN_FILE, run)
        return
    try:
        there = json.loads((state / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise OutputError(f"{state / RUN_FILE}: cannot be read ({error}); choose a new folder") from error
    if different := sorted(_differences(there, run)):
        differences = ", ".join(different)
        raise OutputError(f"{output}: split {split!r} is of another run: {differences}; choose a new folder")


def _save_report(output: Path, split: str, report: DropReport) -> None:
    """Set the report of one split beside those of the others."""
    path = output / REPORT_FILE
    reports = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**reports, split: report.to_dict()})


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in there.keys() | here.keys():
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} ({there!r} there, {here!r} now)"


def _blocks(dataset: Dataset | IterableDataset, rows_per_block: int) -> Iterator[Dataset]:
    if isinstance(dataset, Dataset):
        for start in range(0, len(dataset), rows_per_block):
            yield dataset.select(range(start, min(start + rows_per_block, len(dataset))))
        return
    rows: Iterable[Any] = iter(dataset)
    while block := list(islice(rows, rows_per_block)):
        yield table_from_rows(block, FEATURES if "audio" in block[0] else TEXT_FEATURES)


def _paths(output: Path, split: str, number: int) -> tuple[Path, Path]:
    return output / f"{split}-{number:05d}.parquet", output / STATE / split / f"{number:05d}.json"


def _finished(output: Path, split: str, number: int, seen: Seen) -> DropReport | None:
    """The report of a block that an earlier run wrote."""
    shard, block = _paths(output, split, number)
    if not block.is_file():
        return None
    data = json.loads(block.read_text(encoding="utf-8"))
    report = DropReport.from_dict(data["report"])
    if report.num_kept and not shard.is_file():
        return None
    seen.ids.update(data["ids"])
    for digest, row_id in data["audio"].items():
        seen.audio.setdefault(digest, row_id)
    return report


def _write(output: Path, split: str, number: int, rows: Dataset, checker: RowChecker, seen: Seen) -> DropReport:
    shard, block = _paths(output, split, number)
    has_audio = "audio" in rows.column_names
    known = set(seen.audio)
    clean, report = validate_rows(rows, need_audio=has_audio, source=shard.name, seen=seen, checker=checker)
    if len(clean):
        if has_audio:
            # In published files the column is a plain, decodable 16 kHz `Audio`.
            clean = embed_audio(clean, keep_in_memory=True).cast_column(
                "audio", SoundfileAudio(sampling_rate=SAMPLING_RATE_HZ)
            )
        partial = block.with_name(f"{shard.name}.partial")
        clean.to_parquet(partial)
        os.replace(partial, shard)
    audio = {digest: row_id for digest, row_id in seen.audio.items() if digest not in known}
    write_json(block, {"report": report.to_dict(), "ids": rows["id"][:], "audio": audio})
    return report


def describe_errors() -> tuple[type[Exception], ...]:
    """What a command reports in one line instead of a traceback."""
    return (OutputError, SourceError, TooManyDropped, ValueError)
