"""Train, score, filter, and again: the runner-up's training loop, of stages that each can be stopped and continued.

    <output>/rounds/1/train/model      trained on the whole source
    <output>/rounds/1/scores.parquet   what that model makes of the whole source
    <output>/rounds/1/kept/<name>      what the decisions keep: the training data of round 2
    <output>/rounds/2/...

Every round scores the *whole* source again, so a row that an early model misjudged can come back.
"""

import logging
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_scripts.curation.decisions import SCORES_FILE, decide
from data_scripts.sources import SourceArguments
from trainers.arguments import Config
from trainers.checks import ConfigError
from trainers.config import dump_config, read_config
from trainers.curation.arguments import CurationConfig, ScorerArguments
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
        train_round(config, source, folder / "train")
        scorer = ScorerArguments(path=str(folder / "train" / "model"), name=MODEL_NAME)
        confidence = replace(config.decide.confidence, model=MODEL_NAME)
        now = replace(
            config,
            output_dir=str(folder),
            # Further models of the config vote beside the trained one.
            models=[scorer, *config.models],
            decide=replace(config.decide, confidence=confidence),
        )
        score_round(now, folder)
        summaries.append(decide(folder / SCORES_FILE, folder / "decisions", now.decide))
        from trainers.curation.export import export

        kept = export(now)
        logger.info("round %d keeps %s: %s", number, summaries[-1]["kept"], kept)
        source = SourceArguments(path=str(kept), split=config.source.split)
    return summaries


def train_round(config: CurationConfig, source: SourceArguments, folder: Path) -> None:
    """Train on a source as the training config says, unless that is done; an interrupted run goes on."""
    train_config = read_config(["--config", config.loop.train_config], Config)
    if train_config.stage != "s2p" or not (train_config.model.s2p.path or train_config.model.s2p.ctc_weight > 0):
        wanted = "must be a config of stage s2p with model.s2p.ctc_weight above 0, whose CTC head aligns transcripts"
        raise ConfigError("loop.train_config", f"{wanted}; {config.loop.train_config} is not")
    train_config.data.train = [source]
    train_config.training.output_dir = str(folder)
    train_config.training.resume = "auto"
    if (folder / "metrics.json").is_file():  # written after the model
        logger.info("%s is trained already: kept", folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    written = folder.parent / "train.yaml"
    written.write_text(dump_config(train_config), encoding="utf-8")
    if config.loop.launcher:
        _launch(config.loop.launcher, "train_tspc.py", "--config", str(written))
        return
    from trainers.training import train

    try:
        run = plan_run(train_config)
    except RunError as error:
        raise ConfigError("loop.train_config", str(error)) from error
    train(train_config, run, ["scripts/train_tspc.py", "--config", str(written)])


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
