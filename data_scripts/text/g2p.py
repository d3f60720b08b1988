"""Mixed Vietnamese-English text to phonemes.

A word inside a labelled span is said in the span's language. Elsewhere it is Vietnamese if it is a Vietnamese
syllable, else English. Hundreds of common words are both ("son", "long", "the"), so label English where you can.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate

from data_scripts.text.dialects import check_dialect, draw_habits, pronounce_in_dialect
from data_scripts.text.english import EnglishPronouncer, Variant
from data_scripts.text.normalize import AnySpan, as_spans, normalize_with_spans
from data_scripts.text.phonemes import SEPARATOR, UNKNOWN, check_register, syllable_to_phonemes
from data_scripts.text.syllables import NotASyllable, Syllable, all_syllables, parse_syllable

_MEMO_SIZE = 200_000
# Names and slips that keep a syllable's sound but not its spelling rules: "Kạn", "Đắk", "nghành".
_RESPELLINGS = (("ngh", "ng"), ("gh", "g"), ("k", "c"), ("c", "k"), ("ng", "ngh"), ("g", "gh"))


@dataclass(frozen=True, slots=True)
class PhonemisedWord:
    """A word as it was said. lang: "vi", "en", or None if unknown. source: "syllable", "respelled", a source of
    `english.Variant`, or "unknown" (then `phonemes` is `("<unk>",)`)."""

    text: str
    lang: str | None
    phonemes: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Phonemised:
    """An utterance's phonemes. `phonemes` joins those of `words` (with `$` between, if asked for); `unknown` lists
    the words nothing could be said for, each of which stands as `<unk>` in `phonemes`."""

    phonemes: list[str] = field(default_factory=list)
    words: list[PhonemisedWord] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the memo keeps of a word: the most probable pronunciation, and what others are drawn from."""

    word: PhonemisedWord
    syllable: Syllable | None = None
    others: tuple[PhonemisedWord, ...] = ()
    cumulative: tuple[float, ...] = ()


