"""English sounds (ARPAbet) as Vietnamese syllables and bare consonants.

The mappings are majorities over word pairs of a loanword lexicon: onsets map one to one; the one coda a Vietnamese
syllable has goes to the first nasal or stop; l becomes n or a glide, r is silent after a vowel; a stop coda takes sắc,
anything else ngang. What does not fit is resolved by a style:

- `extended` (the paper's, Sec. 2.1): first members of a cluster stand bare, the coda is a Vietnamese one:
  play `p l ə -0 iz`, list `l i -4 tz`.
- `native`: clusters get a vowel, "pờ-lây"; tr is one sound.
- `english`: clusters and coda consonants stand bare and English-only onsets keep their sound:
  list `l i -4 tz s t`, yes `j ɛ -4 tz s`.

Output is always in the `full` register.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from data_scripts.text.phonemes import ENGLISH_SYMBOLS, ONSET_SYMBOLS, syllable_to_phonemes
from data_scripts.text.syllables import HUYEN, NGANG, SAC, STOPS, Syllable, is_legal

STYLES = ("extended", "native", "english")
_NASALS = {"M": "m", "N": "n", "NG": "ng"}
_STOPS = {"P": "p", "B": "p", "T": "t", "D": "t", "K": "c", "G": "c"}
_FRICATIVES = {"F": "p", "V": "p", **dict.fromkeys(("TH", "DH", "S", "Z", "SH", "ZH", "CH", "JH"), "t")}
_FRONT_VOWELS = frozenset({"IY", "IH", "EY", "EH"})
ONSET_LETTERS = {
    "P": "p", "B": "b", "T": "t", "D": "đ", "K": "c", "G": "g", "F": "ph", "V": "v", "TH": "th", "DH": "đ", "S": "x",
    "Z": "d", "SH": "s", "ZH": "gi", "CH": "ch", "JH": "gi", "HH": "h", "M": "m", "N": "n", "NG": "ng", "L": "l",
    "R": "r", "Y": "d", "W": "v",
}  # fmt: skip
_ENGLISH_ONSETS = {"G": "g", "TH": "θ", "DH": "ð", "ZH": "ʒ", "JH": "d͡ʒ", "Y": "j"}
assert set(_ENGLISH_ONSETS.values()) == set(ENGLISH_SYMBOLS)
# Second members of each first consonant, then whole clusters of three.
_CLUSTER_TABLE = {
    "P": "LRY", "B": "LRY", "T": "RWY", "D": "RWY", "K": "LRWY", "G": "LRWY", "F": "LRY", "V": "Y", "TH": "RW",
    "SH": "R", "S": "PTKMNLWF", "M": "Y", "N": "Y", "HH": "YW", "S P": "LRY", "S T": "R", "S K": "RWY",
}  # fmt: skip
_CLUSTERS = frozenset((*first.split(), last) for first, lasts in _CLUSTER_TABLE.items() for last in lasts)


class EnglishSyllable(NamedTuple):
    """ARPAbet onset and coda consonants round a vowel; `letters` are the vowel's letters where they are known."""

    onset: tuple[str, ...]
    vowel: str
    stressed: bool
    coda: tuple[str, ...]
    letters: str
    is_last: bool


def syllabify(phones: Sequence[str], word: str = "") -> list[EnglishSyllable]:
    """Syllables with the longest legal onsets. `phones`: ARPAbet with stress digits; no vowel gives `[]`."""
    places = [i for i, phone in enumerate(phones) if phone[-1] in "012"]
    letters = _vowel_letters(word, len(places))
    syllables = []
    onset = tuple(phones[: places[0]]) if places else ()
    for k, place in enumerate(places):
        end = places[k + 1] if k + 1 < len(places) else len(phones)
        between = tuple(phones[place + 1 : end])
        last = k + 1 == len(places)
        cut = len(between) if last else _onset_start(between)
        phone = phones[place]
        stressed = not phone.endswith("0")
        syllables.append(EnglishSyllable(onset, phone.rstrip("012"), stressed, between[:cut], letters[k], last))
        onset = between[cut:]
    return syllables


def _onset_start(consonants: tuple[str, ...]) -> int:
    """Where, in the consonants between two vowels, the next syllable's onset starts."""
    for start in range(len(consonants)):
        onset = consonants[start:]
        if onset == ("NG",):
            return start + 1
        if len(onset) == 1 or onset in _CLUSTERS:
            return start
    return len(consonants)


