"""Phoneme-text pairs: seeded by (seed, epoch, index), with plausible errors that stay inside the register."""

import json
import pickle
import subprocess
import sys
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.synthesis.confusions import PhonemeNoise, phoneme_noise
from data_scripts.synthesis.grammar import demo_grammar, read_resource
from data_scripts.synthesis.pairs import P2TPairs, p2t_dataset, p2t_pairs
from data_scripts.synthesis.sentences import SentenceStream, generate_sentences
from data_scripts.text.g2p import G2P
from data_scripts.text.phonemes import REGISTERS, phoneme_symbols

ROWS = list(generate_sentences(60, seed=2))
SYMBOLS = {register: [s for s in phoneme_symbols(register) if s != "$"] for register in REGISTERS}


def test_pairs_hold_the_sentence_and_a_pronunciation_of_it():
    pairs = list(p2t_pairs(ROWS))
    assert [pair["text"] for pair in pairs] == [row["text"] for row in ROWS]
    g2p = G2P()
    for pair, row in zip(pairs, ROWS, strict=True):
        assert set(pair["phonemes"]) <= set(phoneme_symbols("full"))
        if not row["spans"]:
            assert pair["phonemes"] == g2p.phonemise(row["text"]).phonemes


def test_every_demo_word_has_a_pronunciation():
    g2p = G2P()
    for word, lang in demo_grammar().vocabulary():
        said = g2p.phonemise(word, [(0, len(word), lang)])
        assert not said.unknown and {w.lang for w in said.words} == {lang}


def test_epochs_pronounce_english_in_several_ways():
    row = next(row for row in ROWS if "deadline" in row["text"])
    pairs = P2TPairs([row], seed=1)
    heard = set()
    for epoch in range(30):
        pairs.set_epoch(epoch)
        heard.add(tuple(pairs[0]["phonemes"]))
    assert len(heard) > 1
    pairs.set_epoch(4)
    assert pairs[0] == next(p2t_pairs([row], seed=1, epoch=4))


def test_map_style_equals_streaming_in_any_order_and_after_pickling():
    options = {"seed": 3, "noise_rate": 0.1, "dialects": (None, "south")}
    streamed = list(p2t_pairs(ROWS, **options))
    pairs = P2TPairs(ROWS, **options)
    assert [pairs[i] for i in reversed(range(len(pairs)))] == streamed[::-1]
    again = pickle.loads(pickle.dumps(pairs))
    assert again[7] == streamed[7] and len(again) == len(ROWS)
    assert list(p2t_pairs(ROWS, **{**options, "seed": 4})) != streamed
    with pytest.raises(IndexError):
        pairs[len(ROWS)]


def test_same_pairs_in_another_process():
    code = (
        "import json; from data_scripts.synthesis.pairs import p2t_pairs;"
        "from data_scripts.synthesis.sentences import generate_sentences;"
        "rows = generate_sentences(30, seed=2);"
        "print(json.dumps(list(p2t_pairs(rows, seed=5, noise_rate=0.2, dialects=(None, 'north')))))"
    )
    out = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "5"}, capture_output=True, check=True)
    assert json.loads(out.stdout) == list(p2t_pairs(ROWS[:30], seed=5, noise_rate=0.2, dialects=(None, "north")))


def test_streaming_dataset_is_the_same_whatever_its_shards():
    datasets = [p2t_dataset(120, seed=2, split="train", num_shards=n, noise_rate=0.1) for n in (1, 8)]
    first, second = (sorted(dataset, key=lambda pair: pair["id"]) for dataset in datasets)
    assert first == second == sorted(datasets[0], key=lambda pair: pair["id"])  # and a second pass repeats the first
    assert datasets[1].num_shards == 8
    texts = {pair["text"] for pair in first}
    assert texts == {SentenceStream(2)[i]["text"] for i in range(120) if SentenceStream(2)[i]["split"] == "train"}


