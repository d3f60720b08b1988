"""Every number of a classifier's evaluation in one JSON-ready dict; intervals over utterances and over speakers.

All scores are functions of sums over the utterances (the cells of the confusion matrix, the gaps of the calibration
bins, …), so a resample is a weighted sum and a thousand of them take a matrix product. Utterances of one speaker
resemble each other: an interval over utterances promises more than another set of speakers would keep, so speakers
are resampled too (Field and Welsh, 2007, "Bootstrapping clustered data").

Shapes: N utterances, G groups of them, C classes, S resamples, K sums.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .bootstrap import percentiles
from .calibration import (
    NUM_BINS,
    brier_scores,
    checked_probabilities,
    class_gaps,
    log_losses,
    reliability,
    top_gaps,
)

# Weights held at once: 2**22 float64 are 32 MiB, whatever the size of the test set.
_MAX_WEIGHTS = 1 << 22
HIGHER_IS_BETTER = ("uar", "accuracy", "f1_macro")


@dataclass(frozen=True)
class Outcomes:
    """What one system said about a test set.

    references_N: class ids. predictions_N: of the system, rules included. probabilities_NC: None leaves the scores of
    probabilities out (rules change a class, not its probability).
    """

    labels: tuple[str, ...]
    references_N: np.ndarray
    predictions_N: np.ndarray
    probabilities_NC: np.ndarray | None

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        references: ArrayLike,
        probabilities: ArrayLike,
        predictions: ArrayLike | None = None,
    ) -> "Outcomes":
        """Of probabilities (N, C), the most probable class being the prediction; or with other `predictions` (N,).

        Raises:
            ValueError: shapes, ids or rows that do not fit.
        """
        references_N, probabilities_NC = checked_probabilities(references, probabilities)
        if len(labels) != probabilities_NC.shape[1]:
            raise ValueError(f"{len(labels)} labels and {probabilities_NC.shape[1]} columns of probabilities")
        if predictions is None:
            return cls(tuple(labels), references_N, probabilities_NC.argmax(axis=1), probabilities_NC)
        predictions_N = np.asarray(predictions)
        if predictions_N.shape != references_N.shape or not np.isin(predictions_N, range(len(labels))).all():
            raise ValueError(f"predictions must be {len(references_N)} class ids below {len(labels)}")
        return cls(tuple(labels), references_N, predictions_N, None)

    @property
    def confusion_CC(self) -> np.ndarray:
        """Counts: said (row), heard (column)."""
        size = len(self.labels)
        cells_N = self.references_N * size + self.predictions_N
        return np.bincount(cells_N, minlength=size * size).reshape(size, size)

    def sums_NK(self) -> np.ndarray:
        """What every score is a function of, a row an utterance."""
        num_rows, size = len(self.references_N), len(self.labels)
        cells = np.zeros((num_rows, size * size))
        cells[np.arange(num_rows), self.references_N * size + self.predictions_N] = 1
        if self.probabilities_NC is None:
            return cells
        given = self.references_N, self.probabilities_NC
        parts = [
            cells,
            log_losses(*given)[:, None],
            brier_scores(*given)[:, None],
            top_gaps(*given),
            class_gaps(*given).reshape(num_rows, -1),
        ]
        return np.concatenate(parts, axis=1)


def scores_of_sums(sums_SK: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Scores (S,) of sums (S, K) as `Outcomes.sums_NK` lays them out; a class without references has recall 0."""
    size = num_classes
    cells_SCC = sums_SK[:, : size * size].reshape(-1, size, size)
    said_SC, heard_SC = cells_SCC.sum(axis=2), cells_SCC.sum(axis=1)
    right_SC, total_S = cells_SCC.diagonal(axis1=1, axis2=2), cells_SCC.sum(axis=(1, 2))
    scores = {
        "uar": (right_SC / np.maximum(said_SC, 1)).mean(axis=1),
        "accuracy": right_SC.sum(axis=1) / total_S,
        "f1_macro": (2 * right_SC / np.maximum(said_SC + heard_SC, 1)).mean(axis=1),
    }
    rest_SK = sums_SK[:, size * size :]
    if rest_SK.shape[1]:
        gaps_SB, class_gaps_SK = rest_SK[:, 2 : 2 + NUM_BINS], rest_SK[:, 2 + NUM_BINS :]
        scores |= {
            "ece": np.abs(gaps_SB).sum(axis=1) / total_S,
            "ece_classwise": np.abs(class_gaps_SK).sum(axis=1) / size / total_S,
            "nll": rest_SK[:, 0] / total_S,
            "brier": rest_SK[:, 1] / total_S,
        }
    return scores