def _vowel_letters(word: str, count: int) -> list[str]:
    """The letters of each vowel, or "" each where letters and sounds do not pair off."""
    groups = re.findall(r"[aeiou]+y?|(?<!^)y", word)
    if len(groups) == count + 1 and re.search(r"[^aeiou]e[sd]?$", word):
        groups.pop()
    return groups if len(groups) == count else [""] * count


def realise(syllables: Sequence[EnglishSyllable], style: str, *, alternative: bool = False) -> tuple[str, ...]:
    """Phonemes (`full`) of English syllables in a style of `STYLES`.

    `alternative` takes the second choice for the first stressed vowel: "đêt" for "đây" in date.
    """
    if style not in STYLES:
        raise ValueError(f"style={style!r}: choose one of {', '.join(STYLES)}")
    chosen = next((s for s in syllables if s.stressed), syllables[0] if syllables else None)
    out: list[str] = []
    for syllable in syllables:
        out += _realise_one(syllable, style, alternative and syllable is chosen)
    return tuple(out)


@lru_cache(maxsize=1 << 17)  # an English text has some 15,000 different syllables
def _realise_one(syllable: EnglishSyllable, style: str, alternative: bool) -> tuple[str, ...]:
    out: list[str] = []
    onset = list(syllable.onset)
    has_w = bool(onset) and onset[-1] == "W"
    has_y = len(onset) > 1 and onset[-1] == "Y"
    if has_w or has_y:
        onset.pop()
    if has_w and onset == ["HH"]:
        onset = []
    head = onset.pop() if onset else ""
    if style == "native" and head == "R" and onset and onset[-1] == "T":
        onset.pop()
        head = "TR"
    for consonant in onset:
        if style == "native":
            out += syllable_to_phonemes(Syllable(ONSET_LETTERS[consonant], "", "ơ", "", HUYEN))
        else:
            out.append(_bare(consonant, style))
    nucleus, glide = _vowel(syllable, alternative, has_w, has_y)
    coda, bare_from, tone = _coda(syllable, nucleus, glide)
    if style == "english" and coda != glide and syllable.coda[:1] == ("L",):
        # The l itself is said, so nothing stands for it.
        coda, bare_from = "", 0
    out += _syllable(head, "w" if has_w else "", nucleus, coda, tone, style)
    if style == "english":
        out += [_bare(consonant, style) for consonant in syllable.coda[bare_from:] if consonant != "R"]
    return tuple(out)


def _bare(consonant: str, style: str) -> str:
    if style == "english" and consonant in _ENGLISH_ONSETS:
        return _ENGLISH_ONSETS[consonant]
    return ONSET_SYMBOLS[ONSET_LETTERS[consonant]]


@cache
def _syllable(head: str, medial: str, nucleus: str, coda: str, tone: int, style: str) -> tuple[str, ...]:
    """Phonemes of the nearest legal syllable: the coda goes first, then the medial, then the nucleus."""
    english = _ENGLISH_ONSETS.get(head, "") if style == "english" else ""
    onset = "" if english else "tr" if head == "TR" else ONSET_LETTERS.get(head, "")
    onsets = (onset, "d") if onset == "gi" else (onset,)
    for m, n, c in (
        (medial, nucleus, coda),
        (medial, _CLOSED.get(nucleus, nucleus), coda),
        ("", nucleus, coda),
        ("", _CLOSED.get(nucleus, nucleus), coda),
        (medial, _OPEN.get(nucleus, nucleus), ""),
        ("", _OPEN.get(nucleus, nucleus), ""),
    ):
        c = _fit_coda(n, c)
        t = SAC if c in STOPS else NGANG if tone == SAC else tone
        for o in onsets:
            legal = Syllable(o, m, n, c, t)
            if is_legal(legal):
                symbols = syllable_to_phonemes(legal)
                return (english, *symbols) if english else symbols
    raise AssertionError(f"no legal syllable for {head} {medial} {nucleus} {coda}: the fallbacks do not cover it")


_OPEN = {"ă": "a", "â": "ơ", "oo": "o"}
_CLOSED = {"ơ": "â", "ư": "ơ"}


def _fit_coda(nucleus: str, coda: str) -> str:
    """c and ng are palatal after i and ê: "míc" is "mích", "tinh" not "ting"."""
    if nucleus in ("i", "ê"):
        return {"c": "ch", "ng": "nh"}.get(coda, coda)
    return coda


