"""Spelling and parsing of every syllable, in every form that text arrives in."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.text.syllables import NotASyllable, Syllable, all_syllables, is_syllable, parse_syllable

SYLLABLES = list(all_syllables())
syllables = st.sampled_from(SYLLABLES)


def test_the_grammar_has_19988_syllables():
    assert len(SYLLABLES) == len(set(SYLLABLES)) == 19_988


@pytest.mark.parametrize("tone_style", ["new", "old"])
def test_every_syllable_survives_spelling(tone_style):
    spelled = [syllable.spell(tone_style) for syllable in SYLLABLES]
    assert len(set(spelled)) == 19_988
    assert [parse_syllable(text) for text in spelled] == SYLLABLES


@settings(max_examples=300, deadline=None)
@given(
    syllables, st.sampled_from(["NFC", "NFD", "half", "deprecated"]), st.booleans(), st.sampled_from(["new", "old"])
)
def test_every_unicode_form_parses(syllable, form, upper, tone_style):
    text = syllable.spell(tone_style)
    if form == "half":
        # cp1258 keeps the letter composed and the tone mark apart.
        marks = "\u0300\u0301\u0303\u0309\u0323"
        decomposed = unicodedata.normalize("NFD", text)
        tone = "".join(char for char in decomposed if char in marks)
        place = len(unicodedata.normalize("NFC", decomposed.split(tone)[0])) if tone else 0
        plain = unicodedata.normalize("NFC", "".join(char for char in decomposed if char not in marks))
        text = plain[:place] + tone + plain[place:]
    elif form == "deprecated":
        text = unicodedata.normalize("NFD", text).replace("\u0300", "\u0340").replace("\u0301", "\u0341")
    else:
        text = unicodedata.normalize(form, text)
    assert parse_syllable(text.upper() if upper else text) == syllable


@settings(max_examples=300, deadline=None)
@given(syllables.filter(lambda s: s.tone), st.data())
def test_the_tone_mark_may_stand_on_any_vowel(syllable, data):
    decomposed = unicodedata.normalize("NFD", syllable.spell())
    mark = next(char for char in decomposed if char in "\u0300\u0301\u0303\u0309\u0323")
    plain = unicodedata.normalize("NFC", decomposed.replace(mark, ""))
    place = data.draw(st.sampled_from([i for i, char in enumerate(plain) if char in "aăâeêioôơuưy"]))
    assert parse_syllable(plain[: place + 1] + mark + plain[place + 1 :]) == syllable


@pytest.mark.parametrize(
    ("text", "new", "old"),
    [
        ("gía", "giá", "giá"),
        ("họat", "hoạt", "hoạt"),
        ("qủa", "quả", "quả"),
        ("hòa", "hoà", "hòa"),
        ("thúy", "thuý", "thúy"),
        ("khỏe", "khoẻ", "khỏe"),
        ("qui", "quy", "quy"),
        ("quít", "quýt", "quýt"),
        ("quốc", "quốc", "quốc"),
        ("thuở", "thuở", "thuở"),
        ("ðường", "đường", "đường"),
        ("ÐỒNG", "đồng", "đồng"),
        ("gì", "gì", "gì"),
        ("giếng", "giếng", "giếng"),
        ("giữa", "giữa", "giữa"),
        ("khuya", "khuya", "khuya"),
        ("yêu", "yêu", "yêu"),
        ("nghiêng", "nghiêng", "nghiêng"),
        ("xoong", "xoong", "xoong"),
    ],
)
def test_known_spellings(text, new, old):
    assert parse_syllable(text).spell() == new
    assert parse_syllable(text).spell("old") == old


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("lí", "lý"), ("kĩ", "kỹ"), ("mĩ", "mỹ"), ("tỉ", "tỷ"), ("í", "ý"), ("sỹ", "sĩ"), ("thy", "thi"), ("vy", "vi"),
        ("ky", "ki"), ("ỳ", "ì"), ("tý", "tí"), ("hí", "hí"), ("hi", "hy"), ("quý", "quý"), ("huy", "huy"),
    ],
)  # fmt: skip
def test_i_or_y_by_majority(text, canonical):
    assert parse_syllable(text).spell() == canonical


def test_parts():
    assert parse_syllable("nghiêng") == Syllable("ng", "", "iê", "ng", 0)
    assert parse_syllable("quyển") == Syllable("c", "w", "iê", "n", 3)
    assert parse_syllable("cuốc") == Syllable("c", "", "uô", "c", 4)
    assert parse_syllable("quốc") == Syllable("c", "w", "ô", "c", 4)
    assert parse_syllable("gia") == Syllable("gi", "", "a", "", 0)
    assert parse_syllable("giêm") == Syllable("gi", "", "iê", "m", 0)


@pytest.mark.parametrize(
    "text",
    ["", " ", "b", "kạn", "meeting", "coa", "cuy", "ke̩", "cat", "hoc", "hát̀", "ñu", "5", "tôi đi", "ghà", "nghành",
     "iêu", "w", "你", "q", "qu", "đ", "aa", "ngh"],
)  # fmt: skip
def test_other_text_is_refused(text):
    assert not is_syllable(text)
    with pytest.raises(NotASyllable, match=r"syllable|tone"):
        parse_syllable(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=8))
def test_any_text_parses_or_is_refused(text):
    if is_syllable(text):
        assert is_syllable(parse_syllable(text).spell())


def test_impossible_parts_are_not_spelled():
    for parts in [("f", "", "a", "", 0), ("c", "", "a", "t", 0), ("gi", "", "iê", "", 0), ("b", "w", "u", "", 0)]:
        with pytest.raises(NotASyllable):
            Syllable(*parts).spell()
    with pytest.raises(ValueError, match="choose 'new'"):
        SYLLABLES[0].spell("newer")
