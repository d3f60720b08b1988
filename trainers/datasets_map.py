"""Rows as a training loop needs them: stamped with their epoch, so that augmentation is a function of (epoch, row)."""

import itertools
from collections.abc import Iterator
from typing import Any

import datasets
import torch
from transformers import TrainerCallback

Row = dict[str, Any]


class EpochRows(torch.utils.data.Dataset):
    """A map-style data set whose rows carry the number of the current epoch under `epoch`.

    Rows without `epoch` (evaluation, plain data sets) are never augmented by the collators. The number lives in shared
    memory, so `set_epoch` also reaches data loader workers that are already running.
    """

    def __init__(self, rows: Any):
        self.rows = rows
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Stamp rows fetched from now on with this epoch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return {**self.rows[index], "epoch": int(self._epoch)}


class SetEpoch(TrainerCallback):
    """Tells sampler and rows the epoch before its batches are drawn.

    The Trainer's own call does not reach a batch sampler behind accelerate's wrappers on several ranks, nor one behind
    the wrapper that skips batches after a resume.
    """

    def __init__(self, targets: list[Any]):
        self.targets = targets

    def on_epoch_begin(self, args, state, control, **kwargs):
        # state.epoch is a fraction; a resumed run may be a rounding error short of the whole number.
        epoch = int((state.epoch or 0) + 1e-6)
        for target in self.targets:
            target.set_epoch(epoch)


class EndlessStream(torch.utils.data.IterableDataset):
    """This rank's part of a streamed data set, over and over, each pass stamped and shuffled by its number.

    The Trainer loses its place in a stream that ends (a resumed run would repeat rows), so this one never does;
    `max_steps` decides the length of the run. Ranks take different shards, or every n-th row where there are fewer
    shards than ranks; workers of a rank share its shards.

    Raises:
        ValueError: the stream gave no rows at all.
    """

    def __init__(self, rows: datasets.IterableDataset, rank: int = 0, world_size: int = 1):
        super().__init__()
        self.rows = rows
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[Row]:
        by_shard = self.rows.num_shards >= self.world_size
        rows = self.rows.shard(self.world_size, self.rank) if by_shard and self.world_size > 1 else self.rows
        worker = torch.utils.data.get_worker_info()
        for epoch in itertools.count():
            # Reorders only where the stream was built with .shuffle(buffer_size=...).
            rows.set_epoch(epoch)
            count = 0
            # Without enough shards every rank walks the whole stream and keeps its own rows.
            step = 1 if by_shard else self.world_size
            for row in itertools.islice(iter(rows), 0 if by_shard else self.rank, None, step):
                count += 1
                yield {**row, "epoch": epoch}
            if not count:
                # A worker beyond the number of shards has nothing to do; the others carry the stream.
                if worker is not None and worker.id >= rows.num_shards:
                    return
                raise ValueError(
                    f"rank {self.rank} of {self.world_size} got no rows from the stream: "
                    "check the source, or use at least one row per process"
                )


def row_lengths(rows: Any, column: str) -> list[float]:
    """The length column of a data set, checked.

    Args:
        rows: a `datasets.Dataset`, or any data set with `column_names` and `dataset[column]`.
        column (`str`): name of the column, for example `duration_s` (seconds) or `num_tokens`.

    Raises:
        ValueError: there is no such column, or a value in it is missing.
    """
    names = list(rows.column_names)
    if column not in names:
        raise ValueError(
            f"no column {column!r} to batch by; columns are {names}. Add it while preparing the data, or batch by "
            "count (no budget)"
        )
    values = list(rows[column])
    if None in values:
        index = values.index(None)
        name = rows["id"][index] if "id" in names else index
        raise ValueError(f"row {name!r} has no {column}: prepare the data set again, which measures every recording")
    return [float(value) for value in values]


def with_phoneme_counts(rows: datasets.Dataset, phonemes: Any) -> datasets.Dataset:
    """The rows with a column `num_phonemes` (`</s>` included), the length by which text rows are batched.

    Args:
        rows (`datasets.Dataset`): rows with `text`.
        phonemes (`trainers.collators.PhonemeLabels`): turns a row into phoneme ids.
    """
    return rows.add_column("num_phonemes", [len(phonemes(row)) for row in rows])