class G2P:
    """Phonemes of text in a register.

    Args:
        register: "full" (reversible) or "vmd" (the TSPC paper's).
        separator: put `$` between words.

    >>> G2P().phonemise("tea zoo play a", spans=[(0, 14, "en")]).phonemes
    ['t', 'i', '-0', 'z', 'u', '-0', 'p', 'l', 'ə', '-0', 'iz', 'ə', '-0', 'iz']

    Words are memoised. An instance is cheap to pickle: the memo stays behind.
    """

    def __init__(self, register: str = "full", separator: bool = False) -> None:
        self.register = check_register(register)
        self.separator = separator
        self._english = EnglishPronouncer(register)
        _syllable_table(register)  # now rather than within the first utterance
        self._memo: dict[str | None, dict[str, tuple[_Entry, ...]]] = {None: {}, "vi": {}, "en": {}}
        self._said: dict[tuple[Syllable, str, frozenset[str]], tuple[str, ...]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"register": self.register, "separator": self.separator}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def phonemise(
        self, text: str, spans: Iterable[AnySpan] = (), seed: int | None = None, dialect: str | None = None
    ) -> Phonemised:
        """Phonemes of a text, word by word.

        Args:
            text: normalised or not: case, punctuation, Unicode form and tone-mark style do not matter.
            spans: (start, end, lang) tuples or the row schema's dicts: characters of `text` in a known language. A
                word that a span touches anywhere is in its language.
            seed: None for the most probable variant of each English word; a number draws variants (and a speaker's
                dialect habits) by weight, the same ones for the same number in any process.
            dialect: None for labels and for the targets of training, always; "north", "central" or "south" for how
                a speaker from there says it, as input of phone-to-text training.

        Raises:
            SpanError: spans that do not fit the text. ValueError: another dialect.
        """
        rng = None if seed is None else random.Random(seed)
        habits = None if dialect is None else draw_habits(check_dialect(dialect), rng)
        result = Phonemised()
        words, phonemes = result.words, result.phonemes
        for entry in self._entries(text, spans):
            word = entry.word
            if rng is not None and entry.others:
                word = rng.choices(entry.others, cum_weights=entry.cumulative)[0]
            elif habits is not None and entry.syllable is not None:
                word = self._in_dialect(entry, dialect or "", habits)
            if self.separator and words:
                phonemes.append(SEPARATOR)
            words.append(word)
            phonemes += word.phonemes
            if word.lang is None:
                result.unknown.append(word.text)
        return result

    def _entries(self, text: str, spans: Iterable[AnySpan]) -> list[_Entry]:
        labels = as_spans(text, spans) if spans else []
        if not labels:
            memo = self._memo[None]
            return [
                entry
                for token in text.split()
                for entry in (memo[token] if token in memo else self._learn(token, None))
            ]
        entries: list[_Entry] = []
        for match in re.finditer(r"\S+", text):
            lang = next((s["lang"] for s in labels if s["start"] < match.end() and match.start() < s["end"]), None)
            known = self._memo[lang].get(match.group())
            entries += self._learn(match.group(), lang) if known is None else known
        return entries

    def _learn(self, token: str, lang: str | None) -> tuple[_Entry, ...]:
        """Entries of the words in a token, none for bare punctuation. Kept for the next time."""
        memo = self._memo[lang]
        if len(memo) >= _MEMO_SIZE:
            memo.clear()
        known = None if lang == "en" else _syllable_table(self.register).get(token)
        if known is not None:
            syllable, phonemes = known
            entries: tuple[_Entry, ...] = (_Entry(PhonemisedWord(token, "vi", phonemes, "syllable"), syllable),)
        else:
            label = [(0, len(token), lang)] if lang else []
            words = normalize_with_spans(token, label)[0].split()
            entries = tuple(self._entry(word, lang) for word in words)
        memo[token] = entries
        return entries

    def _entry(self, word: str, lang: str | None) -> _Entry:
        if lang != "en":
            syllable, source = _as_syllable(word)
            if syllable is not None and (source == "syllable" or not word.isascii()):
                phonemes = syllable_to_phonemes(syllable, self.register)
                return _Entry(PhonemisedWord(word, "vi", phonemes, source), syllable)
        variants = self._english.variants(word)
        if variants and (lang == "en" or word.isascii() or variants[0].source in ("cmudict", "lexicon")):
            return _english_entry(word, variants)
        return _Entry(PhonemisedWord(word, None, (UNKNOWN,), "unknown"))

    def _in_dialect(self, entry: _Entry, dialect: str, habits: frozenset[str]) -> PhonemisedWord:
        assert entry.syllable is not None
        key = (entry.syllable, dialect, habits)
        said = self._said.get(key)
        if said is None:
            if len(self._said) >= _MEMO_SIZE:
                self._said.clear()
            said = self._said[key] = pronounce_in_dialect(entry.syllable, dialect, habits, self.register)
        return PhonemisedWord(entry.word.text, "vi", said, entry.word.source)


def _english_entry(word: str, variants: tuple[Variant, ...]) -> _Entry:
    said = tuple(PhonemisedWord(word, "en", variant.phonemes, variant.source) for variant in variants)
    return _Entry(said[0], None, said, tuple(accumulate(variant.weight for variant in variants)))


@cache
def _syllable_table(register: str) -> dict[str, tuple[Syllable, tuple[str, ...]]]:
    """Spelling in either tone-mark style -> (syllable, phonemes): most of running text, without parsing."""
    table = {}
    for syllable in all_syllables():
        known = (syllable, syllable_to_phonemes(syllable, register))
        table[syllable.spell()] = table[syllable.spell("old")] = known
    return table


def _as_syllable(word: str) -> tuple[Syllable | None, str]:
    """(syllable, source): as written, or with a spelling rule mended; (None, "") if it is none."""
    candidates = [(word, "syllable")]
    mended = re.sub(r"k$", "c", word)
    for before, after in (("", ""), *_RESPELLINGS):
        if mended.startswith(before):
            candidates.append((after + mended[len(before) :], "respelled"))
    for candidate, source in candidates:
        try:
            return parse_syllable(candidate), source
        except NotASyllable:
            continue
    return None, ""
