"""Scores of classifiers and of their probabilities, against scikit-learn and plain loops."""

import numpy as np
import pytest
from sklearn import calibration, metrics

from trainers.metrics.calibration import (
    brier_scores,
    calibration_error,
    classwise_calibration_error,
    log_losses,
    reliability,
)
from trainers.metrics.classes import class_scores
from trainers.metrics.classification import Outcomes, paired_differences, score_classes

LABELS = ("neutral", "angry", "sad")


def made_up(num_rows=300, num_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    probabilities_NC = rng.dirichlet([0.7] * num_classes, size=num_rows)
    references_N = np.array([rng.choice(num_classes, p=0.6 * row + 0.4 / num_classes) for row in probabilities_NC])
    return references_N, probabilities_NC


def test_values_are_those_of_scikit_learn():
    references_N, probabilities_NC = made_up()
    predictions_N = probabilities_NC.argmax(axis=1)
    found = score_classes(Outcomes.of(LABELS, references_N, probabilities_NC), num_samples=0)
    values = {name: metric["value"] for name, metric in found["metrics"].items()}
    assert values["uar"] == pytest.approx(metrics.balanced_accuracy_score(references_N, predictions_N))
    assert values["f1_macro"] == pytest.approx(metrics.f1_score(references_N, predictions_N, average="macro"))
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(references_N, predictions_N))
    assert values["nll"] == pytest.approx(metrics.log_loss(references_N, probabilities_NC))
    assert found["confusion"] == metrics.confusion_matrix(references_N, predictions_N).tolist()
    columns = metrics.precision_recall_fscore_support(references_N, predictions_N)
    for index, label in enumerate(LABELS):
        assert list(found["classes"][label].values()) == pytest.approx([column[index] for column in columns])


def test_brier_score_and_reliability_are_those_of_scikit_learn():
    references_N, probabilities_NC = made_up(num_classes=2)
    twice = 2 * metrics.brier_score_loss(references_N, probabilities_NC[:, 1])
    assert brier_scores(references_N, probabilities_NC).mean() == pytest.approx(twice)
    right_N = probabilities_NC.argmax(axis=1) == references_N
    share, mean = calibration.calibration_curve(right_N, probabilities_NC.max(axis=1), n_bins=15)
    bins = reliability(references_N, probabilities_NC)
    assert [each.accuracy for each in bins] == pytest.approx(list(share))
    assert [each.confidence for each in bins] == pytest.approx(list(mean))


def test_calibration_errors_are_those_of_a_plain_loop():
    references_N, probabilities_NC = made_up()

    def error(happened_N, given_N):
        total = 0.0
        for number in range(15):
            inside = [i for i, p in enumerate(given_N) if number / 15 < p <= (number + 1) / 15]
            if inside:
                gap = np.mean([happened_N[i] for i in inside]) - np.mean([given_N[i] for i in inside])
                total += len(inside) / len(given_N) * abs(gap)
        return total

    top = error(probabilities_NC.argmax(axis=1) == references_N, probabilities_NC.max(axis=1))
    each = [error(references_N == index, probabilities_NC[:, index]) for index in range(3)]
    assert calibration_error(references_N, probabilities_NC) == pytest.approx(top)
    assert classwise_calibration_error(references_N, probabilities_NC) == pytest.approx(np.mean(each))
    found = score_classes(Outcomes.of(LABELS, references_N, probabilities_NC), num_samples=0)["metrics"]
    assert found["ece"]["value"] == pytest.approx(top)
    assert found["ece_classwise"]["value"] == pytest.approx(np.mean(each))


def test_certain_answers():
    assert calibration_error([0, 1], [[1.0, 0.0], [0.0, 1.0]]) == 0
    assert calibration_error([0, 0], [[1.0, 0.0], [0.0, 1.0]]) == pytest.approx(0.5)
    assert log_losses(np.array([1]), np.array([[1.0, 0.0]]))[0] == pytest.approx(-np.log(2.22e-16), rel=1e-3)


