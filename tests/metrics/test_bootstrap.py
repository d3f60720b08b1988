"""Bootstrap intervals: determinism, coverage of known cases, and agreement with a plain loop."""

import numpy as np
import pytest

from trainers.metrics import bootstrap_difference, bootstrap_interval
from trainers.metrics.bootstrap import resamples

RNG = np.random.default_rng(7)
LENGTHS = RNG.integers(3, 20, size=300)
ERRORS = RNG.binomial(LENGTHS, 0.2)


def test_equals_a_plain_loop():
    rng, rates = np.random.default_rng(3), []
    for _ in range(50):
        index = rng.integers(0, len(LENGTHS), size=len(LENGTHS))
        rates.append(sum(ERRORS[index]) / sum(LENGTHS[index]))
    expected = np.percentile(rates, [2.5, 97.5])
    assert bootstrap_interval(ERRORS, LENGTHS, num_samples=50, seed=3) == pytest.approx(tuple(expected))


def test_seeded():
    one = bootstrap_interval(ERRORS, LENGTHS, num_samples=200, seed=1)
    assert one == bootstrap_interval(ERRORS, LENGTHS, num_samples=200, seed=1)
    assert one != bootstrap_interval(ERRORS, LENGTHS, num_samples=200, seed=2)


def test_close_to_the_normal_approximation():
    rate = ERRORS.sum() / LENGTHS.sum()
    half = 1.96 * np.sqrt(rate * (1 - rate) / LENGTHS.sum())  # words are independent in this data
    low, high = bootstrap_interval(ERRORS, LENGTHS, num_samples=2000)
    assert (rate - low, high - rate) == (pytest.approx(half, rel=0.2), pytest.approx(half, rel=0.2))


def test_blocks_do_not_change_the_draws(monkeypatch):
    whole = bootstrap_interval(ERRORS, LENGTHS, num_samples=64)
    monkeypatch.setattr("trainers.metrics.bootstrap._MAX_INDICES", 7 * len(LENGTHS))
    assert len(list(resamples(len(LENGTHS), 64, 0))) == 10
    assert bootstrap_interval(ERRORS, LENGTHS, num_samples=64) == whole


def test_degenerate_corpora():
    assert bootstrap_interval([1], [4]) == (0.25, 0.25)
    low, high = bootstrap_interval([1, 0, 0], [1, 0, 0])  # most resamples miss the only word
    assert (low, high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("errors", "lengths", "options", "message"),
    [
        ([0], [0], {}, "total length 0"),
        ([], [], {}, "total length 0"),
        ([1, 2], [1], {}, "shapes"),
        ([1], [1], {"num_samples": 0}, "num_samples"),
        ([1], [1], {"confidence": 1.0}, "confidence"),
    ],
)
def test_bad_arguments(errors, lengths, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(errors, lengths, **options)


def test_paired_difference_is_tighter_than_two_intervals():
    better = ERRORS - (ERRORS > 0) * (np.arange(len(ERRORS)) % 3 == 0)
    low, high = bootstrap_difference(better, ERRORS, LENGTHS, num_samples=500)
    delta = (better.sum() - ERRORS.sum()) / LENGTHS.sum()
    assert low < delta < high < 0
    single = bootstrap_interval(ERRORS, LENGTHS, num_samples=500)
    assert high - low < single[1] - single[0]
    assert bootstrap_difference(ERRORS, ERRORS, LENGTHS) == (0.0, 0.0)
