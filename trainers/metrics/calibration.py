"""Can the probabilities of a classifier be taken at their word? Calibration errors, likelihood and Brier score.

Bins are of equal width and closed on the right, as in Guo et al. (2017), "On Calibration of Modern Neural Networks".
Shapes: N utterances, C classes, B bins.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

NUM_BINS = 15


class Bin(NamedTuple):
    """Utterances whose probability lies in (low, high]: how many, its mean, and the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def checked_probabilities(references: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Class ids (N,) and probabilities (N, C) as arrays.

    Raises:
        ValueError: no rows, other shapes, an id without a column, or a row that is no distribution.
    """
    references_N, probabilities_NC = np.asarray(references), np.asarray(probabilities, dtype=np.float64)
    if probabilities_NC.ndim != 2 or probabilities_NC.shape[1] < 2 or references_N.shape != probabilities_NC.shape[:1]:
        raise ValueError(
            "one class id and a row of probabilities of two or more classes an utterance are needed; got shapes "
            f"{references_N.shape} and {probabilities_NC.shape}"
        )
    if not len(references_N):
        raise ValueError("no utterances: there is nothing to score")
    if (
        references_N.dtype.kind not in "iu"
        or references_N.min() < 0
        or references_N.max() >= probabilities_NC.shape[1]
    ):
        raise ValueError(f"class ids are whole numbers from 0 to {probabilities_NC.shape[1] - 1}, got {references_N}")
    # NaN fails the comparison too.
    good_N = (probabilities_NC >= 0).all(axis=1) & (np.abs(probabilities_NC.sum(axis=1) - 1) <= 1e-3)
    if not good_N.all():
        row = int(np.flatnonzero(~good_N)[0])
        raise ValueError(f"row {row} is no distribution over the classes: {probabilities_NC[row].tolist()}")
    return references_N, probabilities_NC


def bin_of(probabilities: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """Index of the bin of each probability, of any shape."""
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    return np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], probabilities)


def reliability(references: ArrayLike, probabilities: ArrayLike, num_bins: int = NUM_BINS) -> list[Bin]:
    """Bins of the highest probability of each utterance; empty ones are left out.

    Args:
        references: class ids, shape (N,). probabilities: shape (N, C).

    Raises:
        ValueError: see `checked_probabilities`.
    """
    references_N, probabilities_NC = checked_probabilities(references, probabilities)
    top_N = probabilities_NC.max(axis=1)
    right_N = probabilities_NC.argmax(axis=1) == references_N
    bin_N = bin_of(top_N, num_bins)
    edges = np.linspace(0, 1, num_bins + 1)
    return [
        Bin(
            float(edges[index]), float(edges[index + 1]), int(chosen_N.sum()),
            float(top_N[chosen_N].mean()), float(right_N[chosen_N].mean()),
        )
        for index in range(num_bins)
        if (chosen_N := bin_N == index).any()
    ]  # fmt: skip


def calibration_error(references: ArrayLike, probabilities: ArrayLike, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error of the highest probability, 0 to 1; arguments and errors as `reliability`."""
    bins = reliability(references, probabilities, num_bins)
    return sum(each.count * abs(each.accuracy - each.confidence) for each in bins) / sum(each.count for each in bins)


def classwise_calibration_error(references: ArrayLike, probabilities: ArrayLike, num_bins: int = NUM_BINS) -> float:
    """Mean over the classes of the calibration error of each class's own probability (Kull et al., 2019)."""
    references_N, probabilities_NC = checked_probabilities(references, probabilities)
    gaps_NCB = class_gaps(references_N, probabilities_NC, num_bins)
    return float(np.abs(gaps_NCB.sum(axis=0)).sum() / gaps_NCB.shape[1] / len(references_N))


def top_gaps(references_N: np.ndarray, probabilities_NC: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """Right (1 or 0) minus highest probability of each utterance, in the column of its bin: (N, B)."""
    top_N = probabilities_NC.max(axis=1)
    gaps_NB = np.zeros((len(references_N), num_bins))
    rows = np.arange(len(references_N))
    gaps_NB[rows, bin_of(top_N, num_bins)] = (probabilities_NC.argmax(axis=1) == references_N) - top_N
    return gaps_NB


def class_gaps(references_N: np.ndarray, probabilities_NC: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """The same for every class: is it this one (1 or 0) minus its probability, in its bin: (N, C, B)."""
    num_rows, num_classes = probabilities_NC.shape
    rows_N1, classes_1C = np.arange(num_rows)[:, None], np.arange(num_classes)[None]
    gaps_NCB = np.zeros((num_rows, num_classes, num_bins))
    gaps_NCB[rows_N1, classes_1C, bin_of(probabilities_NC, num_bins)] = (
        references_N[:, None] == classes_1C
    ) - probabilities_NC
    return gaps_NCB


def log_losses(references_N: np.ndarray, probabilities_NC: np.ndarray) -> np.ndarray:
    """Negative log-likelihood (natural) of each utterance, (N,); a probability of 0 counts as 2.2e-16."""
    probability_N = probabilities_NC[np.arange(len(references_N)), references_N]
    return -np.log(np.maximum(probability_N, np.finfo(np.float64).eps))


def brier_scores(references_N: np.ndarray, probabilities_NC: np.ndarray) -> np.ndarray:
    """Squared distance of each utterance's probabilities from the truth, summed over the classes: (N,), 0 to 2.

    With two classes it is twice the score of the positive class alone.
    """
    truth_NC = np.eye(probabilities_NC.shape[1])[references_N]
    return ((probabilities_NC - truth_NC) ** 2).sum(axis=1)
