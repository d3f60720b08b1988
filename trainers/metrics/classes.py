"""Scores of a classifier over a fixed list of classes, and the check that each of them can be learnt.

A mean over the classes that happen to be in a split is another number for every split: a class that is missing is part
of the mean here, with 0, and named.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from trainers.checks import ConfigError

logger = logging.getLogger(__name__)


def check_classes(
    labels: Sequence[str],
    train: Iterable[str | None],
    validation: Iterable[str | None] | None = None,
    *,
    key: str = "data.train",
) -> None:
    """Whether every class has rows: to be called before training.

    Args:
        labels: the classes that the model tells apart.
        train, validation: the class of every row; None for rows without one.
        key: of the config, for messages.

    Raises:
        ConfigError: a class has no training row, or a row has a class that is not in the list; names both with counts.
    """
    counts = Counter(label for label in train if label is not None)
    found = ", ".join(f"{label} {count}" for label, count in sorted(counts.items())) or "none"
    unknown = sorted(counts.keys() - set(labels))
    if unknown:
        raise ConfigError(key, f"unknown class {', '.join(unknown)}; allowed are {', '.join(labels)}")
    missing = [label for label in labels if not counts[label]]
    if missing:
        advice = "add rows of it, or take it out of the list of classes"
        raise ConfigError(key, f"no training row of class {', '.join(missing)} (rows: {found}); {advice}")
    if validation is not None and (absent := sorted(set(labels) - set(validation))):
        logger.warning("no evaluation row of class %s: it counts as 0 in UAR and macro F1", ", ".join(absent))


def class_scores(references: Sequence[str], predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Unweighted average recall, macro F1 and accuracy, each 0 to 1, over all of `labels`.

    A class without references has recall and F1 0.

    Raises:
        ValueError: no rows, another number of predictions, or a reference that is not in `labels`.
    """
    if not references or len(references) != len(predictions):
        raise ValueError(f"{len(references)} references and {len(predictions)} predictions: as many of each, not none")
    if unknown := sorted(set(references) - set(labels)):
        raise ValueError(f"unknown class {', '.join(unknown)}; allowed are {', '.join(labels)}")
    said, guessed = Counter(references), Counter(predictions)
    right = Counter(one for one, other in zip(references, predictions, strict=True) if one == other)
    recalls = [right[label] / said[label] if said[label] else 0.0 for label in labels]
    f1 = [2 * right[label] / ((said[label] + guessed[label]) or 1) for label in labels]
    accuracy = sum(right.values()) / len(references)
    return {"uar": sum(recalls) / len(labels), "f1_macro": sum(f1) / len(labels), "accuracy": accuracy}
