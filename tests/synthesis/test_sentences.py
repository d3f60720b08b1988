"""Demo sentences: endless, distinct, by index, labelled to the character, split without overlap."""

import json
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.synthesis.grammar import Grammar, demo_grammar, join_words, read_resource, split_languages
from data_scripts.synthesis.sentences import (
    SPLITS,
    SentenceStream,
    generate_sentences,
    permute,
    read_sentences,
    split_of,
    write_sentences,
)
from data_scripts.text.normalize import normalize_text, text_problems
from data_scripts.text.syllables import is_syllable

WORD = st.sampled_from(["anh", "meeting", "ơi", "in", "email"])


def test_domain_is_bounded_and_large():
    grammar = demo_grammar()
    vocabulary = grammar.vocabulary()
    assert 350 <= len({word for word, _ in vocabulary}) <= 450
    assert sum(lang == "en" for _, lang in vocabulary) >= 80
    assert len(SentenceStream()) > 1_000_000


def test_every_word_is_in_normal_form_and_in_its_language():
    for word, lang in demo_grammar().vocabulary():
        assert normalize_text(word) == word and not text_problems(word)
        assert lang == "en" or is_syllable(word)


def test_every_sentence_has_four_to_twelve_words():
    for template in demo_grammar().templates:
        assert sum(min(map(len, slot)) for slot in template.slots) >= 4, template.id
        assert sum(max(map(len, slot)) for slot in template.slots) <= 12, template.id


def test_rows_are_distinct_and_half_code_switched():
    rows = list(generate_sentences(20_000, seed=3))
    assert len({row["text"] for row in rows}) == len({row["id"] for row in rows}) == 20_000
    assert sum(bool(row["spans"]) for row in rows) == 10_000
    # Templates take turns, so a small corpus already holds all of them.
    assert len({word for row in rows[:400] for word in row["text"].split()}) > 300


def test_spans_are_the_english_words():
    english = {word for word, lang in demo_grammar().vocabulary() if lang == "en"}
    both = {word for word, lang in demo_grammar().vocabulary() if lang == "vi"} & english
    for row in generate_sentences(3000, seed=1):
        marked = [row["text"][span["start"] : span["end"]] for span in row["spans"]]
        assert all(word in english for run in marked for word in run.split())
        outside = " ".join(piece for lang, piece in split_languages(row["text"], row["spans"]) if lang == "vi")
        assert not set(outside.split()) & (english - both)
        # Maximal runs: at least one Vietnamese word between two of them.
        for before, after in zip(row["spans"], row["spans"][1:], strict=False):
            assert after["start"] > before["end"] + 1


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_share_of_code_switched_rows(share):
    rows = list(generate_sentences(500, code_switched_share=share))
    assert sum(bool(row["spans"]) for row in rows) == pytest.approx(500 * share, abs=1)


def test_a_row_depends_on_seed_and_index_alone():
    stream = SentenceStream(seed=5)
    listed = list(islice(stream.rows(), 300))
    assert [SentenceStream(seed=5)[i] for i in reversed(range(300))] == listed[::-1]
    assert list(generate_sentences(100, 5, start=200)) == listed[200:]
    assert [row["text"] for row in generate_sentences(300, 6)] != [row["text"] for row in listed]


def test_same_rows_in_another_process():
    code = (
        "import json; from data_scripts.synthesis.sentences import generate_sentences as g;"
        "print(json.dumps(list(g(200, 9))))"
    )
    out = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "77"}, capture_output=True, check=True)
    assert json.loads(out.stdout) == list(generate_sentences(200, 9))


def test_splits_share_no_sentence_whatever_the_seed():
    texts = {
        split: {row["text"] for seed in (0, 1) for row in generate_sentences(400, seed, split=split)}
        for split in SPLITS
    }
    for one in SPLITS:
        for other in SPLITS:
            assert one == other or not texts[one] & texts[other]
    sizes = Counter(row["split"] for row in generate_sentences(20_000))
    for split, share in SPLITS.items():
        assert sizes[split] / 20_000 == pytest.approx(share, abs=0.01)


