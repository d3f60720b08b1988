"""The language model against files and scores of kenlm, an independent implementation and the laws of probability."""

import lzma
import math
import pickle
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.curation.arpa import read_arpa
from data_scripts.curation.ngram import ArpaError, NgramModel, train_ngram

GOLDEN = Path(__file__).with_name("golden")
TRAIN = (GOLDEN / "train.txt").read_text(encoding="utf-8").splitlines()
MODES = ((True, True), (True, False), (False, True), (False, False))


def recorded_scores() -> tuple[list[str], np.ndarray]:
    """1,000 sentences and what kenlm gives them in the four modes."""
    with lzma.open(GOLDEN / "scores.tsv.xz", "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [row[4] for row in rows], np.array([[float(value) for value in row[:4]] for row in rows])


def as_dict(words, tables):
    """{n-gram as words: (log10 probability, log10 back-off)}."""
    grams = [(number,) for number in range(len(words))]
    found = {}
    for level, table in enumerate(tables, 1):
        if level > 1:
            grams = [(*grams[key // len(words)], key % len(words)) for key in table.keys.tolist()]
        values = zip(table.log_probs.tolist(), table.log_backoffs.tolist(), strict=True)
        found |= {tuple(words[i] for i in gram): value for gram, value in zip(grams, values, strict=True)}
    return found


@pytest.mark.parametrize(
    ("file", "sentences", "settings"),
    [
        ("lmplz", TRAIN, {"order": 4}),
        ("lmplz_pruned", TRAIN, {"order": 4, "prune": (0, 0, 1)}),
        ("lmplz_fallback", TRAIN[:12], {"order": 3, "discount_fallback": (0.4, 0.9, 1.6)}),
    ],
)
def test_trained_like_lmplz(file, sentences, settings):
    ours = train_ngram(sentences, **settings)
    expected = as_dict(*read_arpa(GOLDEN / f"{file}.arpa.xz"))
    found = as_dict(ours.words, ours.tables)
    assert found.keys() == expected.keys()
    # lmplz gives <s>, which nothing predicts, probability 1.
    assert found.pop(("<s>",))[1] == pytest.approx(expected.pop(("<s>",))[1], abs=1e-6)
    for gram, values in expected.items():
        assert found[gram] == pytest.approx(values, abs=1e-5), gram


def test_scores_are_those_that_kenlm_recorded():
    sentences, expected = recorded_scores()
    model = train_ngram(TRAIN)
    assert len(sentences) == 1000
    for column, (bos, eos) in enumerate(MODES):
        assert np.abs(model.score_batch(sentences, bos, eos) - expected[:, column]).max() < 1e-4


@pytest.mark.parametrize("prune", [(), (0, 1)])
def test_kenlm_reads_the_file_and_scores_alike(tmp_path, prune):
    kenlm = pytest.importorskip(
        "kenlm", reason="an oracle that has to be compiled; recorded scores are checked always"
    )
    sentences, _ = recorded_scores()
    model = train_ngram(TRAIN, prune=prune)
    model.save(tmp_path / "lm.arpa.gz")
    theirs = kenlm.Model(str(tmp_path / "lm.arpa.gz"))
    for bos, eos in MODES:
        expected = [theirs.score(sentence, bos=bos, eos=eos) for sentence in sentences]
        assert np.abs(model.score_batch(sentences, bos, eos) - expected).max() < 1e-4
    assert model.perplexity(sentences[:1]).all_words == pytest.approx(theirs.perplexity(sentences[0]), rel=1e-4)


def brute_force(sentences, order, fallback):
    """p(word, context) straight from Chen and Goodman (1998), eq. 20-26, with dictionaries and recursion."""
    padded = [["<s>"] * (order - 1) + sentence.split() + ["</s>"] for sentence in sentences if sentence.split()]
    vocabulary = {"<unk>"} | {word for words in padded for word in words} - {"<s>"}
    occurrences = [Counter() for _ in range(order + 1)]
    for words in padded:
        for end in range(order - 1, len(words)):
            for n in range(1, order + 1):
                gram = tuple(words[end - n + 1 : end + 1])
                if gram[:2] != ("<s>", "<s>"):
                    occurrences[n][gram] += 1
    counts = [defaultdict(int) for _ in range(order + 1)]
    for n in range(1, order + 1):
        for gram, occurrence in occurrences[n].items():
            lefts = {longer[0] for longer in occurrences[n + 1] if longer[1:] == gram} if n < order else set()
            counts[n][gram] = occurrence if n == order or gram[0] == "<s>" else len(lefts)
    discounts = [None]
    for n in range(1, order + 1):
        of = Counter(counts[n].values())
        y = of[1] / (of[1] + 2 * of[2]) if of[1] else 0
        found = [k - (k + 1) * y * of[k + 1] / of[k] if of[k] else -1 for k in (1, 2, 3)]
        good = all(0 <= d <= k for k, d in enumerate(found, 1))
        discounts.append([0.0, *(found if good else fallback)])

    def probability(word, context):
        if context is None:
            return 1 / len(vocabulary)
        n = len(context) + 1
        shorter = probability(word, context[1:] if context else None)
        following = {gram[-1]: count for gram, count in counts[n].items() if gram[:-1] == context}
        total = sum(following.values())
        if not total:
            return shorter
        left = sum(discounts[n][min(count, 3)] for count in following.values())
        count = following.get(word, 0)
        return (count - discounts[n][min(count, 3)] + left * shorter) / total

    return vocabulary, probability


small_texts = st.lists(st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(small_texts.filter(lambda texts: any(texts)), st.integers(1, 4), st.lists(st.sampled_from("abcdz"), max_size=5))
def test_equals_the_formulas(sentences, order, query):
    fallback = (0.5, 1.0, 1.5)
    model = train_ngram(sentences, order, discount_fallback=fallback)
    vocabulary, probability = brute_force(sentences, order, fallback)
    history = ["<s>", *query, "</s>"]
    expected = 0.0
    for place in range(1, len(history)):
        context = tuple(history[max(0, place - order + 1) : place])
        word = history[place] if history[place] in vocabulary else "<unk>"
        # kenlm's and our context stops at a word that was never seen; so does the recursion, which counts nothing.
        expected += math.log10(probability(word, context))
    assert model.score(" ".join(query)) == pytest.approx(expected, abs=2e-5)


@settings(max_examples=40, deadline=None)
@given(
    small_texts.filter(lambda texts: any(texts)),
    st.integers(1, 4),
    st.sampled_from([(), (0, 1), (0, 0, 1)]),
    st.lists(st.sampled_from("abcdz"), max_size=4),
)
def test_probabilities_of_all_words_sum_to_one(sentences, order, prune, history):
    model = train_ngram(sentences, order, prune=prune[:order])
    context = " ".join(history)
    before = model.score(context, eos=False)
    words = [word for word in model.words if word not in ("<s>", "</s>", "<unk>")] + ["neverseen"]
    after = model.score_batch([f"{context} {word}" for word in words], eos=False) - before
    total = (10**after).sum() + 10 ** (model.score(context) - before)
    assert total == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz", "deeper/lm.arpa.xz"])
def test_saved_and_loaded_it_is_the_same(tmp_path, name):
    model = train_ngram(TRAIN, prune=(0, 0, 1))
    model.save(tmp_path / name)
    loaded = NgramModel.load(tmp_path / name)
    assert loaded.words == model.words and loaded.counts == model.counts
    for ours, theirs in zip(model.tables, loaded.tables, strict=True):
        for column, again in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(column, again)
    written = (tmp_path / name).read_bytes()
    loaded.save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == written
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name]


def test_order_of_sentences_does_not_matter(tmp_path):
    train_ngram(TRAIN).save(tmp_path / "a.arpa")
    train_ngram(TRAIN[::-1]).save(tmp_path / "b.arpa")
    assert (tmp_path / "a.arpa").read_bytes() == (tmp_path / "b.arpa").read_bytes()


def test_batches_score_like_single_sentences():
    model = train_ngram(TRAIN, order=3)
    texts = [TRAIN[i % 250] if i % 3 else "" for i in range(9000)]
    scores = model.score_batch(iter(texts))
    picked = [0, 1, 4095, 4096, 4097, 8999]
    assert scores[picked] == pytest.approx([model.score(texts[i]) for i in picked], abs=1e-9)
    assert model.score_batch([]).shape == (0,)
    per_word = model.score_batch(texts[:9], per_word=True)
    assert per_word == pytest.approx([model.score(t) / (len(t.split()) + 1) for t in texts[:9]], abs=1e-9)
    assert model.score_batch([""], eos=False, per_word=True).tolist() == [0.0]


def test_unknown_words_and_empty_sentences():
    model = train_ngram(TRAIN)
    assert "trời" in model and "blorp" not in model
    assert model.score("", eos=False) == 0.0
    assert model.score("") == pytest.approx(model.score("  "))
    assert model.score("blorp", bos=False, eos=False) == pytest.approx(model.tables[0].log_probs[0])
    assert model.score("<s>", eos=False, bos=False) < -1  # the text cannot forge a mark


def test_perplexity_counts_unknown_words_apart():
    model = train_ngram(TRAIN)
    found = model.perplexity(["trời blorp", "", "trời"])
    assert (found.num_words, found.num_unknown) == (5, 1)
    total = model.score("trời blorp") + model.score("trời")
    assert found.all_words == pytest.approx(10 ** (-total / 5))
    assert found.known_words < found.all_words
    assert math.isnan(model.perplexity([]).all_words)


def test_small_or_strange_text(caplog):
    with pytest.raises(ValueError, match=r"of order 1 cannot be estimated from .* of count 1"):
        train_ngram(["a a a"], discount_fallback=None)
    train_ngram(["a a a"])
    assert "discounts (0.5, 1.0, 1.5) are used" in caplog.text
    with pytest.raises(ValueError, match="no sentence with a word"):
        train_ngram(["", "  "])
    with pytest.raises(ValueError, match=r"sentence 2 holds one of <unk>, <s>, </s>: 'xin </s>'"):
        train_ngram(["xin chào", "xin </s>"])
    for prune in ((1,), (0, 2, 1), (0, 0, 0, 0, 0)):
        with pytest.raises(ValueError, match="prune must hold"):
            train_ngram(["a b"], prune=prune)
    with pytest.raises(ValueError, match="order must be at least 1"):
        train_ngram(["a b"], order=0)


def test_pickles():
    model = train_ngram(TRAIN)
    assert pickle.loads(pickle.dumps(model)).score(TRAIN[3]) == model.score(TRAIN[3])


FOREIGN = """some comment

\\data\\
ngram 1=5
ngram 2=2
ngram 3=1

\\1-grams:
-99 <s> -0.5
-1.0\t</s>
-0.7 a -0.3
-0.6 b  -0.2
-0.8 c

\\2-grams:
-0.2\t<s> a\t-0.1
-0.4\ta b\t-0.05

\\3-grams:
-0.1\t<s> a c

\\end\\
"""


def test_reads_files_of_other_tools(tmp_path):
    (tmp_path / "lm.arpa").write_text(FOREIGN)
    model = NgramModel.load(tmp_path / "lm.arpa")
    # "<s> a c" is there although "a c" is not; after it only the back-off of "c" (none) applies.
    assert model.score("a c") == pytest.approx(-0.2 - 0.1 - 1.0)
    assert model.score("a b") == pytest.approx(-0.2 + (-0.1 - 0.4) + (-0.05 - 0.2 - 1.0))
    assert model.score("x", eos=False) == pytest.approx(-0.5 - 100)  # no <unk>: as improbable as kenlm makes it
    model.save(tmp_path / "again.arpa")
    assert NgramModel.load(tmp_path / "again.arpa").score("a b x") == model.score("a b x")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("\\data\\", "data", 8, "no \\data\\ line: this is no ARPA file"),
        ("ngram 2=2", "ngram 2=x", 5, "expected 'ngram 2=<count>', got 'ngram 2=x'"),
        ("ngram 2=2", "ngram 2=3", 18, "\\2-grams: holds 2 n-grams, the head of the file announces 3"),
        ("\\2-grams:", "\\4-grams:", 15, "expected \\2-grams: here, got '\\\\4-grams:'"),
        ("-0.4\ta b", "-O.4\ta b", 17, "expected '<log10 probability> <2 words>"),
        ("-0.4\ta b", "-0.4\ta b c d", 17, "expected '<log10 probability> <2 words>"),
        ("-0.4\ta b", "0.4\ta b", 17, "must be ≤ 0 and both finite, got 0.4"),
        ("-0.4\ta b", "nan\ta b", 17, "must be ≤ 0"),
        ("a b\t-0.05", "a b\tinf", 17, "both finite, got -0.4 and inf"),
        ("-0.4\ta b", "-0.4\ta d", 17, "the word 'd' is not among the 1-grams"),
        ("-0.4\ta b", "-0.4\t<s> a", 17, "this 2-gram comes twice"),
        ("-0.8 c", "-0.8 a", 13, "the 1-gram 'a' comes twice"),
        ("<s> a c", "b a c", 20, "its first 2 words are no 2-gram"),
        ("\\end\\\n", "", 21, "expected \\end\\ here, got the end of the file: cut off"),
        ("-1.0\t</s>", "-1.0\te", None, "no 1-gram </s>"),
    ],
)
def test_damage_is_named_by_line(tmp_path, old, new, line, message):
    assert old in FOREIGN
    (tmp_path / "lm.arpa").write_text(FOREIGN.replace(old, new, 1))
    where = f"lm.arpa:{line}: " if line else "lm.arpa: "
    with pytest.raises(ArpaError) as error:
        NgramModel.load(tmp_path / "lm.arpa")
    assert where in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_compressed_files_cut_off_or_foreign(tmp_path, suffix):
    path = tmp_path / f"lm.arpa{suffix}"
    train_ngram(TRAIN).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ArpaError, match=r"lm\.arpa\S+:\d{3,}: the compressed file is damaged or cut off here"):
        NgramModel.load(path)
    path.write_text(FOREIGN)
    with pytest.raises(ArpaError, match=":0: the compressed file is damaged"):
        NgramModel.load(path)


def test_not_utf8(tmp_path):
    (tmp_path / "lm.arpa").write_bytes(FOREIGN.encode().replace(b"-0.8 c", b"-0.8 \xff\xfe"))
    with pytest.raises(ArpaError, match=r"lm\.arpa:13: .* is not UTF-8"):
        NgramModel.load(tmp_path / "lm.arpa")


@pytest.mark.slow
def test_wikipedia_in_a_minute_and_like_kenlm(shared_data, tmp_path):
    kenlm = pytest.importorskip(
        "kenlm", reason="an oracle that has to be compiled; recorded scores are checked always"
    )
    with lzma.open(shared_data / "text" / "viwiki_sentences.txt.xz", "rt", encoding="utf-8") as file:
        texts = file.read().splitlines()
    began = time.process_time()
    model = train_ngram(texts)
    assert time.process_time() - began < 60
    model.save(tmp_path / "lm.arpa")
    theirs = kenlm.Model(str(tmp_path / "lm.arpa"))
    picked = [" ".join(texts[i].split()[:: 1 if i % 2 else -1]) for i in range(0, 150_000, 150)]
    assert len(picked) == 1000
    assert np.abs(model.score_batch(picked) - [theirs.score(text) for text in picked]).max() < 1e-4
