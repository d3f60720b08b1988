"""Which rows an epoch takes, where it does not take all of them.

Short against medium utterances at a fixed ratio: the third system of VLSP 2025 (Sec. 3.3) trained on four utterances
of 0-5 s for each of 5-10 s, as the test set has them. As many rows of every class: for classifiers of scarce emotions.
"""

from collections.abc import Sequence

import numpy as np

from data_scripts.mixtures import Passes


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


def balanced_sample(classes: np.ndarray, epoch: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """The rows of one epoch: equally many of every class, in all as many as there are rows (less a remainder).

    A function of its arguments alone. Scarce classes are repeated in whole passes: no row comes a third time in an
    epoch before all of its class came twice. Of classes that are plentiful each epoch takes another part, and all rows
    have their turn before one comes back.

    Args:
        classes: (N,) the class of each row, whole numbers; a class without rows takes no part.
        epoch: number of the epoch.
        seed: seed of the run.
        groups: (N,) the group of each row, such as its corpus; then every class takes equally many rows of each of its
            groups (one more of the first ones where they do not divide evenly).

    Returns:
        Row numbers in rising order, repeated ones side by side, int64; their count, `N // C * C` for C classes, is the
        same in every epoch.

    Raises:
        ValueError: no rows, groups of another shape, or a class with more groups than the rows it may take.

    Example:

    ```python
    >>> balanced_sample(np.array([0, 0, 0, 1]), epoch=0, seed=0)  # two of class 0, class 1 twice
    array([0, 1, 3, 3])
    ```
    """
    classes = np.asarray(classes)
    groups = np.zeros(len(classes), dtype=np.int64) if groups is None else np.asarray(groups)
    if classes.ndim != 1 or not len(classes) or groups.shape != classes.shape:
        raise ValueError(f"give one class and group for each row, got shapes {classes.shape} and {groups.shape}")
    names = np.unique(classes)
    quota = len(classes) // len(names)
    parts: list[np.ndarray] = []
    weights: list[float] = []
    for name in names:
        members = [
            np.flatnonzero((classes == name) & (groups == group)) for group in np.unique(groups[classes == name])
        ]
        if len(members) > quota:
            raise ValueError(f"class {name} may take {quota} rows of an epoch but has {len(members)} groups")
        counts = [(quota + len(members) - 1 - place) // len(members) for place in range(len(members))]
        parts += members
        weights += [count / len(rows) for count, rows in zip(counts, members, strict=True)]
    chosen = Passes(tuple(map(len, parts)), tuple(weights), seed)(epoch)
    return np.sort(np.concatenate(parts)[chosen])
