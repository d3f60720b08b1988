"""From features to the finished model: folds, tuning, weights, the fit to all rows, and what each part scores.

Shape legend: N rows, S text features, M members, C classes.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from models.dfat import DFATForAudioClassification, Member
from models.dfat.classifiers_dfat import Classifiers
from trainers.contract import data_fingerprint
from trainers.dfat.arguments import DFATArguments
from trainers.dfat.building import Split, candidates, model_config
from trainers.dfat.ensemble import (
    XGB_DEFAULTS,
    FeatureSet,
    Fold,
    Settings,
    best_weights,
    fit,
    log_loss,
    out_of_fold,
    uar,
)
from trainers.dfat.text import text_features, train_network
from trainers.dfat.tuning import tune
from trainers.metrics.classes import class_scores

logger = logging.getLogger(__name__)


def build_ensemble(
    config: Any,
    folder: Path,
    base: DFATForAudioClassification,
    train: Split,
    validation: Split | None,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    device: str,
) -> tuple[DFATForAudioClassification, dict[str, float]]:
    """The finished model, and its scores; splits: as `split_folds` gives them for the training rows."""
    arguments: DFATArguments = config.model.dfat
    seed, labels_N = config.training.seed, train.labels_N
    settings = Settings(
        num_classes=len(config.labels),
        regularisation=arguments.regularisation,
        num_trees=arguments.num_trees,
        balanced=arguments.balanced,
        seed=seed,
        num_threads=arguments.num_threads,
    )

    def text_network(rows_N: np.ndarray) -> Any:
        ids: Any = train.ids
        chosen, labels = [ids[row] for row in rows_N], labels_N[rows_N]
        return train_network(
            base.config, chosen, labels, arguments.text, seed=seed, device=device, balanced=arguments.balanced
        )

    folds = []
    for number, (fitted_N, held_out_N) in enumerate(splits):
        text_NS = None
        if train.ids is not None:
            text_NS = text_features(text_network(fitted_N), train.ids, device)
        logger.info("fold %d: %d rows to fit, %d held out", number + 1, len(fitted_N), len(held_out_N))
        folds.append(Fold(fitted_N, held_out_N, train.features(text_NS)))

    members = candidates(arguments)
    xgb_settings: dict[str, Any] = {}
    out: dict[str, np.ndarray] = {}
    for member in members:
        given: dict[str, float] = dict(XGB_DEFAULTS)
        if member.classifier == "xgb":

            def loss(tried: Any, member: Member = member) -> float:
                return log_loss(out_of_fold(member, folds, labels_N, settings, tried), labels_N)

            study = f"{member.name}-{study_key(config, train)}"
            given = tune(loss, folder, study, trials=arguments.trials, tuning_s=arguments.tuning_s, seed=seed)
            xgb_settings[member.name] = given
        out[member.name] = out_of_fold(member, folds, labels_N, settings, given)
        logger.info("%s: out-of-fold UAR %.4f", member.name, uar(out[member.name], labels_N))
    scores = {f"oof_uar_{name}": uar(found, labels_N) for name, found in out.items()}
    if arguments.fusion == "early":
        members = [
            max(members, key=lambda member: (scores[f"oof_uar_{member.name}"], -log_loss(out[member.name], labels_N)))
        ]
    stacked = np.stack([out[member.name] for member in members])
    weights_M = best_weights(stacked, labels_N, arguments.weight_step)
    names = list(config.labels)
    scores |= prefixed("oof", np.einsum("m,mnc->nc", weights_M, stacked), labels_N, names)
    scores |= {f"weight_{member.name}": float(w) for member, w in zip(members, weights_M, strict=True)}

    model = DFATForAudioClassification(model_config(config, members, base.config.text_vocab_size)).eval()
    if model.encoder is not None and base.encoder is not None:
        model.encoder.load_state_dict(base.encoder.state_dict())
    text_train = text_validation = None
    if model.text is not None and train.ids is not None:
        network = text_network(np.arange(len(labels_N)))
        model.text.load_state_dict(network.state_dict())
        text_train = text_features(network, train.ids, device)
        if validation is not None and validation.ids is not None:
            text_validation = text_features(network, validation.ids, device)
    features = train.features(text_train)
    fitted = {
        member.name: fit(
            member.classifier, features.of(member.stream), labels_N, settings,
            xgb_settings.get(member.name, XGB_DEFAULTS),
        )
        for member in members
    }  # fmt: skip
    weights = {member.name: float(weight) for member, weight in zip(members, weights_M, strict=True)}
    model.set_classifiers(fitted, weights)
    held_out = None if validation is None else validation.features(text_validation)
    if held_out is not None and validation is not None:
        assert model.classifiers is not None
        predicted_MNC = predict_members(model.classifiers, held_out)
        pairs = zip(members, predicted_MNC, strict=True)
        scores |= {f"eval_uar_{member.name}": uar(found, validation.labels_N) for member, found in pairs}
        mixed_NC = np.einsum("m,mnc->nc", weights_M, predicted_MNC)
        scores |= prefixed("eval", mixed_NC, validation.labels_N, names)
    if len(arguments.streams) == 2:
        scores |= stream_scores(members, folds, features, held_out, train, validation, settings)
    return model, scores


def study_key(config: Any, train: Split) -> str:
    """Changes with whatever a trial's loss depends on, so that a study is never gone on with for another problem."""
    arguments = asdict(config.model.dfat)
    kept = {name: value for name, value in arguments.items() if name not in ("trials", "tuning_s", "num_threads")}
    rows = data_fingerprint(train.rows.rows, config.train_sources())
    facts = [rows, train.labels_N.tolist(), kept, config.training.seed]
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def predict_members(classifiers: Classifiers, features: FeatureSet) -> np.ndarray:
    """(M, N, C)"""
    return classifiers.predict({stream: features.of(stream) for stream in classifiers.num_features})


def prefixed(prefix: str, probabilities_NC: np.ndarray, labels_N: np.ndarray, names: list[str]) -> dict[str, float]:
    """UAR, accuracy and macro F1, as `<prefix>_uar` and so on."""
    said = [names[label] for label in labels_N]
    found = class_scores(said, [names[label] for label in probabilities_NC.argmax(1)], names)
    return {f"{prefix}_{name}": value for name, value in found.items()}


def stream_scores(
    members: Sequence[Member],
    folds: Sequence[Fold],
    features: FeatureSet,
    held_out: FeatureSet | None,
    train: Split,
    validation: Split | None,
    settings: Settings,
) -> dict[str, float]:
    """What logistic regression makes of each stream alone, for comparison; members of that kind are scored already."""
    scores = {}
    for stream in features.streams:
        member = Member("lr", stream)
        if member in members:
            continue
        scores[f"oof_uar_{member.name}"] = uar(out_of_fold(member, folds, train.labels_N, settings), train.labels_N)
        if held_out is not None and validation is not None:
            alone = Classifiers(
                [member],
                {member.name: fit("lr", features.of(stream), train.labels_N, settings)},
                {stream: features.of(stream).shape[1]},
                range(settings.num_classes),  # type: ignore[arg-type]
            )
            scores[f"eval_uar_{member.name}"] = uar(predict_members(alone, held_out)[0], validation.labels_N)
    return scores
