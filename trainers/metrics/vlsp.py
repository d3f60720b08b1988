"""The composite score of the VLSP 2025 ASR/SER challenge, and what linguistic rules bring to it.

Score = 0.7 (100 − SyER) + 0.3 ACC, where ACC is the mean of the recalls of neutral and negative, as the organisers
define it: balanced accuracy, not the share of right answers. Every number in this module is in percent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_scripts.text.emotion_rules import NEGATIVE, NEUTRAL, EmotionRules

from .alignment import check_pairs
from .bootstrap import DEFAULT_NUM_SAMPLES, percentiles, resamples
from .text import text_error_counts

LABELS = (NEUTRAL, NEGATIVE)
ASR_WEIGHT, SER_WEIGHT = 0.7, 0.3


def composite_score(syer: float, accuracy: float) -> float:
    """0.7 (100 − SyER) + 0.3 ACC, all in percent. Below zero where far more is inserted than was said.

    Args:
        syer: syllable error rate. accuracy: balanced accuracy over neutral and negative.

    Raises:
        ValueError: `accuracy` outside of 0 to 100, or `syer` below 0 or not finite.
    """
    if not (0 <= syer < float("inf") and 0 <= accuracy <= 100):
        raise ValueError(f"in percent, SyER is at least 0 and ACC from 0 to 100; got {syer} and {accuracy}")
    return ASR_WEIGHT * (100 - syer) + SER_WEIGHT * accuracy


def vlsp_scores(
    references: Sequence[str | None] | None,
    hypotheses: Sequence[str | None] | None,
    reference_labels: Sequence[str | None] | None,
    predicted_labels: Sequence[str | None] | None,
    *,
    labels: Sequence[str] = LABELS,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Score rows that have a transcript, an emotion or both.

    The intervals come from one bootstrap over utterances: an utterance with both parts is drawn with both, so that
    the interval of the Score knows how errors of the two go together; rows with a transcript alone, rows with an
    emotion alone and rows with both are drawn each among themselves, as separate test sets are.

    Args:
        references, hypotheses: texts, normalised here, None where a row has no transcript; both None without ASR.
        reference_labels, predicted_labels: emotions in the same order, None where a row has none; both None without
            SER. A prediction outside of `labels` (as "" for a missing one) is wrong.
        num_samples: bootstrap resamples; 0 leaves the intervals out.

    Returns:
        `{"metrics": {name: {"value", "low", "high", …}}, "recalls": {label: {"value", …, "correct", "total"}},
        "counts", "bootstrap"}` in percent, with metrics `syer`, `balanced_accuracy`, `accuracy` and, where both parts
        are there, `score`. A label without any row has recall 0 and is part of the mean, and is listed under
        `counts["missing_classes"]`.

    Raises:
        ValueError: lists of different lengths, a reference without its hypothesis, an unknown reference label, or
            nothing to score.
    """
    texts = _pairs("transcript", references, hypotheses)
    emotions = _pairs("emotion", reference_labels, predicted_labels)
    if texts and emotions and len(texts) != len(emotions):
        raise ValueError(
            f"transcripts and emotions belong to the same rows: got {len(texts)} and {len(emotions)}; of separate "
            "test sets give one list after the other, with None where a row has no transcript or no emotion"
        )
    has_text_N = np.array([pair is not None for pair in texts], dtype=bool)
    has_label_N = np.array([pair is not None for pair in emotions], dtype=bool)
    num_rows = max(len(texts), len(emotions))
    counts_NK = np.zeros((num_rows, 2 + 2 * len(labels)), dtype=np.int64)
    summary: dict[str, Any] = {}
    if has_text_N.any():
        errors = text_error_counts(*_columns(texts))["syer"]
        counts_NK[has_text_N, 0], counts_NK[has_text_N, 1] = errors.errors, errors.reference_lengths
        if not errors.total_length:
            raise ValueError(f"none of the {len(errors.errors)} reference transcripts has a syllable in it")
        summary = errors.summary(num_samples=0)
    if has_label_N.any():
        said, guessed = _columns(emotions)
        if unknown := sorted(set(said) - set(labels)):
            raise ValueError(f"unknown class {', '.join(unknown)}; allowed are {', '.join(labels)}")
        counts_NK[has_label_N, 2:] = _class_counts(said, guessed, labels)
    if not (has_text_N.any() or has_label_N.any()):
        raise ValueError("no row has a transcript or an emotion: there is nothing to score")
    groups = _groups(num_rows, has_text_N, has_label_N)
    drawn_SK = _drawn(counts_NK, groups, num_samples, seed) if num_samples else None
    values = _rates(counts_NK.sum(axis=0, keepdims=True), labels)
    spread = _rates(drawn_SK, labels, missing=np.nan) if drawn_SK is not None else {}

    def bounded(name: str) -> dict[str, Any]:
        out: dict[str, Any] = {"value": float(values[name][0])}
        if spread:
            never = np.isnan(spread[name]).all()
            out["low"], out["high"] = (out["value"],) * 2 if never else percentiles(spread[name], confidence)
        return out

    total_K = counts_NK.sum(axis=0)
    keep = {key: value for key, value in summary.items() if key != "value"}
    metrics = {"syer": bounded("syer") | keep} if summary else {}
    recalls: dict[str, Any] = {}
    if has_label_N.any():
        metrics |= {name: bounded(name) for name in ("balanced_accuracy", "accuracy")}
        for index, label in enumerate(labels):
            total, correct = int(total_K[2 + 2 * index]), int(total_K[3 + 2 * index])
            recalls[label] = bounded(f"recall {label}") | {"correct": correct, "total": total}
    if summary and has_label_N.any():
        metrics["score"] = bounded("score")
    return {
        "metrics": metrics,
        "recalls": recalls,
        "counts": {
            "transcripts": int(has_text_N.sum()),
            "emotions": int(has_label_N.sum()),
            "missing_classes": [label for label, recall in recalls.items() if not recall["total"]],
        },
        "bootstrap": {"num_samples": num_samples, "confidence": confidence, "seed": seed, "unit": "utterance"},
    }


