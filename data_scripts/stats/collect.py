"""Counting rows. A word is what stands between spaces of the normalised text; a syllable is what bears a tone.

A word is English if a span says so, or if no span says anything and it is no Vietnamese syllable. Words outside of
the vocabulary (OOV) are those whose sound no dictionary and no syllable table knows: rules spell them out, or nothing
can ("unknown": digits, other scripts).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from data_scripts.stats.counting import Distinct, Histogram, TopCounter
from data_scripts.text.g2p import G2P, PhonemisedWord
from data_scripts.text.phonemes import TONE_SYMBOLS
from data_scripts.text.syllables import parse_syllable

if TYPE_CHECKING:
    from rich.table import Table

GROUPINGS = ("corpus", "dialect", "emotion")
MAX_GROUPS = 1000  # names of one grouping; more than that are counted together
OTHER_GROUPS = "(others)"
MAX_WORDS, MAX_SPEAKERS, MAX_TEXTS, MAX_SPEAKERS_IN_GROUP = 50_000, 50_000, 1 << 17, 4096
LONGEST_WORD = 60  # characters kept of a "word": a line without spaces is not to fill the memory
_ROWS_PER_FLUSH, _MEMO_SIZE = 1000, 200_000
_TONES = frozenset(TONE_SYMBOLS)
_BY_RULE = frozenset({"rules", "letters", "split"})

Kind = Literal["syllable", "vi", "en", "rule", "unknown"]


class _Token(NamedTuple):
    """What is known of a word: kind, whether it is English, syllables in it, and its phonemes."""

    kind: Kind
    is_english: bool
    num_syllables: int
    phonemes: tuple[str, ...]


@dataclass
class Group:
    """Rows that share a corpus, dialect or emotion."""

    rows: int = 0
    milliseconds: int = 0
    words: int = 0
    english_words: int = 0
    speakers: Distinct = field(default_factory=lambda: Distinct(MAX_SPEAKERS_IN_GROUP))

    @property
    def hours(self) -> float:
        return self.milliseconds / 3_600_000

    def merge(self, other: "Group") -> None:
        self.rows += other.rows
        self.milliseconds += other.milliseconds
        self.words += other.words
        self.english_words += other.english_words
        self.speakers.merge(other.speakers)


class Stats:
    """Counts of any number of rows; `merge` puts two together. Rates and shares are properties, so never stale.

    Attributes:
        num_rows, num_without_duration, num_without_text, num_labelled, num_mixed: rows, those without a length or a
            transcript, those with language spans, those with words of both languages.
        duration_s, syllables_per_s, words_per_row: histograms.
        speaker_ms: milliseconds by speaker. speakers, texts: how many different ones, and how often they recur.
        syllables: Vietnamese syllables as written. other_words: all other words. oov: those only rules can say, or
            nothing can. kinds: words by `Kind`. phonemes: symbols of register `full`, of Vietnamese and English.
        num_words, num_english_words, num_switches: words, English ones, changes of language between neighbours.
        groups: grouping ("corpus", "dialect", "emotion") → name → `Group`.
    """

    def __init__(self) -> None:
        self.num_rows = self.num_without_duration = self.num_without_text = self.num_labelled = self.num_mixed = 0
        self.num_words = self.num_english_words = self.num_switches = 0
        self.duration_s = Histogram(0.05, 36_000)
        self.syllables_per_s = Histogram(0.05, 100)
        self.words_per_row = Histogram(1, 10_000)
        self.speaker_ms = TopCounter(MAX_SPEAKERS)
        self.speakers = Distinct(MAX_SPEAKERS)
        self.texts = Distinct(MAX_TEXTS)
        self.syllables: Counter[str] = Counter()
        self.other_words, self.oov = TopCounter(MAX_WORDS), TopCounter(MAX_WORDS)
        self.kinds: Counter[str] = Counter()
        self.phonemes: Counter[str] = Counter()
        self.groups: dict[str, dict[str, Group]] = {grouping: {} for grouping in GROUPINGS}

    @property
    def hours(self) -> float:
        return self.duration_s.sum_thousandths / 3_600_000

    @property
    def tones(self) -> list[int]:
        """Vietnamese syllables by tone: ngang, huyền, ngã, hỏi, sắc, nặng."""
        counts = [0] * len(TONE_SYMBOLS)
        for syllable, count in self.syllables.items():
            counts[_tone(syllable)] += count
        return counts

    @property
    def english_share(self) -> float:
        """English words of all words, 0 to 1."""
        return self.num_english_words / self.num_words if self.num_words else 0.0

    @property
    def oov_share(self) -> float:
        """Words that only rules can say, or nothing can, of all words."""
        return (self.kinds["rule"] + self.kinds["unknown"]) / self.num_words if self.num_words else 0.0

    def merge(self, other: "Stats") -> None:
        """Take in the counts of other rows; the order of merging does not matter."""
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if isinstance(mine, int):
                setattr(self, name, mine + theirs)
            elif isinstance(mine, Counter):
                mine.update(theirs)
            elif isinstance(mine, dict):
                for grouping, groups in theirs.items():
                    for group, counts in groups.items():
                        self._group(grouping, group).merge(counts)
            else:
                mine.merge(theirs)

    def _group(self, grouping: str, name: str) -> Group:
        groups = self.groups[grouping]
        if name in groups:
            return groups[name]
        if len(groups) >= MAX_GROUPS:
            name = OTHER_GROUPS
        return groups.setdefault(name, Group())

    def tables(self) -> "list[Table]":
        """For `rich.console.Console().print`."""
        from data_scripts.stats.tables import tables

        return tables(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it; `summary` in `data_scripts.stats.page` is the short form for readers."""
        data: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, int):
                data[name] = value
            elif isinstance(value, Counter):
                data[name] = dict(sorted(value.items()))
            elif isinstance(value, dict):
                data[name] = {
                    grouping: {
                        group: vars(counts) | {"speakers": counts.speakers.to_dict()}
                        for group, counts in sorted(groups.items())
                    }
                    for grouping, groups in value.items()
                }
            else:
                data[name] = value.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Stats":
        """The inverse of `to_dict`."""
        stats = cls()
        for name, value in vars(stats).items():
            if isinstance(value, int):
                setattr(stats, name, data[name])
            elif isinstance(value, Counter):
                value.update(data[name])
            elif isinstance(value, dict):
                stats.groups = {
                    grouping: {
                        group: Group(**{**counts, "speakers": Distinct.from_dict(counts["speakers"])})
                        for group, counts in groups.items()
                    }
                    for grouping, groups in data[name].items()
                }
            else:
                setattr(stats, name, type(value).from_dict(data[name]))
        return stats


