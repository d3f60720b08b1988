"""Epochs with equally many rows of every class: counts, turns, groups, and what is refused."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_scripts.sampling import balanced_sample


@given(st.lists(st.integers(0, 3), min_size=4, max_size=120), st.integers(0, 30), st.integers(0, 3))
def test_every_class_comes_equally_often_and_in_whole_passes(classes, epoch, seed):
    classes = np.array(classes)
    rows = balanced_sample(classes, epoch, seed)
    names = np.unique(classes)
    quota = len(classes) // len(names)
    assert len(rows) == quota * len(names) and (np.diff(rows) >= 0).all()
    for name in names:
        times = Counter(rows.tolist())
        counts = [times[row] for row in np.flatnonzero(classes == name).tolist()]
        assert sum(counts) == quota and max(counts) - min(counts) <= 1


def test_plentiful_rows_take_turns():
    classes = np.array([0] * 90 + [1] * 10)
    seen = Counter(np.concatenate([balanced_sample(classes, epoch, seed=1) for epoch in range(9)]).tolist())
    # 50 of 90 rows in each of nine epochs: five times each; the ten others five times in every epoch.
    assert all(seen[row] == 5 for row in range(90)) and all(seen[row] == 45 for row in range(90, 100))


def test_a_function_of_its_arguments():
    classes = np.random.default_rng(0).choice(3, 80, p=[0.7, 0.2, 0.1])
    one = balanced_sample(classes, 4, seed=1)
    np.testing.assert_array_equal(one, balanced_sample(classes.copy(), 4, seed=1))
    assert not np.array_equal(one, balanced_sample(classes, 5, seed=1))
    assert not np.array_equal(one, balanced_sample(classes, 4, seed=2))


def test_groups_come_equally_often_within_a_class():
    classes = np.array([0] * 60 + [1] * 20)
    groups = np.array([0] * 50 + [1] * 10 + [0] * 15 + [2] * 5)
    for epoch in range(3):
        rows = balanced_sample(classes, epoch, 0, groups)
        assert Counter(zip(classes[rows].tolist(), groups[rows].tolist(), strict=True)) == {
            (0, 0): 20, (0, 1): 20, (1, 0): 20, (1, 2): 20,
        }  # fmt: skip


def test_on_top_of_another_selection():
    classes = np.array([0, 0, 0, 0, 1, 1])
    taken = np.array([0, 1, 4, 4])
    rows = taken[balanced_sample(classes[taken], 0, 0)]
    assert Counter(classes[rows].tolist()) == {0: 2, 1: 2} and set(rows) <= set(taken)


def test_refusals():
    with pytest.raises(ValueError, match="one class and group for each row"):
        balanced_sample(np.array([]), 0, 0)
    with pytest.raises(ValueError, match="one class and group for each row"):
        balanced_sample(np.array([0, 1]), 0, 0, np.array([1]))
    with pytest.raises(ValueError, match="class 0 may take 2 rows of an epoch but has 3 groups"):
        balanced_sample(np.array([0, 0, 0, 1]), 0, 0, np.array([1, 2, 3, 1]))
