"""English set into corpus lines: labelled, seeded, one split for all versions of a line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.synthesis.insertion import insert_english, loan_words
from data_scripts.text.normalize import normalize_text

LINES = [
    "Hôm nay tôi có cuộc họp ở văn phòng.",
    "nhớ gửi báo cáo cho khách hàng trước hạn chót",
    "trời đẹp quá",
    "anh ấy thích facebook lắm",
]
FRAGMENT = st.sampled_from(
    ["tôi", "cuộc họp", "buổi họp", "meeting", "ok", "nhé guys", "qua email", "máy tính xách tay", "laptop", "đi"]
)


def texts(rows):
    return [row["text"] for row in rows]


def marked(row):
    return [row["text"][span["start"] : span["end"]] for span in row["spans"]]


def test_phrases_are_exchanged_and_labelled():
    rows = list(insert_english(LINES, exchange_share=1.0, remark_share=0.0))
    assert texts(rows) == [
        "hôm nay tôi có meeting ở office",
        "nhớ gửi report cho client trước deadline",
        "trời đẹp quá",
        "anh ấy thích facebook lắm",
    ]
    assert [marked(row) for row in rows] == [["meeting", "office"], ["report", "client", "deadline"], [], ["facebook"]]


def test_longest_phrase_wins():
    (row,) = insert_english(["mua máy tính xách tay mới"], exchange_share=1.0, remark_share=0.0)
    assert row["text"] == "mua laptop mới"


def test_remarks_bring_english_into_any_line():
    rows = list(insert_english(["trời đẹp quá"], exchange_share=0.0, remark_share=1.0))
    assert rows[0]["spans"] and "trời đẹp quá" in rows[0]["text"]


def test_nothing_is_exchanged_at_share_zero():
    rows = list(insert_english(LINES, exchange_share=0.0, remark_share=0.0))
    assert texts(rows) == [normalize_text(line) for line in LINES]
    assert len(list(insert_english(LINES, exchange_share=0.0, remark_share=0.0, only_code_switched=True))) == 1


def test_seeded_by_line_not_by_position_in_the_stream():
    first = list(insert_english(LINES * 3, seed=4))
    assert first == list(insert_english(LINES * 3, seed=4))
    assert list(insert_english(LINES, seed=4, split="train")) == [r for r in first if r["split"] == "train"]
    many = [f"{a} {b} cuộc họp văn phòng" for a in ("tôi", "anh", "em") for b in ("thích", "ghét", "sợ")]
    assert texts(insert_english(many, seed=1)) != texts(insert_english(many, seed=2))


def test_unreadable_and_repeated_lines_are_left_out_and_counted(caplog):
    lines = ["có 3 cuộc họp", "xin chào", "Xin chào!", "会议", "một hai ba bốn năm sáu", ""]
    with caplog.at_level("INFO"):
        rows = list(insert_english(lines, remark_share=0.0, max_words=5))
    assert texts(rows) == ["xin chào"]
    for part in ("1 digits", "1 repeated", "1 other_script", "1 too_long", "1 empty"):
        count, code = part.split()
        assert f"{code} {count}" in caplog.text


@given(st.lists(st.lists(FRAGMENT, min_size=1, max_size=5).map(" ".join), max_size=12), st.integers(0, 3))
@settings(deadline=None)
def test_splits_share_no_sentence_and_no_version_of_one(lines, seed):
    split_by_text = {}
    for other_seed in (seed, seed + 1):
        rows = list(insert_english(lines, other_seed, remark_share=0.5))
        assert len(set(texts(rows))) == len(rows)
        for row in rows:
            assert split_by_text.setdefault(row["text"], row["split"]) == row["split"]
            (again,) = insert_english([row["text"]], exchange_share=0.0, remark_share=0.0)
            assert again["split"] == row["split"]


def test_loans_lead_to_no_loans():
    # Otherwise a second pass would find other phrases in what the first one wrote, and with them another split.
    phrases = loan_words()
    for english in phrases.values():
        for phrase in phrases:
            for n in range(1, min(len(english), len(phrase)) + 1):
                assert english[-n:] != phrase[:n] and english[:n] != phrase[-n:], (english, phrase)
            assert f" {' '.join(phrase)} " not in f" {' '.join(english)} "


@pytest.mark.parametrize("arguments", [{"exchange_share": -0.1}, {"remark_share": 2.0}, {"split": "dev"}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"between 0 and 1|unknown split"):
        next(insert_english(LINES, **arguments))
