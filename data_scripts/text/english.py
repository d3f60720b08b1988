"""How an English word sounds in Vietnamese speech: weighted variants from dictionaries first, rules for the rest.

Sources, in order: CMUdict (American English sounds), its inflections and compounds ("meetings", "smartphone"),
letter names for acronyms, spelling rules; beside them a lexicon of Vietnamese spellings ("phây-búc" for facebook).
Each sound sequence is realised in the styles of `arpabet.STYLES` with a second choice for the stressed vowel, so that
one word has several pronunciations (Sec. 3.1 of the TSPC paper: "each English word is matched with various syllable
variants").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

from data_scripts.text.arpabet import ONSET_LETTERS, realise, syllabify
from data_scripts.text.letters import VIETNAMESE_LETTER_NAMES, fold, letters_to_sounds, looks_like_acronym, spell_out
from data_scripts.text.phonemes import ONSET_SYMBOLS, check_register, full_to_vmd, syllable_to_phonemes
from data_scripts.text.syllables import NotASyllable, parse_syllable

MAX_VARIANTS = 6
_APOSTROPHE_S = re.compile(r"'s?$")
# Words whose first dictionary entry is not how they are said alone; "a" is the paper's own example.
_PREFERRED = {"a": ("EY1",)}
# (style, second vowel choice) -> weight, for the first dictionary pronunciation.
_STYLE_WEIGHTS = {
    ("extended", False): 0.45,
    ("native", False): 0.20,
    ("english", False): 0.20,
    ("extended", True): 0.15,
}
_LEXICON_WEIGHT = 0.6
_SECOND_PRONUNCIATION_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Variant:
    """One pronunciation. `weight`: its share among the word's variants, which sum to 1.

    source: "cmudict", "inflection", "compound", "lexicon", "rules" or "letters".
    """

    phonemes: tuple[str, ...]
    weight: float
    source: str


class EnglishPronouncer:
    """Pronunciation variants of English words in a phoneme register.

    >>> EnglishPronouncer().variants("play")[0].phonemes
    ('p', 'l', 'ə', '-0', 'iz')
    """

    def __init__(self, register: str = "full", max_variants: int = MAX_VARIANTS) -> None:
        if max_variants < 1:
            raise ValueError(f"max_variants={max_variants}: a word needs at least one pronunciation")
        self.register = check_register(register)
        self.max_variants = max_variants
        self._memo: dict[str, tuple[Variant, ...]] = {}

    def variants(self, word: str) -> tuple[Variant, ...]:
        """The word's variants, most probable first; `()` where no letter of it is Latin (digits, other scripts).

        Any case; accents fold ("café"). Every word of letters a to z has at least one variant.
        """
        found = self._memo.get(word)
        if found is None:
            found = self._memo[word] = self._make(fold(word))
        return found

    def _make(self, word: str) -> tuple[Variant, ...]:
        if not re.fullmatch(r"[a-z']*[a-z][a-z']*", word):
            return ()
        weights: dict[tuple[str, ...], float] = {}
        sources: dict[tuple[str, ...], str] = {}
        for phonemes, weight, source in _weighted(word):
            if self.register == "vmd":
                phonemes = tuple(full_to_vmd(phonemes))
            weights[phonemes] = weights.get(phonemes, 0.0) + weight
            sources.setdefault(phonemes, source)
        best = sorted(weights, key=weights.__getitem__, reverse=True)[: self.max_variants]
        total = sum(weights[phonemes] for phonemes in best)
        return tuple(Variant(phonemes, weights[phonemes] / total, sources[phonemes]) for phonemes in best)


def _weighted(word: str) -> list[tuple[tuple[str, ...], float, str]]:
    """(phonemes in `full`, unnormalised weight, source) of each way to say an a-z word; may repeat phonemes."""
    pronunciations, source = pronounce(word)
    lexical = _lexicon_phonemes(word)
    first = syllabify(pronunciations[0], word)
    found = [
        (realise(first, style, alternative=alternative), weight, source)
        for (style, alternative), weight in _STYLE_WEIGHTS.items()
    ]
    found += [
        (realise(syllabify(other, word), "extended"), _SECOND_PRONUNCIATION_WEIGHT, source)
        for other in pronunciations[1:]
    ]
    if source == "letters":
        names = " ".join(VIETNAMESE_LETTER_NAMES[letter] for letter in word if letter in VIETNAMESE_LETTER_NAMES)
        found.append((loan_phonemes(names) or (), 0.3, source))
    if lexical:
        # Where only rules or a guessed split know the word, its entry in the lexicon is the better evidence by far.
        weight = _LEXICON_WEIGHT if source in ("cmudict", "inflection") else 4 * _LEXICON_WEIGHT
        found.append((lexical, weight, "lexicon"))
    return [item for item in found if item[0]]


def pronounce(word: str) -> tuple[list[list[str]], str]:
    """(ARPAbet pronunciations, source) of an a-z word; at least one, each with at least one vowel."""
    found = _look_up(word, cmudict())
    if found is not None:
        return found
    compound = _compound(word)
    if compound is not None:
        return [compound], "compound"
    letters = word.replace("'", "")
    if looks_like_acronym(letters):
        return [spell_out(letters)], "letters"
    return [letters_to_sounds(letters)], "rules"


def _look_up(word: str, table: dict[str, str]) -> tuple[list[list[str]], str] | None:
    entry = table.get(word)
    if entry is not None:
        pronunciations = [phones.split(" ") for phones in entry.split("|")]
        if word in _PREFERRED:
            pronunciations.insert(0, list(_PREFERRED[word]))
        return [p for i, p in enumerate(pronunciations) if p not in pronunciations[:i]], "cmudict"
    inflected = inflect(word, table)
    return None if inflected is None else ([inflected], "inflection")


def inflect(word: str, table: dict[str, str]) -> list[str] | None:
    """ARPAbet of a regular inflection (-s, -'s, -ed, -ing, -ly) of a word in the table, or None."""
    for ending, stems in _stems(word):
        for stem in stems:
            entry = table.get(stem)
            if entry is not None:
                phones = entry.split("|")[0].split(" ")
                return phones + _ending_phones(ending, phones[-1])
    return None


def _stems(word: str) -> list[tuple[str, list[str]]]:
    """(ending, stems the word may come from, likeliest first)."""
    found = []
    if _APOSTROPHE_S.search(word):
        found.append(("s", [_APOSTROPHE_S.sub("", word)]))
    elif word.endswith("s") and not word.endswith("ss"):
        stems = [word[:-1]]
        if word.endswith("ies"):
            stems = [word[:-3] + "y", word[:-1]]
        elif word.endswith("es"):
            stems = [word[:-1], word[:-2]]
        found.append(("s", stems))
    for ending in ("ed", "ing"):
        base = word.removesuffix(ending)
        if base != word and len(base) > 2:
            stems = [base + "e", base] if ending == "ed" else [base, base + "e"]
            if len(base) > 3 and base[-1] == base[-2]:
                stems.append(base[:-1])
            if ending == "ed" and base.endswith("i"):
                stems.insert(0, base[:-1] + "y")
            found.append((ending, stems))
    if word.endswith("ly"):
        found.append(("ly", [word[:-2]]))
    return found


def _ending_phones(ending: str, last: str) -> list[str]:
    if ending == "ing":
        return ["IH0", "NG"]
    if ending == "ly":
        return ["IY0"] if last == "L" else ["L", "IY0"]
    if ending == "ed":
        if last in ("T", "D"):
            return ["AH0", "D"]
        return ["T"] if last in ("P", "K", "F", "TH", "S", "SH", "CH") else ["D"]
    if last in ("S", "Z", "SH", "ZH", "CH", "JH"):
        return ["AH0", "Z"]
    return ["S"] if last in ("P", "T", "K", "F", "TH") else ["Z"]


def _compound(word: str) -> list[str] | None:
    """Two dictionary words written as one ("smartphone"), the more even split first, or a word and an acronym."""
    table = cmudict()
    places = sorted(range(3, len(word) - 2), key=lambda place: abs(2 * place - len(word)))
    for place in places:
        first, second = table.get(word[:place]), _look_up(word[place:], table)
        if first is not None and second is not None:
            return first.split("|")[0].split(" ") + second[0][0]
    acronym = re.search(r"[^aeiouy]{2,4}$", word)
    for place in range(acronym.start(), len(word) - 1) if acronym else ():  # "chatgpt" is chat + g p t
        head = table.get(word[:place])
        if head is not None and place > 2:
            return head.split("|")[0].split(" ") + spell_out(word[place:])
    return None


@cache
def cmudict() -> dict[str, str]:
    """Word -> "PH PH1|PH PH0": CMUdict without the inflections that `inflect` gives back."""
    return _read_tsv("cmudict.tsv")


@cache
def lexicon() -> dict[str, str]:
    """Word -> its Vietnamese spelling, syllables joined with hyphens."""
    return _read_tsv("english_vietnamese.tsv")


def _read_tsv(name: str) -> dict[str, str]:
    text = (files("data_scripts.text") / "resources" / name).read_text(encoding="utf-8")
    lines = (line for line in text.split("\n") if line and not line.startswith("#"))
    return dict(line.split("\t", 1) for line in lines)


def _lexicon_phonemes(word: str) -> tuple[str, ...] | None:
    spelled = lexicon().get(word)
    return None if spelled is None else loan_phonemes(spelled)


def loan_phonemes(spelled: str) -> tuple[str, ...] | None:
    """Phonemes of Vietnamese-style spelling; a syllable may start with letters it cannot hold ("xta", "plây")."""
    out: list[str] = []
    for part in re.split(r"[-\s]+", spelled):
        symbols = loan_syllable(part)
        if symbols is None:
            return None
        out += symbols
    return tuple(out)


_FOREIGN_ONSETS = {"f": "ph", "z": "d", "j": "gi", "w": "o"}
_CLUSTER_LETTERS = {letters: ONSET_SYMBOLS[letters] for letters in {*ONSET_LETTERS.values(), "s"}} | {
    "k": "k", "f": "f", "z": "z", "j": "ʑ", "ng": "ŋ", "d": "ɗ", "w": "v",
}  # fmt: skip


@lru_cache(maxsize=1 << 14)
def _syllable_symbols(text: str) -> tuple[str, ...] | None:
    try:
        return syllable_to_phonemes(parse_syllable(text))
    except NotASyllable:
        return None


def loan_syllable(part: str) -> Sequence[str] | None:
    """Symbols of a syllable with at most two bare consonants before it and foreign onset letters, or None."""
    for cut in range(min(3, len(part))):
        bare, rest = part[:cut], part[cut:]
        if any(letter not in _CLUSTER_LETTERS for letter in bare):
            return None
        if bare and rest.startswith("r") and bare.endswith(("ch", "kh")):
            return None
        respelled = [rest]
        if rest[:1] in _FOREIGN_ONSETS:
            respelled.append(_FOREIGN_ONSETS[rest[0]] + rest[1:])
        elif rest[:1] in ("c", "k", "g"):
            respelled.append({"c": "k", "k": "c", "g": "gh"}[rest[0]] + rest[1:])
        for candidate in respelled:
            symbols = _syllable_symbols(candidate)
            if symbols is None:
                continue
            if cut and symbols[0] == "ʈʂ":  # "xtrít" has the cluster x-t-r, as in the paper's notation
                symbols = ("t", "r", *symbols[1:])
            return [*(_CLUSTER_LETTERS[letter] for letter in bare), *symbols]
    return None