def apply_rules(
    rules: EmotionRules, texts: Sequence[str], probabilities_NC: np.ndarray, labels: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """`EmotionRules.revise` of many utterances: (labels after the rules, bool array of those that changed).

    Args:
        texts: what was recognised (or said), in the order of the rows of `probabilities_NC`.
        probabilities_NC: shape (num_utterances, num_classes), columns in the order of `labels`, which hold `neutral`
            and `negative`.

    Raises:
        ValueError: shapes do not fit, one of the two classes is missing, or a probability is NaN.
    """
    probabilities_NC = np.asarray(probabilities_NC, dtype=np.float64).reshape(-1, len(labels))
    if len(texts) != len(probabilities_NC):
        raise ValueError(f"one text an utterance: got {len(texts)} texts for {len(probabilities_NC)} utterances")
    if missing := [label for label in LABELS if label not in labels]:
        raise ValueError(
            f"the rules need the classes {', '.join(LABELS)}; {', '.join(missing)} is not among {', '.join(labels)}"
        )
    if not np.isfinite(probabilities_NC).all():
        row = int(np.flatnonzero(~np.isfinite(probabilities_NC).all(axis=1))[0])
        raise ValueError(f"row {row} has no probabilities (NaN): leave out rows that could not be classified")
    best_N = probabilities_NC.argmax(axis=1)
    neutral, negative = labels.index(NEUTRAL), labels.index(NEGATIVE)
    changed_N = (best_N == neutral) & (probabilities_NC[:, negative] >= rules.threshold)
    for index in np.flatnonzero(changed_N):
        changed_N[index] = rules.suffices(rules.cues(texts[int(index)]))
    best_N[changed_N] = negative
    return [labels[int(index)] for index in best_N], changed_N


def rule_gain(
    references: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    labels: Sequence[str] = LABELS,
    *,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """What the rules changed, and what it was worth, on the same utterances.

    Args:
        references, before, after: labels of each utterance: true, of the model, after the rules.
        num_samples: resamples of the paired bootstrap; 0 leaves the intervals out.

    Returns:
        `{"utterances", "changed", "mended", "broken", "balanced_accuracy": {"before", "after", "value", "low",
        "high"}, "accuracy": {…}}`: counts, and differences (after − before) in percentage points.

    Raises:
        ValueError: no rows, lists of different lengths, or an unknown reference.
    """
    if not references or not len(references) == len(before) == len(after):
        raise ValueError(
            f"{len(references)} references, {len(before)} labels before and {len(after)} after: as many of each"
        )
    if unknown := sorted(set(references) - set(labels)):
        raise ValueError(f"unknown class {', '.join(unknown)}; allowed are {', '.join(labels)}")
    truth_N, before_N, after_N = (np.array(each, dtype=object) for each in (references, before, after))
    changed_N = before_N != after_N
    width = 2 * len(labels)
    counts_NK = np.concatenate(
        [_class_counts(references, before, labels), _class_counts(references, after, labels)], axis=1
    )
    drawn_SK = _drawn(counts_NK, [np.arange(len(references))], num_samples, seed) if num_samples else None
    gain: dict[str, Any] = {
        "utterances": len(references),
        "changed": int(changed_N.sum()),
        "mended": int((changed_N & (after_N == truth_N)).sum()),
        "broken": int((changed_N & (before_N == truth_N)).sum()),
    }
    total_1K = counts_NK.sum(axis=0, keepdims=True)
    first, second = (_class_rates(part_1K, labels) for part_1K in (total_1K[:, :width], total_1K[:, width:]))
    for name in ("balanced_accuracy", "accuracy"):
        one, other = float(first[name][0]), float(second[name][0])
        gain[name] = {"before": one, "after": other, "value": other - one}
        if drawn_SK is not None:
            one_S = _class_rates(drawn_SK[:, :width], labels, missing=np.nan)[name]
            other_S = _class_rates(drawn_SK[:, width:], labels, missing=np.nan)[name]
            gain[name]["low"], gain[name]["high"] = percentiles(other_S - one_S, confidence)
    return gain


def _pairs(what: str, references: Sequence[str | None] | None, hypotheses: Sequence[str | None] | None) -> list:
    """(reference, hypothesis) of each row, None where there is no reference."""
    if (references is None) != (hypotheses is None):
        raise ValueError(f"{what}: give references and hypotheses, or neither")
    if references is None or hypotheses is None:
        return []
    check_pairs(references, hypotheses)
    pairs = []
    for row, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        if reference is not None and hypothesis is None:
            raise ValueError(f'{what} of row {row} has no hypothesis; give "" to count it as wrong')
        pairs.append(None if reference is None else (reference, hypothesis))
    return pairs


def _columns(pairs: list) -> tuple[list[str], list[str]]:
    present = [pair for pair in pairs if pair is not None]
    return [reference for reference, _ in present], [hypothesis for _, hypothesis in present]


def _groups(num_rows: int, has_text_N: np.ndarray, has_label_N: np.ndarray) -> list[np.ndarray]:
    """Rows that are drawn among themselves: with both parts, with a transcript alone, with an emotion alone."""
    text_N = has_text_N if len(has_text_N) else np.zeros(num_rows, dtype=bool)
    label_N = has_label_N if len(has_label_N) else np.zeros(num_rows, dtype=bool)
    kinds = (text_N & label_N, text_N & ~label_N, ~text_N & label_N)
    return [np.flatnonzero(kind_N) for kind_N in kinds if kind_N.any()]


def _class_counts(references: Sequence[str], predictions: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Shape (num_utterances, 2 · num_classes): of each class whether it was said, and whether it was also found."""
    columns = []
    for label in labels:
        said_N = np.array([reference == label for reference in references])
        columns += [said_N, said_N & np.array([guess == label for guess in predictions])]
    return np.stack(columns, axis=1).astype(np.int64)


def _drawn(counts_NK: np.ndarray, groups: Sequence[np.ndarray], num_samples: int, seed: int) -> np.ndarray:
    """Sums of the counts over each resample, shape (num_samples, num_counts)."""
    drawn_SK = np.zeros((num_samples, counts_NK.shape[1]), dtype=np.int64)
    for number, group_G in enumerate(groups):
        start = 0
        # Groups must not share their draws: with one seed, two sets of one size would be drawn alike.
        for index_BG in resamples(len(group_G), num_samples, seed + number):
            for column, values_N in enumerate(counts_NK.T):
                drawn_SK[start : start + len(index_BG), column] += values_N[group_G][index_BG].sum(axis=1)
            start += len(index_BG)
    return drawn_SK


def _class_rates(counts_SK: np.ndarray, labels: Sequence[str], missing: float = 0.0) -> Mapping[str, np.ndarray]:
    """Recalls and their mean, in percent, of sums as `_class_counts` arranges them.

    missing: recall of a class that a sum has no row of: nothing is known of it in a resample. A class that no resample
    has counts as 0 all the same.
    """
    said_SC, right_SC = counts_SK[:, 0::2], counts_SK[:, 1::2]
    absent_C = ~said_SC.any(axis=0)
    recall_SC = np.where(said_SC > 0, 100 * right_SC / np.maximum(said_SC, 1), np.where(absent_C, 0.0, missing))
    accuracy_S = 100 * right_SC.sum(axis=1) / np.maximum(said_SC.sum(axis=1), 1)
    recalls = {f"recall {label}": recall_SC[:, index] for index, label in enumerate(labels)}
    return recalls | {"balanced_accuracy": recall_SC.mean(axis=1), "accuracy": accuracy_S}


def _rates(counts_SK: np.ndarray, labels: Sequence[str], missing: float = 0.0) -> dict[str, np.ndarray]:
    length_S = counts_SK[:, 1]
    syer_S = np.where(length_S > 0, 100 * counts_SK[:, 0] / np.maximum(length_S, 1), missing)
    rates = {"syer": syer_S, **_class_rates(counts_SK[:, 2:], labels, missing)}
    rates["score"] = ASR_WEIGHT * (100 - syer_S) + SER_WEIGHT * rates["balanced_accuracy"]
    return rates
