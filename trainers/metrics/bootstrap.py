"""Percentile bootstrap over utterances for corpus-level rates (sum of errors / sum of reference lengths).

Utterances, not words, are resampled: errors inside one utterance depend on each other, so a word-level bootstrap
would promise more certainty than there is (Bisani and Ney, 2004, "Bootstrap estimates for confidence intervals in
ASR performance evaluation").
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

DEFAULT_NUM_SAMPLES = 1000
# Resampling indices held at once: 2**22 int64 are 32 MiB, whatever the size of the corpus.
_MAX_INDICES = 1 << 22


def resamples(num_utterances: int, num_samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield index blocks of shape (block, num_utterances); the concatenation does not depend on the block size."""
    rng = np.random.default_rng(seed)
    block = max(1, _MAX_INDICES // num_utterances)
    for start in range(0, num_samples, block):
        yield rng.integers(0, num_utterances, size=(min(block, num_samples - start), num_utterances))


def _checked(
    errors: ArrayLike, lengths: ArrayLike, num_samples: int, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    errors_N, lengths_N = np.asarray(errors, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
    if errors_N.ndim != 1 or errors_N.shape != lengths_N.shape:
        raise ValueError(
            f"errors and lengths must be two lists of one number an utterance, got shapes {errors_N.shape} and "
            f"{lengths_N.shape}"
        )
    if lengths_N.sum() <= 0:
        raise ValueError("the references hold no units to be wrong about (total length 0): there is no rate to bound")
    if num_samples < 1 or not 0 < confidence < 1:
        raise ValueError(f"need num_samples >= 1 and 0 < confidence < 1, got {num_samples} and {confidence}")
    return errors_N, lengths_N


def percentiles(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """(low, high) of the middle `confidence` of a statistic's resamples; those that are NaN say nothing."""
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap_interval(
    errors: ArrayLike,
    lengths: ArrayLike,
    *,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Confidence interval of `sum(errors) / sum(lengths)`.

    Args:
        errors: edit errors of each utterance, shape (num_utterances,).
        lengths: reference length of each utterance, same shape; zero is allowed for some, not for all.
        num_samples: bootstrap resamples. seed: the same seed gives the same interval on every machine.

    Returns:
        (low, high) as fractions. With a single utterance there is nothing to resample and both equal the rate.

    Raises:
        ValueError: shapes differ, the total length is zero, or an argument is out of range.
    """
    errors_N, lengths_N = _checked(errors, lengths, num_samples, confidence)
    rates = []
    for index_SN in resamples(len(errors_N), num_samples, seed):
        total_S = lengths_N[index_SN].sum(axis=1)
        # A resample may miss every utterance with the rare unit (English words, say): it says nothing about the rate.
        rates.append(np.where(total_S > 0, errors_N[index_SN].sum(axis=1) / np.maximum(total_S, 1), np.nan))
    return percentiles(np.concatenate(rates), confidence)


def bootstrap_difference(
    errors: ArrayLike,
    baseline_errors: ArrayLike,
    lengths: ArrayLike,
    *,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Paired interval of `rate - baseline_rate` on the same utterances; entirely below zero means better.

    Arguments and errors as `bootstrap_interval`; `baseline_errors` belongs to the same references in the same order.
    """
    errors_N, lengths_N = _checked(errors, lengths, num_samples, confidence)
    baseline_N, _ = _checked(baseline_errors, lengths, num_samples, confidence)
    deltas = []
    for index_SN in resamples(len(errors_N), num_samples, seed):
        total_S = lengths_N[index_SN].sum(axis=1)
        difference_S = (errors_N - baseline_N)[index_SN].sum(axis=1)
        deltas.append(np.where(total_S > 0, difference_S / np.maximum(total_S, 1), np.nan))
    return percentiles(np.concatenate(deltas), confidence)
