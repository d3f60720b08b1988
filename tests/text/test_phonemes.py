"""The two registers, the way from one to the other, and the way back to spelling."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.text.phonemes import (
    ENGLISH_SYMBOLS,
    DecodedSyllable,
    full_to_vmd,
    is_well_formed,
    phoneme_symbols,
    phonemes_to_words,
    segment,
    syllable_to_phonemes,
)
from data_scripts.text.syllables import all_syllables, parse_syllable

SYLLABLES = list(all_syllables())
EXTRA = {*ENGLISH_SYMBOLS, "$"}
# The paper's notation, as in the entries of the challenge lexicon (tone split off): see the module's docstring.
VMD = {
    "xin": "s i -0 nz", "chào": "t͡ɕ aː -1 uz", "việt": "v iə -5 tz", "nam": "n aː -0 mz", "nghiêng": "ŋ iə -0 ŋz",
    "quyển": "k w iə -3 nz", "giếng": "z iə -4 ŋz", "ây": "ə -0 iz", "địu": "ɗ i -5 uz", "đệu": "ɗ e -5 uz",
    "định": "ɗ i -5 ŋ̟z", "uống": "w o -4 ŋmz", "túi": "t w i -4", "tuý": "t w i -4", "anh": "eaː -0 ŋ̟z",
    "cuốc": "k w o -4 kpz", "quốc": "k w o -4 kpz", "mua": "m uə -0", "tuổi": "t w o -3 iz", "học": "h ɔ -5 kpz",
    "rồi": "z o -1 iz", "trời": "t͡ɕ əː -1 iz", "sách": "s eaː -4 k̟z", "hoa": "h w aː -0", "thuở": "tʰ w əː -3",
    "gì": "z i -1", "xoong": "s ɔ -0 ŋz",
}  # fmt: skip
FULL = {
    "giếng": "ʑ iə -4 ŋz", "rồi": "r o -1 iz", "trời": "ʈʂ əː -1 iz", "sách": "ʂ eaː -4 k̟z", "túi": "t u -4 iz",
    "cuốc": "k uə -4 kz", "quốc": "k w o -4 kpz", "xoong": "s ɔː -0 ŋz", "da": "z aː -0", "xa": "s aː -0",
}  # fmt: skip


@pytest.mark.parametrize(("register", "size", "distinct"), [("full", 58, 19_988), ("vmd", 53, 16_600)])
def test_inventories(register, size, distinct):
    symbols = phoneme_symbols(register)
    assert len(symbols) == len(set(symbols)) == size + len(EXTRA)
    pronunciations = {syllable_to_phonemes(syllable, register) for syllable in SYLLABLES}
    assert len(pronunciations) == distinct
    assert {symbol for said in pronunciations for symbol in said} == set(symbols) - EXTRA


@pytest.mark.parametrize(("register", "examples"), [("vmd", VMD), ("full", FULL)])
def test_examples(register, examples):
    said = {text: " ".join(syllable_to_phonemes(parse_syllable(text), register)) for text in examples}
    assert said == examples


def test_symbols_are_in_a_fixed_order():
    assert phoneme_symbols("vmd") == [s for s in phoneme_symbols("full") if s not in {"ʑ", "r", "ʂ", "ʈʂ", "ɔː"}]
    assert phoneme_symbols("full")[:3] == ["ɓ", "k", "t͡ɕ"]
    assert phoneme_symbols("full")[-1] == "$"


def test_full_turns_into_vmd_as_if_made_directly():
    assert all(
        tuple(full_to_vmd(syllable_to_phonemes(syllable))) == syllable_to_phonemes(syllable, "vmd")
        for syllable in SYLLABLES
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(SYLLABLES), max_size=8), st.booleans())
def test_merging_a_sequence_merges_its_syllables(chosen, separator):
    glue = ["$"] if separator else []
    full = [symbol for syllable in chosen for symbol in (*glue, *syllable_to_phonemes(syllable))]
    vmd = [symbol for syllable in chosen for symbol in (*glue, *syllable_to_phonemes(syllable, "vmd"))]
    assert full_to_vmd(full) == vmd
    assert full_to_vmd(vmd) == vmd
    assert [piece.text for piece in phonemes_to_words(full)] == [syllable.spell() for syllable in chosen]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*phoneme_symbols("full"), "<unk>", "?"]), max_size=12))
def test_merging_takes_anything_and_stops_at_vmd(symbols):
    merged = full_to_vmd(symbols)
    assert full_to_vmd(merged) == merged
    assert not set(merged) & {"ʑ", "r", "ʂ", "ʈʂ", "ɔː"}
    assert [symbol for piece in segment(symbols) for symbol in piece] == symbols


def test_english_between_syllables():
    # "đi street $ túi": bare s t before a syllable, a separator, a rime that vmd writes another way
    full = ["ɗ", "i", "-0", "s", "t", "r", "i", "-4", "tz", "s", "$", "t", "u", "-4", "iz"]
    assert full_to_vmd(full) == ["ɗ", "i", "-0", "s", "t", "z", "i", "-4", "tz", "s", "$", "t", "w", "i", "-4"]
    assert phonemes_to_words(full) == [
        DecodedSyllable(("ɗ", "i", "-0"), "đi", 0),
        DecodedSyllable(("s",), None, 0),
        DecodedSyllable(("t",), None, 0),
        DecodedSyllable(("r", "i", "-4", "tz"), "rít", 0),
        DecodedSyllable(("s",), None, 0),
        DecodedSyllable(("t", "u", "-4", "iz"), "túi", 1),
    ]


def test_every_syllable_comes_back_from_phonemes():
    spoken = [symbol for syllable in SYLLABLES for symbol in syllable_to_phonemes(syllable)]
    assert [piece.text for piece in phonemes_to_words(spoken)] == [syllable.spell() for syllable in SYLLABLES]


def test_homophones_of_vmd_come_back_as_one_of_their_spellings():
    spoken = [syllable_to_phonemes(syllable, "vmd") for syllable in SYLLABLES]
    back = phonemes_to_words([symbol for said in spoken for symbol in said], "vmd")
    assert [syllable_to_phonemes(parse_syllable(piece.text or ""), "vmd") for piece in back] == spoken


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        ("p l ə -0 iz", True), ("j ɛ -4 tz s", True), ("s $ t i -0", True), ("", True), ("-0", False), ("a", False),
        ("<unk>", False), ("t i tz", False), ("nz t i -0", False), ("t a -0", False), ("t w u -0", False),
        ("w", False), ("t i -0 -0", False),
    ],
)  # fmt: skip
def test_well_formed(symbols, expected):
    assert is_well_formed(symbols.split()) is expected


def test_unknown_register():
    with pytest.raises(ValueError, match="choose 'full'"):
        phoneme_symbols("ipa")
