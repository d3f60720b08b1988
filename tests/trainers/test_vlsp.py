"""The VLSP 2025 composite score: the paper's table, oracles for its parts, its intervals, and the gain of rules."""

import evaluate
import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, recall_score

from data_scripts.text.emotion_rules import EmotionRules
from trainers.metrics.bootstrap import bootstrap_interval
from trainers.metrics.classes import class_scores
from trainers.metrics.text import text_error_counts
from trainers.metrics.vlsp import LABELS, apply_rules, composite_score, rule_gain, vlsp_scores

# Table 1 of the paper: SyER, SER, Score.
TABLE_1 = [
    (9.07, 82.21, 88.31),
    (11.38, 79.13, 85.77),
    (12.66, 80.84, 85.39),
    (19.12, 79.50, 80.47),
    (25.22, 85.79, 78.08),
    (20.87, 66.50, 75.34),
    (23.56, 71.76, 75.04),
]
RULES = EmotionRules.load(threshold=0.2)
WORDS = ["một", "hai", "ba", "bốn", "năm"]
pair = st.tuples(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=5), st.lists(st.sampled_from(WORDS), max_size=5)
)
label = st.sampled_from(LABELS)
rows = st.lists(st.tuples(pair, label, label), min_size=1, max_size=15)


@pytest.mark.parametrize(("syer", "accuracy", "score"), TABLE_1)
def test_table_1(syer, accuracy, score):
    assert round(composite_score(syer, accuracy), 2) == score


@pytest.mark.parametrize("wrong", [(-0.1, 50), (5, 101), (5, -1), (float("nan"), 50), (float("inf"), 50)])
def test_composite_score_takes_percent(wrong):
    with pytest.raises(ValueError, match="in percent"):
        composite_score(*wrong)


@settings(max_examples=60, deadline=None)
@given(rows)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_equal_to_jiwer_and_sklearn(rows):
    references, hypotheses = ([" ".join(row[0][side]) for row in rows] for side in (0, 1))
    said, guessed = [row[1] for row in rows], [row[2] for row in rows]
    scores = vlsp_scores(references, hypotheses, said, guessed, num_samples=0)
    metrics = {name: metric["value"] for name, metric in scores["metrics"].items()}
    assert metrics["syer"] == pytest.approx(100 * jiwer.wer(references, hypotheses))
    assert metrics["accuracy"] == pytest.approx(100 * np.mean([a == b for a, b in zip(said, guessed, strict=True)]))
    recalls = recall_score(said, guessed, labels=list(LABELS), average=None, zero_division=0)
    assert [scores["recalls"][name]["value"] for name in LABELS] == pytest.approx(list(100 * recalls))
    assert metrics["balanced_accuracy"] == pytest.approx(100 * class_scores(said, guessed, LABELS)["uar"])
    if len(set(said)) == 2:
        assert metrics["balanced_accuracy"] == pytest.approx(100 * balanced_accuracy_score(said, guessed))
    assert metrics["score"] == pytest.approx(composite_score(metrics["syer"], metrics["balanced_accuracy"]))
    assert scores["counts"]["missing_classes"] == [name for name in LABELS if name not in said]


def corpus(num_rows, seed=0, linked=True):
    """Rows whose recognition fails exactly where their emotion is missed, or independently of it."""
    rng = np.random.default_rng(seed)
    bad = rng.random(num_rows) < 0.4
    missed = bad if linked else rng.permutation(bad)
    said = [LABELS[index % 2] for index in range(num_rows)]
    other = dict(zip(LABELS, LABELS[::-1], strict=True))
    guessed = [other[name] if miss else name for name, miss in zip(said, missed, strict=True)]
    return ["một hai ba bốn"] * num_rows, ["một" if miss else "một hai ba bốn" for miss in bad], said, guessed


def width(metric):
    return metric["high"] - metric["low"]


