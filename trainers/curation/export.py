"""Kept rows as a prepared folder, a source like any other: `--data.train '[{path: <output>/kept/<name>}]'`.

Shards are written alone and by all ranks, as scores are; a shard with a record is not written again.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import datasets

from data_scripts.audio import SAMPLING_RATE_HZ, SoundfileAudio, embed_audio
from data_scripts.curation.decisions import DECISIONS_FILE, SETTINGS_FILE, DecisionError
from data_scripts.drop_report import write_json
from data_scripts.schema import FEATURES
from data_scripts.tables import table_from_rows
from trainers.curation.arguments import CurationConfig
from trainers.curation.shards import STATE, Shard, list_shards, read_rows

POLL_S = 0.5


def export(config: CurationConfig) -> Path:
    """Write the rows that the decisions `config.decide.name` keep, with the chosen texts; returns the folder.

    Raises:
        DecisionError: no such decisions, over other rows than the source has, or none kept.
        SourceError, SchemaError: the source cannot be read.
    """
    name, split = config.decide.name, config.source.split
    decided = Path(config.output_dir) / "decisions" / name
    folder = Path(config.output_dir) / "kept" / name
    if not (decided / DECISIONS_FILE).is_file():
        raise DecisionError(f"{decided}: no decisions of this name; run `curate.py decide` first")
    shards = list_shards(config.source, config.rows_per_shard)
    state = folder / STATE / split
    settings = {"curation": json.loads((decided / SETTINGS_FILE).read_text(encoding="utf-8"))}
    run = state / "run.json"
    if run.is_file() and json.loads(run.read_text(encoding="utf-8")) != settings:
        raise DecisionError(f"{folder} holds rows of other decisions; choose another --decide.name")
    datasets.disable_progress_bars()
    state.mkdir(parents=True, exist_ok=True)
    write_json(run, settings)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    records = [state / f"{shard.number:05d}.json" for shard in shards]
    for shard, record in zip(shards, records, strict=True):
        if shard.number % world_size == rank and not record.is_file():
            kept = _write(config, shard, decided / DECISIONS_FILE, folder / f"{split}-{shard.number:05d}.parquet")
            write_json(record, {"rows": kept})
    while not all(record.is_file() for record in records):  # of other ranks
        time.sleep(POLL_S)
    if not sum(json.loads(record.read_text(encoding="utf-8"))["rows"] for record in records):
        raise DecisionError(f"{decided}: no row is kept; see its summary.json for the reasons")
    return folder


def _write(config: CurationConfig, shard: Shard, decisions: Path, path: Path) -> int:
    import pyarrow.parquet as pq

    columns = ["id", "keep", "text", "text_source"]
    table = pq.read_table(decisions, columns=columns, filters=[("shard", "==", shard.number)])
    decided = table.to_pylist()
    rows: list[dict[str, Any]] = []
    for row, decision in zip(read_rows(config.source, shard), decided, strict=False):
        if row["id"] != decision["id"]:
            raise DecisionError(f"{decisions} decides about other rows than {shard.name} holds; score it again")
        if decision["keep"]:
            changed = decision["text_source"] != "transcript"
            # Language spans are places in a text: those of another text say nothing.
            rows.append({**row, "text": decision["text"], "spans": [] if changed else row["spans"]})
    if len(decided) != len(shard):
        raise DecisionError(f"{decisions} decides about {len(decided)} rows of {shard.name}, which has {len(shard)}")
    write_rows(rows, path)
    return len(rows)


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """A shard with the files embedded, whole or not at all; nothing for no rows."""
    if not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    embedded = embed_audio(table_from_rows(rows, FEATURES), keep_in_memory=True)
    partial = path.with_name(f".{path.name}.partial")
    embedded.cast_column("audio", SoundfileAudio(sampling_rate=SAMPLING_RATE_HZ)).to_parquet(partial)
    os.replace(partial, path)
