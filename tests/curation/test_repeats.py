"""Repeats against slow and plain implementations."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.curation.repeats import REPEAT_CODES, HeldOutTexts, Match, RepeatIndex, RepeatSettings, audio_digest


def found(rows, **options):
    index = RepeatIndex(RepeatSettings(**options))
    for row in rows:
        index.add(row)
    assert len(index) == len(rows)
    return {number: [tuple(finding) for finding in findings] for number, findings in index.find().items()}


def test_same_audio(tmp_path):
    (tmp_path / "a.flac").write_bytes(b"one")
    (tmp_path / "b.flac").write_bytes(b"one")
    (tmp_path / "empty.flac").write_bytes(b"")
    rows = [
        {"audio": {"path": str(tmp_path / "a.flac"), "bytes": None}},
        {"audio": {"path": None, "bytes": b"two"}},
        {"audio": {"path": str(tmp_path / "b.flac"), "bytes": None}},
        {"audio": {"path": "elsewhere.flac", "bytes": b"one"}},
        {"audio": None},
        {"audio": None},
        {"audio": {"path": str(tmp_path / "gone.flac"), "bytes": None}},
        {"audio": {"path": str(tmp_path / "gone.flac"), "bytes": None}},
        {"text": "xin chào"},
        {"audio": {"path": str(tmp_path / "empty.flac"), "bytes": None}},
    ]
    assert found(rows) == {2: [("same_audio", "as row 0")], 3: [("same_audio", "as row 0")]}
    assert found(rows, same_audio=False) == {}
    assert audio_digest({"path": str(tmp_path), "bytes": None}) == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from([None, "s", "t"]), st.sampled_from("xy"))),
    st.integers(1, 3),
    st.sampled_from(["speaker", "corpus", "all"]),
)
def test_same_text(rows, allowed, within):
    expected, count, first = {}, Counter(), {}
    for number, (text, speaker, corpus) in enumerate(rows):
        key = {"speaker": (corpus, speaker, text), "corpus": (corpus, text), "all": text}[within]
        first.setdefault(key, number)
        if text and count[key] >= allowed:
            expected[number] = [("text_repeated", f"as row {first[key]}")]
        count[key] += 1
    given_rows = [{"text": text, "speaker": speaker, "corpus": corpus} for text, speaker, corpus in rows]
    assert found(given_rows, max_same_text=allowed, same_text_within=within) == expected


def test_parts_are_joined_in_order():
    rows = [{"text": str(i % 7), "audio": {"bytes": bytes([i % 11])}} for i in range(60)]
    options = {"max_same_text": 2, "same_text_within": "all"}
    parts = []
    for chunk in (rows[:23], rows[23:24], rows[24:]):
        parts.append(RepeatIndex(RepeatSettings(**options)))
        for row in chunk:
            parts[-1].add(row)
    parts[0].extend(parts[1])
    parts[0].extend(parts[2])
    joined = {number: [tuple(f) for f in findings] for number, findings in parts[0].find().items()}
    assert joined == found(rows, **options)
    assert {code for findings in joined.values() for code, _ in findings} == set(REPEAT_CODES) - {"text_held_out"}


def test_settings_are_checked():
    with pytest.raises(ValueError, match="max_same_text must be at least 1, got 0"):
        RepeatSettings(max_same_text=0)
    with pytest.raises(ValueError, match="same_text_within is one of speaker, corpus, all, got 'row'"):
        RepeatSettings(same_text_within="row")
    with pytest.raises(ValueError, match="min_similarity must be from"):
        HeldOutTexts([], 0.2)


def word_edits(a, b):
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (left != right))
    return row[-1]


sentences = st.lists(st.sampled_from("abcd"), max_size=14).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(sentences, max_size=6), sentences, st.sampled_from([0.5, 0.6, 0.75, 0.8, 0.9, 1.0]))
def test_near_texts_are_all_found(texts, text, min_similarity):
    words, best = text.split(), None
    for held_out in sorted(set(filter(None, texts))):
        longest = max(len(words), len(held_out.split()))
        share = word_edits(words, held_out.split()) / longest
        if share <= 1 - min_similarity + 1e-9 and (best is None or share < best[0]):
            best = share, held_out
    match = HeldOutTexts(texts, min_similarity).find(text)
    assert (match is None) == (best is None)
    if best:
        assert match == Match(best[1], pytest.approx(1 - best[0]))


def test_leaks_are_named():
    held_out = HeldOutTexts(["hôm nay trời nắng nên chúng tôi đi ra chợ mua cá", "xin chào", ""])
    assert held_out.finding("hôm nay trời nắng nên tôi đi ra chợ mua cá") == (
        "text_held_out",
        "92% as 'hôm nay trời nắng nên chúng tôi đi ra chợ mua cá'",
    )
    assert held_out.find("xin chào") == Match("xin chào", 1.0)
    assert held_out.find("xin chào bạn") is None and held_out.find("") is None
    assert HeldOutTexts([]).find("xin chào") is None


def test_answers_do_not_depend_on_the_order_of_the_texts():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abc", k=11)) for _ in range(80)]
    shuffled = rng.sample(texts, len(texts))
    one, other = HeldOutTexts(texts, 0.7), HeldOutTexts(shuffled, 0.7)
    for _ in range(100):
        text = " ".join(rng.choices("abc", k=rng.randint(8, 14)))
        assert one.find(text) == other.find(text)
