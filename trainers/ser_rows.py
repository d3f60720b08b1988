"""Emotions of rows to the classes of an emotion classifier; rows of no class are left out, counted and reported.

Corpora name different emotions, and the task has its own classes: `labels` of a config say which emotions a class
stands for, `label_maps` say it anew for single corpora. Nothing here imports torch.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_scripts.drop_report import DropReport
from trainers.checks import ConfigError, require

logger = logging.getLogger(__name__)

Labels = Mapping[str, Sequence[str]]

# The binary task of VLSP 2025; happy, surprised and positive speech is of neither class.
DEFAULT_LABELS: dict[str, tuple[str, ...]] = {
    "neutral": ("neutral", "calm"),
    "negative": ("negative", "angry", "sad", "fearful", "disgust"),
}
NO_EMOTION, NO_CLASS = "no_emotion", "emotion_without_class"


class LabelledRows:
    """Rows with a class number in `label`, read where they lie: selecting and labelling copies no audio.

    Items are rows, columns are read by name, `select` gives some of them, as those of `datasets.Dataset` and
    `data_scripts.shards.ShardRows`.
    """

    def __init__(self, rows: Any, label_ids: np.ndarray) -> None:
        self.rows = rows
        self.label_ids = np.asarray(label_ids, dtype=np.int64)

    @property
    def column_names(self) -> list[str]:
        return [*self.rows.column_names, "label"]

    @property
    def blocks(self) -> np.ndarray | None:
        """Rows that begin a block of those that are best read together; None: none do."""
        return getattr(self.rows, "blocks", None)

    def __len__(self) -> int:
        return len(self.label_ids)

    def __getitem__(self, key: int | str) -> Any:
        if key == "label":
            return self.label_ids.tolist()
        if isinstance(key, str):
            return self.rows[key]
        return {**self.rows[key], "label": int(self.label_ids[key])}

    def select(self, numbers: Any) -> "LabelledRows":
        """The rows of these numbers."""
        numbers = np.asarray(numbers, dtype=np.int64)
        return LabelledRows(self.rows.select(numbers), self.label_ids[numbers])

    def remove_columns(self, names: str | list[str]) -> "LabelledRows":
        """Without some columns other than `label`."""
        return LabelledRows(self.rows.remove_columns(names), self.label_ids)


def check_labels(labels: Labels, label_maps: Mapping[str, Labels]) -> None:
    """Refuse classes and emotions that cannot be.

    Raises:
        ConfigError: fewer than two classes, a class without emotions, an emotion that there is not or that two classes
            claim, a class of `label_maps` that `labels` lacks (each with its key and what is allowed).
    """
    require(len(labels) > 1, "labels", f"must hold at least two classes, got {', '.join(labels) or 'none'}")
    _check_map("labels", labels)
    for name, emotions in labels.items():
        elsewhere = any(one.get(name) for one in label_maps.values())
        require(bool(emotions) or elsewhere, f"labels.{name}", "must name the emotions that it stands for, got none")
    for corpus, classes in label_maps.items():
        key = f"label_maps.{corpus}"
        if unknown := [name for name in classes if name not in labels]:
            raise ConfigError(f"{key}.{unknown[0]}", f"is no class; the classes of `labels` are: {', '.join(labels)}")
        _check_map(key, classes)


def _check_map(key: str, classes: Labels) -> None:
    from data_scripts.schema import EMOTIONS

    owner: dict[str, str] = {}
    for name, emotions in classes.items():
        if isinstance(emotions, str) or not isinstance(emotions, Sequence):
            raise ConfigError(f"{key}.{name}", f"must be a list of emotions, got {emotions!r}")
        for emotion in emotions:
            if emotion not in EMOTIONS:
                raise ConfigError(f"{key}.{name}", f"no emotion {emotion!r}; allowed are: {', '.join(EMOTIONS)}")
            if owner.setdefault(emotion, name) != name:
                raise ConfigError(f"{key}.{name}", f"{emotion!r} is of class {owner[emotion]!r} already; choose one")


def label_facts(
    labels: Labels, label_maps: Mapping[str, Labels], corpora: Iterable[str] | None = None
) -> dict[str, str]:
    """What a card says about the classes: the emotions of each, and those of corpora (default: all) with a map."""
    names = dict.fromkeys(label_maps if corpora is None else corpora)
    own = {corpus: label_maps[corpus] for corpus in names if corpus in label_maps}
    facts = {"labels": _described(labels), "label_maps": "; ".join(f"{c} ({_described(own[c])})" for c in own)}
    return {name: told for name, told in facts.items() if told}


def _described(labels: Labels) -> str:
    return "; ".join(f"{name}: {', '.join(emotions)}" for name, emotions in labels.items())


def apply_labels(
    rows: Any, labels: Labels, label_maps: Mapping[str, Labels] | None = None, report_name: str = "emotions"
) -> tuple[LabelledRows, DropReport]:
    """The rows that are of a class, with its number; classes are numbered in the order of `labels`.

    Args:
        rows: schema rows that can be read in any order (`datasets.Dataset` or `ShardRows`).
        labels: class -> emotions (`data_scripts.schema.EMOTIONS`).
        label_maps: corpus (column `corpus`) -> class -> emotions, in place of `labels` for the rows of that corpus.
        report_name: of the report.

    Returns:
        The rows that are left (maybe none), and a report of all others: code `no_emotion`, or `emotion_without_class`
        with the emotion and the corpus in its detail.

    Raises:
        ConfigError: see `check_labels`; rows of a stream.
    """
    label_maps = label_maps or {}
    check_labels(labels, label_maps)
    if not hasattr(rows, "__len__"):
        raise ConfigError("data.train", "rows of a stream cannot be sorted into classes: set streaming to false")
    number = {name: index for index, name in enumerate(labels)}
    class_of = {
        corpus: {emotion: number[name] for name, emotions in classes.items() for emotion in emotions}
        for corpus, classes in {**label_maps, None: labels}.items()
    }
    emotions, corpora, durations = list(rows["emotion"]), list(rows["corpus"]), list(rows["duration_s"])
    if absent := sorted(set(label_maps) - set(corpora)):
        there = ", ".join(sorted({str(corpus) for corpus in corpora})) or "none"
        logger.warning("%s: label_maps names %s, of which there is no row; corpora: %s", report_name, absent, there)
    ids = np.array(
        [
            class_of.get(corpus, class_of[None]).get(emotion, -1)
            for emotion, corpus in zip(emotions, corpora, strict=True)
        ],
        dtype=np.int64,
    )
    kept = np.flatnonzero(ids >= 0)
    report = DropReport(report_name, num_rows=len(ids))
    report.seconds_kept = float(sum(durations[row] or 0.0 for row in kept))
    if len(kept) < len(ids):
        row_ids = list(rows["id"])
        for row in np.flatnonzero(ids < 0).tolist():
            report.seconds_dropped += durations[row] or 0.0
            if emotions[row]:
                report.add(NO_CLASS, row_ids[row], detail=f"{emotions[row]} in {corpora[row] or 'no corpus'}")
            else:
                report.add(NO_EMOTION, row_ids[row])
    _log(report, labels, ids, [emotions[row] or "(none)" for row in np.flatnonzero(ids < 0)])
    return LabelledRows(rows if len(kept) == len(ids) else rows.select(kept), ids[kept]), report


def _log(report: DropReport, labels: Labels, ids: np.ndarray, left_out: list[str]) -> None:
    counts = ", ".join(f"{name} {int((ids == index).sum())}" for index, name in enumerate(labels))
    without = ", ".join(f"{emotion} {count}" for emotion, count in Counter(left_out).most_common()) or "none"
    logger.info("%s: rows of each class: %s; left out: %s", report.source, counts, without)
