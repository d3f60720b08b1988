"""Streams in batches by a budget, pass after pass, with a place that a checkpoint can hold.

A rank reads its part of a stream in lanes, one for each data loader worker. A lane collects a window of rows, packs it
into batches of similar length and gives these in random order, while it reads the next window bit by bit. All that is
random depends on (seed, pass, lane, window), so a lane's place is where its window began in the stream and how many of
the window's batches were used; to go on there, one window is read again and nothing before it.
"""

import copy
import itertools
import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Sampler

from trainers.sampler import BudgetBatchSampler

logger = logging.getLogger(__name__)

# Rows of a lane that are sorted and shuffled together: encoded audio, so about 50 MB, and as much for the next window.
WINDOW_ROWS = 512
BLOCK_ROWS = 32
PLACE = "stream_place"
Row = dict[str, Any]


class PlacedRows(list[Row]):
    """The rows of a batch, and the place of their lane after it."""

    def __init__(self, rows: Sequence[Row], place: dict[str, Any]):
        super().__init__(rows)
        self.place = place


class PlacedBatches:
    """A collator whose batches carry the place of their lane under `PLACE`, as a JSON string."""

    def __init__(self, collate: Callable[[Sequence[Row]], dict[str, Any]]):
        self.collate = collate

    def __call__(self, rows: Any) -> dict[str, Any]:
        return {**self.collate(rows), PLACE: json.dumps(rows.place)}


class BatchNumbers(Sampler[list[int]]):
    """0, 1, 2, ... without end: which batch is next, so that a resumed run can say where it is."""

    def __init__(self) -> None:
        """There is nothing to sample from."""

    def __iter__(self) -> Iterator[list[int]]:
        return ([number] for number in itertools.count())


class StreamBatches(torch.utils.data.Dataset):
    """Batches of this rank's part of a stream, by number; in a `DataLoader` its batch sampler is `BatchNumbers`.

    Ranks and lanes take different shards, or every n-th row where there are fewer shards than that. Every row comes
    once in each pass of its lane. Rows carry the number of the pass as `epoch`.

    Args:
        rows (`datasets.IterableDataset`): the stream.
        budget (`float`): largest count x longest of a batch, in the unit of `length_column`; `math.inf` batches by
            `max_batch_size`.
        max_batch_size (`int`, *optional*): largest number of rows in a batch.
        length_column (`str`, *optional*): length of a row; None, or no such column, takes all rows as equally long.
        num_lanes (`int`): data loader workers of this rank, 1 where it has none.
        rank (`int`), world_size (`int`): of the launch.
        seed (`int`): seed of the order.

    Raises:
        ValueError: a lane got no rows at all, or a budget is given and rows have no length.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        *,
        budget: float = math.inf,
        max_batch_size: int | None = None,
        length_column: str | None = None,
        num_lanes: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ):
        self.rows = rows
        self.budget = budget
        self.max_batch_size = max_batch_size
        self.length_column = length_column
        self.num_lanes = num_lanes
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.places: dict[int, dict[str, Any]] = {}
        self._lanes: dict[int, _Lane] = {}

    def __getitems__(self, numbers: Sequence[int]) -> PlacedRows:
        """The batch of that number. Its lane must have given the batches before it, or know its place."""
        (number,) = numbers
        # Dealt out by number and not by worker: after a resume another worker may come first.
        index, lane = divmod(number, self.num_lanes)
        if lane not in self._lanes:
            self._lanes[lane] = _Lane(self, lane, self.places.get(lane))
        reader = self._lanes[lane]
        if reader.num_batches < index:
            logger.warning("no place in the stream for batch %d: reading all before it again", number)
        while reader.num_batches < index:
            reader.next_batch()
        return reader.next_batch()

    def state_dict(self, places: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
        """This rank's place in the stream, for `load_state_dict`: JSON values.

        Args:
            places: of each lane, the place that came with the last of its batches that was used.
        """
        return {
            "num_lanes": self.num_lanes,
            "rank": self.rank,
            "world_size": self.world_size,
            "lanes": {str(lane): dict(place) for lane, place in sorted(places.items())},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there.

        Raises:
            ValueError: the place is that of another rank, or of another division into ranks and lanes.
        """
        for name, meaning in (
            ("num_lanes", "data loader workers (at least 1)"),
            ("world_size", "processes"),
            ("rank", "as the number of this process"),
        ):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"a stream goes on only as it was divided: the checkpoint has {state[name]} {meaning}, this run "
                    f"{getattr(self, name)}"
                )
        self.places = {int(lane): dict(place) for lane, place in state["lanes"].items()}
        self._lanes = {}

    def part(self, lane: int, epoch: int) -> tuple[datasets.IterableDataset, int, int]:
        """A lane's share of a pass: a stream, and which of every so many of its rows."""
        parts = self.world_size * self.num_lanes
        shards = self.rows.num_shards
        by_shard = parts if shards >= parts else self.world_size if shards >= self.world_size else 1
        by_row = parts // by_shard
        shard, row = divmod(self.rank * self.num_lanes + lane, by_row)
        stream = self.rows.shard(by_shard, shard)
        # Passes over a stream shuffle its shards by this number; 0 would leave them as they are. Lanes that take turns
        # in the rows of one stream must read it in one order.
        words = np.random.SeedSequence([self.seed, shard, epoch]).generate_state(1)
        stream.set_epoch(1 + int(words[0]) % (2**31 - 2))
        return stream, row, by_row


