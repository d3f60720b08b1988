"""Statistics of prepared folders, shard by shard on an engine, and of any other source."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_scripts.drop_report import DropReport
from data_scripts.readers import SourceError
from data_scripts.stats.collect import SplitStats, Stats, corpus_stats

if TYPE_CHECKING:
    from data_scripts.engines import Engine
    from data_scripts.sources import SourceArguments

SPLIT_ORDER = ("train", "validation", "dev", "test")
COLUMNS = ("duration_s", "text", "speaker", "dialect", "spans", "emotion", "corpus")
_SHARD = re.compile(r"(?P<split>.+?)-\d+(-of-\d+)?\.parquet")
_ROWS_PER_READ = 4096


def stats_of_folder(
    folders: str | Path | Sequence[str | Path],
    splits: Sequence[str] | None = None,
    engine: "Engine | None" = None,
) -> SplitStats:
    """Statistics of each split of prepared folders; audio is never read.

    Args:
        folders: one folder of `<split>-NNNNN.parquet` files, or several to be counted together.
        splits: only these.
        engine: where shards are counted; this process by default. The result does not depend on it.

    Returns:
        split → statistics: train, validation, test, then others by name.

    Raises:
        SourceError: a folder without shards, or without those of a split that was asked for.
    """
    from data_scripts.engines import LocalEngine

    folders = [folders] if isinstance(folders, str | Path) else folders
    shards = [shard for folder in folders for shard in find_shards(folder)]
    found = sorted({split for split, _ in shards}, key=_split_rank)
    if missing := [split for split in splits or () if split not in found]:
        raise SourceError(
            f"{', '.join(map(str, folders))}: no shards of split {', '.join(missing)}; there are {', '.join(found)}"
        )
    wanted = [(split, file) for split, file in shards if not splits or split in splits]
    total = SplitStats({split: Stats() for split in found if not splits or split in splits})
    with LocalEngine() if engine is None else nullcontext(engine) as used:
        parts = used.map(stats_of_shard, [str(file) for _, file in wanted])
        for (split, _), part in zip(wanted, parts, strict=True):
            total[split].merge(part)
    return total


def find_shards(folder: str | Path) -> list[tuple[str, Path]]:
    """(split, file) of the parquet shards of a folder, in order of their names.

    Raises:
        SourceError: there are none.
    """
    folder = Path(folder).expanduser()
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise SourceError(f"{folder}: no *.parquet shards; `prepare_data.py prepare` makes them")
    return [(match["split"] if (match := _SHARD.fullmatch(file.name)) else file.stem, file) for file in files]


def stats_of_shard(file: str) -> Stats:
    """Statistics of one parquet file with the columns of the schema.

    Raises:
        SourceError: the file is no readable parquet.
    """
    return corpus_stats(_rows(file))


def _rows(file: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as shard:
            columns = [name for name in COLUMNS if name in shard.schema_arrow.names]
            for batch in shard.iter_batches(_ROWS_PER_READ, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file}: cannot be read ({error}); make it again, or take it out of the folder") from error


def stats_of_source(source: "SourceArguments") -> Stats:
    """Statistics of any source, streamed or not; missing durations are taken from the headers of the files.

    Raises:
        SourceError, SchemaError: see `load_source`.
    """
    from data_scripts.sources import load_source

    rows: Any = load_source(replace(source), need_text=False)
    if rows.column_names:
        rows = rows.select_columns([name for name in COLUMNS if name in rows.column_names])
    return corpus_stats(rows)


def drop_reports(folders: str | Path | Sequence[str | Path]) -> dict[str, DropReport]:
    """split → what preparing dropped, from the drop_report.json of prepared folders; {} where there is none."""
    folders = [folders] if isinstance(folders, str | Path) else folders
    reports: dict[str, DropReport] = {}
    for folder in folders:
        path = Path(folder).expanduser() / "drop_report.json"
        if not path.is_file():
            continue
        try:
            read = {split: DropReport.from_dict(data) for split, data in json.loads(path.read_bytes()).items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(
                f"{path}: is no drop report ({error!r}); take it away or prepare the split again"
            ) from None
        for split, report in read.items():
            reports.setdefault(split, DropReport()).merge(report)
    return dict(sorted(reports.items(), key=lambda item: _split_rank(item[0])))


def _split_rank(split: str) -> tuple[int, str]:
    return (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split)
