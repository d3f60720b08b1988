"""What a worker does with a block: check its rows and write those that pass, as far as one block alone can tell."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from datasets import Features

from data_scripts.files import check_space, whole_file, write_json
from data_scripts.preparing.blocks import Block, Done
from data_scripts.preparing.folder import Folder
from data_scripts.preparing.writing import ShardWriter
from data_scripts.row_checks import Limits, check_row, with_content
from data_scripts.schema import Row
from data_scripts.validate import updated


@dataclass(frozen=True)
class Job:
    """What all blocks of a split have in common; picklable.

    Args:
        folder: where they are written.
        features: columns of the rows.
        notes: for the metadata of the shards.
    """

    folder: Folder
    limits: Limits
    features: Features
    rows_per_shard: int
    notes: dict[str, Any]


def check_block(job: Job, block: Block | Done) -> int:
    """Check a block and leave the result in the folder; `Folder.commit` takes it from there.

    Returns:
        The number of the block.

    Raises:
        DiskFull: nothing of the block is left behind.
        SourceError, SchemaError: the source is damaged.
    """
    if isinstance(block, Done):
        return block.number
    needed_bytes = block.num_bytes()
    rows, parts = block.rows(), []
    check_space(job.folder.checked_part(block.number, 0), needed_bytes)
    for part in count():
        outcomes = _check_part(job, islice(rows, job.rows_per_shard), job.folder.checked_part(block.number, part))
        if not outcomes and part:
            break
        parts.append(outcomes)
    # Written last: with it the block is checked.
    write_json(job.folder.checked(block.number), {"parts": parts})
    return block.number


def _check_part(job: Job, rows: Iterable[Row], path: Path) -> list[list[Any]]:
    """The outcomes of the rows of one shard; those that pass go to `path`, which is not made if none does."""
    need_audio = "audio" in job.features
    outcomes = []
    with ExitStack() as stack:
        writer = None
        for row in rows:
            if need_audio and row.get("audio"):
                row = {**row, "audio": with_content(row["audio"])}  # type: ignore[typeddict-item]
            outcome = check_row(row, job.limits, need_audio)
            found = (outcome.code, outcome.detail, outcome.file, outcome.notes, outcome.duration_s, outcome.digest)
            outcomes.append([row["id"], *found])
            if outcome.code is None:
                if writer is None:
                    file = stack.enter_context(whole_file(path))
                    writer = stack.enter_context(ShardWriter(file, job.features, job.notes))
                writer.write(updated(row, outcome))
    return outcomes
