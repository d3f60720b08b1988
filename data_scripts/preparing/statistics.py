"""Statistics of prepared folders: every shard by itself on an engine, then put together."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from data_scripts.engines import Engine, LocalEngine
from data_scripts.files import write_json
from data_scripts.preparing.blocks import read_range
from data_scripts.readers import SourceError

if TYPE_CHECKING:
    from data_scripts.stats import Stats


def write_statistics(
    folders: Sequence[str | Path], output: str | Path | None = None, engine: Engine | None = None
) -> "Stats":
    """Count what is in folders of parquet shards, and write it as a page and as JSON beside it.

    Args:
        folders: prepared folders, all their splits.
        output: the HTML page; `statistics.html` in the first folder by default.
        engine: where shards are counted; this process by default.

    Raises:
        SourceError: no shards.
    """
    from data_scripts.stats import corpus_stats, write_page

    files = [str(file) for folder in folders for file in sorted(Path(folder).expanduser().glob("*.parquet"))]
    for folder in folders:
        if not any(Path(folder).expanduser().glob("*.parquet")):
            raise SourceError(f"{folder}: no *.parquet shards; `prepare_data.py prepare` makes them")
    total = corpus_stats([])
    for part in (engine or LocalEngine()).map(shard_stats, files):
        total.merge(part)
    page = Path(output).expanduser() if output else Path(folders[0]).expanduser() / "statistics.html"
    write_page(total, page)
    write_json(page.with_suffix(".json"), total.to_dict())
    return total


def shard_stats(file: str) -> "Stats":
    """Statistics of one shard; audio is not read."""
    from data_scripts.stats import corpus_stats

    return corpus_stats(rows(file))


def rows(file: str) -> Iterator[dict[str, Any]]:
    columns = [name for name in pq.read_schema(file).names if name != "audio"]
    return read_range(file, columns, 0, pq.read_metadata(file).num_rows)
