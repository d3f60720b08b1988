"""The commands of `scripts/curate.py`: each takes the config and gives what is to be shown."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_scripts.curation.decisions import DECISIONS_FILE, SCORES_FILE, DecisionError, decide, read_rows
from data_scripts.curation.decisions_summary import summary_table
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


def run_report(config: CurationConfig) -> list[Any]:
    """The page of the rows where model and transcript disagree most, and a sheet for verdicts beside it."""
    from data_scripts.curation.label_noise import write_report

    if os.environ.get("RANK", "0") != "0":
        return []
    folder = Path(config.output_dir) / "decisions" / config.decide.name
    if not (folder / DECISIONS_FILE).is_file():
        raise DecisionError(f"{folder}: no decisions of this name; run `curate.py decide` first")
    bounds = config.decide.confidence
    try:
        page = write_report(
            read_rows(folder / DECISIONS_FILE),
            folder / "label_noise.html",
            title=f"Label noise: {config.source.path}",
            num_rows=config.report_rows,
            find_audio=Recordings(config),
            confidence_bounds=(bounds.min_confidence, bounds.max_confidence),
            error_rate_bounds=(max(0.0, bounds.min_error_rate), min(1.0, bounds.max_error_rate)),
        )
    except FileExistsError as error:
        raise DecisionError(str(error)) from error
    sheet = page.with_suffix(".csv")
    return [f"page: {page}", f"verdicts: fill in {sheet}, then decide again with --decide.verdicts {sheet}"]


class Recordings:
    """Finds the recording of a decision's row in its shard; the rows of the page come from few or many shards."""

    def __init__(self, config: CurationConfig) -> None:
        from trainers.curation.shards import list_shards

        self.source = config.source
        self.shards = list_shards(config.source, config.rows_per_shard)

    def __call__(self, decision: Mapping[str, Any]) -> dict[str, Any] | None:
        from trainers.curation.shards import read_rows as read_source

        rows = read_source(self.source, self.shards[decision["shard"]])
        return next((row["audio"] for row in rows if row["id"] == decision["id"]), None)


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
