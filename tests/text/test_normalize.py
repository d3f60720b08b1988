"""One written form: what it is, that it is stable, that labels follow it, and what it cannot mend."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.spans import SpanError
from data_scripts.text.normalize import (
    NORMALIZER_VERSION,
    PROBLEM_CODES,
    REPAIR_CODES,
    normalize_text,
    normalize_with_spans,
    text_problems,
    text_repairs,
)
from data_scripts.text.syllables import all_syllables

WORDS = [syllable.spell(style) for syllable in list(all_syllables())[::41] for style in ("new", "old")]
NOISE = [
    "Meeting",
    "MY",
    "don't",
    " ",
    "\u00a0",
    "\u200b",
    ",",
    "…",
    "\u0301",
    "ð",
    "İ",
    "ﬁ",
    "Ａ",
    "5",
    "(",
    "đ",
    "'s",
    "\n",
]
texts = st.text(max_size=30) | st.lists(st.sampled_from(WORDS + NOISE * 20), max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hòa  đi\u200b MEETING, lí do?", "hoà đi meeting lý do"),
        (unicodedata.normalize("NFD", "Tiếng Việt ở đâu"), "tiếng việt ở đâu"),
        ("Tiê\u0301ng Viê\u0323t", "tiếng việt"),
        ("a\u0340 va\u0341", "à vá"),
        ("Ðà Nẵng ðường", "đà nẵng đường"),
        ("gía họat qủa thúy", "giá hoạt quả thuý"),
        ("một\u00a0hai\tba\r\nbốn", "một hai ba bốn"),
        ("\ufeffxin chào\u0000 \u202abạn\u202c", "xin chào bạn"),
        ("zero\u200bwidth soft\u00adhyphen", "zerowidth softhyphen"),
        ("I don't, it’s Hoà's rock'n'roll 'quoted'", "i don't it's hoà s rock n roll quoted"),
        ("check-in/out (v.v.)…", "check in out v v"),
        ("Ｔôi ﬁne 𝐀i", "tôi fine ai"),
        ("năm 2024: 5%", "năm 2024 5"),
        ("my by y tế í kĩ sư", "my by y tế ý kỹ sư"),
        ("Kạn Đắk ñu señor", "kạn đắk ñu señor"),
        ("", ""),
        ("?! …", ""),
    ],
)
def test_examples(text, expected):
    assert normalize_text(text) == expected


@settings(max_examples=300, deadline=None)
@given(texts)
def test_idempotent_and_clean(text):
    once = normalize_text(text)
    assert normalize_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == " ".join(once.split())
    assert not any(unicodedata.category(char)[0] in "CPSZ" for char in once.replace(" ", "").replace("'", ""))


@settings(max_examples=200, deadline=None)
@given(texts)
def test_unicode_form_does_not_matter(text):
    assert normalize_text(unicodedata.normalize("NFD", text)) == normalize_text(unicodedata.normalize("NFC", text))


@settings(max_examples=150, deadline=None)
@given(texts.filter(bool), st.data())
def test_spans_follow_their_words(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    lang = data.draw(st.sampled_from(["vi", "en"]))
    normal, spans = normalize_with_spans(text, [(start, end, lang)])
    assert normalize_with_spans(normal, spans) == (normal, spans)
    if not spans:
        return
    (span,) = spans
    inside = normal[span["start"] : span["end"]]
    assert inside == inside.strip() != ""
    assert span["start"] == 0 or normal[span["start"] - 1] == " "
    assert span["end"] == len(normal) or normal[span["end"]] == " "


@pytest.mark.parametrize(
    ("text", "spans", "expected"),
    [
        # English keeps its letters where the same word as Vietnamese would be respelled ("qui" -> "quy").
        ("Ừ,  Qui pro quo lí do", [(4, 15, "en")], ("ừ qui pro quo lý do", [(2, 13, "en")])),
        ("tie\u0302\u0301ng [Meeting]", [(8, 17, "en")], ("tiếng meeting", [(6, 13, "en")])),
        ("a\u200bb  c", [(5, 6, "en")], ("ab c", [(3, 4, "en")])),
        ("team-work nhé", [(0, 4, "en")], ("team work nhé", [(0, 4, "en")])),
        ("email đi", [(1, 3, "en")], ("email đi", [(0, 5, "en")])),
        ("đi ... thôi", [(3, 6, "en")], ("đi thôi", [])),
        ("check in đi anh", [(9, 15, "vi"), (0, 8, "en")], ("check in đi anh", [(0, 8, "en"), (9, 15, "vi")])),
        ("ﬁle nào", [(0, 3, "en")], ("file nào", [(0, 4, "en")])),
    ],
)
def test_span_examples(text, spans, expected):
    normal, labels = normalize_with_spans(text, spans)
    assert (normal, [(label["start"], label["end"], label["lang"]) for label in labels]) == expected
    as_dicts = [{"start": start, "end": end, "lang": lang} for start, end, lang in spans]
    assert normalize_with_spans(text, as_dicts) == (normal, labels)


@pytest.mark.parametrize(
    "spans",
    [[(0, 0, "en")], [(0, 9, "en")], [(-1, 2, "en")], [(0, 2, "fr")], [(0, 3, "en"), (2, 4, "vi")], [{"start": 0}]],
)
def test_wrong_spans_are_refused(spans):
    with pytest.raises(SpanError):
        normalize_with_spans("team", spans)


@pytest.mark.parametrize(
    ("text", "problems", "repairs"),
    [
        ("hôm nay có meeting", [], []),
        ("", ["empty"], []),
        (" ,.- ", ["empty"], []),
        ("\u200b\u200b", ["empty"], ["zero_width"]),
        ("lúc 9 giờ", ["digits"], []),
        ("Ⅻ ½ m²", ["digits"], []),
        ("giảm 5%", ["digits", "symbols"], []),
        ("giá 5 €", ["digits", "symbols"], []),
        ("a & b", ["symbols"], []),
        ("vui quá 😀", ["emoji"], []),
        ("yêu ❤\ufe0f", ["emoji"], ["zero_width"]),
        ("tôi \u0441ó", ["other_script"], []),  # Cyrillic с
        ("你好", ["other_script"], []),
        ("Tiáº¿ng Viá»‡t", ["symbols", "mojibake"], []),
        ("ti\ufffdng", ["mojibake"], []),
        (unicodedata.normalize("NFD", "tiếng"), [], ["nfd"]),
        ("a\u00a0b", [], ["space"]),
        ("a\u0007b", [], ["control"]),
        ("ðà Ｎẵng", [], ["letters"]),
        ("café müller", [], []),
    ],
)
def test_problems_and_repairs(text, problems, repairs):
    assert text_problems(text) == problems
    assert text_repairs(text) == repairs


@settings(max_examples=150, deadline=None)
@given(texts)
def test_codes_are_documented_and_repairs_are_mended(text):
    assert set(text_problems(text)) <= set(PROBLEM_CODES)
    assert set(text_repairs(text)) <= set(REPAIR_CODES)
    assert text_repairs(normalize_text(text)) == []


def test_version_is_stated():
    assert NORMALIZER_VERSION
