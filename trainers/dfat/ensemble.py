"""Folds, classifiers and weights of DFAT (paper, section 3.5): everything behind the features.

Whatever is chosen (settings of XGBoost, the best classifier, the weights) is chosen on out-of-fold predictions: those
of classifiers, and of a text network below them, that have not seen the row. Then all are fitted to all rows.

Shape legend: N rows, F features, M members, C classes, W points of the grid of weights.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from models.dfat.classifiers_dfat import Member, predict
from trainers.checks import ConfigError

logger = logging.getLogger(__name__)

# Settings of XGBoost without tuning, and the first that tuning tries.
XGB_DEFAULTS: dict[str, float] = {
    "num_rounds": 150,
    "max_depth": 4,
    "learning_rate": 0.1,
    "subsample": 0.8,
    "colsample_bytree": 0.3,
    "min_child_weight": 1.0,
    "reg_lambda": 1.0,
}
# A probability of 0 would make the log likelihood infinite.
SMALLEST = 1e-6
CHUNK = 512


@dataclass(frozen=True)
class Settings:
    """How classifiers are fitted.

    Args:
        num_classes: of the model; rows may lack some.
        regularisation: C of the logistic regression.
        num_trees: of the forest.
        balanced: weigh classes alike.
        seed, num_threads: of forest and XGBoost.
    """

    num_classes: int
    regularisation: float = 0.1
    num_trees: int = 200
    balanced: bool = True
    seed: int = 0
    num_threads: int = 1


@dataclass
class FeatureSet:
    """(N, F) features of each stream that there is, for the same rows."""

    streams: Mapping[str, np.ndarray]

    def of(self, stream: str) -> np.ndarray:
        """Those of one stream, or for `joint` of all side by side."""
        return np.concatenate(list(self.streams.values()), axis=1) if stream == "joint" else self.streams[stream]


@dataclass
class Fold:
    """Numbers of the rows to fit on and to predict, and the features of all rows by what saw none of the latter."""

    train: np.ndarray
    test: np.ndarray
    features: FeatureSet


def split_folds(
    labels_N: np.ndarray, speakers: Sequence[str | None], num_folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) row numbers: classes as even as can be, no speaker on both sides.

    A row without speaker is a speaker of its own.
    Fewer folds come out where there are fewer speakers, or fewer rows of the most frequent class.

    Raises:
        ConfigError: a fold would be fitted to nothing, or to one class.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names: dict[str, int] = {}
    groups_N = np.array([
        names.setdefault(f"speaker {speaker}" if speaker else f"row {row}", len(names))
        for row, speaker in enumerate(speakers)
    ])  # fmt: skip
    if len(names) < 2:
        logger.warning("all %d rows are of one speaker: the folds share that voice", len(labels_N))
        groups_N = np.arange(len(labels_N))
    count = min(num_folds, len(np.unique(groups_N)), int(np.bincount(labels_N).max()))
    if count < 2:
        few = "every class has one row, and what is chosen is chosen on rows held out: give two of each or more"
        raise ConfigError("data.train", few)
    if count < num_folds:
        logger.warning("%d folds instead of %d: there are no more speakers, or rows of a class", count, num_folds)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    folds = list(splitter.split(np.zeros((len(labels_N), 1)), labels_N, groups_N))
    if any(len(np.unique(labels_N[fitted_N])) < 2 for fitted_N, _ in folds):
        alone = "a fold would be fitted to rows of one class alone: give more rows, of more speakers of each class"
        raise ConfigError("data.train", alone)
    return folds


def row_weights(labels_N: np.ndarray) -> np.ndarray:
    """(N,) factors of mean 1 by which every class that occurs weighs alike."""
    counts_C = np.bincount(labels_N)
    return (len(labels_N) / (np.count_nonzero(counts_C) * counts_C[labels_N])).astype(np.float64)


def fit(
    kind: str,
    features_NF: np.ndarray,
    labels_N: np.ndarray,
    settings: Settings,
    xgb_settings: Mapping[str, float] = XGB_DEFAULTS,
) -> Any:
    """A fitted classifier as `models.dfat` keeps it."""
    weight = "balanced" if settings.balanced else None
    if len(np.unique(labels_N)) < 2:
        raise ValueError(f"rows of one class alone ({int(labels_N[0])}): there is nothing to tell apart")
    if kind == "lr":
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler

        regression = LogisticRegression(C=settings.regularisation, class_weight=weight, max_iter=2000)
        pipeline = Pipeline([("scaler", StandardScaler()), ("regression", regression)])
        return pipeline.fit(features_NF.astype(np.float64), labels_N)
    if kind == "rf":
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            settings.num_trees,
            min_samples_leaf=2,
            class_weight=weight,
            random_state=settings.seed,
            n_jobs=settings.num_threads,
        )
        forest.fit(features_NF, labels_N)
        # Threads are a matter of where it runs, and cost more than they save on a few clips.
        return forest.set_params(n_jobs=None)
    return fit_xgboost(features_NF, labels_N, settings, xgb_settings)


def fit_xgboost(
    features_NF: np.ndarray, labels_N: np.ndarray, settings: Settings, xgb_settings: Mapping[str, float]
) -> Any:
    """A booster with one probability for each class, whether or not it occurs."""
    xgboost = import_module("xgboost")
    given = dict(xgb_settings)
    num_rounds = int(given.pop("num_rounds"))
    weights_N = row_weights(labels_N) if settings.balanced else None
    data = xgboost.DMatrix(np.ascontiguousarray(features_NF, np.float32), labels_N, weight=weights_N)
    fixed = {
        "objective": "multi:softprob",
        "num_class": settings.num_classes,
        "tree_method": "hist",
        "max_bin": 64,
        "seed": settings.seed,
        "nthread": settings.num_threads,
        "verbosity": 0,
    }
    return xgboost.train({**fixed, **given, "max_depth": int(given["max_depth"])}, data, num_rounds)


def out_of_fold(
    member: Member,
    folds: Sequence[Fold],
    labels_N: np.ndarray,
    settings: Settings,
    xgb_settings: Mapping[str, float] = XGB_DEFAULTS,
) -> np.ndarray:
    """(N, C) probabilities of each row by a classifier that has not seen it."""
    probabilities_NC = np.full((len(labels_N), settings.num_classes), np.nan)
    for fold in folds:
        features_NF = fold.features.of(member.stream)
        fitted = fit(member.classifier, features_NF[fold.train], labels_N[fold.train], settings, xgb_settings)
        probabilities_NC[fold.test] = predict(member.classifier, fitted, features_NF[fold.test], settings.num_classes)
    return probabilities_NC


def log_loss(probabilities_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Mean negative log likelihood, every class that occurs weighing alike."""
    right_N = np.clip(probabilities_NC[np.arange(len(labels_N)), labels_N], SMALLEST, 1.0)
    return float(-(row_weights(labels_N) * np.log(right_N)).mean())


