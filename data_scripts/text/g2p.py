"""Mixed Vietnamese-English text to phonemes.

A word inside a labelled span is said in the span's language. Elsewhere it is Vietnamese if it is a Vietnamese
syllable, else English. Hundreds of common words are both ("son", "long", "the"), so label English where you can.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain

from data_scripts.spans import Span
from data_scripts.text.dialects import check_dialect, draw_habits, pronounce_in_dialect
from data_scripts.text.english import EnglishPronouncer, Variant, loan_phonemes, loan_syllable
from data_scripts.text.letters import VIETNAMESE_LETTER_NAMES
from data_scripts.text.normalize import AnySpan, as_spans, normalize_with_spans
from data_scripts.text.phonemes import SEPARATOR, UNKNOWN, check_register, full_to_vmd, syllable_to_phonemes
from data_scripts.text.syllables import NotASyllable, Syllable, all_syllables, is_syllable, parse_syllable

_MEMO_SIZE = 200_000
_LONGEST_LOANWORD = 24
# What only Vietnamese spelling has beside a to z: đ, circumflex, breve, horn, hook, dot. An acute accent is no proof.
_VIETNAMESE_LETTER = re.compile("[đ\u0302\u0306\u031b\u0309\u0323]")
# Names and slips that keep a syllable's sound but not its spelling rules: "Kạn", "Đắk", "nghành".
_RESPELLINGS = (("ngh", "ng"), ("gh", "g"), ("k", "c"), ("c", "k"), ("ng", "ngh"), ("g", "gh"))


@dataclass(frozen=True, slots=True)
class PhonemisedWord:
    """A word as it was said. lang: "vi", "en", or None if unknown. source: "syllable", "respelled", "split", a
    source of `english.Variant`, or "unknown" (then `phonemes` is `("<unk>",)`)."""

    text: str
    lang: str | None
    phonemes: tuple[str, ...]
    source: str


@dataclass(slots=True)
class Phonemised:
    """An utterance's phonemes. `phonemes` joins those of `words` (with `$` between, if asked for); `unknown` lists
    the words nothing could be said for, each of which stands as `<unk>` in `phonemes`."""

    phonemes: list[str]
    words: list[PhonemisedWord]
    unknown: list[str]


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
        known = _known_words(register)
        self._memo: dict[str | None, dict[str, tuple[_Entry, ...]]] = {
            None: known.copy(),
            "vi": known.copy(),
            "en": {},
        }
        self._symbols = {lang: _SymbolMemo(self, lang) for lang in self._memo}
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
        entries = self._entries(text, spans)
        if seed is None and dialect is None:
            words = [entry.word for entry in entries]
        else:
            words = self._draw(entries, seed, dialect)
        if self.separator:
            phonemes = [symbol for word in words for symbol in (*word.phonemes, SEPARATOR)][:-1]
        else:
            phonemes = [symbol for word in words for symbol in word.phonemes]
        return Phonemised(phonemes, words, [word.text for word in words if word.lang is None])

    def phonemise_batch(
        self, texts: Sequence[str], spans: Sequence[Iterable[AnySpan]] | None = None
    ) -> list[list[str]]:
        """The `.phonemes` of `phonemise(text, spans)` for each text, most probable variants, several times faster.

        Unknown words stand as `<unk>`; use `phonemise` to learn which they are. `spans`: one collection a text.
        """
        plain = self._symbols[None]
        if spans is None and not self.separator:
            say, known = plain.__getitem__, plain.get
            # A text of one known word, as in a word list, needs no splitting.
            return [
                [*word] if (word := known(text)) is not None else [*chain.from_iterable(map(say, text.split()))]
                for text in texts
            ]
        if spans is None:
            spans = [()] * len(texts)
        elif len(spans) != len(texts):
            raise ValueError(f"{len(spans)} collections of spans for {len(texts)} texts; give one for each text")
        glue = (SEPARATOR,) if self.separator else ()
        results = []
        for text, labels in zip(texts, spans, strict=True):
            if labels:
                tokens, languages = _label_tokens(text, as_spans(text, labels))
                said = [self._symbols[lang][token] for token, lang in zip(tokens, languages, strict=True)]
            else:
                said = map(plain.__getitem__, text.split())
            if glue:
                results.append(list(chain.from_iterable((*glue, *symbols) for symbols in said if symbols))[1:])
            else:
                results.append(list(chain.from_iterable(said)))
        return results

    def _draw(self, entries: list[_Entry], seed: int | None, dialect: str | None) -> list[PhonemisedWord]:
        """The words as one speaker says them: variants of English, habits of a dialect."""
        rng = None if seed is None else random.Random(seed)
        habits = None if dialect is None else draw_habits(check_dialect(dialect), rng)
        words = []
        for entry in entries:
            word = entry.word
            if rng is not None and entry.others:
                word = rng.choices(entry.others, cum_weights=entry.cumulative)[0]
            elif habits is not None and entry.syllable is not None:
                word = self._in_dialect(entry, dialect or "", habits)
            words.append(word)
        return words

    def _entries(self, text: str, spans: Iterable[AnySpan]) -> list[_Entry]:
        labels = as_spans(text, spans) if spans else []
        if not labels:
            tokens, memo = text.split(), self._memo[None]
            try:  # nearly always one entry a token, all known
                return [entry for token in tokens for entry in memo[token]]
            except KeyError:
                languages: list[str | None] = [None] * len(tokens)
        else:
            tokens, languages = _label_tokens(text, labels)
        entries: list[_Entry] = []
        for token, lang in zip(tokens, languages, strict=True):
            known = self._memo[lang].get(token)
            entries += self._learn(token, lang) if known is None else known
        return entries

    def _learn_symbols(self, token: str, lang: str | None) -> tuple[str, ...]:
        entries = self._memo[lang].get(token)
        words = [entry.word.phonemes for entry in (self._learn(token, lang) if entries is None else entries)]
        if self.separator:
            words = [symbols if i == 0 else (SEPARATOR, *symbols) for i, symbols in enumerate(words)]
        return tuple(chain.from_iterable(words))

    def _learn(self, token: str, lang: str | None) -> tuple[_Entry, ...]:
        """Entries of the words in a token, none for bare punctuation. Kept for the next time."""
        memo = self._memo[lang]
        if len(memo) >= _MEMO_SIZE:
            memo.clear()
            memo.update({} if lang == "en" else _known_words(self.register))
        if lang == "en" and token.isascii() and token.isalpha():
            words = [token.lower()]
        else:
            words = normalize_with_spans(token, [(0, len(token), lang)] if lang else [])[0].split()
        entries = memo[token] = tuple(self._entry(word, lang) for word in words)
        return entries

    def _entry(self, word: str, lang: str | None) -> _Entry:
        if lang != "en":
            syllable, source = _as_syllable(word)
            if syllable is not None and (source == "syllable" or not word.isascii()):
                phonemes = syllable_to_phonemes(syllable, self.register)
                return _Entry(PhonemisedWord(word, "vi", phonemes, source), syllable)
            spelled = _spell_loanword(word)
            if spelled is not None:
                phonemes, source = spelled
                phonemes = phonemes if self.register == "full" else tuple(full_to_vmd(phonemes))
                return _Entry(PhonemisedWord(word, "vi", phonemes, source))
        variants = self._english.variants(word)
        if variants and (lang == "en" or variants[0].source in ("cmudict", "lexicon") or not _is_vietnamese(word)):
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


class _SymbolMemo(dict[str, tuple[str, ...]]):
    """Token -> phonemes of its words, filled when a token is first asked for."""

    def __init__(self, g2p: G2P, lang: str | None) -> None:
        super().__init__({} if lang == "en" else _known_symbols(g2p.register))
        self._g2p, self._lang = g2p, lang

    def __missing__(self, token: str) -> tuple[str, ...]:
        if len(self) >= _MEMO_SIZE:
            self.clear()
        symbols = self[token] = self._g2p._learn_symbols(token, self._lang)
        return symbols


def _label_tokens(text: str, labels: Sequence[Span]) -> tuple[list[str], list[str | None]]:
    """(tokens between white space, language of the first of the sorted spans that touches each)."""
    tokens, languages = text.split(), []
    index, end = 0, 0
    for token in tokens:
        start = text.index(token, end)
        end = start + len(token)
        while index < len(labels) and labels[index]["end"] <= start:
            index += 1
        inside = index < len(labels) and labels[index]["start"] < end
        languages.append(labels[index]["lang"] if inside else None)
    return tokens, languages


def _english_entry(word: str, variants: tuple[Variant, ...]) -> _Entry:
    said = tuple(PhonemisedWord(word, "en", variant.phonemes, variant.source) for variant in variants)
    return _Entry(said[0], None, said, tuple(accumulate(variant.weight for variant in variants)))


@cache
def _known_words(register: str) -> dict[str, tuple[_Entry, ...]]:
    """Every syllable in either tone-mark style: most of running text needs no parsing. To be copied, not changed."""
    table = {}
    for syllable in all_syllables():
        text = syllable.spell()
        word = PhonemisedWord(text, "vi", syllable_to_phonemes(syllable, register), "syllable")
        table[text] = table[syllable.spell("old")] = (_Entry(word, syllable),)
    return table


def _is_vietnamese(word: str) -> bool:
    return not word.isascii() and _VIETNAMESE_LETTER.search(unicodedata.normalize("NFD", word)) is not None


def _spell_loanword(word: str) -> tuple[tuple[str, ...], str] | None:
    """(phonemes in `full`, source) of a word only Vietnamese letters make: "ôxi", "hiđrô", "vđv", "bảnlà"; or None."""
    if not _is_vietnamese(word) or len(word) > _LONGEST_LOANWORD:
        return None
    if re.fullmatch("[bcdđghklmnpqrstvx]+", word):
        names = " ".join(VIETNAMESE_LETTER_NAMES[letter] for letter in word)
        return loan_phonemes(names) or (), "letters"
    # (cost, pieces) of the best split of each beginning: few pieces, and syllables rather than clusters.
    best: list[tuple[int, tuple[str, ...]] | None] = [(0, ()), *[None] * len(word)]
    for end in range(1, len(word) + 1):
        for start in range(max(0, end - 8), end):
            before, piece = best[start], word[start:end]
            if before is None or not loan_syllable(piece):
                continue
            cost = before[0] + 4 + next((bare for bare in (0, 1) if is_syllable(piece[bare:])), 2)
            current = best[end]
            if current is None or cost < current[0]:
                best[end] = (cost, (*before[1], piece))
    whole = best[-1]
    if whole is None or len(whole[1]) < 2:
        return None
    return loan_phonemes("-".join(whole[1])) or (), "split"


@cache
def _known_symbols(register: str) -> dict[str, tuple[str, ...]]:
    return {text: entries[0].word.phonemes for text, entries in _known_words(register).items()}


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
