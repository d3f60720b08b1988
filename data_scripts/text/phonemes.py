"""Phonemes of Vietnamese, and of English as Vietnamese speakers say it.

Two registers of one table:

- `vmd`: the notation of the TSPC paper (Sec. 2.1). It is the phone set of the VLSP-2023 Vietnamese mispronunciation
  challenge with the tone split off the nucleus: "ây" is `ə -0 iz`. Northern mergers are built in (d = gi = r,
  ch = tr, s = x) and so are three habits of that set: ui is written `w i` (so "túi" = "tuý"), uô before a coda is
  `w o` (so "cuốc" = "quốc"), and c, ng after it are labial (`kpz`, `ŋmz`). Slips of the published lexicon, such as
  tone `-0` on some toned bare vowels and `ɣ i` for "gì", are not notation and are not followed.
- `full` (the default): every contrast of the spelling kept, so phonemes turn back into letters without loss. It adds
  `ʑ` (gi), `r`, `ʂ` (s), `ʈʂ` (tr) and `ɔː` (oo): 58 symbols instead of 53.

`full_to_vmd` takes the first to the second, so error rates under either are comparable. A final `z` marks a coda
(`nz` is the n of "tan", `n` the n of "na"); tones are `-0` ngang, `-1` huyền, `-2` ngã, `-3` hỏi, `-4` sắc, `-5` nặng.

Both registers end with the few symbols English needs on top: `j` (yes), `g` (bug), `θ`, `ð`, `ʒ`, `d͡ʒ`. A consonant
that the syllable cannot hold stands bare, with no nucleus or tone of its own: play is `p l ə -0 iz`, "list" said in
the English way `l i -4 tz s t`. `$` separates words where a separator is asked for. A syllable delimits itself (one
nucleus, then one tone, then at most one coda symbol), but bare consonants lean on what follows: `s t i -0` may be
"s" + "ti" or the start of "st-": only the separator tells a bare final consonant from the next word's onset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from data_scripts.text.syllables import Syllable, all_syllables

REGISTERS = ("full", "vmd")
SEPARATOR = "$"
UNKNOWN = "<unk>"

ONSET_SYMBOLS = {
    "b": "ɓ", "c": "k", "ch": "t͡ɕ", "d": "z", "đ": "ɗ", "g": "ɣ", "gi": "ʑ", "h": "h", "kh": "x", "l": "l", "m": "m",
    "n": "n", "ng": "ŋ", "nh": "ɲ", "p": "p", "ph": "f", "r": "r", "s": "ʂ", "t": "t", "th": "tʰ", "tr": "ʈʂ",
    "v": "v", "x": "s",
}  # fmt: skip
MEDIAL_SYMBOL = "w"
NUCLEUS_SYMBOLS = {
    "a": "aː", "ă": "a", "â": "ə", "e": "ɛ", "ê": "e", "i": "i", "iê": "iə", "o": "ɔ", "oo": "ɔː", "ô": "o", "ơ": "əː",
    "u": "u", "ư": "ɨ", "uô": "uə", "ươ": "ɨə",
}  # fmt: skip
# The a of "anh", "ách" has a symbol of its own.
A_BEFORE_PALATAL = "eaː"
CODA_SYMBOLS = {
    "p": "pz", "t": "tz", "c": "kz", "ch": "k̟z", "m": "mz", "n": "nz", "ng": "ŋz", "nh": "ŋ̟z", "j": "iz", "w": "uz"
}  # fmt: skip
# After u, o, ô the lips close on c and ng.
_LABIAL = {"kz": "kpz", "ŋz": "ŋmz"}
TONE_SYMBOLS = tuple(f"-{tone}" for tone in range(6))
ENGLISH_SYMBOLS = ("j", "g", "θ", "ð", "ʒ", "d͡ʒ")
VMD_MERGERS = {"ʑ": "z", "r": "z", "ʂ": "s", "ʈʂ": "t͡ɕ", "ɔː": "ɔ"}

_NUCLEI = frozenset({*NUCLEUS_SYMBOLS.values(), A_BEFORE_PALATAL})
_CODAS = frozenset({*CODA_SYMBOLS.values(), *_LABIAL.values()})
_TONES = frozenset(TONE_SYMBOLS)
_CONSONANTS = frozenset({*ONSET_SYMBOLS.values(), *ENGLISH_SYMBOLS})


def check_register(register: str) -> str:
    if register not in REGISTERS:
        raise ValueError(f"register={register!r}: choose 'full' (reversible) or 'vmd' (the paper's)")
    return register


def phoneme_symbols(register: str) -> list[str]:
    """The symbols of a register in a fixed order: onsets, medial, nuclei, codas, tones, English extras, `$`."""
    full = [
        *ONSET_SYMBOLS.values(),
        MEDIAL_SYMBOL,
        *NUCLEUS_SYMBOLS.values(),
        A_BEFORE_PALATAL,
        *CODA_SYMBOLS.values(),
        *_LABIAL.values(),
        *TONE_SYMBOLS,
        *ENGLISH_SYMBOLS,
        SEPARATOR,
    ]
    if check_register(register) == "full":
        return full
    return [symbol for symbol in full if symbol not in VMD_MERGERS]


def syllable_to_phonemes(syllable: Syllable, register: str = "full") -> tuple[str, ...]:
    """Symbols of one syllable in reading order: (onset) (w) nucleus tone (coda)."""
    vmd = check_register(register) == "vmd"
    onset, nucleus, coda = ONSET_SYMBOLS.get(syllable.onset, ""), syllable.nucleus, syllable.coda
    medial = bool(syllable.medial)
    if vmd and nucleus == "u" and coda == "j":
        medial, nucleus, coda = True, "i", ""
    elif vmd and nucleus == "uô" and coda:
        medial, nucleus = True, "ô"
    vowel = A_BEFORE_PALATAL if nucleus == "a" and coda in ("ch", "nh") else NUCLEUS_SYMBOLS[nucleus]
    final = CODA_SYMBOLS.get(coda, "")
    if nucleus in ("u", "o", "ô"):
        final = _LABIAL.get(final, final)
    if vmd:
        onset, vowel = VMD_MERGERS.get(onset, onset), VMD_MERGERS.get(vowel, vowel)
    symbols = (onset, MEDIAL_SYMBOL if medial else "", vowel, TONE_SYMBOLS[syllable.tone], final)
    return tuple(symbol for symbol in symbols if symbol)


def full_to_vmd(phonemes: Sequence[str]) -> list[str]:
    """The `vmd` form of a `full` sequence: mergers symbol by symbol, then ui and uô within their syllable.

    A pure function of the symbols. Bare English consonants, `$`, `<unk>` and anything else pass through, so it is
    also safe on a model's malformed output, and applying it twice changes nothing.
    """
    out: list[str] = []
    after_u = False  # the last two symbols were an u and its tone: a glide here makes it the rime ui
    after_uo = False  # likewise for uə: any coda here makes it w o
    pending = ""
    for symbol in phonemes:
        if after_u and symbol == "iz":
            out[-2:] = [MEDIAL_SYMBOL, "i", out[-1]]
        elif after_uo and symbol in _CODAS:
            out[-2:] = [MEDIAL_SYMBOL, "o", out[-1]]
            out.append(_LABIAL.get(symbol, symbol))
        else:
            out.append(VMD_MERGERS.get(symbol, symbol))
        in_tone = symbol in _TONES
        after_u, after_uo = in_tone and pending == "u", in_tone and pending == "uə"
        pending = symbol
    return out


@dataclass(frozen=True, slots=True)
class DecodedSyllable:
    """One piece of a phoneme sequence.

    phonemes: the symbols of the piece. text: its spelling; None for bare consonants and for what no Vietnamese
    spelling holds. word: index of the `$`-separated group the piece is in (0 throughout where there is no `$`).
    """

    phonemes: tuple[str, ...]
    text: str | None
    word: int


@cache
def _spellings(register: str) -> dict[tuple[str, ...], str]:
    """Phonemes of a syllable -> its spelling. In `vmd` homophones share a key: the first in table order stays."""
    table: dict[tuple[str, ...], str] = {}
    for syllable in all_syllables():
        table.setdefault(syllable_to_phonemes(syllable, register), syllable.spell())
    return table


def segment(phonemes: Sequence[str]) -> list[tuple[str, ...]]:
    """Splits a sequence into syllables, runs of one bare symbol, and separators, losing nothing.

    A syllable is (consonant) (w) nucleus tone (coda). The consonant right before the nucleus belongs to it; those
    before that stand bare, each a piece of its own, as does any symbol out of place.
    """
    pieces: list[tuple[str, ...]] = []
    start = 0  # first symbol not yet in a piece
    i, n = 0, len(phonemes)
    while i < n:
        if not (phonemes[i] in _NUCLEI and i + 1 < n and phonemes[i + 1] in _TONES):
            i += 1
            continue
        first = i
        if first > start and phonemes[first - 1] == MEDIAL_SYMBOL:
            first -= 1
        if first > start and phonemes[first - 1] in _CONSONANTS:
            first -= 1
        end = i + 2
        if end < n and phonemes[end] in _CODAS:
            end += 1
        pieces.extend((symbol,) for symbol in phonemes[start:first])
        pieces.append(tuple(phonemes[first:end]))
        start = i = end
    pieces.extend((symbol,) for symbol in phonemes[start:])
    return pieces


def phonemes_to_words(phonemes: Sequence[str], register: str = "full") -> list[DecodedSyllable]:
    """Back from phonemes to spelled syllables, where a spelling exists.

    In `full` every syllable of the grammar comes back as it was spelled; in `vmd` homophones come back as one of
    their spellings. Bare consonants, `<unk>` and syllables beyond the grammar come back with `text=None`.
    """
    table = _spellings(check_register(register))
    decoded = []
    word = 0
    for piece in segment(phonemes):
        if piece == (SEPARATOR,):
            word += 1
        else:
            decoded.append(DecodedSyllable(piece, table.get(piece), word))
    return decoded


def is_well_formed(phonemes: Sequence[str], register: str = "full") -> bool:
    """Whether a sequence holds only syllables and bare consonants: no stray tone, coda, nucleus, medial or `<unk>`.

    The onset may be an English one (`j`, `θ`, ...); the rime must be one that Vietnamese can spell.
    """
    table = _spellings(check_register(register))
    for piece in segment(phonemes):
        if len(piece) == 1:
            if piece[0] not in _CONSONANTS and piece[0] != SEPARATOR:
                return False
        elif piece not in table and (piece[0] not in ENGLISH_SYMBOLS or piece[1:] not in table):
            return False
    return True
