"""One DFAT run, from a config to a finished model (paper, section 3.5); `scripts/train_ser.py` calls `train_dfat`.

    transcripts-*.jsonl, acoustic-*.npy   what was heard once (in the run directory)
    optuna.sqlite3                        the tuning, which a resumed run goes on with
    model/, metrics.json                  the finished model, and its scores

Nothing is trained by the Trainer, and there are no checkpoints: a run that was stopped is begun again with
`training.resume: auto` and finds the above.
"""

import json
import logging
import math
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import get_token
from transformers import set_seed

from data_scripts.text.normalize import NORMALIZER_VERSION
from models.dfat import DFATForAudioClassification, build_feature_extractor
from trainers.card import (
    LABELS,
    Evaluation,
    describe_hardware,
    source_commit,
    update_model_card,
    write_model_card,
)
from trainers.checks import ConfigError
from trainers.dfat.arguments import DFATArguments
from trainers.dfat.building import Split, read_streams
from trainers.dfat.ensemble import split_folds
from trainers.dfat.fusing import build_ensemble
from trainers.public_names import public_name
from trainers.push_queue import STATUS_FILE
from trainers.rows import audio_hours, build_datasets
from trainers.runs import Run, begin_run
from trainers.secrets import hide_tokens
from trainers.ser_rows import label_facts
from trainers.training import NOT_PUBLISHED, open_queue

logger = logging.getLogger(__name__)

PACKAGES = {"sklearn": "scikit-learn>=1.7", "skops": "skops>=0.13", "xgboost": "xgboost>=3.1", "optuna": "optuna>=4.5"}


def train_dfat(config: Any, run: Run, argv: Sequence[str]) -> dict[str, float]:
    """Train DFAT, save the finished model in `run.model_folder`, evaluate it, and publish it if the config says so.

    Args:
        config: a `trainers.ser_arguments.SERRunConfig` with `system: dfat`.
        run: as `trainers.runs.plan_run` gives it.
        argv: the command line.

    Returns:
        Also in `metrics.json`: `eval_uar`, `eval_accuracy` and `eval_f1_macro` of the ensemble on the validation data;
        the same as `oof_…` out of fold (the weights were chosen on these); `oof_uar_<member>` and `eval_uar_<member>`
        of every classifier; with two streams `…_uar_<stream>_lr` of logistic regression on each alone;
        `weight_<member>`.

    Raises:
        Any of `trainers.training.START_ERRORS`.
    """
    started = time.monotonic()
    hide_tokens()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    check_start(config)
    queue = open_queue(config, run)
    set_seed(config.training.seed)
    arguments: DFATArguments = config.model.dfat
    device = "cpu" if config.training.use_cpu or not torch.cuda.is_available() else "cuda"
    rows = build_datasets(config, run.folder)
    train_rows: Any = rows.train
    validation_rows: Any = rows.validation
    if "text" in arguments.streams and arguments.text.recogniser is None and not any(train_rows["text"]):
        message = "no training row has a text: set it to a recogniser, or take text out of model.dfat.streams"
        raise ConfigError("model.dfat.text.recogniser", message)
    labels_N = np.asarray(train_rows["label"])
    splits = split_folds(labels_N, train_rows["speaker"], arguments.folds, config.training.seed)
    begin_run(run, config, argv, device=device)
    logger.info("%d rows to train on, %s to evaluate on", len(train_rows), len(validation_rows or []) or "none")
    base, tokenizer, train, validation = read_streams(config, run.folder, train_rows, validation_rows, device)
    model, scores = build_ensemble(config, run.folder, base, train, validation, splits, device)
    partial = save(config, run, model, tokenizer)
    hours = audio_hours(rows.train)
    write_card(config, partial, model, train_rows, hours, shlex.join(argv))
    finish(config, run, partial, scores, time.monotonic() - started, validation)
    if queue is not None:
        if not queue.finish(run.model_folder):
            logger.error("the model is finished in %s but not published; see %s", run.model_folder, STATUS_FILE)
            raise SystemExit(NOT_PUBLISHED)
        logger.info("published as %s", queue.repo_id)
    return scores


