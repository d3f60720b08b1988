"""Folds, out-of-fold predictions, weights and tuning of DFAT: nothing leaks, everything is found again."""

import itertools
import sqlite3

import numpy as np
import optuna
import pytest

from models.dfat import DFATConfig, Member
from models.dfat.classifiers_dfat import predict
from trainers.checks import ConfigError
from trainers.dfat.arguments import TextArguments
from trainers.dfat.ensemble import (
    FeatureSet,
    Fold,
    Settings,
    best_weights,
    fit,
    log_loss,
    out_of_fold,
    row_weights,
    simplex,
    split_folds,
    uar,
)
from trainers.dfat.text import text_features, tokenize, train_network, train_tokenizer
from trainers.dfat.tuning import STUDY_FILE, tune

XGB = {"num_rounds": 5, "max_depth": 2, "learning_rate": 0.3}


def test_folds_keep_speakers_apart_and_classes_even():
    rng = np.random.default_rng(0)
    speakers = [f"s{number}" for number in rng.integers(0, 12, 240)]
    labels = (rng.random(240) < 0.25).astype(int)
    folds = split_folds(labels, speakers, 4, seed=0)
    assert sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(240))
    for train, test in folds:
        assert not {speakers[row] for row in train} & {speakers[row] for row in test}
        assert not set(train) & set(test) and len(train) + len(test) == 240
        assert 0.1 < labels[test].mean() < 0.4
    again = split_folds(labels, speakers, 4, seed=0)
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(folds, again, strict=True))


def test_rows_without_speakers_one_speaker_and_few_speakers(caplog):
    labels = np.arange(20) % 2
    assert len(split_folds(labels, [None] * 20, 5, seed=0)) == 5
    assert len(split_folds(labels, ["only"] * 20, 5, seed=0)) == 5 and "one speaker" in caplog.text
    three = [f"s{number % 3}" for number in range(20)]
    assert len(split_folds(labels, three, 5, seed=0)) == 3 and "3 folds instead of 5" in caplog.text
    named = split_folds(np.arange(20) // 2 % 2, ["a", None] * 10, 5, seed=0)
    holding = [test for _, test in named if set(test) & set(range(0, 20, 2))]
    assert len(holding) == 1  # all rows of the one named speaker


@pytest.mark.parametrize(
    ("labels", "speakers", "message"),
    [([0, 1], [None, None], "every class has one row"), ([0, 0, 0, 1, 1], [*"abcdd"], "rows of one class alone")],
)
def test_too_few_rows_for_folds_are_said(labels, speakers, message):
    with pytest.raises(ConfigError, match=message):
        split_folds(np.array(labels), speakers, 2, seed=0)


def random_problem(num_rows=160, width=30, seed=1):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num_rows)
    return rng.normal(size=(num_rows, width)).astype(np.float32), labels


def folds_of(features, labels, count=4):
    streams = FeatureSet({"acoustic": features})
    return [Fold(train, test, streams) for train, test in split_folds(labels, [None] * len(labels), count, seed=0)]


@pytest.mark.parametrize("kind", ["lr", "rf", "xgb"])
def test_out_of_fold_is_each_fold_by_a_classifier_of_the_others(kind):
    features, labels = random_problem()
    settings = Settings(2, num_trees=5)
    folds = folds_of(features, labels)
    found = out_of_fold(Member(kind), folds, labels, settings, XGB)
    for fold in folds:
        fitted = fit(kind, features[fold.train], labels[fold.train], settings, XGB)
        np.testing.assert_array_equal(found[fold.test], predict(kind, fitted, features[fold.test], 2))
    # Labels of the fold itself change nothing of what is said about it.
    changed = labels.copy()
    changed[folds[0].test] = 1 - changed[folds[0].test]
    again = out_of_fold(Member(kind), folds[:1], changed, settings, XGB)
    np.testing.assert_array_equal(again[folds[0].test], found[folds[0].test])


@pytest.mark.parametrize("kind", ["lr", "rf", "xgb"])
def test_random_labels_are_at_chance_out_of_fold_and_learnt_by_heart_within(kind):
    features, labels = random_problem(width=120)
    settings = Settings(2, num_trees=30, regularisation=1e3)
    hard = {**XGB, "num_rounds": 40, "max_depth": 4}
    within = predict(kind, fit(kind, features, labels, settings, hard), features, 2)
    found = out_of_fold(Member(kind), folds_of(features, labels), labels, settings, hard)
    # 0.5 ± 3.2 standard deviations of 160 coin tosses.
    assert uar(within, labels) > 0.85 and abs(uar(found, labels) - 0.5) < 0.13