class _Lane:
    """One reader of a stream: windows of rows, packed."""

    def __init__(self, source: StreamBatches, lane: int, place: Mapping[str, Any] | None):
        self.source, self.lane = source, lane
        self.num_batches, self.used = 0, 0
        self.batches: deque[list[Row]] = deque()
        # Where the window began whose batches are being given.
        self.start = {"pass": 0, "stream": None, "num_read": 0, "window": 0}
        if place is not None:
            self.start = copy.deepcopy(place["start"])
        self._open_pass(self.start["pass"], self.start["stream"], self.start["num_read"])
        # The window being read: its rows so far, where it begins, and whether it is complete.
        self.ahead: list[Row] = []
        self.ahead_start = self.start
        self.complete = False
        if place is not None:
            self._next_window()
            for _ in range(place["used"]):
                self.batches.popleft()
            self.used, self.num_batches = place["used"], place["num_batches"]

    def next_batch(self) -> PlacedRows:
        if not self.batches:
            self._next_window()
        batch = self.batches.popleft()
        self.used += 1
        self.num_batches += 1
        # A little of the next window with each batch, not all of it when this one is empty.
        for _ in range(self.pace):
            if not self.complete:
                self._read_block()
        place = {"lane": self.lane, "num_batches": self.num_batches, "used": self.used, "start": self.start}
        return PlacedRows(batch, place)

    def _next_window(self) -> None:
        while not self.complete:
            self._read_block()
        rows, self.start = self.ahead, self.ahead_start
        source, window = self.source, self.start["window"]
        seed = int(np.random.SeedSequence([source.seed, source.rank, self.lane]).generate_state(1)[0])
        lengths = [self._length(row) for row in rows]
        packed = BudgetBatchSampler(lengths, source.budget, max_batch_size=source.max_batch_size, seed=seed)
        self.batches = deque([rows[index] for index in batch] for batch in packed.batches(window))
        self.used = 0
        self.pace = math.ceil(WINDOW_ROWS / BLOCK_ROWS * self.by_row / len(self.batches))
        self.ahead, self.complete = [], False
        self.ahead_start = {
            "pass": self.epoch,
            "stream": self.stream.state_dict() if self.num_read else None,
            "num_read": self.num_read,
            "window": window + 1,
        }

    def _open_pass(self, epoch: int, state: dict[str, Any] | None, num_read: int) -> None:
        self.epoch, self.num_read = epoch, num_read
        self.num_kept = num_read
        self.stream, self.row, self.by_row = self.source.part(self.lane, epoch)
        if state is not None:
            self.stream.load_state_dict(state)
        # `iter` and not the stream itself, which would divide its shards among the workers once more.
        self.blocks = self.stream.iter(batch_size=BLOCK_ROWS)

    def _read_block(self) -> None:
        block = next(self.blocks, None)
        if block is None:
            if not self.num_kept:
                raise ValueError(
                    f"lane {self.lane} of rank {self.source.rank} got no rows from the stream: check the source, or "
                    "use at least one row for each data loader worker of each process"
                )
            self.complete = bool(self.ahead)
            self._open_pass(self.epoch + 1, None, 0)
            if not self.ahead:
                self.ahead_start = {**self.ahead_start, "pass": self.epoch, "stream": None, "num_read": 0}
            return
        count = len(next(iter(block.values())))
        mine = [i for i in range(count) if (self.num_read + i) % self.by_row == self.row]
        self.ahead += [{**{name: values[i] for name, values in block.items()}, "epoch": self.epoch} for i in mine]
        self.num_read += count
        self.num_kept += len(mine)
        self.complete = len(self.ahead) >= WINDOW_ROWS

    def _length(self, row: Row) -> float:
        name = self.source.length_column
        if name is None or (name not in row and math.isinf(self.source.budget)):
            return 1.0
        if row.get(name) is None:
            raise ValueError(
                f"row {row.get('id')!r} of the stream has no {name}, by which batches are made; batch by count (no "
                "budget), or prepare the data, which measures every recording"
            )
        return float(row[name])
