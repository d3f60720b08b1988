"""Rows as a training loop needs them: stamped with their epoch, so that augmentation is a function of (epoch, row)."""

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


def with_phoneme_counts(rows: Any, phonemes: Any) -> Any:
    """The rows with a column `num_phonemes` (`</s>` included), the length by which text rows are batched.

    Args:
        rows (`datasets.Dataset | datasets.IterableDataset`): rows with `text`.
        phonemes (`trainers.collators.PhonemeLabels`): turns a row into phoneme ids.
    """
    if isinstance(rows, datasets.Dataset):
        return rows.add_column("num_phonemes", [len(phonemes(row)) for row in rows])  # type: ignore[call-arg]
    features = {**rows.features, "num_phonemes": datasets.Value("int64")}
    return rows.map(PhonemeCount(phonemes), features=datasets.Features(features))


class PhonemeCount:
    """`IterableDataset.map` for `with_phoneme_counts`."""

    def __init__(self, phonemes: Any):
        self.phonemes = phonemes

    def __call__(self, row: Row) -> Row:
        return {"num_phonemes": len(self.phonemes(row))}
