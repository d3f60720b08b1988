"""The training-loop filter (the runner-up of VLSP 2025, section 3.2 of the challenge's report, after OWSM v4).

A model trained on the data scores them; rows are kept where `0.3 < confidence < 0.95` and `5 % < error rate < 40 %`:
what is harder is probably mislabelled, what is easier teaches little. The report does not define the confidence. It is
here `exp(mean over frames of log p)` of the best CTC path of the *given transcript* (forced alignment), a probability;
`min_window` takes the worst 30 frames in a row (OWSM's measure, which is its logarithm), and `greedy` the mean
posterior of the model's own best path, which says nothing about the transcript. The error rate is of syllables, or of
phonemes where the model writes phonemes.

The filter is published for thousands of hours. With little data the easy rows are most of what there is to learn from:
`keep_easy_fraction` keeps a seeded share of them. And a model that has read little data often knows its mistakes by
heart: with `folds` (cross-fitting) each row is judged by a model that was not trained on it.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FOLD_SEED = -1  # apart from the seeds of `keep_easy_fraction`
MEASURES = {"mean": "confidence", "min_window": "min_window_confidence", "greedy": "greedy_confidence"}


@dataclass
class ConfidenceSettings:
    """Which rows are neither too hard nor too easy for a model; a bound itself is outside."""

    model: str | None = None
    """Name of the scoring model; null takes the first of the config with CTC outputs."""
    measure: Literal["mean", "min_window", "greedy"] = "mean"
    """Confidence: mean over all frames, over the worst 30 in a row, or of the model's own best path."""
    min_confidence: float = 0.3
    """Rows at or below are too hard."""
    max_confidence: float = 0.95
    """Rows at or above are too easy."""
    min_error_rate: float = 0.05
    """Rows at or below are too easy."""
    max_error_rate: float = 0.40
    """Rows at or above are too hard."""
    drop_quantile: float = 0.0
    """Also drop this share of the scored rows, those of lowest confidence (OWSM v4 drops 0.1)."""
    folds: int = 1
    """Above 1: a row is judged by model `<model><n>`, n its fold, which was not trained on that fold (loop.folds)."""
    keep_easy_fraction: float = 0.0
    """Share of the too easy rows that is kept all the same; by row id, the same in every run."""
    seed: int = 0
    """Seed of that choice."""

    def __post_init__(self) -> None:
        for name in ("min_confidence", "max_confidence", "keep_easy_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.folds < 1 or (self.folds > 1 and self.model is None):
            raise ValueError(f"folds must be at least 1, and above 1 only with a model named; got {self.folds}")
        if not 0 <= self.drop_quantile < 1:
            raise ValueError(f"drop_quantile must be at least 0 and below 1, got {self.drop_quantile}")
        for low, high in (("min_confidence", "max_confidence"), ("min_error_rate", "max_error_rate")):
            if not getattr(self, low) < getattr(self, high):
                raise ValueError(f"{low} must be below {high} ({getattr(self, high)}), got {getattr(self, low)}")


@dataclass(frozen=True, slots=True)
class Judged:
    """One row: why it is dropped (empty: it is kept), and what is noted about a kept one."""

    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    confidence: float | None = None
    error_rate: float | None = None


def judge(
    row_id: str, score: Mapping[str, Any] | None, settings: ConfidenceSettings, floor: float = -math.inf
) -> Judged:
    """Decide about one row.

    Args:
        score: of the filter's model at its first speed; None where it has none.
        floor: confidence below which a row is dropped, from `quantile_floor`.
    """
    if score is None:
        return Judged(["not_scored"])
    confidence, rate = score[MEASURES[settings.measure]], score["error_rate"]
    if score["problem"] or confidence is None or rate is None:
        return Judged([f"not_scored:{score['problem'] or 'no_transcript'}"], [], confidence, rate)
    hard = []
    if confidence <= settings.min_confidence or confidence < floor:
        hard.append("low_confidence")
    if rate >= settings.max_error_rate:
        hard.append("high_error_rate")
    easy = []
    if confidence >= settings.max_confidence:
        easy.append("high_confidence")
    if rate <= settings.min_error_rate:
        easy.append("low_error_rate")
    if easy and not hard and fraction_of(row_id, settings.seed) < settings.keep_easy_fraction:
        return Judged([], ["kept_easy"], confidence, rate)
    return Judged(hard + easy, [], confidence, rate)


def judging_score(row: Mapping[str, Any], model: str | None, folds: int) -> Mapping[str, Any] | None:
    """The score of a row that the filter reads: of the model at its first speed, or of the model of the row's fold."""
    name = model if folds == 1 else f"{model}{fold_of(row['id'], folds)}"
    return next((score for score in row["scores"] if score["model"] == name), None)


def fold_of(row_id: str, folds: int) -> int:
    """The fold of a row, by its id: rows may come and go and the others stay where they are."""
    return int(fraction_of(row_id, FOLD_SEED) * folds)


def quantile_floor(confidences: Iterable[float | None], quantile: float) -> float:
    """The confidence that the given share of the rows lies below; minus infinity at 0 or without rows."""
    known = sorted(value for value in confidences if value is not None and math.isfinite(value))
    return known[math.floor(quantile * len(known))] if known and quantile > 0 else -math.inf


def fraction_of(row_id: str, seed: int) -> float:
    """A number in [0, 1) that depends on the id and the seed alone, evenly spread over ids."""
    digest = hashlib.blake2b(row_id.encode(), digest_size=8, salt=seed.to_bytes(8, "little", signed=True)).digest()
    return int.from_bytes(digest, "little") / 2**64