def test_sentences_without_pronunciation_are_left_out_and_counted(caplog):
    rows = [{"id": "a", "text": "xin chào", "spans": []}, {"id": "b", "text": "đi ʘʘ", "spans": []}]
    with caplog.at_level("INFO"):
        assert [pair["id"] for pair in p2t_pairs(rows)] == ["a"]
    assert "left out 1 sentence" in caplog.text
    assert "<unk>" in P2TPairs(rows)[1]["phonemes"]


@given(
    st.sampled_from(REGISTERS).flatmap(lambda r: st.tuples(st.just(r), st.lists(st.sampled_from(SYMBOLS[r])))),
    st.floats(0, 1),
    st.integers(0, 100),
)
@settings(deadline=None)
def test_errors_stay_inside_the_register(register_and_phonemes, rate, seed):
    register, phonemes = register_and_phonemes
    corrupted = phoneme_noise(register).corrupt(phonemes, Random(seed), rate)
    assert set(corrupted) <= set(SYMBOLS[register])
    assert bool(corrupted) == bool(phonemes)
    assert corrupted == phoneme_noise(register).corrupt(phonemes, Random(seed), rate)
    assert phoneme_noise(register).corrupt(phonemes, Random(seed), 0.0) == phonemes


def test_error_rate_and_kinds():
    phonemes = [symbol for pair in p2t_pairs(ROWS) for symbol in pair["phonemes"]] * 20
    corrupted = phoneme_noise("full").corrupt(phonemes, Random(0), 0.1)
    # 20 % of the errors drop a symbol and 10 % add one, so the length shrinks by a tenth of them.
    assert len(corrupted) / len(phonemes) == pytest.approx(0.99, abs=0.004)
    for symbol, expected in (("-2", "-3"), ("ʈʂ", "t͡ɕ"), ("ʂ", "s"), ("nz", "ŋz"), ("a", "aː")):
        heard = Counter(phoneme_noise("full").corrupt([symbol] * 20_000, Random(1), 0.2))
        assert heard[symbol] > 15_000
        assert heard.most_common(2)[1][0] == expected


def test_separators_and_unknown_symbols_are_left_alone():
    assert phoneme_noise("full").corrupt(["$", "<unk>", "$"], Random(0), 1.0) == ["$", "<unk>", "$"]
    with pytest.raises(ValueError, match="between 0 and 1"):
        phoneme_noise("full").corrupt(["a"], Random(0), 1.2)
    with pytest.raises(ValueError, match="register"):
        phoneme_noise("ipa")


def test_any_symbols_will_do_even_one_alone_of_its_kind():
    noise = PhonemeNoise(["x", "y", "-0"])
    heard = noise.corrupt(["x"] * 1000 + ["-0"] * 1000, Random(0), 1.0)
    assert heard.count("y") > 700 and set(heard) == {"x", "y", "-0"}


def test_sentences_have_rates_of_their_own():
    shares = [
        phoneme_noise("full").corrupt_sentence(["a"] * 400, Random(seed), 0.1).count("a") / 400 for seed in range(300)
    ]
    assert sum(shares) / 300 == pytest.approx(0.91, abs=0.015)
    assert max(shares) > 0.98 and min(shares) < 0.84


def test_confusions_name_known_symbols_once():
    rows = read_resource("confusions.tsv")
    assert {symbol for row in rows for symbol in (row["first"], row["second"])} <= set(SYMBOLS["full"])
    assert len({frozenset((row["first"], row["second"])) for row in rows}) == len(rows)
    assert all(float(row["weight"]) > 0 for row in rows)


def test_vmd_register_is_used_throughout():
    for pair in p2t_pairs(ROWS, register="vmd", noise_rate=0.3, separator=True):
        assert set(pair["phonemes"]) <= set(phoneme_symbols("vmd"))
        assert pair["phonemes"].count("$") == len(pair["text"].split()) - 1