def test_intervals_are_reproducible_and_those_of_the_parts():
    data = corpus(60)
    scores = vlsp_scores(*data, num_samples=300, seed=3)
    assert scores == vlsp_scores(*data, num_samples=300, seed=3)
    assert scores["metrics"]["score"] != vlsp_scores(*data, num_samples=300, seed=4)["metrics"]["score"]
    counts = text_error_counts(*data[:2])["syer"]
    expected = bootstrap_interval(counts.errors, counts.reference_lengths, num_samples=300, seed=3)
    syer = scores["metrics"]["syer"]
    assert (syer["low"], syer["high"]) == pytest.approx(tuple(100 * value for value in expected))
    for metric in (*scores["metrics"].values(), *scores["recalls"].values()):
        assert metric["low"] <= metric["value"] <= metric["high"]


def naive_score_interval(data, num_samples, seed):
    """A loop over resamples that scores each as a corpus of its own."""
    rng = np.random.default_rng(seed)
    scores = []
    for index in rng.integers(0, len(data[0]), size=(num_samples, len(data[0]))):
        drawn = [[column[i] for i in index] for column in data]
        if len(set(drawn[2])) < 2:
            continue
        accuracy = 100 * balanced_accuracy_score(*drawn[2:])
        scores.append(composite_score(100 * jiwer.wer(*drawn[:2]), accuracy))
    return np.percentile(scores, [2.5, 97.5])


@pytest.mark.parametrize("linked", [True, False])
def test_score_interval_equals_a_naive_loop(linked):
    data = corpus(30, linked=linked)
    metric = vlsp_scores(*data, num_samples=200, seed=1)["metrics"]["score"]
    assert [metric["low"], metric["high"]] == pytest.approx(naive_score_interval(data, 200, 1))


def test_errors_that_go_together_widen_the_interval():
    """Resampling the two parts apart would hide that a bad utterance is bad in both."""
    references, hypotheses, said, guessed = corpus(400)
    joint = vlsp_scores(references, hypotheses, said, guessed)["metrics"]["score"]
    none = [None] * 400
    apart = vlsp_scores(references + none, hypotheses + none, none + said, none + guessed)["metrics"]["score"]
    assert apart["value"] == pytest.approx(joint["value"])
    # Standard deviations add up where errors go together, variances where they are drawn apart.
    assert 1.15 < width(joint) / width(apart) < 1.5


def test_separate_sets_are_drawn_apart():
    text, emotion = corpus(40, seed=1), corpus(90, seed=2)
    none_text, none_emotion = [None] * 90, [None] * 40
    scores = vlsp_scores(
        text[0] + none_text, text[1] + none_text, none_emotion + emotion[2], none_emotion + emotion[3], seed=5
    )
    alone = vlsp_scores(text[0], text[1], None, None, seed=5)
    assert scores["metrics"]["syer"] == alone["metrics"]["syer"]
    only = vlsp_scores(None, None, emotion[2], emotion[3], seed=6)
    assert scores["metrics"]["balanced_accuracy"] == only["metrics"]["balanced_accuracy"]
    assert set(alone["metrics"]) == {"syer"} and set(only["metrics"]) == {"balanced_accuracy", "accuracy"}
    assert scores["counts"] == {"transcripts": 40, "emotions": 90, "missing_classes": []}


def test_predictions_outside_of_the_classes_are_wrong():
    scores = vlsp_scores(None, None, ["neutral", "negative"], ["neutral", ""], num_samples=10)
    assert scores["metrics"]["balanced_accuracy"]["value"] == 50