def uar(probabilities_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Unweighted average recall over the classes that occur."""
    right_N = probabilities_NC.argmax(1) == labels_N
    return float(np.mean([right_N[labels_N == label].mean() for label in np.unique(labels_N)]))


def simplex(num_members: int, step: float) -> Iterator[np.ndarray]:
    """Every point (M,) whose coordinates are multiples of `step`, at least 0, with the sum 1; in order."""
    parts = round(1 / step)

    def points(length: int, left: int) -> Iterator[tuple[int, ...]]:
        if length == 1:
            yield (left,)
            return
        for first in range(left + 1):
            for rest in points(length - 1, left - first):
                yield (first, *rest)

    for point in points(num_members, parts):
        yield np.array(point) / parts


def best_weights(probabilities_MNC: np.ndarray, labels_N: np.ndarray, step: float) -> np.ndarray:
    """(M,) weights of the mean that has the best unweighted average recall; among equals the best log loss, then the
    first of `simplex`."""
    grid_WM = np.array(list(simplex(len(probabilities_MNC), step)))
    classes = np.unique(labels_N)
    rows_of = {label: labels_N == label for label in classes}
    # Counted, not averaged, so that equal recalls are equal numbers.
    recalls_W = np.empty(len(grid_WM))
    for start in range(0, len(grid_WM), CHUNK):
        mixed_WNC = np.einsum("wm,mnc->wnc", grid_WM[start : start + CHUNK], probabilities_MNC)
        right_WN = mixed_WNC.argmax(2) == labels_N
        recalls_W[start : start + CHUNK] = sum(
            right_WN[:, rows_of[label]].sum(1) / rows_of[label].sum() for label in classes
        )
    leaders = np.flatnonzero(recalls_W == recalls_W.max())
    losses = [log_loss(np.einsum("m,mnc->nc", grid_WM[w], probabilities_MNC), labels_N) for w in leaders]
    return grid_WM[leaders[int(np.argmin(losses))]]
