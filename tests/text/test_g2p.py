"""Mixed text to phonemes: languages, seeds, dialects, what is unknown; and the command."""

import pickle
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.spans import SpanError
from data_scripts.text.__main__ import main
from data_scripts.text.g2p import G2P
from data_scripts.text.phonemes import full_to_vmd, phoneme_symbols, phonemes_to_words
from data_scripts.text.syllables import all_syllables

FULL = G2P()
VMD = G2P("vmd")
SEPARATED = G2P(separator=True)
SPELLINGS = [syllable.spell() for syllable in all_syllables()]
ENGLISH = ["meeting", "project", "street", "list", "chatgpt", "blorf", "yes", "the"]
MIXED = "hôm nay team có project ở street nào", [(8, 12, "en"), (16, 23, "en"), (26, 32, "en")]
texts = st.text(max_size=20) | st.lists(
    st.sampled_from([*SPELLINGS[::97], *ENGLISH * 30, "5", "你", "—"]), max_size=8
).map(" ".join)


@pytest.mark.parametrize("register", ["full", "vmd"])
def test_the_papers_table(register):
    said = G2P(register).phonemise("tea zoo play a", spans=[(0, 14, "en")])
    assert [" ".join(word.phonemes) for word in said.words] == ["t i -0", "z u -0", "p l ə -0 iz", "ə -0 iz"]
    assert said.phonemes == ["t", "i", "-0", "z", "u", "-0", "p", "l", "ə", "-0", "iz", "ə", "-0", "iz"]
    assert said.unknown == []


def test_all_vietnamese_comes_back():
    said = FULL.phonemise(" ".join(SPELLINGS))
    assert [piece.text for piece in phonemes_to_words(said.phonemes)] == SPELLINGS
    assert {(word.lang, word.source) for word in said.words} == {("vi", "syllable")}


def test_words_languages_and_sources():
    said = FULL.phonemise("Tôi đi meeting với Bob ở Bắc Kạn, qui định 15 你好", [(7, 14, "en")])
    assert [(word.text, word.lang, word.source) for word in said.words] == [
        ("tôi", "vi", "syllable"),
        ("đi", "vi", "syllable"),
        ("meeting", "en", "inflection"),
        ("với", "vi", "syllable"),
        ("bob", "en", "cmudict"),
        ("ở", "vi", "syllable"),
        ("bắc", "vi", "syllable"),
        ("kạn", "vi", "respelled"),
        ("quy", "vi", "syllable"),
        ("định", "vi", "syllable"),
        ("15", None, "unknown"),
        ("你好", None, "unknown"),
    ]
    assert said.unknown == ["15", "你好"]
    assert said.phonemes.count("<unk>") == 2


@pytest.mark.parametrize(
    ("word", "source", "phonemes"),
    [
        ("kilômét", "split", "k i -0 l o -0 m ɛ -4 tz"),
        ("ôtô", "split", "o -0 t o -0"),
        ("hiđrô", "split", "h i -0 ɗ r o -0"),
        ("vđv", "letters", "v e -0 ɗ e -0 v e -0"),
        ("đắk", "respelled", "ɗ a -4 kz"),
        ("nghành", "respelled", "ŋ eaː -1 ŋ̟z"),
        ("mátxcơva", "split", "m aː -4 tz s k əː -0 v aː -0"),
        ("café", "cmudict", "k əː -0 f ə -0 iz"),
        ("algérie", "rules", "aː -0 nz ʑ əː -0 i -0"),
        ("đươc", "unknown", "<unk>"),
    ],
)
def test_loanwords_in_vietnamese_letters(word, source, phonemes):
    for g2p, expected in ((FULL, phonemes.split()), (VMD, full_to_vmd(phonemes.split()))):
        (said,) = g2p.phonemise(word).words
        assert (said.source, list(said.phonemes)) == (source, expected)


def test_labels_decide_between_languages():
    # "son" is lipstick in Vietnamese; "the" is a silk.
    assert FULL.phonemise("son").words[0].lang == "vi"
    assert FULL.phonemise("son", [(0, 3, "en")]).words[0].lang == "en"
    assert FULL.phonemise("son", [{"start": 0, "end": 3, "lang": "en"}]).words[0].lang == "en"
    assert FULL.phonemise("son").phonemes != FULL.phonemise("son", [(0, 3, "en")]).phonemes
    assert FULL.phonemise("team", [(0, 4, "vi")]).words[0].lang == "en"  # it cannot be Vietnamese
    assert [w.lang for w in FULL.phonemise("a a a", [(2, 3, "en")]).words] == ["vi", "en", "vi"]


def test_separator():
    assert SEPARATED.phonemise("xin chào").phonemes == ["s", "i", "-0", "nz", "$", "t͡ɕ", "aː", "-1", "uz"]
    assert SEPARATED.phonemise("check-in").phonemes.count("$") == 1
    assert SEPARATED.phonemise("").phonemes == []


