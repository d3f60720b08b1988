"""Short and medium utterances at a ratio: the counts, the turns, and what is refused."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_scripts.sampling import ratio_counts, ratio_sample


def lengths_of(num_short: int, num_medium: int, num_long: int = 0) -> np.ndarray:
    rng = np.random.default_rng(0)
    parts = [rng.uniform(0.5, 4.99, num_short), rng.uniform(5, 9.99, num_medium), rng.uniform(10, 30, num_long)]
    return rng.permutation(np.concatenate(parts))


@given(
    st.integers(1, 200), st.integers(1, 200), st.integers(0, 20), st.sampled_from([0.5, 1.0, 4.0]), st.integers(0, 50)
)
def test_ratio_holds_and_no_row_comes_twice(num_short, num_medium, num_long, ratio, epoch):
    lengths = lengths_of(num_short, num_medium, num_long)
    rows = ratio_sample(lengths, 5.0, ratio, epoch, seed=3, longest_s=10.0)
    chosen = lengths[rows]
    short, medium = int((chosen < 5).sum()), int((chosen >= 5).sum())
    assert (short, medium) == ratio_counts(lengths, 5.0, ratio, 10.0)
    assert chosen.max() < 10 and len(set(rows.tolist())) == len(rows) and (np.diff(rows) > 0).all()
    # Nearest to the ratio that whole rows allow, and nothing of the scarcer kind is left.
    assert abs(short - ratio * medium) <= max(ratio, 1) or min(num_short, num_medium) == 1
    assert medium == num_medium or short > ratio * (medium + 1) - max(ratio, 1) or num_short < ratio * (medium + 1)


def test_four_to_one_as_in_the_paper():
    assert ratio_counts(lengths_of(1000, 100), 5.0, 4.0) == (400, 100)
    assert ratio_counts(lengths_of(100, 1000), 5.0, 4.0) == (100, 25)


def test_every_row_has_its_turn_before_any_comes_back():
    lengths = lengths_of(1000, 100)
    epochs = [ratio_sample(lengths, 5.0, 4.0, epoch, seed=1) for epoch in range(10)]
    seen = Counter(np.concatenate(epochs).tolist())
    short = np.flatnonzero(lengths < 5)
    # 2 epochs take 800 of the 1,000 short rows, each once.
    for first in range(0, 10, 2):
        pair = Counter(np.concatenate(epochs[first : first + 2]).tolist())
        assert all(pair[row] <= 1 for row in short.tolist())
    assert all(seen[row] == 10 for row in np.flatnonzero(lengths >= 5).tolist())
    assert len([row for row in short.tolist() if seen[row]]) > 990


def test_a_function_of_seed_and_epoch():
    lengths = lengths_of(300, 40)
    one, again = (ratio_sample(lengths, 5.0, 4.0, 5, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, ratio_sample(lengths, 5.0, 4.0, 5, seed=2))
    assert not np.array_equal(one, ratio_sample(lengths, 5.0, 4.0, 6, seed=1))
    np.testing.assert_array_equal(one, ratio_sample(lengths.tolist(), 5.0, 4.0, 5, seed=1))


@pytest.mark.parametrize(
    ("lengths", "changes", "words"),
    [
        ([1.0, 2.0], {}, "2 short and 0 medium rows of 2"),
        ([6.0, 20.0], {"longest_s": 10.0}, "0 short and 1 medium"),
        ([1.0, 6.0], {"ratio": 0.0}, "ratio must be above 0"),
        ([1.0, 6.0], {"boundary_s": -1.0}, "boundary_s must be above 0"),
        ([1.0, 6.0], {"longest_s": 4.0}, "longest_s must be above boundary_s"),
    ],
)
def test_what_is_refused(lengths, changes, words):
    with pytest.raises(ValueError, match=words):
        ratio_sample(lengths, **{"boundary_s": 5.0, "ratio": 4.0, "epoch": 0, "seed": 0} | changes)
