"""Tone confusions: which of the six tones a recogniser writes for which."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

from data_scripts.text.normalize import normalize_text
from data_scripts.text.syllables import is_syllable

from .alignment import align, check_pairs

# In the order of the phoneme inventory: -0 … -5.
TONES = ("ngang", "huyền", "ngã", "hỏi", "sắc", "nặng")
_MARKS = {"\u0300": "huyền", "\u0303": "ngã", "\u0309": "hỏi", "\u0301": "sắc", "\u0323": "nặng"}


@cache
def toneless_and_tone(word: str) -> tuple[str, str] | None:
    """`"hoàng"` → `("hoang", "huyền")`; None for what is no Vietnamese syllable (`"email"`)."""
    if not is_syllable(word):
        return None
    letters = unicodedata.normalize("NFD", word)
    marks = [_MARKS[letter] for letter in letters if letter in _MARKS]
    bare = "".join(letter for letter in letters if letter not in _MARKS)
    return unicodedata.normalize("NFC", bare), marks[0] if marks else "ngang"


def tone_confusions(
    references: Sequence[str], hypotheses: Sequence[str]
) -> dict[str, dict[str, dict[str, int]] | int]:
    """Count tones of aligned syllable pairs.

    Args:
        references, hypotheses: texts, normalised here. Pairs where either side is no Vietnamese syllable, deletions
        and insertions have no two tones to compare and are left out.

    Returns:
        `{"confusions": {reference tone: {hypothesis tone: count}}, "tone_only_substitutions": int}`, tones in the
        order ngang, huyền, ngã, hỏi, sắc, nặng; the second number counts pairs that differ in nothing but the tone
        (`má` written for `mà`).
    """
    check_pairs(references, hypotheses)
    pairs: Counter[tuple[str, str]] = Counter()
    tone_only = 0
    for reference_text, hypothesis_text in zip(references, hypotheses, strict=True):
        reference, hypothesis = normalize_text(reference_text).split(), normalize_text(hypothesis_text).split()
        for _, r, h in align(reference, hypothesis):
            if r is None or h is None:
                continue
            said, heard = toneless_and_tone(reference[r]), toneless_and_tone(hypothesis[h])
            if said is None or heard is None:
                continue
            pairs[said[1], heard[1]] += 1
            tone_only += said[0] == heard[0] and said[1] != heard[1]
    return {
        "confusions": {said: {heard: pairs[said, heard] for heard in TONES} for said in TONES},
        "tone_only_substitutions": tone_only,
    }
