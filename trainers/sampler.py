"""Batches by a budget of padded seconds: deterministic, the same number of steps on every rank, every row once.

The stock length-grouped sampler draws other permutations on other ranks and after a resume, so rows are lost; this one
is a function of (seed, epoch) alone and returns global batches, which accelerate's `BatchSamplerShard` deals out:
batches 0, 1, ..., world_size - 1 form one step.
"""

import logging
import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

logger = logging.getLogger(__name__)

# Rows are sorted by length times a random factor in [1 - JITTER, 1 + JITTER]: batch mates change every epoch while at
# most about 2 * JITTER of a batch is padding.
JITTER = 0.1
TRIAL_EPOCHS = 3


class BudgetBatchSampler(Sampler[list[int]]):
    """Lists of row numbers whose padded size, count x longest, stays within a budget.

    The order depends on `seed` and the epoch only. The number of batches is the same in every epoch (a Trainer
    computes its schedule from it) and a multiple of `world_size`; it is reached by splitting batches. Each run of
    `world_size` consecutive batches has similar cost, so ranks wait little for one another. A row longer than the
    budget is a batch of its own. Every row comes exactly once per epoch; only where that is impossible (fewer rows
    than batches, that is fewer rows than `world_size`, or nearly every row alone in its batch) are fewer than
    `world_size` rows repeated, which is logged.

    Args:
        lengths (`Sequence[float]`): length of each row, in the unit of `budget` (seconds, or tokens for text).
        budget (`float`): largest count x longest of a batch; `math.inf` batches by `max_batch_size` alone.
        max_batch_size (`int`, *optional*): largest number of rows in a batch.
        world_size (`int`): batches consumed together: ranks, times accumulation steps if an optimiser step shall be
            the same however a global batch is divided.
        seed (`int`): seed of the order.
        shuffle (`bool`): False gives one fixed order, longest batches first.

    Raises:
        ValueError: no rows, a length that is not a finite number above 0, or neither budget nor batch size.

    Example:

    ```python
    >>> list(BudgetBatchSampler([1.0, 4.0, 2.0, 2.0], budget=4.0, shuffle=False))
    [[1], [2, 3], [0]]
    ```
    """

    def __init__(
        self,
        lengths: Sequence[float],
        budget: float,
        *,
        max_batch_size: int | None = None,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
    ):
        self.lengths = np.asarray(lengths, dtype=np.float64)
        if self.lengths.ndim != 1 or not len(self.lengths):
            raise ValueError("no rows to batch: the data set is empty")
        bad = np.flatnonzero(~(np.isfinite(self.lengths) & (self.lengths > 0)))
        if len(bad):
            raise ValueError(f"row {bad[0]} has length {self.lengths[bad[0]]}: lengths must be finite and above 0")
        if not budget > 0:
            raise ValueError(f"budget must be above 0, got {budget}")
        if max_batch_size is not None and max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1, got {max_batch_size}")
        if math.isinf(budget) and max_batch_size is None:
            raise ValueError("give a budget or a max_batch_size: without either all rows would be one batch")
        if world_size < 1:
            raise ValueError(f"world_size must be at least 1, got {world_size}")
        self.budget = float(budget)
        self.max_batch_size = max_batch_size
        self.world_size = world_size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        # The unjittered order is always among the candidates, so every epoch can be packed into this many batches.
        trials = range(TRIAL_EPOCHS) if shuffle else ()
        count = max([len(self._pack(self._order(0, 0.0)))] + [len(self._pack(self._order(e, JITTER))) for e in trials])
        self.num_batches = math.ceil(count / world_size) * world_size
        repeated = self.num_batches - len(self.lengths)
        if repeated > 0:
            logger.warning("%d rows do not fill %d ranks: %d repeated", len(self.lengths), world_size, repeated)

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        """The next iteration gives the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches(self.epoch))

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of one epoch, `world_size` consecutive ones per step."""
        jitter = JITTER if self.shuffle else 0.0
        batches = self._pack(self._order(epoch, jitter))
        while len(batches) > self.num_batches:
            jitter = jitter / 2 if jitter > 0.01 else 0.0
            batches = self._pack(self._order(epoch, jitter))
        self._split(batches)
        # Sorting by cost puts like beside like; steps are then shuffled as a whole.
        batches.sort(key=self._cost, reverse=True)
        if not self.shuffle:
            return batches
        steps = [batches[i : i + self.world_size] for i in range(0, len(batches), self.world_size)]
        order = np.random.default_rng([self.seed, epoch, 1]).permutation(len(steps))
        return [batch for step in order for batch in steps[step]]

    def _order(self, epoch: int, jitter: float) -> np.ndarray:
        """Row numbers, longest first, with lengths blurred by `jitter`."""
        if not jitter:
            return np.argsort(-self.lengths, kind="stable")
        factors = 1.0 + jitter * np.random.default_rng([self.seed, epoch, 0]).uniform(-1.0, 1.0, len(self.lengths))
        return np.argsort(-self.lengths * factors, kind="stable")

    def _pack(self, order: np.ndarray) -> list[list[int]]:
        """Greedy batches over rows in the given order."""
        limit = self.max_batch_size or len(order)
        batches: list[list[int]] = []
        batch: list[int] = []
        longest = 0.0
        # Plain Python numbers: indexing numpy scalars row by row is several times slower.
        for row, length in zip(order.tolist(), self.lengths[order].tolist(), strict=True):
            widest = max(longest, length)
            if batch and ((len(batch) + 1) * widest > self.budget or len(batch) == limit):
                batches.append(batch)
                batch, widest = [], length
            batch.append(row)
            longest = widest
        batches.append(batch)
        return batches

    def _split(self, batches: list[list[int]]) -> None:
        """Halve the batches with most rows until there are `num_batches`; repeat rows where none can be halved."""
        while len(batches) < self.num_batches:
            # Few splits are needed (less than world_size plus the spread between epochs), so a scan each is cheap.
            widest = max(range(len(batches)), key=lambda i: len(batches[i]))
            batch = batches[widest]
            if len(batch) == 1:
                shortest = np.argsort(self.lengths, kind="stable")
                missing = self.num_batches - len(batches)
                batches += [[int(shortest[i % len(shortest)])] for i in range(missing)]
                return
            batches[widest : widest + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]

    def _cost(self, batch: list[int]) -> float:
        """Padded size of a batch, in the unit of the budget."""
        return len(batch) * float(self.lengths[batch].max())
