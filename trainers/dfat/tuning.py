"""XGBoost's settings, tuned by Optuna on out-of-fold predictions; a run that was stopped goes on where it was.

The study is an SQLite file of the run directory. The sampler of each trial is seeded by how many trials are complete,
so that a resumed study tries what an uninterrupted one would have tried.
"""

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from trainers.dfat.ensemble import XGB_DEFAULTS

logger = logging.getLogger(__name__)
STUDY_FILE = "optuna.sqlite3"


def suggest(trial: Any) -> dict[str, float]:
    """The settings that a trial is to try."""
    return {
        "num_rounds": trial.suggest_int("num_rounds", 50, 300, step=25),
        "max_depth": trial.suggest_int("max_depth", 2, 6),
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.05, 0.6, log=True),
        "min_child_weight": trial.suggest_float("min_child_weight", 0.5, 10.0, log=True),
        "reg_lambda": trial.suggest_float("reg_lambda", 0.1, 30.0, log=True),
    }


def tune(
    loss: Callable[[Mapping[str, float]], float],
    folder: Path,
    name: str,
    *,
    trials: int,
    tuning_s: float,
    seed: int,
) -> dict[str, float]:
    """The settings with the lowest loss among the defaults and those that Optuna tried.

    Args:
        loss: of settings, on rows that were not fitted.
        folder: where the study lies; those of several names share a file.
        name: of the study; it must mean the same rows, features and folds whenever it is gone on with.
        trials: how many settings are tried in all, earlier starts included; 0: the defaults, untried.
        tuning_s: no trial is begun once all complete ones together took so many seconds; the first always is.
        seed: of the sampler.
    """
    if not trials:
        return dict(XGB_DEFAULTS)
    optuna = import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    states = optuna.trial.TrialState
    study = optuna.create_study(
        storage=f"sqlite:///{(folder / STUDY_FILE).absolute()}", study_name=name, direction="minimize",
        load_if_exists=True,
    )  # fmt: skip
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        # Of a process that is no more; it is tried again under another number.
        study.tell(trial.number, state=states.FAIL)
    while True:
        complete = study.get_trials(deepcopy=False, states=(states.COMPLETE,))
        spent_s = sum(trial.duration.total_seconds() for trial in complete if trial.duration is not None)
        if len(complete) >= trials or (complete and spent_s >= tuning_s):
            break
        study.sampler = optuna.samplers.TPESampler(seed=seed + 1000 * len(complete))
        if not complete and not study.get_trials(deepcopy=False, states=(states.WAITING,)):
            study.enqueue_trial(XGB_DEFAULTS)
        trial = study.ask()
        study.tell(trial, loss(suggest(trial)))
    if len(complete) < trials:
        logger.warning("%s: %d of %d trials in %.0f s (model.dfat.tuning_s)", name, len(complete), trials, spent_s)
    logger.info("%s: %d trials, log loss %.4f with %s", name, len(complete), study.best_value, study.best_params)
    return dict(study.best_params)
