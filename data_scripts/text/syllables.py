"""The Vietnamese syllable: spelling to parts and back, without loss.

A syllable is (onset) (medial w) nucleus (coda) + tone. The parts are named by their letters, one name for each
contrast the spelling makes, so that `parse_syllable(s.spell()) == s` for each of the 19,988 syllables of the grammar:

- onset: `""`, b c ch d đ g gi h kh l m n ng nh p ph r s t th tr v x. Letters that only depend on what follows share
  a name: k and q are `c`, gh is `g`, ngh is `ng` ("quê", homeland, is `c` + `w` + `ê`).
- medial: `""` or `w` (written u or o: "hoa", flower; "thuê", to rent).
- nucleus: a ă â e ê i o oo ô ơ u ư iê uô ươ (ia, ya, yê are `iê`; ua is `uô`; ưa is `ươ`).
- coda: `""`, p t c ch m n ng nh, and the glides `j` (i, y) and `w` (u, o).
- tone: 0 ngang, 1 huyền, 2 ngã, 3 hỏi, 4 sắc, 5 nặng. Syllables ending in p t c ch bear only 4 or 5.

Unicode: any input form will do (composed, decomposed, cp1258's half-composed "â" + U+0301, the deprecated U+0340 and
U+0341, and the Icelandic ð that some keyboards give for đ). The letter that carries the tone mark does not matter
("hòa", "hoà" and the misplaced "họat" all parse), nor does i or y where they are read alike ("lí", "lý").
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

NGANG, HUYEN, NGA, HOI, SAC, NANG = range(6)
_TONE_OF_MARK = {"\u0300": HUYEN, "\u0303": NGA, "\u0309": HOI, "\u0301": SAC, "\u0323": NANG}
_MARK_OF_TONE = {tone: mark for mark, tone in _TONE_OF_MARK.items()}
# NFC turns U+0340 and U+0341 into U+0300 and U+0301 itself, but only NFC: they are repaired with the eths.
_LETTER_REPAIRS = str.maketrans({"ð": "đ", "\u0340": "\u0300", "\u0341": "\u0301"})

ONSETS = (
    "", "b", "c", "ch", "d", "đ", "g", "gi", "h", "kh", "l", "m", "n", "ng", "nh", "p", "ph", "r", "s", "t", "th",
    "tr", "v", "x",
)  # fmt: skip
NUCLEI = ("a", "ă", "â", "e", "ê", "i", "o", "oo", "ô", "ơ", "u", "ư", "iê", "uô", "ươ")
CODAS = ("", "p", "t", "c", "ch", "m", "n", "ng", "nh", "j", "w")
STOPS = frozenset({"p", "t", "c", "ch"})
_FRONT = frozenset({"e", "ê", "i", "iê"})
_VOWEL_LETTERS = frozenset("aăâeêioôơuưy")

# Which codas each nucleus takes, without and with the medial w.
_PLAIN = "c m n ng p t"
_WITH_PALATALS = "c ch m n ng nh p t"
_RIMES_PLAIN = {
    "a": f" {_WITH_PALATALS} j w", "ă": f"{_PLAIN} j w", "â": f"{_PLAIN} j w", "e": f" {_PLAIN} w",
    "ê": f" {_WITH_PALATALS} w", "i": f" {_WITH_PALATALS} w", "o": f" {_PLAIN} j", "oo": "c ng", "ô": f" {_PLAIN} j",
    "ơ": f" {_PLAIN} j", "u": f" {_PLAIN} j", "ư": f" {_PLAIN} j w", "iê": f" {_PLAIN} w", "uô": f" {_PLAIN} j",
    "ươ": f" {_PLAIN} j w",
}  # fmt: skip
_RIMES_WITH_MEDIAL = {
    "a": f" {_WITH_PALATALS} j w", "ă": f"{_PLAIN} j w", "e": f" {_PLAIN} w", "â": f"{_PLAIN} j",
    "ê": " ch m n nh p t w", "ơ": " m n p t j", "i": " ch m n nh p t w", "iê": f" {_PLAIN}",
}  # fmt: skip
# Open í and ì are written y or i by custom, onset by onset: the majority in 16 M words of running text.
_WRITTEN_Y = frozenset(
    {("", NGANG), ("", SAC), ("m", NGA), ("h", NGANG), ("h", HOI)}
    | {("c", tone) for tone in range(6) if tone != NGANG}
    | {("t", NGANG), ("t", HOI), ("t", HUYEN), ("l", NGANG), ("l", SAC), ("l", NANG)}
)


class NotASyllable(ValueError):
    """The text is not one Vietnamese syllable."""


@dataclass(frozen=True, slots=True)
class Syllable:
    """One syllable by its parts (see the module's docstring for what each may hold)."""

    onset: str
    medial: str
    nucleus: str
    coda: str
    tone: int

    def spell(self, tone_style: str = "new") -> str:
        """The spelling, lower-case NFC. `tone_style`: "new" ("hoà", "thuý") or "old" ("hòa", "thúy").

        The styles differ only where the medial w precedes an open a, e or i, and not after qu.
        """
        if tone_style not in ("new", "old"):
            raise ValueError(f"tone_style={tone_style!r}: choose 'new' (hoà, thuý) or 'old' (hòa, thúy)")
        if not is_legal(self):
            raise NotASyllable(f"{self!r} is outside the grammar of Vietnamese syllables; see all_syllables()")
        onset, body = _letters(self)
        if self.tone == NGANG:
            return onset + body
        place = _mark_place(self, onset, body, tone_style)
        marked = unicodedata.normalize("NFC", body[place] + _MARK_OF_TONE[self.tone])
        return onset + body[:place] + marked + body[place + 1 :]


def _letters(syllable: Syllable) -> tuple[str, str]:
    """(onset letters, toneless rime letters) of a legal syllable."""
    onset, medial, nucleus, coda = syllable.onset, syllable.medial, syllable.nucleus, syllable.coda
    body = _SPELLING_OF_RIME[medial, nucleus, coda]
    if medial and onset == "c":
        return "qu", body[1:]
    if not medial and nucleus in _FRONT and onset in ("c", "g", "ng"):
        onset = {"c": "k", "g": "gh", "ng": "ngh"}[onset]
    if onset == "gi" and nucleus in ("i", "iê") and not medial:
        onset = "g"
    if not onset and nucleus == "iê" and not medial and coda:
        body = "y" + body[1:]
    if body == "i" and (syllable.onset, syllable.tone) in _WRITTEN_Y:
        body = "y"
    return onset, body


def _mark_place(syllable: Syllable, onset: str, body: str, tone_style: str) -> int:
    """Index of the letter of `body` that carries the tone mark."""
    glide = 1 if syllable.medial and onset != "qu" else 0
    if syllable.nucleus in ("iê", "uô", "ươ"):
        return glide + (1 if syllable.coda else 0)
    if syllable.nucleus == "oo":
        return 1
    if glide and tone_style == "old" and not syllable.coda and syllable.nucleus in ("a", "e", "i"):
        return 0
    return glide


def _spell_rime(medial: str, nucleus: str, coda: str) -> str:
    """Toneless letters of a rime after an ordinary onset."""
    letters = nucleus
    tail = coda
    if nucleus in ("iê", "uô", "ươ") and not coda:
        letters = {"iê": "ia", "uô": "ua", "ươ": "ưa"}[nucleus]
    if coda == "j":
        tail = "y" if nucleus in ("ă", "â") else "i"
        letters = "a" if nucleus == "ă" else letters
    elif coda == "w":
        tail = "o" if nucleus in ("a", "e") else "u"
        letters = "a" if nucleus == "ă" else letters
    if not medial:
        return letters + tail
    if nucleus in ("i", "iê"):
        letters = "y" + letters[1:]
    # "oa, oă, oe" but "uâ, uê, uơ, uy".
    return ("o" if nucleus in ("a", "ă", "e") else "u") + letters + tail


def _build_rimes() -> dict[tuple[str, str, str], str]:
    rimes = {}
    for medial, table in (("", _RIMES_PLAIN), ("w", _RIMES_WITH_MEDIAL)):
        for nucleus, codas in table.items():
            for coda in codas.split(" "):
                rimes[medial, nucleus, coda] = _spell_rime(medial, nucleus, coda)
    # One word only, but a common one: "quốc" (nation), spelled unlike its homophone "cuốc" (hoe).
    rimes["w", "ô", "c"] = "uôc"
    return rimes


_SPELLING_OF_RIME = _build_rimes()
_QUOC = ("w", "ô", "c")
_RIME_OF_SPELLING = {letters: rime for rime, letters in _SPELLING_OF_RIME.items() if rime != _QUOC}
_ONSET_LETTERS = ("ngh", "ng", "nh", "gh", "kh", "ph", "th", "tr", "ch", *"bcdđghklmnprstvx")


def is_legal(syllable: Syllable) -> bool:
    """Whether the parts make one of the 19,988 syllables."""
    onset, medial, nucleus, coda = syllable.onset, syllable.medial, syllable.nucleus, syllable.coda
    rime = (medial, nucleus, coda)
    if onset not in _ONSET_SET or rime not in _SPELLING_OF_RIME or syllable.tone not in range(6):
        return False
    if coda in STOPS and syllable.tone not in (SAC, NANG):
        return False
    if rime == _QUOC:
        return onset == "c"
    if onset == "gi":
        # gi swallows an i, so these would be spelled like another syllable ("giêng" is gi + iê, "giu" is gi + u).
        if nucleus == "i":
            return not medial and coda != "w"
        if nucleus == "ê" and not medial:
            return coda in ("", "ch", "nh")
        return (nucleus, coda, medial) != ("iê", "", "")
    return True


_ONSET_SET = frozenset(ONSETS)


def split_tone(text: str) -> tuple[str, int]:
    """(toneless NFC lower-case letters, tone) of a syllable-sized text.

    Raises `NotASyllable` for two tone marks or a tone mark on a letter that is not a Vietnamese vowel ("ñu").
    """
    decomposed = unicodedata.normalize("NFD", text.strip().lower().translate(_LETTER_REPAIRS))
    tone = NGANG
    kept = []
    vowel = False
    for char in decomposed:
        if char in _TONE_OF_MARK:
            if tone != NGANG:
                raise NotASyllable(f"{text!r} has two tone marks; a syllable has at most one")
            if not vowel:
                raise NotASyllable(f"{text!r} has a tone mark on a consonant; tone marks stand on vowels")
            tone = _TONE_OF_MARK[char]
        else:
            if not unicodedata.combining(char):
                vowel = char in _VOWEL_LETTERS
            kept.append(char)
    return unicodedata.normalize("NFC", "".join(kept)), tone


def parse_syllable(text: str) -> Syllable:
    """The parts of one written syllable, in any Unicode form, case and tone-mark style.

    Raises `NotASyllable` (a `ValueError`) when the text is not a syllable of the grammar: foreign words, digits,
    several words, a stop coda without sắc or nặng.
    """
    letters, tone = split_tone(text)
    parts = _parse_letters(letters)
    if parts is None:
        raise NotASyllable(
            f"{text!r} is not a Vietnamese syllable: no onset and rime of the grammar spell {letters!r}"
        )
    syllable = Syllable(*parts, tone)
    if not is_legal(syllable):
        why = "p, t, c and ch codas bear only sắc or nặng" if syllable.coda in STOPS else "no such cell in the grammar"
        raise NotASyllable(f"{text!r} is not a Vietnamese syllable: {why}")
    return syllable


def is_syllable(text: str) -> bool:
    """Whether the text is one syllable of the grammar, in any Unicode form, case and tone-mark style."""
    try:
        parse_syllable(text)
    except NotASyllable:
        return False
    return True


def _parse_letters(letters: str) -> tuple[str, str, str, str] | None:
    """(onset, medial, nucleus, coda) of toneless letters, or None."""
    if letters.startswith("qu"):
        return _parse_after_qu(letters[2:])
    if letters.startswith("gi"):
        return _parse_after_gi(letters[2:])
    onset = next((o for o in _ONSET_LETTERS if letters.startswith(o)), "")
    rest = letters[len(onset) :]
    if not rest:
        return None
    front = rest[0] in "eêiy"
    if (onset in ("k", "gh", "ngh") and not front) or (onset in ("c", "g", "ng") and front):
        return None
    onset = {"k": "c", "gh": "g", "ngh": "ng"}.get(onset, onset)
    if rest == "y":
        rest = "i"
    elif not onset and rest.startswith("yê"):
        rest = "i" + rest[1:]
    elif not onset and rest.startswith("iê"):
        return None
    rime = _RIME_OF_SPELLING.get(rest)
    # /kw/ is always written qu: "coa" and "cuy" are not Vietnamese.
    if rime is None or (rime[0] and onset == "c"):
        return None
    return (onset, *rime)


def _parse_after_qu(rest: str) -> tuple[str, str, str, str] | None:
    if rest == "ôc":
        return ("c", *_QUOC)
    if not rest:
        return None
    if rest[0] in "aăe":
        rest = "o" + rest
    elif rest[0] == "i" and rest[:2] != "iê":
        rest = "uy" + rest[1:]  # qui, quít: variants of quy, quýt
    else:
        rest = "u" + rest
    rime = _RIME_OF_SPELLING.get(rest)
    return ("c", *rime) if rime is not None and rime[0] else None


def _parse_after_gi(rest: str) -> tuple[str, str, str, str] | None:
    if not rest:
        return "gi", "", "i", ""
    with_i = _RIME_OF_SPELLING.get("i" + rest)
    # "giếng" is gi + iê, "gìn" is gi + i; but "giu" is gi + u and "gia" is gi + a.
    if with_i is not None and (rest[0] == "ê" or rest[0] in "cmnpt"):
        return ("gi", *with_i)
    rime = _RIME_OF_SPELLING.get(rest)
    return ("gi", *rime) if rime is not None else None


def all_syllables() -> Iterator[Syllable]:
    """Every syllable of the grammar, 19,988 of them, in a fixed order. Most are possible rather than in use."""
    for onset in ONSETS:
        for medial, nucleus, coda in _SPELLING_OF_RIME:
            for tone in range(6):
                syllable = Syllable(onset, medial, nucleus, coda, tone)
                if is_legal(syllable):
                    yield syllable