def test_split_of_is_pinned():
    # A change here would move sentences from training to test between versions.
    pinned = {
        "tôi muốn mua năm cái mũ màu tím": "train",
        "tester đang chờ file của chú minh": "train",
        "chiều thứ năm chú hương đi hải phòng bằng tàu hoả": "test",
        "bạn có giày màu đen không": "test",
        "party bắt đầu lúc mười một giờ tối": "validation",
        "cuối tuần mình họp online lúc hai giờ": "validation",
    }
    assert {text: split_of(text) for text in pinned} == pinned


def test_all_sentences_of_a_small_grammar_come_exactly_once():
    slots = {"x": ["một", "hai", "ba"], "y": ["[ok]", "[fine]"]}
    grammar = Grammar.from_lines([("a", "có {x} {x}"), ("b", "không {x}"), ("c", "{y} {x}")], slots)
    stream = SentenceStream(seed=2, grammar=grammar)
    assert len(stream) == 13  # one more would need a seventh code-switched sentence
    texts = [row["text"] for row in stream.rows()]
    assert len(set(texts)) == 13
    vietnamese = [row["text"] for row in SentenceStream(2, 0.0, grammar).rows()]
    assert sorted(vietnamese) == sorted(
        [f"có {a} {b}" for a in slots["x"] for b in slots["x"]] + [f"không {a}" for a in slots["x"]]
    )
    with pytest.raises(IndexError, match="13 distinct"):
        stream[13]
    with pytest.raises(ValueError, match="only 13 distinct"):
        list(generate_sentences(14, 2, grammar=grammar))


@pytest.mark.parametrize(
    ("templates", "slots", "message"),
    [
        ([("a", "có {x}"), ("b", "có một")], {"x": ["một", "hai"]}, "'a' and 'b' both write 'có một'|'b' and 'a'"),
        ([("a", "{x} {y}")], {"x": ["một", "một hai"], "y": ["ba", "hai ba"]}, "both write 'một hai ba'"),
        ([("a", "{x} có")], {"x": ["một", "một"]}, "both write 'một có'"),
        ([("a", "[in] có"), ("b", "in có")], {}, "both write 'in có'"),
        ([("a", "{z}")], {"x": ["một"]}, "unknown slot 'z'"),
        ([("a", "có [meeting")], {}, "stray"),
        ([("a", "{x}")], {"x": ["một", "[one]"]}, "mixes"),
        ([("a", "một"), ("a", "hai")], {}, "occurs twice"),
        ([("a", " ")], {}, "empty"),
        ([], {}, "at least one"),
    ],
)
def test_bad_grammars_are_refused(templates, slots, message):
    with pytest.raises(ValueError, match=message):
        Grammar.from_lines(templates, slots)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        SentenceStream(code_switched_share=1.5)
    with pytest.raises(ValueError, match="unknown split 'dev'; known: train"):
        next(generate_sentences(1, split="dev"))
    with pytest.raises(ValueError, match="no code-switched templates"):
        SentenceStream(grammar=Grammar.from_lines([("a", "xin chào")], {}))


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
@settings(max_examples=25, deadline=None)
def test_permute_is_a_permutation(size, key):
    assert sorted(permute(i, size, key) for i in range(size)) == list(range(size))


@given(st.lists(st.tuples(WORD, st.sampled_from(["vi", "en"])), min_size=1))
def test_joining_and_splitting_languages_are_inverse(words):
    text, spans = join_words(words)
    assert [(word, lang) for lang, piece in split_languages(text, spans) for word in piece.split()] == words


def test_written_rows_are_read_back(tmp_path):
    rows = list(generate_sentences(20))
    path = tmp_path / "deep" / "rows.jsonl"
    assert write_sentences(iter(rows), path) == 20
    assert list(read_sentences(path)) == rows
    path.write_text('{"text": "xin chào"}\n{"id": "b"}\n', encoding="utf-8")
    reader = read_sentences(path)
    assert next(reader)["spans"] == []
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: expected"):
        next(reader)


def test_resources_have_no_repeated_or_odd_entries():
    loans = read_resource("loans.tsv")
    assert len(loans) >= 200
    assert len({row["vi"] for row in loans}) == len(loans)
    for row in loans:
        assert normalize_text(row["vi"]) == row["vi"] and not text_problems(row["vi"])
        assert normalize_text(row["en"]) == row["en"]
