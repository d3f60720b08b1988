"""Rows and spans: what is accepted, and what the message says otherwise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.schema import DIALECTS, EMOTIONS, FEATURES, TEXT_FEATURES, SchemaError, coerce_metadata
from data_scripts.spans import SpanError, check_spans, mark_text, parse_marked_text, shuffle_words


def test_features_hold_the_columns():
    assert set(FEATURES) - set(TEXT_FEATURES) == {"audio", "duration_s"}
    assert set(TEXT_FEATURES) == {"id", "text", "speaker", "dialect", "spans", "emotion", "corpus"}


def test_coerces_what_csv_gives():
    row = coerce_metadata(
        {
            "text": "mai có meeting",
            "spans": '[{"start": 7, "end": 14, "lang": "en"}]',
            "duration_s": "2.5",
            "speaker": "",
            "dialect": " South ",
            "emotion": "neutral",
            "corpus": None,
        },
        "metadata.csv:2",
    )
    assert row == {
        "text": "mai có meeting",
        "spans": [{"start": 7, "end": 14, "lang": "en"}],
        "duration_s": 2.5,
        "speaker": None,
        "dialect": "south",
        "emotion": "neutral",
        "corpus": "",
    }
    assert coerce_metadata({"speaker": 7}, "x")["speaker"] == "7"
    assert coerce_metadata({"spans": {"start": [0], "end": [2], "lang": ["vi"]}, "text": "đi"}, "x")["spans"] == [
        {"start": 0, "end": 2, "lang": "vi"}
    ]


@pytest.mark.parametrize("text", ["nan", "NA", "None", "null"])
def test_words_that_look_like_nothing_are_words(text):
    assert coerce_metadata({"text": text}, "x")["text"] == text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"text": 5}, ["text", "string", "int 5"]),
        ({"dialect": "sud"}, ["dialect", "'sud'", *DIALECTS]),
        ({"emotion": "neutrl"}, ["emotion", "Did you mean 'neutral'", *EMOTIONS]),
        ({"emotion": False}, ["emotion", "bool"]),
        ({"duration_s": "long"}, ["duration_s", "'long'"]),
        ({"duration_s": -1}, ["duration_s", "-1"]),
        ({"duration_s": float("nan")}, ["duration_s", "nan"]),
        ({"spans": "[{]"}, ["spans", "not JSON"]),
        ({"spans": 3}, ["spans", "list"]),
        ({"text": "đi", "spans": [{"start": 0, "end": 9, "lang": "vi"}]}, ["spans", "0..9", "2 characters"]),
        ({"text": "đi", "spans": [{"start": 0, "end": 2, "lang": "fr"}]}, ["'fr'", "vi, en"]),
        ({"text": "đi", "spans": [{"start": 0, "lang": "vi"}]}, ["start, end and lang"]),
        ({"text": "đi", "spans": [{"start": 0.5, "end": 1, "lang": "vi"}]}, ["whole numbers"]),
        ({"marked_text": "có [en]meeting"}, ["marked_text", "never closed"]),
    ],
)
def test_errors_name_row_key_and_what_is_allowed(raw, expected):
    with pytest.raises(SchemaError) as caught:
        coerce_metadata(raw, "data/metadata.csv:17")
    for part in ["data/metadata.csv:17", *expected]:
        assert part in str(caught.value)


def test_marked_text():
    assert parse_marked_text("mai có [en]team meeting[/en] nhé [en]ok[/en]") == (
        "mai có team meeting nhé ok",
        [{"start": 7, "end": 19, "lang": "en"}, {"start": 24, "end": 26, "lang": "en"}],
    )
    assert parse_marked_text("[x] không đổi") == ("[x] không đổi", [])
    assert parse_marked_text("a[en][/en]b") == ("ab", [])
    for wrong in ("[en]a", "a[/en]", "[en]a[vi]b[/vi][/en]", "[en]a[/vi]", "[fr]a[/fr]"):
        with pytest.raises(SpanError):
            parse_marked_text(wrong)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text("abđàệ ", max_size=6), st.sampled_from([None, "vi", "en"])), max_size=6))
def test_marking_and_parsing_are_inverse(pieces):
    text, spans = "", []
    for piece, lang in pieces:
        if lang and piece:
            spans.append({"start": len(text), "end": len(text) + len(piece), "lang": lang})
        text += piece
    assert parse_marked_text(mark_text(text, spans)) == (text, spans)
    assert check_spans(text, reversed(spans)) == spans


def test_overlapping_spans_are_refused():
    spans = [{"start": 0, "end": 3, "lang": "vi"}, {"start": 2, "end": 4, "lang": "en"}]
    with pytest.raises(SpanError, match=r"0\.\.3 and 2\.\.4 overlap"):
        check_spans("abcd", spans)


def test_shuffled_words_keep_their_language():
    text, spans = "mai có team meeting", [{"start": 7, "end": 19, "lang": "en"}]
    moved, languages = shuffle_words(text, spans, np.random.default_rng(0))
    assert sorted(moved.split()) == sorted(text.split())
    assert {moved[span["start"] : span["end"]] for span in languages} == {"team", "meeting"}
    assert all(span["lang"] == "en" for span in languages)