def score_classes(
    outcomes: Outcomes,
    *,
    speakers: Sequence[str | None] | None = None,
    num_samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Score one system.

    Args:
        speakers: of each utterance, None where it is not known (such an utterance stands for itself).
        num_samples, confidence, seed: of the bootstrap; `num_samples=0` leaves the intervals out.

    Returns:
        `{"metrics": {name: {"value", "low", "high", "speaker_low", "speaker_high"}}, "classes": {label: {"precision",
        "recall", "f1", "utterances"}}, "confusion": [[int]], "reliability": [bin], "missing_classes": [label],
        "bootstrap"}` with metrics `uar`, `accuracy`, `f1_macro` and, of probabilities, `ece`, `ece_classwise`, `nll`
        (nats) and `brier`. A class without references counts as 0 in `uar` and `f1_macro` and is named in
        `missing_classes`. Resamples that lack a class which the test set has are left out.
    """
    size = len(outcomes.labels)
    sums_NK = outcomes.sums_NK()
    values = scores_of_sums(sums_NK.sum(axis=0, keepdims=True), size)
    metrics: dict[str, dict[str, float]] = {name: {"value": float(value[0])} for name, value in values.items()}
    groups = speaker_groups(speakers, len(sums_NK))
    if num_samples:
        for prefix, sums in (("", sums_NK), ("speaker_", _grouped(sums_NK, groups))):
            if sums is None:
                continue
            drawn = [scores_of_sums(block, size) for block in _resampled(sums, num_samples, seed, size)]
            _add_interval(metrics, drawn, prefix, confidence)
    confusion_CC = outcomes.confusion_CC
    result: dict[str, Any] = {
        "metrics": metrics,
        "classes": _classes(outcomes.labels, confusion_CC),
        "confusion": confusion_CC.tolist(),
        "missing_classes": [label for label, row in zip(outcomes.labels, confusion_CC, strict=True) if not row.sum()],
        "bootstrap": {
            "num_samples": num_samples,
            "confidence": confidence,
            "seed": seed,
            "speakers": None if groups is None else int(groups.max()) + 1,
        },
    }
    if outcomes.probabilities_NC is not None:
        bins = reliability(outcomes.references_N, outcomes.probabilities_NC)
        result["reliability"] = [each._asdict() for each in bins]
    return result


def paired_differences(
    outcomes: Outcomes,
    baseline: Outcomes,
    *,
    speakers: Sequence[str | None] | None = None,
    num_samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """`outcomes` minus `baseline` on the same utterances: name → `{"value", "low", "high", "speaker_…"}`.

    Scores that only one of them has are left out. An interval without zero is a difference.

    Raises:
        ValueError: other references or classes.
    """
    if outcomes.labels != baseline.labels or not np.array_equal(outcomes.references_N, baseline.references_N):
        raise ValueError("differences are between systems that were given the same utterances and classes")
    size = len(outcomes.labels)
    own_NK, base_NK = outcomes.sums_NK(), baseline.sums_NK()
    both_NK = np.concatenate([own_NK, base_NK], axis=1)  # the same utterances are drawn for both

    def differences(sums_SK: np.ndarray) -> dict[str, np.ndarray]:
        own = scores_of_sums(sums_SK[:, : own_NK.shape[1]], size)
        base = scores_of_sums(sums_SK[:, own_NK.shape[1] :], size)
        return {name: own[name] - base[name] for name in own if name in base}

    result = {name: {"value": float(v[0])} for name, v in differences(both_NK.sum(axis=0, keepdims=True)).items()}
    groups = speaker_groups(speakers, len(both_NK))
    for prefix, sums in (("", both_NK), ("speaker_", _grouped(both_NK, groups))):
        if not num_samples or sums is None:
            continue
        drawn = [differences(block) for block in _resampled(sums, num_samples, seed, size)]
        _add_interval(result, drawn, prefix, confidence)
    return result


def speaker_groups(speakers: Sequence[str | None] | None, num_rows: int) -> np.ndarray | None:
    """Group number of each utterance; None unless two speakers are known."""
    if speakers is None:
        return None
    if len(speakers) != num_rows:
        raise ValueError(f"{len(speakers)} speakers for {num_rows} utterances")
    if len({speaker for speaker in speakers if speaker is not None}) < 2:
        return None
    names: list[Any] = [index if speaker is None else speaker for index, speaker in enumerate(speakers)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def _grouped(sums_NK: np.ndarray, groups: np.ndarray | None) -> np.ndarray | None:
    if groups is None:
        return None
    sums_GK = np.zeros((int(groups.max()) + 1, sums_NK.shape[1]))
    np.add.at(sums_GK, groups, sums_NK)
    return sums_GK


def _resampled(sums_NK: np.ndarray, num_samples: int, seed: int, num_classes: int) -> Iterator[np.ndarray]:
    """Sums (S, K) of resamples, in blocks; those without a class that the test set has are left out."""
    rng = np.random.default_rng(seed)
    num_rows, size = len(sums_NK), num_classes
    present_C = sums_NK[:, : size * size].sum(axis=0).reshape(size, size).sum(axis=1) > 0
    block = max(1, _MAX_WEIGHTS // num_rows)
    for start in range(0, num_samples, block):
        draws = min(block, num_samples - start)
        weights_SN = rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=draws).astype(np.float64)
        sums_SK = weights_SN @ sums_NK
        said_SC = sums_SK[:, : size * size].reshape(-1, size, size).sum(axis=2)
        yield sums_SK[(said_SC[:, present_C] > 0).all(axis=1)]


def _add_interval(
    metrics: dict[str, dict[str, float]], drawn: list[dict[str, np.ndarray]], prefix: str, confidence: float
) -> None:
    """Write the interval of every metric beside its value; nothing if no resample could be scored."""
    for name, metric in metrics.items():
        samples = np.concatenate([each[name] for each in drawn])
        if len(samples):
            metric[f"{prefix}low"], metric[f"{prefix}high"] = percentiles(samples, confidence)


def _classes(labels: Sequence[str], confusion_CC: np.ndarray) -> dict[str, dict[str, float | int]]:
    said_C, heard_C, right_C = confusion_CC.sum(axis=1), confusion_CC.sum(axis=0), confusion_CC.diagonal()
    return {
        label: {
            "precision": float(right / max(heard, 1)),
            "recall": float(right / max(said, 1)),
            "f1": float(2 * right / max(said + heard, 1)),
            "utterances": int(said),
        }
        for label, said, heard, right in zip(labels, said_C, heard_C, right_C, strict=True)
    }
