"""English in Vietnamese phonemes: the paper's examples, legality, weights, words no dictionary holds."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.text.arpabet import STYLES, realise, syllabify
from data_scripts.text.english import MAX_VARIANTS, EnglishPronouncer, cmudict, inflect, lexicon, pronounce
from data_scripts.text.phonemes import full_to_vmd, is_well_formed, phoneme_symbols

PRONOUNCER = EnglishPronouncer()


def variants(word):
    return [" ".join(variant.phonemes) for variant in PRONOUNCER.variants(word)]


@pytest.mark.parametrize(
    ("word", "phonemes"), [("tea", "t i -0"), ("zoo", "z u -0"), ("play", "p l ə -0 iz"), ("a", "ə -0 iz")]
)
def test_the_papers_examples_are_the_most_probable(word, phonemes):
    assert variants(word)[0] == phonemes
    assert " ".join(EnglishPronouncer("vmd").variants(word)[0].phonemes) == phonemes


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("list", ["l i -4 tz", "l i -4 tz s t"]),  # "lít", and the English way
        ("play", ["p l ə -0 iz", "p əː -1 l ə -0 iz"]),  # cluster bare, or with a vowel: "pờ-lây"
        ("street", ["s t r i -4 tz", "s əː -1 ʈʂ i -4 tz"]),
        ("yes", ["z ɛ -4 tz", "j ɛ -4 tz s"]),
        ("thing", ["tʰ i -0 ŋ̟z", "θ i -0 ŋ̟z"]),
        ("facebook", ["f ə -0 iz ɓ u -4 kpz"]),  # phây-búc
        ("computer", ["k ɔ -0 mz p i -0 uz t əː -0"]),  # com-piu-tơ
        ("mail", ["m e -0 uz"]),  # mêu
        ("queen", ["k w i -0 nz"]),
        ("station", ["s t e -0 s ə -1 nz"]),
    ],
)
def test_known_variants_are_among_a_words_own(word, expected):
    assert set(expected) <= set(variants(word))


def test_a_large_sample_of_the_dictionary_is_well_formed():
    words = sorted(cmudict())[::20]
    assert len(words) >= 5_000
    bad = [
        word
        for word in words
        if not (found := PRONOUNCER.variants(word)) or not all(is_well_formed(v.phonemes) for v in found)
    ]
    assert len(bad) <= len(words) / 1000, bad[:20]


def test_the_lexicon_is_well_formed_and_used():
    words = sorted(lexicon())[::20]
    for word in words:
        found = PRONOUNCER.variants(word)
        assert found and all(is_well_formed(variant.phonemes) for variant in found), word
    # Where no dictionary has the word, its Vietnamese spelling is what counts.
    guessed = next(word for word in words if pronounce(word)[1] == "rules" and len(PRONOUNCER.variants(word)) > 1)
    assert any(variant.source == "lexicon" and variant.weight > 0.5 for variant in PRONOUNCER.variants(guessed))


@settings(max_examples=150, deadline=None)
@given(st.text(string.ascii_lowercase, min_size=1, max_size=12))
def test_any_word_of_letters_is_said(word):
    found = PRONOUNCER.variants(word)
    assert 1 <= len(found) <= MAX_VARIANTS
    assert sum(variant.weight for variant in found) == pytest.approx(1)
    assert [variant.weight for variant in found] == sorted((variant.weight for variant in found), reverse=True)
    assert len({variant.phonemes for variant in found}) == len(found)
    assert all(is_well_formed(variant.phonemes) for variant in found)
    assert all(set(variant.phonemes) <= set(phoneme_symbols("full")) for variant in found)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(cmudict())))
def test_vmd_variants_are_the_merged_full_ones(word):
    merged = {tuple(full_to_vmd(v.phonemes)) for v in EnglishPronouncer(max_variants=50).variants(word)}
    assert {v.phonemes for v in EnglishPronouncer("vmd", max_variants=50).variants(word)} == merged


@pytest.mark.parametrize(
    ("word", "source"),
    [
        ("meeting", "inflection"), ("watch", "cmudict"), ("deadlines", "inflection"), ("groupchat", "compound"),
        ("chatgpt", "compound"), ("xqz", "letters"), ("vlsp", "letters"), ("blorf", "rules"), ("don't", "cmudict"),
    ],
)  # fmt: skip
def test_where_pronunciations_come_from(word, source):
    assert pronounce(word)[1] == source


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("meetings", "M IY1 T IH0 NG Z"), ("missed", "M IH1 S T"), ("wanted", "W AA1 N T AH0 D"),
        ("boxes", "B AA1 K S AH0 Z"), ("stopping", "S T AA1 P IH0 NG"), ("making", "M EY1 K IH0 NG"),
        ("team's", "T IY1 M Z"), ("studies", "S T AH1 D IY0 Z"), ("badly", "B AE1 D L IY0"),
    ],
)  # fmt: skip
def test_inflections(word, phones):
    stems = {
        "meeting": "M IY1 T IH0 NG", "miss": "M IH1 S", "want": "W AA1 N T", "box": "B AA1 K S", "stop": "S T AA1 P",
        "make": "M EY1 K", "team": "T IY1 M", "study": "S T AH1 D IY0", "bad": "B AE1 D",
    }  # fmt: skip
    assert " ".join(inflect(word, stems) or ()) == phones


def test_acronyms_are_spelled_in_english_or_vietnamese():
    assert {"v i -0 ɛ -0 nz", "v e -0 n əː -1"} <= set(variants("vn"))


@pytest.mark.parametrize("word", ["", "'", "5", "4g", "你好", "мир", "a b", "-"])
def test_what_is_no_english_word_has_no_variants(word):
    assert PRONOUNCER.variants(word) == ()


def test_case_and_accents_fold():
    assert PRONOUNCER.variants("Café") == PRONOUNCER.variants("cafe")
    assert PRONOUNCER.variants("MEETING") == PRONOUNCER.variants("meeting")


def test_styles():
    strengths = syllabify(["S", "T", "R", "EH1", "NG", "K", "TH", "S"], "strengths")
    said = {style: " ".join(realise(strengths, style)) for style in STYLES}
    assert said == {
        "extended": "s t r ɛ -0 ŋz",
        "native": "s əː -1 ʈʂ ɛ -0 ŋz",
        "english": "s t r ɛ -0 ŋz k θ s",
    }
    with pytest.raises(ValueError, match="choose one of extended, native, english"):
        realise(strengths, "british")


def test_bad_arguments():
    with pytest.raises(ValueError, match="max_variants=0"):
        EnglishPronouncer(max_variants=0)
    with pytest.raises(ValueError, match="choose 'full'"):
        EnglishPronouncer("ipa")