def test_text_features_of_a_fold_come_from_a_network_that_did_not_see_it():
    """Each transcript has a word of its own, so that a network that saw it knows its random label."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 80)
    texts = [f"mot hai tu{number}" for number in range(80)]
    arguments = TextArguments(size=16, embedding_size=16, epochs=20, batch_size=8, dropout=0.0, learning_rate=1e-2)
    tokenizer = train_tokenizer(texts, arguments)
    config = DFATConfig(
        text_vocab_size=len(tokenizer), text_size=16, text_embedding_size=16, text_dropout=0.0,
        members=[{"classifier": "lr", "stream": "joint"}],
    )  # fmt: skip
    ids = tokenize(tokenizer, texts)

    def features_by(rows):
        options = {"seed": 0, "device": "cpu", "balanced": True}
        network = train_network(config, [ids[row] for row in rows], labels[rows], arguments, **options)
        return text_features(network, ids, "cpu")

    folds = []
    for train, test in split_folds(labels, [None] * 80, 3, seed=0):
        folds.append(Fold(train, test, FeatureSet({"text": features_by(train)})))
    settings = Settings(2)
    honest = out_of_fold(Member("lr", "text"), folds, labels, settings)
    assert abs(uar(honest, labels) - 0.5) < 0.18  # 3.2 standard deviations of 80 coin tosses
    everything = FeatureSet({"text": features_by(np.arange(80))})
    leaking = out_of_fold(Member("lr", "text"), [Fold(f.train, f.test, everything) for f in folds], labels, settings)
    assert uar(leaking, labels) > 0.8  # the mistake would show
    np.testing.assert_array_equal(features_by(folds[0].train), folds[0].features.of("text"))


def test_the_simplex_is_every_point_once():
    points = [tuple(np.round(point * 4).astype(int)) for point in simplex(3, 0.25)]
    assert sorted(points) == sorted(p for p in itertools.product(range(5), repeat=3) if sum(p) == 4)
    assert len(set(points)) == len(points) == 15 and next(simplex(1, 0.05)).tolist() == [1.0]


def test_weights_are_those_of_a_brute_force_search():
    rng = np.random.default_rng(3)
    for seed in range(4):
        labels = rng.integers(0, 3, 60)
        scores = rng.dirichlet(np.ones(3), size=(3, 60)) + 0.25 * (seed % 2) * np.eye(3)[labels]
        probabilities = scores / scores.sum(2, keepdims=True)
        found = best_weights(probabilities, labels, 0.1)
        best = None
        for first in range(11):
            for second in range(11 - first):
                weights = np.array([first, second, 10 - first - second]) / 10
                mixed = sum(weight * one for weight, one in zip(weights, probabilities, strict=True))
                rank = (-round(uar(mixed, labels), 12), log_loss(mixed, labels))
                best = min(best, (rank, tuple(weights))) if best else (rank, tuple(weights))
        assert tuple(found) == pytest.approx(best[1]), seed
        assert found.min() >= 0 and found.sum() == pytest.approx(1)
    assert best_weights(probabilities[:1], labels, 0.1).tolist() == [1.0]


def test_uar_and_weights_of_rows_are_scikit_learns():
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.utils.class_weight import compute_sample_weight

    rng = np.random.default_rng(4)
    labels, scores = rng.integers(0, 3, 50), rng.random((50, 3))
    assert uar(scores, labels) == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    np.testing.assert_allclose(row_weights(labels), compute_sample_weight("balanced", labels))
    rare = np.where(labels == 1, 2, labels)
    np.testing.assert_allclose(row_weights(rare), compute_sample_weight("balanced", rare))


def test_a_fold_that_lacks_a_class_still_has_probabilities_of_all():
    features, _ = random_problem(num_rows=40, width=5)
    labels = np.repeat([0, 1, 2, 1], 10)
    features[:, 0] += 3 * labels
    streams = FeatureSet({"acoustic": features})
    fold = Fold(np.arange(20), np.arange(20, 40), streams)
    for kind in ("lr", "rf", "xgb"):
        found = out_of_fold(Member(kind), [fold], labels, Settings(3, num_trees=5), XGB)[20:]
        assert found.shape == (20, 3) and np.allclose(found.sum(1), 1) and np.isfinite(log_loss(found, labels[20:]))
    with pytest.raises(ValueError, match="one class alone"):
        fit("lr", features[:10], labels[:10], Settings(3))


class Stop(Exception):
    """The process is killed."""


def bowl(settings):
    return (settings["max_depth"] - 3) ** 2 + abs(settings["learning_rate"] - 0.11) + 0.1 * settings["subsample"]


def read_trials(folder, name):
    study = optuna.load_study(storage=f"sqlite:///{folder / STUDY_FILE}", study_name=name)
    return [(t.params, t.value) for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]


TUNING = {"trials": 12, "tuning_s": 600, "seed": 3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted tuning, and what it found."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, tune(bowl, folder, "xgb", **TUNING)


@pytest.mark.parametrize("killed_in", [0, 11])
def test_a_killed_tuning_goes_on_as_if_nothing_had_happened(tmp_path, whole, killed_in):
    folder, expected = whole
    calls = itertools.count()

    def killed(settings):
        if next(calls) == killed_in:
            raise Stop
        return bowl(settings)

    with pytest.raises(Stop):
        tune(killed, tmp_path, "xgb", **TUNING)
    assert tune(bowl, tmp_path, "xgb", **TUNING) == expected
    tried = read_trials(tmp_path, "xgb")
    assert tried == read_trials(folder, "xgb")
    # The defaults come first; by the eleventh trial the sampler learns from those before.
    assert tried[0][0]["num_rounds"] == 150 and len({str(params) for params, _ in tried}) == 12
    # Finished: nothing is tried again.
    assert tune(lambda settings: pytest.fail("tried again"), tmp_path, "xgb", **TUNING) == expected


def test_tuning_keeps_to_its_time_and_its_study(tmp_path):
    first = tune(bowl, tmp_path, "one", trials=50, tuning_s=1e-9, seed=0)
    assert first["max_depth"] == 4 and len(read_trials(tmp_path, "one")) == 1
    tune(bowl, tmp_path, "two", trials=2, tuning_s=60, seed=0)
    assert len(read_trials(tmp_path, "one")) == 1 and len(read_trials(tmp_path, "two")) == 2
    assert (
        tune(lambda settings: pytest.fail("tried"), tmp_path, "none", trials=0, tuning_s=1, seed=0)["max_depth"] == 4
    )
    with sqlite3.connect(tmp_path / STUDY_FILE) as database:
        assert database.execute("select count(*) from studies").fetchone() == (2,)