def test_intervals_hold_the_value_and_speakers_widen_them():
    rng = np.random.default_rng(1)
    # A speaker is either understood or not: there are 12 answers here, not 480.
    speakers = [f"s{index // 40}" for index in range(480)]
    understood = rng.random(12) < 0.6
    references_N = np.arange(480) % 2
    right_N = np.array([understood[index // 40] for index in range(480)])
    top_N = np.where(right_N, references_N, 1 - references_N)
    probabilities_NC = np.where(np.arange(2)[None] == top_N[:, None], 0.8, 0.2)
    outcomes = Outcomes.of(("a", "b"), references_N, probabilities_NC)
    found = score_classes(outcomes, speakers=speakers, num_samples=300)
    uar = found["metrics"]["uar"]
    assert uar["low"] < uar["value"] < uar["high"] and found["bootstrap"]["speakers"] == 12
    assert uar["speaker_high"] - uar["speaker_low"] > 3 * (uar["high"] - uar["low"])
    again = score_classes(outcomes, speakers=speakers, num_samples=300)
    assert again == found
    alone = score_classes(outcomes, speakers=[None] * 480, num_samples=20)
    assert "speaker_low" not in alone["metrics"]["uar"]
    accuracy = found["metrics"]["accuracy"]
    spread = 1.96 * np.sqrt(accuracy["value"] * (1 - accuracy["value"]) / 480)  # binomial, as theory has it
    assert accuracy["high"] - accuracy["low"] == pytest.approx(2 * spread, rel=0.2)


def test_paired_differences_are_narrower_than_the_intervals_of_both():
    references_N, probabilities_NC = made_up()
    base = Outcomes.of(LABELS, references_N, probabilities_NC)
    changed_NC = probabilities_NC.copy()
    wrong_N = np.flatnonzero(base.predictions_N != references_N)[:20]
    changed_NC[wrong_N] = np.eye(3)[references_N[wrong_N]]
    better = Outcomes.of(LABELS, references_N, changed_NC)
    found = paired_differences(better, base, num_samples=300)
    assert found["accuracy"]["value"] == pytest.approx(20 / 300)
    assert 0 < found["accuracy"]["low"] < 20 / 300 < found["accuracy"]["high"] < 0.11
    assert found["nll"]["high"] < 0
    same = paired_differences(base, base, num_samples=50)
    assert all(set(metric.values()) == {0.0} for metric in same.values())
    with pytest.raises(ValueError, match="the same utterances"):
        paired_differences(base, Outcomes.of(LABELS, (references_N + 1) % 3, probabilities_NC))


def test_predictions_of_rules_have_no_scores_of_probabilities():
    references_N, probabilities_NC = made_up()
    outcomes = Outcomes.of(LABELS, references_N, probabilities_NC, predictions=references_N)
    found = score_classes(outcomes, num_samples=0)
    assert set(found["metrics"]) == {"uar", "accuracy", "f1_macro"} and "reliability" not in found
    assert found["metrics"]["uar"]["value"] == 1
    with pytest.raises(ValueError, match="class ids below 3"):
        Outcomes.of(LABELS, references_N, probabilities_NC, predictions=references_N + 1)


def test_a_class_without_references_counts_as_zero_and_is_named():
    probabilities_NC = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.9, 0.05, 0.05], [0.5, 0.4, 0.1]])
    found = score_classes(Outcomes.of(LABELS, [0, 0, 0, 0], probabilities_NC), num_samples=30)
    heard = [LABELS[index] for index in probabilities_NC.argmax(axis=1)]
    expected = class_scores(["neutral"] * 4, heard, LABELS)
    assert {name: found["metrics"][name]["value"] for name in expected} == pytest.approx(expected)
    assert found["missing_classes"] == ["angry", "sad"] and found["metrics"]["uar"]["value"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("references", "probabilities", "message"),
    [
        ([], np.zeros((0, 2)), "no utterances"),
        ([0, 1], [[0.5, 0.5]], "shapes"),
        ([0], [[1.0]], "two or more classes"),
        ([2], [[0.5, 0.5]], "from 0 to 1"),
        ([0.5], [[0.5, 0.5]], "whole numbers"),
        ([0, 1], [[0.5, 0.5], [np.nan, 1.0]], "row 1 is no distribution"),
        ([0], [[0.7, 0.7]], "row 0 is no distribution"),
    ],
)
def test_bad_input(references, probabilities, message):
    with pytest.raises(ValueError, match=message):
        calibration_error(references, probabilities)
