"""Train, score, filter, and again: the runner-up's training loop, of stages that each can be stopped and continued.

    <output>/rounds/1/train/model      trained on the whole source
    <output>/rounds/1/scores.parquet   what that model makes of the whole source
    <output>/rounds/1/kept/<name>      what the decisions keep: the training data of round 2
    <output>/rounds/2/...

Every round scores the *whole* source again, so a row that an early model misjudged can come back. With `loop.folds`
there are train0, train1, …, each trained on all rows but those of its fold, which it judges.
"""

import json
import logging
import os
import shlex
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data_scripts.curation.confidence import fold_of
from data_scripts.curation.decisions import SCORES_FILE, decide
from data_scripts.drop_report import write_json
from data_scripts.sources import SourceArguments
from trainers.arguments import Config
from trainers.checks import ConfigError
from trainers.config import dump_config, read_config
from trainers.curation.arguments import CurationConfig, ScorerArguments
from trainers.curation.export import export, write_rows
from trainers.curation.shards import STATE, list_shards, read_rows
from trainers.runs import RunError, plan_run

logger = logging.getLogger(__name__)

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
MODEL_NAME = "trained"


def loop(config: CurationConfig) -> list[dict[str, Any]]:
    """All rounds that are not done yet; returns the summary of each round's decisions.

    Raises:
        ConfigError: no training config, a stage without CTC outputs, or a launch of several processes (the loop is one
            process; `loop.launcher` starts the others).
        Any of the errors of training, `score`, `decide` and `export`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("loop", "is one process: start it with python, and name the launcher in loop.launcher")
    if not config.loop.train_config:
        raise ConfigError("loop.train_config", "names no config of scripts/train_tspc.py to train with")
    source, summaries = config.source, []
    for number in range(1, config.loop.rounds + 1):
        folder = Path(config.output_dir) / "rounds" / str(number)
        models = []
        for fold in range(config.loop.folds):
            mark = "" if config.loop.folds == 1 else str(fold)
            part = source if not mark else write_fold(config, source, fold, folder / f"fold{mark}")
            train_round(config, part, folder / f"train{mark}")
            models.append(ScorerArguments(path=str(folder / f"train{mark}" / "model"), name=MODEL_NAME + mark))
        confidence = replace(config.decide.confidence, model=MODEL_NAME, folds=config.loop.folds)
        now = replace(
            config,
            output_dir=str(folder),
            # Further models of the config vote beside the trained ones.
            models=[*models, *config.models],
            decide=replace(config.decide, confidence=confidence),
        )
        score_round(now, folder)
        summaries.append(decide(folder / SCORES_FILE, folder / "decisions", now.decide))
        kept = export(now)
        logger.info("round %d keeps %s: %s", number, summaries[-1]["kept"], kept)
        source = SourceArguments(path=str(kept), split=config.source.split)
    return summaries


def train_round(config: CurationConfig, source: SourceArguments, folder: Path) -> None:
    """Train on a source as the training config says, unless that is done; an interrupted run goes on."""
    data = json.dumps([{key: value for key, value in asdict(source).items() if value is not None}])
    options = ["--data.train", data, "--training.output_dir", str(folder), "--training.resume", "auto"]
    train_config = read_config(["--config", str(config.loop.train_config), *options], Config)
    s2p = train_config.model.s2p
    if train_config.stage != "s2p" or not (s2p.path or s2p.ctc_weight > 0):
        wanted = "must be a config of stage s2p with model.s2p.ctc_weight above 0, whose CTC head aligns transcripts"
        raise ConfigError("loop.train_config", f"{wanted}; {config.loop.train_config} is not")
    if (folder / "metrics.json").is_file():  # written after the model
        logger.info("%s is trained already: kept", folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    written = folder.with_suffix(".yaml")
    written.write_text(dump_config(train_config), encoding="utf-8")
    if config.loop.launcher:
        _launch(config.loop.launcher, "train_tspc.py", "--config", str(written))
        return
    from trainers import assembly
    from trainers.training import train

    try:
        run = plan_run(train_config)
    except RunError as error:
        raise ConfigError("loop.train_config", str(error)) from error
    train(train_config, run, ["scripts/train_tspc.py", "--config", str(written)], assembly)


def write_fold(config: CurationConfig, source: SourceArguments, fold: int, folder: Path) -> SourceArguments:
    """The rows of a source that are not in a fold, as a prepared folder; shards that are there are kept."""
    for shard in list_shards(source, config.rows_per_shard):
        record = folder / STATE / source.split / f"{shard.number:05d}.json"
        if not record.is_file():
            others = [row for row in read_rows(source, shard) if fold_of(row["id"], config.loop.folds) != fold]
            write_rows(others, folder / f"{source.split}-{shard.number:05d}.parquet")
            record.parent.mkdir(parents=True, exist_ok=True)
            write_json(record, {"rows": len(others)})
    return SourceArguments(path=str(folder), split=source.split)


def score_round(config: CurationConfig, folder: Path) -> None:
    """Score the whole source with the models of the round."""
    if config.loop.launcher:
        written = folder / "score.yaml"
        written.write_text(dump_config(config), encoding="utf-8")
        _launch(config.loop.launcher, "curate.py", "score", "--config", str(written))
        return
    from trainers.curation.scoring import score

    score(config)


def _launch(launcher: str, script: str, *options: str) -> None:
    program = shlex.split(launcher)
    if program[:2] == ["accelerate", "launch"]:  # that of this environment, whatever the PATH says
        program[:2] = [sys.executable, "-m", "accelerate.commands.launch"]
    done = subprocess.run([*program, str(SCRIPTS / script), *options])
    if done.returncode:
        raise ConfigError("loop.launcher", f"{script} ended with status {done.returncode}; its own message is above")
