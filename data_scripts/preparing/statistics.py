"""`prepare_data.py stats`: what is in prepared folders, or in any source."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_scripts.engines import Engine, make_engine
from data_scripts.preparing.corpora import find_target

if TYPE_CHECKING:
    from data_scripts.stats import Stats

PAGE_FILE = "statistics.html"


def write_statistics(
    paths: Sequence[str | Path], output: str | Path | None = None, num_workers: int = 0, engine: Engine | None = None
) -> "dict[str, Stats]":
    """Count what is in prepared folders or other sources, and write it as a page, with the figures as JSON beside it.

    Args:
        paths: prepared folders; also manifests, folders of recordings and corpora of the list, whose rows are read.
        output: the HTML page; `statistics.html` in a prepared folder that is alone, else in this directory.
        num_workers: processes that count shards; 0 counts in this one.
        engine: used instead of processes of its own.

    Returns:
        Statistics by split, of several paths by "PATH/SPLIT".

    Raises:
        SourceError: no such source.
    """
    from data_scripts.stats import drop_reports, stats_of_folder, stats_of_source, write_page

    found, drops = {}, {}
    with make_engine("local", num_workers) if engine is None else nullcontext(engine) as workers:
        for path in paths:
            folder = Path(path).expanduser()
            before = f"{folder.name}/" if len(paths) > 1 else ""
            if _has_shards(folder):
                splits = stats_of_folder(folder, engine=workers)
                drops.update({before + split: report for split, report in drop_reports(folder).items()})
            else:
                target = find_target(str(path))
                sources = {split: replace(target.source, split=split) for split in target.splits}
                splits = {split: stats_of_source(source) for split, source in sources.items()}
            found.update({before + split: stats for split, stats in splits.items()})
    if output is None:
        alone = Path(paths[0]).expanduser()
        output = (alone if len(paths) == 1 and _has_shards(alone) else Path()) / PAGE_FILE
    write_page(found, Path(output).expanduser(), subtitle=", ".join(Path(path).name for path in paths), drops=drops)
    return found


def _has_shards(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.parquet"))