def test_a_missing_class_counts_as_zero():
    scores = vlsp_scores(None, None, ["neutral", "neutral"], ["neutral", "neutral"], num_samples=20)
    metric = scores["metrics"]["balanced_accuracy"]
    assert (metric["value"], metric["low"], metric["high"]) == (50, 50, 50)
    assert scores["counts"]["missing_classes"] == ["negative"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], None, None, None), "transcript: give references and hypotheses"),
        ((["a", "b"], ["a"], None, None), "2 references and 1 hypotheses"),
        ((["a", "b"], ["a", None], None, None), "transcript of row 1 has no hypothesis"),
        ((["a"], ["a"], ["neutral"] * 2, ["neutral"] * 2), "belong to the same rows"),
        ((["!"], ["a"], None, None), "has a syllable"),
        ((None, None, ["angry"], ["neutral"]), "unknown class angry; allowed are neutral, negative"),
        ((None, None, None, None), "nothing to score"),
        (([None], ["a"], None, None), "nothing to score"),
    ],
)
def test_what_cannot_be_scored(arguments, message):
    with pytest.raises(ValueError, match=message):
        vlsp_scores(*arguments)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["tao đi", "đi học", "mụ"]), st.integers(0, 10)), max_size=12))
def test_apply_rules_equals_revise(rows):
    texts, negative = [text for text, _ in rows], np.array([tenths for _, tenths in rows]) / 10
    for labels, columns in ((LABELS, (1 - negative, negative)), (LABELS[::-1], (negative, 1 - negative))):
        found, changed = apply_rules(RULES, texts, np.stack(columns, axis=1), labels)
        revisions = [
            RULES.revise(text, dict(zip(labels, scores, strict=True)))
            for text, scores in zip(texts, np.stack(columns, axis=1), strict=True)
        ]
        assert found == [revision.label for revision in revisions]
        assert changed.tolist() == [revision.changed for revision in revisions]


def test_apply_rules_refuses():
    for texts, probabilities, labels, message in (
        (["a"], [[0.5, 0.5]] * 2, LABELS, "1 texts for 2 utterances"),
        (["a"], [[0.5, 0.5]], ("neutral", "angry"), "negative is not among neutral, angry"),
        (["a", "b"], [[0.5, 0.5], [np.nan, np.nan]], LABELS, "row 1 has no probabilities"),
    ):
        with pytest.raises(ValueError, match=message):
            apply_rules(RULES, texts, np.array(probabilities), labels)


def test_gain_of_rules():
    references = ["negative", "negative", "neutral", "neutral", "negative", "neutral"]
    before = ["neutral", "neutral", "neutral", "neutral", "negative", "neutral"]
    after = ["negative", "negative", "negative", "neutral", "negative", "neutral"]
    gain = rule_gain(references, before, after, num_samples=200)
    assert (gain["utterances"], gain["changed"], gain["mended"], gain["broken"]) == (6, 3, 2, 1)
    expected = [100 * balanced_accuracy_score(references, each) for each in (before, after)]
    balanced = gain["balanced_accuracy"]
    assert [balanced["before"], balanced["after"]] == pytest.approx(expected)
    assert balanced["value"] == pytest.approx(expected[1] - expected[0])
    assert gain["accuracy"]["value"] == pytest.approx(100 * 1 / 6)
    assert balanced["low"] <= balanced["value"] <= balanced["high"]
    assert gain == rule_gain(references, before, after, num_samples=200)
    nothing = rule_gain(references, before, before, num_samples=50)
    assert nothing["changed"] == 0 and nothing["balanced_accuracy"]["low"] == nothing["balanced_accuracy"]["high"] == 0
    for arguments, message in (((["neutral"], [], []), "1 references, 0"), ((["x"], ["x"], ["x"]), "unknown class")):
        with pytest.raises(ValueError, match=message):
            rule_gain(*arguments)


def test_evaluate_module(repo_root, tmp_path):
    module = evaluate.load(str(repo_root / "trainers" / "metrics" / "modules" / "vlsp"), cache_dir=str(tmp_path))
    references = [{"text": "hòa bình", "emotion": "neutral"}, {"text": None, "emotion": "negative"}]
    predictions = [{"text": "hoà binh", "emotion": "neutral"}, {"text": "x", "emotion": "neutral"}]
    result = module.compute(predictions=predictions, references=references)
    assert result == pytest.approx({"syer": 50, "balanced_accuracy": 50, "accuracy": 50, "score": 50})
