"""Text and sounds: Vietnamese syllables, phoneme registers, English as Vietnamese speakers say it, normalisation."""

from data_scripts.text.english import EnglishPronouncer, Variant
from data_scripts.text.g2p import G2P, Phonemised, PhonemisedWord
from data_scripts.text.normalize import (
    NORMALIZER_VERSION,
    normalize_text,
    normalize_with_spans,
    text_problems,
    text_repairs,
)
from data_scripts.text.phonemes import full_to_vmd, phoneme_symbols, phonemes_to_words, syllable_to_phonemes
from data_scripts.text.syllables import NotASyllable, Syllable, all_syllables, is_syllable, parse_syllable

__all__ = [
    "G2P",
    "NORMALIZER_VERSION",
    "EnglishPronouncer",
    "NotASyllable",
    "Phonemised",
    "PhonemisedWord",
    "Syllable",
    "Variant",
    "all_syllables",
    "full_to_vmd",
    "is_syllable",
    "normalize_text",
    "normalize_with_spans",
    "parse_syllable",
    "phoneme_symbols",
    "phonemes_to_words",
    "syllable_to_phonemes",
    "text_problems",
    "text_repairs",
]
