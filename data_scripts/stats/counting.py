"""Counters of bounded size that can be put together: the statistics of two halves are those of the whole.

Everything inside is an integer, so sums do not depend on the order of the parts.
"""

import math
from collections import Counter
from functools import lru_cache
from hashlib import blake2b
from heapq import nsmallest
from typing import Any

_HASHES = 1 << 64


@lru_cache(1 << 14)  # speakers recur, row after row
def _hash(text: str) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class Histogram:
    """How often each value occurred, in bins of equal width from 0 upwards.

    Args:
        width: of a bin, in the unit of the values. largest: what is above is counted in the last bin.

    A quantile is off by at most one bin, and exact for whole numbers in bins of 1; sum, minimum and maximum are
    those of the values themselves, to a thousandth.
    """

    def __init__(self, width: float, largest: float) -> None:
        self.width, self.largest = width, largest
        self.bins: Counter[int] = Counter()
        self.count = self.sum_thousandths = self.max_thousandths = 0
        self.min_thousandths = round(1000 * largest)

    def add(self, value: float, times: int = 1) -> None:
        """Count a value of at least 0."""
        thousandths = round(1000 * value)
        self.bins[min(thousandths, round(1000 * self.largest)) // round(1000 * self.width)] += times
        self.count += times
        self.sum_thousandths += thousandths * times
        self.min_thousandths = min(self.min_thousandths, thousandths)
        self.max_thousandths = max(self.max_thousandths, thousandths)

    def merge(self, other: "Histogram") -> None:
        self.bins.update(other.bins)
        self.count += other.count
        self.sum_thousandths += other.sum_thousandths
        self.min_thousandths = min(self.min_thousandths, other.min_thousandths)
        self.max_thousandths = max(self.max_thousandths, other.max_thousandths)

    @property
    def mean(self) -> float:
        """NaN if nothing was counted."""
        return self.sum_thousandths / 1000 / self.count if self.count else math.nan

    @property
    def minimum(self) -> float:
        return self.min_thousandths / 1000 if self.count else math.nan

    @property
    def maximum(self) -> float:
        return self.max_thousandths / 1000 if self.count else math.nan

    def quantile(self, fraction: float) -> float:
        """The value below which this part of the values lies; NaN if nothing was counted."""
        if not self.count:
            return math.nan
        wanted, below = fraction * self.count, 0
        for number in sorted(self.bins):
            inside = self.bins[number]
            if below + inside >= wanted:
                within = (wanted - below) / inside if self.width != 1 else 0.0
                value = (number + within) * self.width
                return min(max(value, self.minimum), self.maximum)
            below += inside
        return self.maximum

    def share_above(self, value: float) -> float:
        """Part of the values in the bins from this value on; 0 if nothing was counted."""
        first = round(1000 * value) // round(1000 * self.width)
        above = sum(count for number, count in self.bins.items() if number >= first)
        return above / self.count if self.count else 0.0

    def edges(self, largest: float, number: int = 40) -> list[float]:
        """Borders of at most `number` equal bins up to `largest`, each a whole number of this histogram's bins."""
        each = max(1, math.ceil(round(largest / number / self.width, 6)))
        return [place * each * self.width for place in range(max(1, math.ceil(largest / (each * self.width))) + 1)]

    def shares(self, edges: list[float]) -> list[float]:
        """Part of the values between each two of `edges`; the last bin takes in what is beyond."""
        each = round((edges[1] - edges[0]) / self.width)
        counts = [0] * (len(edges) - 1)
        for number, count in self.bins.items():
            counts[min(number // each, len(counts) - 1)] += count
        return [count / max(1, self.count) for count in counts]

    def to_dict(self) -> dict[str, Any]:
        names = ("width", "largest", "count", "sum_thousandths", "min_thousandths", "max_thousandths")
        bins = {str(number): self.bins[number] for number in sorted(self.bins)}
        return {name: getattr(self, name) for name in names} | {"bins": bins}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Histogram":
        histogram = cls(data["width"], data["largest"])
        for name in ("count", "sum_thousandths", "min_thousandths", "max_thousandths"):
            setattr(histogram, name, data[name])
        histogram.bins = Counter({int(number): count for number, count in data["bins"].items()})
        return histogram


class TopCounter:
    """Counts of names of which there may be too many to keep.

    Exact up to `capacity` names. Beyond twice that the rarest are let go, and `lost` counts what they had: a name that
    stays is short by at most that much.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.counts: Counter[str] = Counter()
        self.total = self.lost = 0

    def add(self, name: str, times: int = 1) -> None:
        self.counts[name] += times
        self.total += times
        if len(self.counts) > 2 * self.capacity:
            self._let_go()

    def merge(self, other: "TopCounter") -> None:
        self.counts.update(other.counts)
        self.total += other.total
        self.lost += other.lost
        if len(self.counts) > 2 * self.capacity:
            self._let_go()

    def _let_go(self) -> None:
        kept = dict(self.top(self.capacity))
        self.counts = Counter(kept)
        self.lost = self.total - sum(kept.values())

    def top(self, count: int) -> list[tuple[str, int]]:
        """The most frequent names, equals in alphabetical order."""
        return nsmallest(count, self.counts.items(), key=lambda item: (-item[1], item[0]))

    def to_dict(self, most: int | None = None) -> dict[str, Any]:
        """`most`: leave out all but so many names; what is read back then has `lost` the rest."""
        kept = dict(self.top(most if most is not None else len(self.counts)))
        return {
            "capacity": self.capacity,
            "total": self.total,
            "lost": self.total - sum(kept.values()),
            "counts": kept,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "TopCounter":
        counter = cls(data["capacity"])
        counter.counts, counter.total, counter.lost = Counter(data["counts"]), data["total"], data["lost"]
        return counter


class Distinct:
    """How many different texts there were, how often they recur, and how many two collections share.

    A bottom-k sketch (Cohen and Kaplan, 2007, "Summarizing data using bottom-k sketches"): the `capacity` smallest
    64-bit hashes with their counts. Exact up to `capacity` different texts; beyond, an unbiased sample of them whose
    estimates are off by about 1 / sqrt(capacity). Which hashes are kept does not depend on order or partition.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.counts: dict[int, int] = {}
        self._below = _HASHES  # hashes from here on are not kept

    def add(self, text: str, times: int = 1) -> None:
        hashed = _hash(text)
        if hashed < self._below:
            self.counts[hashed] = self.counts.get(hashed, 0) + times
            if len(self.counts) > 2 * self.capacity:
                self._cut()

    def merge(self, other: "Distinct") -> None:
        self._below = min(self._below, other._below)
        for hashed, count in other.counts.items():
            self.counts[hashed] = self.counts.get(hashed, 0) + count
        self._cut()

    def _cut(self) -> None:
        """Keep the `capacity` smallest hashes; their counts are complete, since they were never left out."""
        if len(self.counts) > self.capacity:
            self._below = min(self._below, sorted(self.counts)[self.capacity])
        if self._below < _HASHES:
            self.counts = {hashed: count for hashed, count in self.counts.items() if hashed < self._below}

    @property
    def is_exact(self) -> bool:
        self._cut()
        return self._below == _HASHES

    @property
    def number(self) -> int:
        """Different texts, estimated where there were more than `capacity`."""
        self._cut()
        return round(len(self.counts) * (_HASHES / self._below))

    @property
    def repeated_share(self) -> float:
        """Share of all occurrences that repeat an earlier one; NaN if there were none."""
        self._cut()
        total = sum(self.counts.values())
        return 1 - len(self.counts) / total if total else math.nan

    @property
    def most_repeated(self) -> int:
        """The highest count of one text (of those sampled)."""
        return max(self.counts.values(), default=0)

    def shared_with(self, other: "Distinct") -> int:
        """Texts that occur in both, estimated where one of them is a sample."""
        self._cut()
        other._cut()
        below = min(self._below, other._below)
        both = sum(1 for hashed in self.counts.keys() & other.counts.keys() if hashed < below)
        return round(both * (_HASHES / below))

    def to_dict(self) -> dict[str, Any]:
        self._cut()
        hashes = sorted(self.counts)
        # A text that occurs once needs no count: most of a corpus.
        more = {f"{hashed:016x}": self.counts[hashed] for hashed in hashes if self.counts[hashed] > 1}
        return {
            "capacity": self.capacity,
            "below": f"{self._below:x}",
            "hashes": "".join(f"{hashed:016x}" for hashed in hashes),
            "repeated": more,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Distinct":
        distinct = cls(data["capacity"])
        distinct._below = int(data["below"], 16)
        hashes = data["hashes"]
        distinct.counts = {
            int(hashes[place : place + 16], 16): data["repeated"].get(hashes[place : place + 16], 1)
            for place in range(0, len(hashes), 16)
        }
        return distinct