@settings(max_examples=120, deadline=None)
@given(texts, st.none() | st.integers(0, 2**64), st.sampled_from([None, "north", "central", "south"]))
def test_nothing_is_dropped(text, seed, dialect):
    said = FULL.phonemise(text, seed=seed, dialect=dialect)
    assert said.phonemes == [symbol for word in said.words for symbol in word.phonemes]
    assert said.unknown == [word.text for word in said.words if word.phonemes == ("<unk>",)]
    assert set(said.phonemes) <= {*phoneme_symbols("full"), "<unk>"}
    assert all(word.phonemes for word in said.words)
    again = FULL.phonemise(unicodedata.normalize("NFD", text), seed=seed, dialect=dialect)
    assert again.phonemes == said.phonemes


@settings(max_examples=80, deadline=None)
@given(st.lists(texts, max_size=4), st.booleans(), st.booleans())
def test_batches_equal_single_texts(batch, label, separator):
    g2p = SEPARATED if separator else FULL
    spans = [[(0, len(text), "en")] if text and label else [] for text in batch]
    expected = [g2p.phonemise(text, labels).phonemes for text, labels in zip(batch, spans, strict=True)]
    assert g2p.phonemise_batch(batch, spans) == expected
    if not label:
        assert g2p.phonemise_batch(batch) == expected


@settings(max_examples=100, deadline=None)
@given(texts)
def test_vmd_is_the_merged_full(text):
    vietnamese = " ".join(word.text for word in FULL.phonemise(text).words if word.lang == "vi")
    labels = [(0, len(vietnamese), "vi")] if vietnamese else []
    assert VMD.phonemise(vietnamese, labels).phonemes == full_to_vmd(FULL.phonemise(vietnamese, labels).phonemes)


def test_seeds_draw_variants_by_weight():
    said = {" ".join(FULL.phonemise(*MIXED, seed=seed).phonemes) for seed in range(60)}
    assert len(said) > 5
    (word,) = FULL.phonemise("list", [(0, 4, "en")]).words
    drawn = [FULL.phonemise("list", [(0, 4, "en")], seed=seed).words[0].phonemes for seed in range(400)]
    assert drawn.count(word.phonemes) > 200  # the most probable one, at 0.78
    assert len(set(drawn)) > 1


def test_a_seed_means_the_same_in_another_process():
    code = (
        "from data_scripts.text import G2P; g = G2P()\n"
        f"print([g.phonemise({MIXED[0]!r}, {MIXED[1]!r}, seed=s, dialect=d).phonemes "
        "for s in range(8) for d in (None, 'south')])"
    )
    fresh = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8",
        env={"PYTHONHASHSEED": "123", "PYTHONUTF8": "1"},
    )  # fmt: skip
    here = [FULL.phonemise(*MIXED, seed=s, dialect=d).phonemes for s in range(8) for d in (None, "south")]
    assert fresh.stdout.strip() == str(here)


def test_memory_does_not_change_results(monkeypatch):
    monkeypatch.setattr("data_scripts.text.g2p._MEMO_SIZE", 1)
    small = G2P()
    for _ in range(3):
        assert small.phonemise(*MIXED).phonemes == FULL.phonemise(*MIXED).phonemes
        assert small.phonemise_batch([MIXED[0]], [MIXED[1]]) == [FULL.phonemise(*MIXED).phonemes]
        assert small.phonemise(*MIXED, dialect="south").phonemes == FULL.phonemise(*MIXED, dialect="south").phonemes


def test_pickles_without_its_memory():
    g2p = G2P("vmd", separator=True)
    g2p.phonemise(*MIXED)
    data = pickle.dumps(g2p)
    assert len(data) < 1000
    assert pickle.loads(data).phonemise(*MIXED) == g2p.phonemise(*MIXED)


def test_bad_arguments():
    with pytest.raises(SpanError):
        FULL.phonemise("team", [(0, 9, "en")])
    with pytest.raises(ValueError, match="north, central, south"):
        FULL.phonemise("đi", dialect="hanoi")
    with pytest.raises(ValueError, match="one for each text"):
        FULL.phonemise_batch(["a", "b"], [[]])
    with pytest.raises(ValueError, match="choose 'full'"):
        G2P("ipa")


def test_command(capsys):
    assert main(["hôm nay có [en]meeting[/en]"]) == 0
    shown = capsys.readouterr().out
    assert "full      h o -0 mz n a -0 iz k ɔ -4 m i -0 t i -0 ŋ̟z" in shown
    assert "vmd       h o -0 mz" in shown
    assert "unknown" not in shown


def test_command_shows_what_is_wrong(capsys):
    assert main(["lúc 9h 你好", "--as_written"]) == 1
    shown = capsys.readouterr().out
    assert "unknown   9h, 你好" in shown
    assert "problems  digits, other_script" in shown
    with pytest.raises(SystemExit):
        main(["[en]meeting"])
    assert "never closed" in capsys.readouterr().err
