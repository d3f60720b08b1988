"""The classes of the rows of an emotion run: each source sorted by itself, before sources are mixed."""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from trainers.arguments import RunConfig
from trainers.ser_rows import LabelledRows, apply_labels

logger = logging.getLogger(__name__)


def first_of_each(emotions: Iterable[str | None], count: int) -> np.ndarray:
    """Numbers of `count` rows, in rising order: the first of every emotion, then the second of every one, and so on.

    >>> first_of_each(["sad", "sad", "sad", "happy"], 2)
    array([0, 3])
    """
    seen: Counter[str | None] = Counter()
    turns = []
    for emotion in emotions:
        turns.append(seen[emotion])
        seen[emotion] += 1
    return np.sort(np.argsort(turns, kind="stable")[:count])


def label_parts(
    config: RunConfig, parts: list[Any], names: list[str], split: str, reports: dict[str, Any]
) -> tuple[list[Any], np.ndarray | None]:
    """Of emotion runs: the rows of each source that are of a class, and the classes of all of them together.

    Other runs get their parts back, and None. What is left out is added to `reports`.

    Raises:
        ConfigError: see `trainers.ser_rows.check_labels`.
    """
    labels = getattr(config, "labels", None)
    if labels is None:
        return parts, None
    kept, ids = [], [np.zeros(0, dtype=np.int64)]
    for number, (part, name) in enumerate(zip(parts, names, strict=True)):
        corpora = set(part["corpus"])
        maps = {corpus: one for corpus, one in config.label_maps.items() if corpus in corpora}  # type: ignore[attr-defined]
        labelled, report = apply_labels(part, labels, maps, f"emotions of {name}")
        reports[f"{split}-{number}-emotions"] = report
        kept.append(labelled.rows)
        ids.append(labelled.label_ids)
    return kept, np.concatenate(ids)


def with_labels(
    config: Any, train: Any, train_labels: np.ndarray, validation: Any, validation_labels: np.ndarray | None
) -> tuple[Any, Any]:
    """Training and validation rows with their class in `label`.

    Raises:
        ConfigError: a class without a training row.
    """
    from trainers.metrics.classes import check_classes

    names = list(config.labels)
    unused = sorted(set(config.label_maps) - set(train["corpus"]) - set(validation["corpus"] if validation else ()))
    if unused:
        logger.warning("label_maps names %s, of which there is no row", ", ".join(unused))
    heard = None if validation_labels is None else [names[label] for label in validation_labels]
    check_classes(names, [names[label] for label in train_labels], heard)
    if validation_labels is not None:
        validation = LabelledRows(validation, validation_labels)
    return LabelledRows(train, train_labels), validation