class SplitStats(dict[str, Stats]):
    """Split → its statistics."""

    def tables(self) -> "list[Table]":
        """The splits side by side, for `rich.console.Console().print`."""
        from data_scripts.stats.tables import tables

        return tables(self)


def corpus_stats(rows: Iterable[Mapping[str, Any]]) -> Stats:
    """Count rows of the schema; `audio` is not looked at, and every column may be missing."""
    stats, words = Stats(), _Words()
    pending: Counter[str] = Counter()
    labelled: Counter[PhonemisedWord] = Counter()
    for number, row in enumerate(rows, 1):
        _count_row(stats, row, words, pending, labelled)
        if not number % _ROWS_PER_FLUSH:
            _flush(stats, words, pending, labelled)
    _flush(stats, words, pending, labelled)
    return stats


class _Words(dict[str, _Token]):
    """Unlabelled words, looked up once."""

    def __init__(self) -> None:
        super().__init__()
        self.g2p = _g2p()

    def __missing__(self, word: str) -> _Token:
        if len(self) >= _MEMO_SIZE:
            self.clear()
        said = self.g2p.phonemise(word).words
        token = self[word] = _Token(*_describe(said[0])) if len(said) == 1 else _describe_many(said)
        return token


@cache
def _g2p() -> G2P:
    return G2P()


