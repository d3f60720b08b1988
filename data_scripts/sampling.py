"""Which rows an epoch takes, where it does not take all of them.

Short against medium utterances at a fixed ratio: the third system of VLSP 2025 (Sec. 3.3) trained on four utterances
of 0-5 s for each of 5-10 s, as the test set has them.
"""

from collections.abc import Sequence

import numpy as np


def ratio_counts(
    lengths: Sequence[float] | np.ndarray, boundary_s: float, ratio: float, longest_s: float | None = None
) -> tuple[int, int]:
    """Short and medium rows that every epoch takes: as many as there are, at `ratio` short rows for each medium one.

    Args:
        lengths: seconds of each row.
        boundary_s: rows shorter than this are short, the others medium.
        ratio: short rows for each medium one, above 0.
        longest_s: rows of this length and more are neither and are never taken; None has no limit.

    Raises:
        ValueError: numbers out of range, or a class without rows.
    """
    short, medium = _classes(lengths, boundary_s, ratio, longest_s)
    num_medium = min(len(medium), max(1, int(len(short) / ratio)))
    return min(len(short), max(1, round(num_medium * ratio))), num_medium


def ratio_sample(
    lengths: Sequence[float] | np.ndarray,
    boundary_s: float,
    ratio: float,
    epoch: int,
    seed: int,
    longest_s: float | None = None,
) -> np.ndarray:
    """The rows of one epoch: `ratio` short ones for each medium one, all of the scarcer kind.

    A function of its arguments alone. Of the kind that is plentiful each epoch takes another part, so that no row
    comes back before (nearly) all of its kind have had their turn; no row comes twice in an epoch.

    Args:
        lengths: seconds of each row.
        boundary_s: rows shorter than this are short, the others medium.
        ratio: short rows for each medium one, above 0.
        epoch: number of the epoch.
        seed: seed of the run.
        longest_s: rows of this length and more are neither and are never taken; None has no limit.

    Returns:
        Row numbers in rising order, int64; their count, `sum(ratio_counts(...))`, is the same in every epoch.

    Raises:
        ValueError: numbers out of range, or a class without rows.
    """
    counts = ratio_counts(lengths, boundary_s, ratio, longest_s)
    chosen = [
        _turn(rows, count, epoch, [seed, kind])
        for kind, (rows, count) in enumerate(zip(_classes(lengths, boundary_s, ratio, longest_s), counts, strict=True))
    ]
    return np.sort(np.concatenate(chosen))


def _classes(
    lengths: Sequence[float] | np.ndarray, boundary_s: float, ratio: float, longest_s: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the short and of the medium rows."""
    if not 0 < ratio < np.inf:
        raise ValueError(f"ratio must be above 0 and finite, got {ratio}")
    if not 0 < boundary_s < np.inf:
        raise ValueError(f"boundary_s must be above 0 and finite, got {boundary_s}")
    if longest_s is not None and longest_s <= boundary_s:
        raise ValueError(f"longest_s must be above boundary_s ({boundary_s}), got {longest_s}")
    durations = np.asarray(lengths, dtype=np.float64)
    limit = np.inf if longest_s is None else longest_s
    short = np.flatnonzero(durations < boundary_s)
    medium = np.flatnonzero((durations >= boundary_s) & (durations < limit))
    if not len(short) or not len(medium):
        raise ValueError(
            f"boundary_s {boundary_s} leaves {len(short)} short and {len(medium)} medium rows of {len(durations)} "
            f"(medium: below {limit:g} s); move it, or turn short_medium off"
        )
    return short, medium


def _turn(rows: np.ndarray, count: int, epoch: int, seed: list[int]) -> np.ndarray:
    """The part of `rows` whose turn it is: one part of a shuffled order after the other, then a new order.

    The fewer than `count` rows that an order leaves over are others in the next one.
    """
    cycle, part = divmod(epoch, len(rows) // count)
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(cycle,))).permutation(len(rows))
    return rows[order[part * count : (part + 1) * count]]