def check_start(config: Any) -> None:
    """What can be known before any data is read.

    Raises:
        ConfigError
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        alone = "dfat is trained by one process: launch it with python instead of accelerate, or --num_processes 1"
        raise ConfigError("system", alone)
    missing = [requirement for name, requirement in PACKAGES.items() if find_spec(name) is None]
    if missing:
        wanted = " ".join(repr(requirement) for requirement in missing)
        raise ConfigError("system", f"dfat needs packages that are not installed: pip install {wanted}")
    if config.data.augmentation.active:
        raise ConfigError("data.augmentation", "is not for dfat, which hears every recording once: turn it off")
    if config.publish.push and get_token() is None:
        raise ConfigError("publish.push", "needs a token of the Hub: run `hf auth login` or set HF_TOKEN")


def save(config: Any, run: Run, model: DFATForAudioClassification, tokenizer: Any) -> Path:
    """The finished model under another name until it is whole: a model folder is a finished model."""
    partial = run.model_folder.with_suffix(".partial")
    if partial.exists():
        shutil.rmtree(partial)
    model.cpu().save_pretrained(partial)
    build_feature_extractor().save_pretrained(partial)
    if tokenizer is not None:
        tokenizer.save_pretrained(partial)
    return partial


def write_card(
    config: Any, folder: Path, model: DFATForAudioClassification, rows: Any, hours: float | None, command: str
) -> None:
    """README.md and card.json of the finished model; rows: those of the training."""
    encoder = config.model.dfat.acoustic.encoder if model.encoder is not None else None
    weights = zip(model.members, model.member_weights.tolist(), strict=True)
    arguments: DFATArguments = config.model.dfat
    training = {
        "audio_hours": hours and round(hours, 2),
        "utterances": len(rows),
        **label_facts(config.labels, config.label_maps, rows["corpus"]),
        "streams": ", ".join(model.config.streams),
        "encoders": ", ".join(f"{spec.name} ({spec.features}, frozen)" for spec in model.config.encoder_specs) or None,
        "pooling": model.config.pooling if model.encoder is not None else None,
        "fusion": model.config.fusion,
        "ensemble_weights": ", ".join(f"{member.name} {weight:.2f}" for member, weight in weights),
        "trials": arguments.trials if "xgb" in arguments.classifiers else None,
        "folds": arguments.folds,
        "seed": config.training.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    write_model_card(
        folder,
        stage="dfat",
        base_model=[encoder] if encoder else [],
        datasets=list(dict.fromkeys(source.path for source in config.train_sources())),
        normalizer_version=NORMALIZER_VERSION if model.text is not None else None,
        hardware=describe_hardware(),
        command=command,
        commit=source_commit(),
        training={name: value for name, value in training.items() if value is not None},
        limitations=limitations(arguments) if model.text is not None else [],
    )


def limitations(arguments: DFATArguments) -> list[str]:
    """What a user of the text stream has to know."""
    recogniser = arguments.text.recogniser
    source = "the corpora's own transcripts" if recogniser is None else f"transcripts by {public_name(recogniser)}"
    return [
        f"It judges by the words as well: it was trained on {source}. Give it such transcripts, as text or by "
        "the option recogniser of the pipeline; without one it goes by an empty transcript."
    ]


def finish(
    config: Any, run: Run, partial: Path, scores: dict[str, float], seconds: float, validation: Split | None
) -> None:
    """The model under its own name, and its scores beside it and on its card."""
    metrics = {name: scores[f"eval_{name}"] for name in LABELS if f"eval_{name}" in scores}
    if metrics and validation is not None:
        sources = config.validation_sources()
        figures = Evaluation(
            metrics=metrics,
            dataset=", ".join(dict.fromkeys(source.path for source in sources)),
            split="validation",
            num_utterances=len(validation.labels_N),
        )
        update_model_card(partial, evaluations=[figures])
    if run.model_folder.exists():
        shutil.rmtree(run.model_folder)  # of the same run, resumed after it had finished
    os.replace(partial, run.model_folder)
    values = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    report = {"stage": config.trains, "seconds": round(seconds, 1), **values}
    (run.folder / "metrics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    logger.info("finished model in %s: %s", run.model_folder, json.dumps(report))