def _describe(word: PhonemisedWord) -> _Token:
    kind: Kind
    if word.lang is None:
        kind = "unknown"
    elif word.source in _BY_RULE:
        kind = "rule"
    elif word.source == "syllable":
        kind = "syllable"
    else:
        kind = "en" if word.lang == "en" else "vi"
    return _Token(kind, word.lang != "vi", sum(map(_TONES.__contains__, word.phonemes)), word.phonemes)


def _describe_many(words: list[PhonemisedWord]) -> _Token:
    """A token that normalising would split or empty: text that was never normalised."""
    parts = [_describe(word) for word in words]
    phonemes = tuple(symbol for part in parts for symbol in part.phonemes)
    kinds = {part.kind for part in parts}
    kind: Kind = "unknown" if not parts or "unknown" in kinds else "rule" if "rule" in kinds else "vi"
    return _Token(kind, any(part.is_english for part in parts), sum(part.num_syllables for part in parts), phonemes)


def _count_row(
    stats: Stats,
    row: Mapping[str, Any],
    words: _Words,
    pending: Counter[str],
    labelled: "Counter[PhonemisedWord]",
) -> None:
    text, spans, speaker = row.get("text") or "", row.get("spans"), row.get("speaker")
    num_words = num_syllables = num_english = 0
    if not text.strip():
        stats.num_without_text += 1
    else:
        if spans:
            said = words.g2p.phonemise(text, spans=spans).words
            tokens = [_describe(word) for word in said]
            labelled.update(said)
            stats.num_labelled += 1
        else:
            split = text.split()
            tokens = [words[word] for word in split]
            pending.update(split)
        english = [token.is_english for token in tokens]
        num_words, num_english = len(tokens), sum(english)
        num_syllables = sum([token.num_syllables for token in tokens])
        if 0 < num_english < num_words:
            stats.num_mixed += 1
            stats.num_switches += sum(map(bool.__ne__, english, english[1:]))
        stats.words_per_row.add(num_words)
        stats.texts.add(text)
    stats.num_rows += 1
    stats.num_words += num_words
    stats.num_english_words += num_english
    milliseconds = _count_duration(stats, row.get("duration_s"), num_syllables)
    if speaker is not None:
        speaker = str(speaker)
        stats.speaker_ms.add(speaker, milliseconds)
        stats.speakers.add(speaker)
    for grouping in GROUPINGS:
        if name := row.get(grouping):
            group = stats._group(grouping, name)
            group.rows += 1
            group.milliseconds += milliseconds
            group.words += num_words
            group.english_words += num_english
            if speaker is not None:
                group.speakers.add(speaker)


def _count_duration(stats: Stats, duration_s: float | None, num_syllables: int) -> int:
    """Milliseconds of the row; 0 if they are not known."""
    if duration_s is None or not 0 <= duration_s < math.inf:
        stats.num_without_duration += 1
        return 0
    milliseconds = round(1000 * duration_s)
    stats.duration_s.add(duration_s)
    if num_syllables and milliseconds:
        stats.syllables_per_s.add(1000 * num_syllables / milliseconds)
    return milliseconds


def _flush(stats: Stats, words: _Words, pending: Counter[str], labelled: "Counter[PhonemisedWord]") -> None:
    """Words are counted by the thousand rows: most of them are the same few."""
    for word, count in pending.items():
        _count_word(stats, word, words[word], count)
    for said, count in labelled.items():
        _count_word(stats, said.text, _describe(said), count)
    pending.clear()
    labelled.clear()


def _count_word(stats: Stats, word: str, token: _Token, count: int) -> None:
    stats.kinds[token.kind] += count
    if token.kind == "syllable":
        stats.syllables[word] += count
    else:
        word = word[:LONGEST_WORD]
        stats.other_words.add(word, count)
        if token.kind in ("rule", "unknown"):
            stats.oov.add(word, count)
    for symbol in token.phonemes:
        stats.phonemes[symbol] += count


@cache
def _tone(syllable: str) -> int:
    return parse_syllable(syllable).tone