def _coda(syllable: EnglishSyllable, nucleus: str, glide: str) -> tuple[str, int, int]:
    """(Vietnamese coda, index from which English coda consonants remain to be said bare, tone)."""
    coda = syllable.coda
    sounded = [i for i, consonant in enumerate(coda) if consonant not in ("R", "W", "Y", "HH")]
    if glide or not sounded:
        # After the w of "mêu" (mail) the l has been said.
        said = 1 if glide == "w" and coda[:1] == ("L",) and syllable.vowel in _FRONT_VOWELS else 0
        return glide, said, NGANG
    weak = syllable.vowel == "AH" and not syllable.stressed
    first = sounded[0]
    consonant = coda[first]
    if consonant in _NASALS:
        return _NASALS[consonant], first + 1, HUYEN if weak and consonant != "NG" else NGANG
    if consonant == "L":
        return ("" if weak and nucleus == "ô" else "n"), first + 1, HUYEN if weak else NGANG
    if consonant in ("F", "V"):
        return "p", first, SAC
    stop = next((i for i in sounded if coda[i] in _STOPS), None)
    if stop is not None:
        return _STOPS[coda[stop]], first if stop > first else first + 1, SAC
    if consonant == "Z" and syllable.vowel not in ("IH", "AH", "AE", "EH"):
        return "", first, NGANG
    return _FRICATIVES[consonant], first, SAC


def _vowel(syllable: EnglishSyllable, alternative: bool, has_w: bool, has_y: bool) -> tuple[str, str]:
    """(nucleus, glide) of the English vowel in its surroundings."""
    choices = _vowel_choices(syllable, has_w, has_y)
    return choices[1] if alternative and len(choices) > 1 else choices[0]


def _vowel_choices(syllable: EnglishSyllable, has_w: bool, has_y: bool) -> list[tuple[str, str]]:
    vowel, coda, letters = syllable.vowel, syllable.coda, syllable.letters
    sounded = tuple(consonant for consonant in coda if consonant != "R")
    closed, before_l, rhotic = bool(sounded), sounded[:1] == ("L",), coda[:1] == ("R",)
    velar = sounded[:1] in (("K",), ("G",), ("NG",))
    match vowel:
        case "AA" if rhotic or has_w or ("a" in letters and "o" not in letters):
            return [("a", ""), ("o", "")]
        case "AA":
            return [("ô", ""), ("o", "")]
        case "AE":
            return [("ă" if velar else "a", ""), ("e", "")]
        case "AH" if syllable.stressed:
            return [("ă", ""), ("â", "")] if closed else [("a", ""), ("ơ", "")]
        case "AH":
            return _schwa(syllable, sounded)
        case "AO" if has_w:
            return [("a", ""), ("ơ", "")]
        case "AO":
            return [("ô", ""), ("o", "")] if closed and not rhotic and "o" in letters else [("o", ""), ("ô", "")]
        case "AW":
            return [("a", "w"), ("ă", "w")]
        case "AY":
            return [("a", "j"), ("â", "j")]
        case "EH" if before_l:
            return [("e", "w"), ("e", "")]
        case "EH":
            return [("ê", ""), ("e", "")] if sounded[:1] == ("K",) else [("e", ""), ("ê", "")]
        case "ER":
            return [("ơ", ""), ("e", "")] if closed else [("ơ", "")]
        case "EY" if before_l:
            return [("ê", "w"), ("â", "j")]
        case "EY":
            return [("ê", ""), ("â", "j")] if closed else [("â", "j"), ("ê", "")]
        case "IY" | "IH" if before_l:
            return [("iê", "w"), ("i", "w")] if vowel == "IY" else [("i", "w"), ("iê", "w")]
        case "IH":
            return [("i", ""), ("ê", "")]
        case "IY":
            return [("i", "")]
        case "OW":
            return [("ô", ""), ("â", "w")]
        case "OY":
            return [("ô", "j"), ("o", "j")]
        case "UW" if has_y:
            return [("i", "w"), ("u", "")]
        case _:
            return [("u", ""), ("uô", "")] if closed else [("u", "")]


def _schwa(syllable: EnglishSyllable, sounded: tuple[str, ...]) -> list[tuple[str, str]]:
    """The unstressed vowel: by what follows, with its letter as the second choice."""
    if sounded[:1] == ("L",):
        return [("ô", ""), ("â", "")] if syllable.letters[:1] in ("e", "o", "") else [("â", ""), ("ô", "")]
    if sounded[:1] in (("N",), ("M",)):
        return [("u" if syllable.letters == "u" and sounded[0] == "M" else "â", ""), ("ơ", "")]
    if not sounded and syllable.is_last:
        return [("a", ""), ("ơ", "")]
    spelled = {"a": "a", "e": "ê", "i": "i", "o": "ô", "u": "u"}.get(syllable.letters[:1], "a")
    return [("ơ", ""), (spelled, "")]
