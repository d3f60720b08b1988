"""`prepare_data.py prepare`: corpora with all their splits, a folder each, with card and statistics."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from data_scripts import readers
from data_scripts.corpora import CORPORA
from data_scripts.drop_report import DropReport
from data_scripts.engines import make_engine
from data_scripts.prepare import OutputError, describe_run, pinned, prepare_split
from data_scripts.preparing.card import write_card
from data_scripts.preparing.duplicates import SHARED_FILE, write_shared
from data_scripts.preparing.folder import STATE, Folder
from data_scripts.readers import SourceError
from data_scripts.row_checks import Limits
from data_scripts.sources import SourceArguments
from data_scripts.tables import SPLIT_NAMES, corpus_name

logger = logging.getLogger(__name__)

SPOKEN = Limits(spoken_form=True)


@dataclass(frozen=True)
class Target:
    """A corpus to prepare."""

    name: str
    source: SourceArguments
    splits: tuple[str, ...]

    @property
    def has_text(self) -> bool:
        """Whether a row without a transcript is a fault: not in corpora of emotion alone."""
        return self.source.path not in CORPORA or CORPORA[self.source.path].has_text


def prepare_corpora(
    names: list[str],
    output_dir: str,
    splits: list[str] | None = None,
    limits: Limits = SPOKEN,
    rows_per_shard: int = 1000,
    num_workers: int = 0,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    statistics: bool = True,
) -> dict[str, DropReport]:
    """Make checked shards of corpora, each in `output_dir/NAME`, with drop report, card and statistics.

    Args:
        names: corpora of the list; `NAME=FOLDER` reads a local copy. Also folders, manifests and Hub ids whose columns
            are known by their usual names (`validate` takes others).
        output_dir: a new folder, or that of the same command stopped earlier, which is continued.
        splits: only these; by default all that a corpus has.
        limits: what a row must satisfy; numbers and the like are written as they are read, unless
            `limits.spoken_form` is false.
        rows_per_shard: rows of the source that one shard is made of; 1,000 utterances of 5 s are about 120 MB of FLAC.
        num_workers: processes that check recordings; 0 checks in this one (local) or on every CPU (ray).
        engine: where the processes run: this machine, or a Ray cluster that sees the same paths.
        address: of the Ray cluster; the one of this machine by default, or one started for the job.
        statistics: write `statistics.html` and `statistics.json` for every corpus.

    Returns:
        The report of every split, by "NAME/SPLIT". Recordings that two splits share, of one corpus or of any two in
        `output_dir`, are listed in `output_dir/shared_recordings.json`.

    Raises:
        SourceError, OutputError: a corpus is not there or gated, a folder holds something else: told for all of them
            before the first is begun.
        SchemaError, TooManyDropped, DiskFull, EngineError: see `prepare_validated`.
    """
    targets = [find_target(name, splits) for name in names]
    folders = {target.name: Path(output_dir).expanduser() / target.name for target in targets}
    if len(folders) < len(targets):
        raise OutputError(f"two of {', '.join(names)} would both be written to one folder; prepare them apart")
    wanted = {target.name: replace(limits, need_text=limits.need_text and target.has_text) for target in targets}
    for target in targets:
        for split in target.splits:
            source, content = pinned(replace(target.source, split=split))
            run = describe_run(source, content, wanted[target.name], rows_per_shard)
            Folder(folders[target.name], split).check(run)
            Folder(folders[target.name], split).check_neighbours(run)
    reports = {}
    with make_engine(engine, num_workers, address) as workers:
        for target in targets:
            folder, name = folders[target.name], target.name
            for split in target.splits:
                source = replace(target.source, split=split)
                report = prepare_split(workers, source, str(folder), wanted[name], rows_per_shard)
                reports[f"{name}/{split}"] = report
            command = _command(target, limits, rows_per_shard)
            write_card(folder, name, CORPORA.get(target.source.path), command)
            if statistics:
                from data_scripts.preparing.statistics import write_statistics

                write_statistics([folder], engine=workers)
    # Also those that other runs left beside these.
    beside = sorted(path.parent for path in Path(output_dir).expanduser().glob(f"*/{STATE}"))
    for sentence in write_shared(output_dir, beside):
        logger.warning("%s; see %s/%s", sentence, output_dir, SHARED_FILE)
    return reports


def find_target(name: str, splits: Sequence[str] | None = None) -> Target:
    """What a name on the command line means, and its splits.

    Raises:
        SourceError: no such corpus, folder or data set, or it lacks a split.
    """
    path, _, data_dir = name.partition("=")
    if data_dir and path not in CORPORA:
        nearest = readers.closest(path, list(CORPORA))
        raise SourceError(f"{name}: NAME=FOLDER is for the corpora of `prepare_data.py list`.{nearest}")
    source = SourceArguments(path, data_dir=data_dir or None)
    there = _splits(source)
    for split in splits or ():
        if there and split not in there:
            raise SourceError(f"{path} has no split {split!r}; it has {', '.join(there)}")
    chosen = tuple(splits or there or ("train",))
    return Target(path if path in CORPORA else corpus_name(path).replace("/", "--"), source, chosen)


def _splits(source: SourceArguments) -> tuple[str, ...]:
    """The splits of a source; empty where they are not named."""
    kind, path = readers.detect_kind(source.path), Path(source.path).expanduser()
    if kind == "corpus":
        return tuple(CORPORA[source.path].splits)
    if kind == "hub":
        from datasets import get_dataset_split_names

        try:
            return tuple(map(str, get_dataset_split_names(source.path)))
        except Exception as error:  # of several HTTP clients
            raise SourceError(f"{source.path}: its splits cannot be listed: {str(error).splitlines()[0]}") from error
    if kind == "folder":
        named = tuple(split for split in readers.metadata_files(path) if split in SPLIT_NAMES)
        return named or tuple(split.name for split in sorted(path.iterdir()) if split.name in SPLIT_NAMES)
    if kind == "parquet" and path.is_dir():
        # A folder of the path or the start of the file name: test/0.parquet, test-00000.parquet.
        files = [file.relative_to(path) for file in path.rglob("*.parquet")]
        parts = {part for file in files for part in (*file.parts[:-1], file.name.split("-")[0].split(".")[0])}
        return tuple(sorted(parts & SPLIT_NAMES))
    return ()


def _command(target: Target, limits: Limits, rows_per_shard: int) -> str:
    """The command that makes the same shards again, without folders of this machine."""
    local = target.source.data_dir or Path(target.source.path).expanduser().exists()
    name = f"{target.source.path}=FOLDER" if target.source.data_dir else target.name if local else target.source.path
    parts: list[Any] = ["python", "scripts/prepare_data.py", "prepare", name, "--output_dir", "FOLDER"]
    for key, value in vars(limits).items():
        if value != getattr(SPOKEN, key):
            parts += [f"--limits.{key}", list(value) if isinstance(value, tuple) else value]
    if rows_per_shard != 1000:
        parts += ["--rows_per_shard", rows_per_shard]
    return shlex.join(map(str, parts))
