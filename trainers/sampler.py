"""Batches by a budget of padded seconds: deterministic, the same number of steps on every rank, every row once.

The stock length-grouped sampler draws other permutations on other ranks and after a resume, so rows are lost; this one
is a function of (seed, epoch) alone and returns global batches, which accelerate's `BatchSamplerShard` deals out:
batches 0, 1, ..., world_size - 1 form one step.
"""

import hashlib
import heapq
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

logger = logging.getLogger(__name__)

# Rows are sorted by length times a random factor in [1 - JITTER, 1 + JITTER]: batch mates change every epoch while at
# most about 2 * JITTER of a batch is padding.
JITTER = 0.05
TRIAL_EPOCHS = 3
# Rows read and sorted together where rows are read in blocks; `data_scripts.shards` keeps as many in memory.
WINDOW_ROWS = 2048
STRETCH = 1.01


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
        select (`Callable[[int], np.ndarray]`, *optional*): the numbers of the rows of an epoch, by epoch; a row may
            come several times. By default every epoch has all rows. Where epochs differ so much that one needs more
            batches than the others, the budget of that epoch is stretched by as many hundredths as it takes.
        blocks (`Sequence[int]`, *optional*): rows that begin a block of rows which are best read together, such as a
            row group of a parquet file. Then blocks are shuffled, and rows only within windows of blocks of together
            `WINDOW_ROWS` rows.

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
        lengths: Sequence[float] | np.ndarray,
        budget: float,
        *,
        max_batch_size: int | None = None,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        select: Callable[[int], np.ndarray] | None = None,
        blocks: Sequence[int] | np.ndarray | None = None,
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
        self.select = select
        self.blocks = None if blocks is None else np.asarray(blocks, dtype=np.int64)
        self.epoch = 0
        self._first = 0
        self.num_batches = self._count()

    def _count(self) -> int:
        trials = TRIAL_EPOCHS if self.shuffle or self.select else 1
        # The unjittered order is always among the candidates: of the same rows, every epoch fits into so many batches.
        packed = [self._packed(0, 0.0)] + [self._packed(epoch, JITTER) for epoch in range(trials) if self.shuffle]
        if self.select or self.blocks is not None:
            packed += [self._packed(epoch, 0.0) for epoch in range(1, trials)]
        count = max(sum(map(len, windows)) for windows in packed)
        if self.select or (self.blocks is not None and self.shuffle):
            # Other rows, or the same in other company: room for the epochs that were not looked at.
            count += max(map(len, packed))
        num_batches = math.ceil(count / self.world_size) * self.world_size
        num_rows = len(self._rows(0))
        if num_batches > num_rows:
            # Room is not worth a repeated row.
            num_batches = max(math.ceil(num_rows / self.world_size), 1) * self.world_size
        if num_batches > num_rows:
            repeated = num_batches - num_rows
            logger.warning("%d rows do not fill %d ranks: %d repeated", num_rows, self.world_size, repeated)
        return num_batches

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        """The next iteration gives the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        first, self._first = self._first, 0
        return iter(self.batches(self.epoch)[first:])

    def state_dict(self, num_batches: int = 0) -> dict[str, Any]:
        """Where this epoch stands, for `load_state_dict`: JSON values.

        Args:
            num_batches (`int`): batches of the epoch that were used, of all ranks together. Loaders draw ahead, so
                only who uses the batches knows.
        """
        return {"epoch": self.epoch, "num_batches": num_batches, "order": self.order_digest()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there: the next iteration gives the batches of that epoch which were not used.

        Raises:
            ValueError: the state is of other rows, lengths or settings.
        """
        if state["order"] != self.order_digest():
            raise ValueError("the position is that of other rows or batch settings, so rows would repeat or be lost")
        self.epoch, self._first = state["epoch"], state["num_batches"]

    def order_digest(self) -> str:
        """Changes with whatever changes the batches of an epoch."""
        settings = [self.budget, self.max_batch_size, self.world_size, self.seed, self.shuffle, self.num_batches]
        digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=8)
        digest.update(self.lengths.tobytes())
        digest.update(b"" if self.blocks is None else self.blocks.tobytes())
        digest.update(self._rows(0).tobytes())
        return digest.hexdigest()

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of one epoch, `world_size` consecutive ones per step."""
        windows = self._split(self._fitting(epoch))
        shuffled = np.random.default_rng([self.seed, epoch, 1])
        batches: list[list[int]] = []
        rest: list[list[int]] = []
        for window in windows:
            # Sorting by cost puts like beside like; steps are then shuffled as a whole. What fills no step goes on to
            # the next window, first of all; the last one has no rest, for all together fill their steps.
            window = rest + sorted(window, key=self._cost, reverse=True)
            steps = [window[i : i + self.world_size] for i in range(0, len(window), self.world_size)]
            rest = steps.pop() if len(window) % self.world_size else []
            order = shuffled.permutation(len(steps)) if self.shuffle else range(len(steps))
            batches += [batch for step in order for batch in steps[step]]
        return batches

    def _fitting(self, epoch: int) -> list[list[list[int]]]:
        """Batches by window, in no more than there may be."""
        jitter, budget = JITTER if self.shuffle else 0.0, self.budget
        windows = self._packed(epoch, jitter)
        while (count := sum(map(len, windows))) > self.num_batches:
            if jitter:
                jitter = jitter / 2 if jitter > 0.01 else 0.0
            elif math.isinf(budget):
                raise ValueError(
                    f"epoch {epoch} needs {count} batches and the first ones {self.num_batches}: `select` must give "
                    "as many rows each time, or batches need a budget"
                )
            else:
                budget *= STRETCH
            windows = self._packed(epoch, jitter, budget)
        if budget > self.budget:
            logger.info("epoch %d: budget stretched from %g to %g", epoch, self.budget, budget)
        return windows

    def _rows(self, epoch: int) -> np.ndarray:
        """The rows of an epoch."""
        return np.arange(len(self.lengths)) if self.select is None else np.asarray(self.select(epoch), dtype=np.int64)

    def _packed(self, epoch: int, jitter: float, budget: float | None = None) -> list[list[list[int]]]:
        """Batches by window, within the budget."""
        rows = self._rows(epoch)
        if not len(rows):
            raise ValueError(f"no rows to batch: nothing was selected for epoch {epoch}")
        lengths = self.lengths[rows]
        if jitter:
            lengths = lengths * (
                1.0 + jitter * np.random.default_rng([self.seed, epoch, 0]).uniform(-1.0, 1.0, len(rows))
            )
        windows = self._windows(rows, epoch)
        return [self._pack(rows[w[np.argsort(-lengths[w], kind="stable")]], budget or self.budget) for w in windows]

    def _windows(self, rows: np.ndarray, epoch: int) -> list[np.ndarray]:
        """Positions in `rows` that are sorted and packed together."""
        if self.blocks is None:
            return [np.arange(len(rows))]
        blocks = np.searchsorted(self.blocks, rows, side="right") - 1
        count = len(self.blocks)
        order = np.random.default_rng([self.seed, epoch, 2]).permutation(count) if self.shuffle else np.arange(count)
        sizes = np.bincount(blocks, minlength=count)[order].tolist()
        window_of_place, filled, number = [], 0, 0
        for size in sizes:
            if filled and filled + size > WINDOW_ROWS:
                filled, number = 0, number + 1
            filled += size
            window_of_place.append(number)
        window_of_block = np.empty(count, dtype=np.int64)
        window_of_block[order] = window_of_place
        window = window_of_block[blocks]
        by_window = np.argsort(window, kind="stable")
        return [part for part in np.split(by_window, np.flatnonzero(np.diff(window[by_window])) + 1) if len(part)]

    def _pack(self, order: np.ndarray, budget: float) -> list[list[int]]:
        """Greedy batches over rows in the given order."""
        limit = self.max_batch_size or len(order)
        batches: list[list[int]] = []
        batch: list[int] = []
        longest = 0.0
        # Plain Python numbers: indexing numpy scalars row by row is several times slower.
        for row, length in zip(order.tolist(), self.lengths[order].tolist(), strict=True):
            widest = max(longest, length)
            if batch and ((len(batch) + 1) * widest > budget or len(batch) == limit):
                batches.append(batch)
                batch, widest = [], length
            batch.append(row)
            longest = widest
        batches.append(batch)
        return batches

    def _split(self, windows: list[list[list[int]]]) -> list[list[list[int]]]:
        """Halve the batches with most rows until there are `num_batches`; repeat rows where none can be halved."""
        missing = self.num_batches - sum(map(len, windows))
        heap = [(-len(batch), w, b) for w, window in enumerate(windows) for b, batch in enumerate(window)]
        heapq.heapify(heap)
        while missing and heap[0][0] < -1:
            _, w, b = heapq.heappop(heap)
            batch = windows[w][b]
            half = len(batch) // 2
            windows[w][b] = batch[:half]
            windows[w].append(batch[half:])
            heapq.heappush(heap, (-half, w, b))
            heapq.heappush(heap, (half - len(batch), w, len(windows[w]) - 1))
            missing -= 1
        if missing:
            rows = np.array([row for window in windows for batch in window for row in batch])
            shortest = rows[np.argsort(self.lengths[rows], kind="stable")].tolist()
            windows[-1] += [[shortest[i % len(shortest)]] for i in range(missing)]
        return windows

    def _cost(self, batch: list[int]) -> float:
        """Padded size of a batch, in the unit of the budget."""
        return len(batch) * float(self.lengths[batch].max())
