"""Voting between recognisers (the winner of VLSP 2025, section 3.1 of the challenge's report).

The report: two models fine-tuned on 300 hours decode each clip; a 0.9x speed factor helps with fast speech; clips are
kept where the models' word error rate against each other is at most 10 %, and a 4-gram language model scores the
hypotheses. It does not say which hypotheses are compared. Here:

- A vote is a pair of hypotheses of two *different* models. Two speeds of one model are no vote: a model repeats its
  own mistakes.
- `pairs: same_speed` compares hypotheses heard at the same speed, once at each: the slow pass is a second chance for
  fast speech. `pairs: any_speed` compares every hypothesis of one model with every one of another.
- The error rate of a pair is edits over the syllables of its *shorter* hypothesis, the larger of the two directions,
  so that the order of the models does not matter and a word left out is not hidden.
- A clip is kept if any pair agrees. Of the hypotheses of agreeing pairs the one with the highest language model score
  per syllable is its transcript; without a language model, and among equals, the first in the order of the config.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rapidfuzz.distance import Levenshtein


@dataclass
class VotingSettings:
    """Which clips the recognisers agree on."""

    max_wer: float = 0.10
    """Highest error rate between two models that counts as agreement."""
    pairs: Literal["same_speed", "any_speed"] = "same_speed"
    """Which hypotheses of two models are compared."""
    min_lm_score: float | None = None
    """Lowest language model score (log10 per syllable) of a chosen transcript; null sets no limit."""
    replace: Literal["missing", "all"] = "missing"
    """Which rows get the voted transcript: those without one, or all."""

    def __post_init__(self) -> None:
        if not self.max_wer >= 0:
            raise ValueError(f"max_wer must be at least 0, got {self.max_wer}")


@dataclass(frozen=True, slots=True)
class Vote:
    """What the models said together.

    agreement: lowest error rate of any pair; None where there was nothing to compare.
    text, lm_score: of the chosen hypothesis; text is "" where nothing was chosen.
    reason: why the clip is dropped, None where it is kept.
    """

    agreement: float | None
    text: str = ""
    lm_score: float | None = None
    reason: str | None = None


def disagreement(first: str, second: str) -> float | None:
    """Edits over the syllables of the shorter hypothesis; infinite if one is empty, None if both are.

    >>> disagreement("bật đèn lên", "bật đèn")
    0.5
    """
    one, other = first.split(), second.split()
    if not one and not other:
        return None
    shorter = min(len(one), len(other))
    return Levenshtein.distance(one, other) / shorter if shorter else float("inf")


def vote(heard: Sequence[Mapping[str, Any]], settings: VotingSettings) -> Vote:
    """Decide about one clip.

    Args:
        heard: hypotheses in the order of the config: `model`, `speed`, `unit`, `hypothesis` (None where the model
            failed), `lm_score` (None without a language model). Phoneme hypotheses are passed over.
    """
    texts = [one for one in heard if one["unit"] == "syllable" and one["hypothesis"] is not None]
    candidates: dict[int, Mapping[str, Any]] = {}
    rates: list[float] = []
    for (left, one), (right, other) in itertools.combinations(enumerate(texts), 2):
        if one["model"] == other["model"] or (settings.pairs == "same_speed" and one["speed"] != other["speed"]):
            continue
        rate = disagreement(one["hypothesis"], other["hypothesis"])
        if rate is None:
            continue
        rates.append(rate)
        if rate <= settings.max_wer:
            candidates |= {left: one, right: other}
    if not rates:
        compared = any(one["model"] != other["model"] for one, other in itertools.combinations(texts, 2))
        return Vote(None, reason="vote_silent" if compared else "vote_missing")
    lowest = min(rates)
    if not candidates:
        return Vote(lowest, reason="vote_disagreement")
    # max() keeps the first of equals, and the candidates are in the order of the config.
    ordered = [candidates[index] for index in sorted(candidates)]
    best = max(ordered, key=lambda one: float("-inf") if one["lm_score"] is None else one["lm_score"])
    score = best["lm_score"]
    if settings.min_lm_score is not None and (score is None or score < settings.min_lm_score):
        return Vote(lowest, best["hypothesis"], score, "vote_unlikely_text")
    return Vote(lowest, best["hypothesis"], score)
