"""Conservative rules: rows whose text or duration alone make them poor training data.

The first five are those of the fourth-placed team of VLSP 2025 (section 3.4 of the challenge's overview): "removing
samples with digits/non-Latin characters, filtering by duration (shorter than 15s and less than 85 words), and
requiring Vietnamese tone marks". The second clause is read as what is kept: less than 15 s and less than 85 words. The
others find what breaks alignment and training: impossible speaking rates, loops of a recogniser, empty texts.

8,000 rows a second on one core.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_scripts.text.normalize import text_problems

RULE_CODES = {
    "no_text": "no words in the text",
    "digits": "digits: what was said is not on the page",
    "non_latin": "letters of another script, emoji, signs that are read aloud, or a wrong encoding",
    "no_tone_mark": "not one Vietnamese tone mark: likely another language or a text without marks",
    "too_long": "as long as the limit, or longer",
    "too_many_words": "as many words as the limit, or more",
    "too_fast": "more words or letters in a second than anybody says: the text is too long for the audio",
    "too_slow": "fewer words or letters in a second than anybody says: the text is too short for the audio",
    "odd_rate": "speaking rate far from the rest of the corpus",
    "word_loop": "a phrase many times in a row, as recognisers do when they lose the thread",
}
_TONE_MARKS = frozenset("\u0300\u0301\u0303\u0309\u0323")  # huyền, sắc, ngã, hỏi, nặng
_LONGEST_LOOPED_PHRASE = 4  # words


class Finding(NamedTuple):
    """Why a row should go."""

    code: str
    detail: str


@dataclass(frozen=True)
class RuleSettings:
    """Which rules apply; None or False turns one off. Rules about durations pass over rows without one."""

    digits: bool = True
    """Drop texts with digits."""
    non_latin: bool = True
    """Drop texts with letters of other scripts, emoji, spoken signs (%, &, @) or mojibake."""
    tone_mark: bool = True
    """Drop texts without any Vietnamese tone mark."""
    max_duration_s: float | None = 15.0
    """Keep only rows shorter than this."""
    max_words: int | None = 85
    """Keep only rows with fewer words than this."""
    min_words_per_s: float | None = 0.5
    """Slowest rate, in words (of Vietnamese: syllables) a second of audio, silence included."""
    max_words_per_s: float | None = 8.0
    """Fastest rate in words a second; read speech has 3.2 on average and 5.7 at most."""
    min_letters_per_s: float | None = 1.0
    """Slowest rate in letters a second."""
    max_letters_per_s: float | None = 32.0
    """Fastest rate in letters a second; read speech has 10.4 on average and 19.5 at most."""
    max_rate_z: float | None = None
    """Farthest robust z-score of the words a second within the corpus; 4 is mild. Needs `SpeakingRates`."""
    max_phrase_repeats: int | None = 4
    """How often in a row a phrase of one to four words may come."""

    def __post_init__(self) -> None:
        for name in ("max_duration_s", "max_words_per_s", "max_letters_per_s", "max_rate_z"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        for name in ("max_words", "max_phrase_repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for unit in ("words", "letters"):
            low, high = getattr(self, f"min_{unit}_per_s"), getattr(self, f"max_{unit}_per_s")
            if low is not None and not 0 <= low < (high or float("inf")):
                raise ValueError(f"0 <= min_{unit}_per_s < max_{unit}_per_s, got {low}, {high}")


class SpeakingRates:
    """Words a second of each corpus, in histograms: constant memory, any order of rows gives the same result."""

    BIN_PER_S = 0.05
    _NUM_BINS = 400  # up to 20 words a second

    def __init__(self) -> None:
        self.counts: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(self._NUM_BINS, np.int64))

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row; one without words or duration is passed over."""
        if (rate := words_per_s(row)) is not None:
            self.counts[row.get("corpus") or ""][min(int(rate / self.BIN_PER_S), self._NUM_BINS - 1)] += 1

    def merge(self, other: "SpeakingRates") -> None:
        """Take in what another part of the rows gave."""
        for corpus, counts in other.counts.items():
            self.counts[corpus] += counts

    def z_scores(self) -> dict[str, tuple[float, float]]:
        """Corpus → (median, spread) of its words a second; the spread is 1.4826 × the median absolute deviation."""
        centres = (np.arange(self._NUM_BINS) + 0.5) * self.BIN_PER_S
        found = {}
        for corpus, counts in self.counts.items():
            median = _weighted_median(centres, counts)
            deviation = _weighted_median(np.abs(centres - median), counts)
            # A corpus of one rate would make every other rate infinitely odd.
            found[corpus] = median, max(1.4826 * deviation, self.BIN_PER_S)
        return found


