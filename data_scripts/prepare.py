"""From any source to clean parquet shards with the audio inside, on one machine or many.

The output folder loads with `load_dataset(folder)` or as a source of its own, and holds any number of splits:

    train-00000.parquet ...         rows that passed, files embedded as they were (FLAC stays FLAC, Opus stays Opus)
    drop_report.json                by split: dropped rows with their reasons, repairs counted; written last
    .prepared/                      what made the shards and which are finished (`data_scripts.preparing.folder`)

The bytes of the output depend on the source and the limits alone: not on workers, engine, or how often the job was
stopped and continued. Memory does not grow with the corpus.
"""

import hashlib
import json
import logging
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
from rich.progress import Progress

from data_scripts import readers
from data_scripts.drop_report import DropReport
from data_scripts.engines import Engine, EngineError, make_engine
from data_scripts.files import DiskFull, remove_partials
from data_scripts.preparing.blocks import plan_blocks
from data_scripts.preparing.checking import Job, check_block
from data_scripts.preparing.folder import Folder, OutputError
from data_scripts.preparing.index import on_disk_index
from data_scripts.sources import SourceArguments, SourceError
from data_scripts.tables import corpus_name, parquet_files
from data_scripts.text.normalize import NORMALIZER_VERSION
from data_scripts.validate import ROWS_TO_JUDGE, Limits, TooManyDropped

__all__ = ["DiskFull", "EngineError", "OutputError", "describe_errors", "prepare_split", "prepare_validated"]

logger = logging.getLogger(__name__)

DEFAULT_LIMITS = Limits()


def prepare_validated(
    source: SourceArguments,
    output_dir: str,
    limits: Limits = DEFAULT_LIMITS,
    rows_per_shard: int = 1000,
    num_workers: int = 0,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
) -> DropReport:
    """Validate a source and write what passed.

    Args:
        source: where the rows come from; always read as a stream.
        output_dir: a new folder, that of the same run stopped earlier, which is continued, or that of other splits.
        limits: what a row must satisfy.
        rows_per_shard: rows of the source that one shard is made of; 1,000 utterances of 5 s are about 120 MB of FLAC.
        num_workers: processes that check recordings; 0 checks in this one (local) or on every CPU (ray).
        engine: where the processes run: this machine, or a Ray cluster that sees the same paths.
        address: of the Ray cluster; the one of this machine by default, or one started for the job.

    Returns:
        The report over all rows, also written to drop_report.json.

    Raises:
        OutputError: the folder holds another run for this split, or files that are no run.
        SourceError, SchemaError: see `load_source`.
        TooManyDropped: more rows dropped than `limits.max_drop_fraction`; shards and report stay for inspection.
        DiskFull: no room for the next shard.
        EngineError: a worker process died twice on the same shard, or the engine is not at hand.

        After each of them finished shards stay, and the same command continues.
    """
    with make_engine(engine, num_workers, address) as workers:
        return prepare_split(workers, source, output_dir, limits, rows_per_shard)


def prepare_split(
    engine: Engine,
    source: SourceArguments,
    output_dir: str,
    limits: Limits = DEFAULT_LIMITS,
    rows_per_shard: int = 1000,
) -> DropReport:
    """As `prepare_validated`, on workers that are there already."""
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}")
    datasets.disable_progress_bars()  # one bar for the run, not several for each shard
    folder = Folder(Path(output_dir).expanduser().resolve(), source.split)
    source, content = pinned(source)
    run = describe_run(source, content, limits, rows_per_shard)
    plan = plan_blocks(source, limits.need_text, rows_per_shard, folder.is_done, folder.spooled)
    # No paths of this machine: shards are published.
    notes = {"corpus": source.corpus or corpus_name(source.path), "split": source.split, **run["versions"]}
    job = Job(folder, replace(limits, max_drop_fraction=None), plan.features, rows_per_shard, notes)
    report, next_shard = DropReport(f"{source.path} ({source.split})"), 0
    with folder.claimed(run), on_disk_index() as seen, Progress(transient=True) as progress:
        task = progress.add_task(f"checking {source.path} {source.split}", total=plan.num_rows)
        for block in engine.map(partial(check_block, job), plan.blocks):
            part, next_shard = folder.commit(block, next_shard, seen)
            report.merge(part)
            progress.update(task, completed=report.num_rows)
            # The drop limit is for the whole, not for each shard.
            if report.num_rows >= ROWS_TO_JUDGE and report.exceeds(limits.max_drop_fraction):
                break
        else:
            remove_partials(folder.state)  # of workers that were killed; none is at work any more
        folder.save_report(report)
    if limits.max_drop_fraction is not None and report.exceeds(limits.max_drop_fraction):
        raise TooManyDropped(report, limits.max_drop_fraction)
    return report


def pinned(source: SourceArguments) -> tuple[SourceArguments, str | None]:
    """The source at one commit, where it is on the Hub, and what changes when its content does (None: not known).

    Raises:
        SourceError: there is no such source, or it is gated.
    """
    kind = readers.detect_kind(source.path, source.columns) if source.kind == "auto" else source.kind
    path = Path(source.path).expanduser()
    if kind == "corpus":
        from data_scripts.corpora import fingerprint

        content = fingerprint(source.path, source.data_dir, source.revision)
        return (source if source.data_dir else replace(source, revision=content)), content
    if not path.exists():
        content = _commit(source)
        return (replace(source, revision=content) if content else source), content
    if kind == "parquet":
        sizes = [(os.path.basename(file), os.path.getsize(file)) for file in parquet_files(source)]
        return source, hashlib.blake2b(json.dumps(sizes).encode(), digest_size=12).hexdigest()
    if path.is_dir():
        path, _ = readers.metadata_file(path, source.split)
    with path.open("rb") as file:
        return source, hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()


def _commit(source: SourceArguments) -> str | None:
    """The commit of a Hub data set; None if the Hub does not tell (loading says why)."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(source.path, revision=source.revision).sha
    except Exception as error:  # errors of several HTTP clients
        logger.info("%s: no commit found (%s)", source.path, error)
        return None


def describe_run(source: SourceArguments, content: str | None, limits: Limits, rows_per_shard: int) -> dict[str, Any]:
    """What decides the output; workers, engine and the drop limit do not."""
    settings = asdict(limits)
    settings.pop("max_drop_fraction")
    settings["keep_text_problems"] = list(limits.keep_text_problems)
    described = asdict(source)
    for name in ("weight", "streaming"):
        described.pop(name)
    for name in ("path", "data_dir"):
        if source.data_dir if name == "data_dir" else Path(source.path).expanduser().exists():
            described[name] = str(Path(described[name]).expanduser().resolve())
    return {
        "format": 2,
        "source": {**described, "content": content},
        "limits": settings,
        "rows_per_shard": rows_per_shard,
        "versions": text_versions(limits.spoken_form),
    }


def text_versions(spoken_form: bool) -> dict[str, str]:
    """Versions of what was done to the text."""
    versions = {"normalizer_version": NORMALIZER_VERSION}
    if spoken_form:
        from data_scripts.text.spoken import SPOKEN_FORM_VERSION

        versions["spoken_form_version"] = SPOKEN_FORM_VERSION
    return versions


def describe_errors() -> tuple[type[Exception], ...]:
    """What a command reports in one line instead of a traceback."""
    return (DiskFull, EngineError, OutputError, SourceError, TooManyDropped, ValueError)
