"""Scores over a fixed list of classes, and which lists can be learnt."""

import logging

import pytest
from sklearn import metrics

from trainers.checks import ConfigError
from trainers.metrics.classes import check_classes, class_scores

CLASSES = ["angry", "happy", "sad"]


def test_scores_of_a_known_confusion():
    said = ["angry"] * 4 + ["happy"] * 2 + ["sad"] * 2
    heard = ["angry", "angry", "angry", "sad", "happy", "angry", "sad", "sad"]
    scores = class_scores(said, heard, CLASSES)
    assert scores["uar"] == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert scores["f1_macro"] == pytest.approx((3 / 4 + 2 / 3 + 4 / 5) / 3)
    assert scores["accuracy"] == pytest.approx(6 / 8)


def test_scores_are_those_of_scikit_learn():
    said = [CLASSES[index % 2] for index in range(30)]  # nobody is sad
    heard = [CLASSES[(index * index) % 3] for index in range(30)]
    scores = class_scores(said, heard, CLASSES)
    options = {"labels": CLASSES, "average": "macro", "zero_division": 0}
    assert scores["uar"] == pytest.approx(metrics.recall_score(said, heard, **options))
    assert scores["f1_macro"] == pytest.approx(metrics.f1_score(said, heard, **options))


def test_a_missing_class_is_an_error_in_training_and_named_in_evaluation(caplog):
    check_classes(CLASSES, CLASSES, CLASSES)
    assert not caplog.records
    with pytest.raises(ConfigError, match=r"no training row of class happy, sad \(rows: angry 2\)"):
        check_classes(CLASSES, ["angry", "angry", None])
    with pytest.raises(ConfigError, match="unknown class calm; allowed are angry, happy, sad"):
        check_classes(CLASSES, [*CLASSES, "calm"])
    caplog.set_level(logging.WARNING)
    check_classes(CLASSES, CLASSES, ["sad", None])
    assert "no evaluation row of class angry, happy" in caplog.text


def test_scores_of_nothing():
    with pytest.raises(ValueError, match="0 references"):
        class_scores([], [], CLASSES)
    with pytest.raises(ValueError, match="unknown class calm"):
        class_scores(["calm"], ["sad"], CLASSES)
