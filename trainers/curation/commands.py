"""The commands of `scripts/curate.py`: each takes the config and gives what is to be shown."""

import json
import os
from pathlib import Path
from typing import Any

from data_scripts.curation.decisions import SCORES_FILE, DecisionError, decide, summary_table
from data_scripts.engines import EngineError
from data_scripts.schema import SchemaError
from data_scripts.sources import SourceError
from trainers.checks import ConfigError
from trainers.curation.arguments import CurationConfig
from trainers.curation.parts import ScoringError
from trainers.recognisers import RecogniserError

# What is wrong with the user's data, models, paths or settings, and said well enough without a traceback.
START_ERRORS = (ConfigError, DecisionError, EngineError, RecogniserError, SchemaError, ScoringError, SourceError)


def run_score(config: CurationConfig) -> list[Any]:
    """Scores of every row; on rank 0 what they hold."""
    from trainers.curation.scoring import score

    report = score(config)
    return [f"{Path(config.output_dir) / SCORES_FILE}: {json.dumps(report)}"] if report else []


def run_decide(config: CurationConfig) -> list[Any]:
    """A set of decisions and its summary; rank 0 does it where many were launched."""
    if os.environ.get("RANK", "0") != "0":
        return []
    output = Path(config.output_dir)
    summary = decide(output / SCORES_FILE, output / "decisions", config.decide)
    where = f"decisions: {output / 'decisions' / config.decide.name}"
    return [summary_table(summary, config.decide.name), where]


def run_loop(config: CurationConfig) -> list[Any]:
    """The summary of every round, and where the rows that the last one keeps are."""
    from trainers.curation.loop import loop

    summaries = loop(config)
    tables = [summary_table(summary, f"round {number}") for number, summary in enumerate(summaries, 1)]
    kept = Path(config.output_dir) / "rounds" / str(len(summaries)) / "kept" / config.decide.name
    return [*tables, f"kept rows: {kept}"]


def run_export(config: CurationConfig) -> list[Any]:
    """The kept rows as a folder."""
    from trainers.curation.export import export

    return [f"kept rows: {export(config)}"]
