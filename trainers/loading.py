"""How a Trainer gets its batches: by budget, the same for every division over ranks, and from where a run stopped."""

import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer

from data_scripts.files import write_json
from trainers.datasets_map import EpochRows, SetEpoch, row_lengths
from trainers.sampler import BudgetBatchSampler
from trainers.streams import PLACE, BatchNumbers, PlacedBatches, StreamBatches

logger = logging.getLogger(__name__)

# The mixin calls what it stands in front of.
_Base = Trainer if TYPE_CHECKING else object


class BudgetBatches(_Base):
    """Mixin in front of `transformers.Trainer`: batches by a budget, and their place in checkpoints.

    Each rank writes `data_state.json` (of several, `data_state_<rank>.json`) beside its random states: the epoch, the
    batches used and a digest of the order, or for a stream its place in it. A run goes on at the next batch; no batch
    before it is read again, but for one window of each lane of a stream.

    Args:
        length_column (`str`, *optional*): column of a row's length, in the unit of the budget. `None` batches by count
            without looking at lengths.
        batch_budget (`float`, *optional*): largest count x longest of a training batch per device, such as seconds of
            audio. `None` batches by `per_device_train_batch_size`, still grouped by length.
        eval_batch_budget (`float`, *optional*): the same for evaluation; by default `batch_budget`, and
            `per_device_eval_batch_size` where there is none.
        max_batch_size (`int`, *optional*): largest number of rows in a batch beside the budget.
        select (`Callable[[int], np.ndarray]`, *optional*): numbers of the training rows of an epoch, by epoch; such as
            the passes of a mixture. By default all. Not for streams.

    Training data may be a stream (`datasets.IterableDataset`), for which `max_steps` must be set; evaluation data
    cannot. A data set with `blocks`, such as `data_scripts.shards.ShardRows`, is read a window of blocks at a time.
    """

    # The base class types these as optional or as its own data set classes.
    train_dataset: Any
    eval_dataset: Any
    data_collator: Any
    _train_batch_size: int

    def __init__(
        self,
        *args: Any,
        length_column: str | None = "duration_s",
        batch_budget: float | None = None,
        eval_batch_budget: float | None = None,
        max_batch_size: int | None = None,
        select: Callable[[int], np.ndarray] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.length_column = length_column
        self.batch_budget = batch_budget
        self.eval_batch_budget = eval_batch_budget if eval_batch_budget is not None else batch_budget
        self.max_batch_size = max_batch_size
        self.select = select
        self._epoch_targets: list[Any] = []
        self.add_callback(SetEpoch(self._epoch_targets))
        self._order: BudgetBatchSampler | StreamBatches | None = None
        self._places: dict[int, dict[str, Any]] = {}

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this rank; see `BudgetBatchSampler` and, for streams, `StreamBatches`."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset")
        if isinstance(self.train_dataset, IterableDataset):
            return self._stream_loader()
        rows = EpochRows(self.train_dataset)
        # Batches of one optimiser step come from one group, so a step is the same however it is divided over ranks
        # and accumulation.
        group = self.args.world_size * self.args.gradient_accumulation_steps
        sampler = self._sampler(
            self.train_dataset, self.batch_budget, self._train_batch_size, group, shuffle=True, select=self.select
        )
        self._order = sampler
        self._epoch_targets[:] = [sampler, rows]
        return self._loader(rows, sampler, training=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches of this rank in a fixed order, longest first."""
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        eval_dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        if eval_dataset is None:
            raise ValueError("evaluation needs an eval_dataset")
        if isinstance(eval_dataset, IterableDataset):
            raise ValueError("evaluation data cannot be a stream; set streaming: false and, if need be, max_rows")
        batch_size = self.args.eval_batch_size
        sampler = self._sampler(eval_dataset, self.eval_batch_budget, batch_size, self.args.world_size, shuffle=False)
        return self._loader(eval_dataset, sampler, training=False)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As `get_eval_dataloader`."""
        return self.get_eval_dataloader(test_dataset)

    def _sampler(
        self, rows: Any, budget: float | None, batch_size: int, group: int, *, shuffle: bool, select: Any = None
    ) -> BudgetBatchSampler:
        lengths = row_lengths(rows, self.length_column) if self.length_column else [1.0] * len(rows)
        return BudgetBatchSampler(
            lengths,
            math.inf if budget is None else budget,
            max_batch_size=self.max_batch_size if budget is not None else batch_size,
            world_size=group,
            seed=self._data_seed,
            shuffle=shuffle,
            select=select,
            blocks=getattr(rows, "blocks", None),
        )

    @property
    def _data_seed(self) -> int:
        return self.args.data_seed if self.args.data_seed is not None else self.args.seed

    def _loader(self, rows: Any, sampler: BudgetBatchSampler, training: bool) -> DataLoader:
        persistent = self.args.dataloader_persistent_workers and training
        loader = DataLoader(
            rows, batch_sampler=sampler, collate_fn=self.data_collator, **self._worker_options(persistent)
        )
        # Not `prepare`: under DeepSpeed that insists on a fixed batch size.
        return self.accelerator.prepare_data_loader(loader)

    def _stream_loader(self) -> DataLoader:
        if self.args.max_steps <= 0:
            raise ValueError("a streamed data set has no known length: set max_steps")
        if self.select is not None:
            raise ValueError("rows of a stream cannot be selected by number; set streaming: false")
        by_count = self.batch_budget is None
        self._order = StreamBatches(
            self.train_dataset,
            budget=math.inf if self.batch_budget is None else self.batch_budget,
            max_batch_size=self._train_batch_size if by_count else self.max_batch_size,
            length_column=self.length_column,
            num_lanes=max(1, self.args.dataloader_num_workers),
            rank=self.args.process_index,
            world_size=self.args.world_size,
            seed=self._data_seed,
        )
        self._epoch_targets.clear()
        self._places = {}
        # Not prepared by accelerate, which would divide the batches among the ranks a second time.
        return DataLoader(
            self._order,
            batch_sampler=BatchNumbers(),
            collate_fn=PlacedBatches(self.data_collator),
            **self._worker_options(persistent=False),
        )

    def _worker_options(self, persistent: bool) -> dict[str, Any]:
        return {
            "num_workers": self.args.dataloader_num_workers,
            "pin_memory": self.args.dataloader_pin_memory and torch.cuda.is_available(),
            "persistent_workers": persistent,
            "prefetch_factor": self.args.dataloader_prefetch_factor,
        }

    # Places in checkpoints

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """The batches of a step. Those of a stream bring its place along, which is not for the model."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            if PLACE in batch:
                place = json.loads(batch.pop(PLACE))
                self._places[place["lane"]] = place
        return batches, num_items

    def data_state(self) -> dict[str, Any]:
        """This rank's place in the training data after the steps taken so far: JSON values."""
        if self._order is None:
            return {}
        if isinstance(self._order, StreamBatches):
            return self._order.state_dict(self._places)
        group = self.args.world_size * self.args.gradient_accumulation_steps
        epoch, steps = divmod(self.state.global_step, len(self._order) // group)
        return {**self._order.state_dict(steps * group), "epoch": epoch}

    def _data_state_path(self, checkpoint: str) -> Path:
        several = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return Path(checkpoint) / f"data_state{several}.json"

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        write_json(self._data_state_path(output_dir), self.data_state())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = self._data_state_path(checkpoint) if checkpoint is not None else None
        if path is None or not path.is_file():
            return
        state = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(self._order, StreamBatches):
            if "lanes" in state:
                self._order.load_state_dict(state)
                self._places = dict(self._order.places)
        elif self._order is not None and state.get("order") != self._order.order_digest():
            # The Trainer skips the batches that were used by their number; whether that is wanted is the run's to say.
            logger.warning("%s is of other rows or batch settings: rows will repeat or be left out", path)