def _weighted_median(values: np.ndarray, counts: np.ndarray) -> float:
    arrangement = np.argsort(values, kind="stable")
    below = np.cumsum(counts[arrangement])
    return float(values[arrangement][np.searchsorted(below, (below[-1] + 1) // 2)])


def words_per_s(row: Mapping[str, Any]) -> float | None:
    """Speaking rate of a row, silence included; None without words or duration."""
    num_words, duration_s = len((row.get("text") or "").split()), row.get("duration_s")
    return num_words / duration_s if num_words and duration_s else None


def rule_reasons(
    row: Mapping[str, Any], settings: RuleSettings, rates: Mapping[str, tuple[float, float]] | None = None
) -> list[str]:
    """Codes (keys of `RULE_CODES`) of the rules that a row breaks, in a fixed order; `[]` if it may stay."""
    return [finding.code for finding in rule_findings(row, settings, rates)]


def rule_findings(
    row: Mapping[str, Any], settings: RuleSettings, rates: Mapping[str, tuple[float, float]] | None = None
) -> list[Finding]:
    """The rules that a row breaks, each with what was found.

    Args:
        row: with `text`, and `duration_s` and `corpus` if known.
        rates: `SpeakingRates.z_scores()` of all rows, which `max_rate_z` needs.

    Raises:
        ValueError: `max_rate_z` without `rates`.
    """
    if settings.max_rate_z is not None and rates is None:
        raise ValueError("max_rate_z compares with the rest of the corpus: give the rates of all rows (SpeakingRates)")
    text = row.get("text") or ""
    words = text.split()
    if not words:
        return [Finding("no_text", "")]
    return [
        *_text_findings(text, words, settings),
        *_duration_findings(words, row.get("duration_s"), settings),
        *_odd_rate(row, settings, rates or {}),
    ]


def _text_findings(text: str, words: Sequence[str], settings: RuleSettings) -> Iterable[Finding]:
    problems = text_problems(text) if settings.digits or settings.non_latin else []
    if settings.digits and "digits" in problems:
        yield Finding("digits", _first(words, lambda word: any(map(str.isnumeric, word))))
    others = [problem for problem in problems if problem not in ("digits", "empty")]
    if settings.non_latin and others:
        yield Finding("non_latin", f"{others[0]}: {_first(words, lambda word: others[0] in text_problems(word))}")
    if settings.tone_mark and _TONE_MARKS.isdisjoint(unicodedata.normalize("NFD", text)):
        yield Finding("no_tone_mark", "")
    if settings.max_words is not None and len(words) >= settings.max_words:
        yield Finding("too_many_words", f"{len(words)} words")
    if settings.max_phrase_repeats is not None:
        repeats, phrase = longest_loop(words)
        if repeats > settings.max_phrase_repeats:
            yield Finding("word_loop", f"{repeats} × {phrase[:80]!r}")


def _first(words: Iterable[str], holds: Any) -> str:
    return next((word for word in words if holds(word)), "")[:40]


def _duration_findings(words: Sequence[str], duration_s: float | None, settings: RuleSettings) -> Iterable[Finding]:
    if duration_s is None:
        return
    if settings.max_duration_s is not None and duration_s >= settings.max_duration_s:
        yield Finding("too_long", f"{duration_s:.2f} s")
    for unit, number in (("words", len(words)), ("letters", sum(map(len, words)))):
        rate = number / duration_s if duration_s > 0 else float("inf")
        low, high = getattr(settings, f"min_{unit}_per_s"), getattr(settings, f"max_{unit}_per_s")
        if high is not None and rate > high:
            yield Finding("too_fast", f"{rate:.3g} {unit} a second")
            return
        if low is not None and rate < low:
            yield Finding("too_slow", f"{rate:.3g} {unit} a second")
            return


def _odd_rate(
    row: Mapping[str, Any], settings: RuleSettings, rates: Mapping[str, tuple[float, float]]
) -> Iterable[Finding]:
    rate, corpus = words_per_s(row), row.get("corpus") or ""
    if settings.max_rate_z is None or rate is None or corpus not in rates:
        return
    median, spread = rates[corpus]
    z = (rate - median) / spread
    if abs(z) > settings.max_rate_z:
        yield Finding("odd_rate", f"{rate:.1f} words a second, {corpus or 'the corpus'} has {median:.1f} (z {z:+.1f})")


def longest_loop(words: Sequence[str]) -> tuple[int, str]:
    """(how often in a row, phrase) of the phrase of up to four words that is said most often in a row.

    >>> longest_loop("cảm ơn cảm ơn cảm ơn các bạn".split())  # thank you, thank you, thank you all
    (3, 'cảm ơn')
    """
    best, phrase = min(1, len(words)), " ".join(words[:1])
    for size in range(1, min(_LONGEST_LOOPED_PHRASE, len(words) // 2) + 1):
        run = 0  # words that equal the word `size` before them
        for end in range(size, len(words)):
            run = run + 1 if words[end] == words[end - size] else 0
            if run // size + 1 > best:
                best, phrase = run // size + 1, " ".join(words[end - size + 1 : end + 1])
    return best, phrase
