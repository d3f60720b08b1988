"""Files of scores: one a model and shard, written whole or not at all, and one table of them all.

    <output>/scores/<model>-NNNNN.parquet   id, scores (one entry a speed), digest of the recording
    <output>/scores/lm-NNNNN.parquet        id, lm_score of the transcript, lm_scores of the hypotheses
    <output>/scores.parquet                 all of it, one row an input row, in its order
    <output>/scores.json                    rows, hours and problems by model

Every file says what it was made of; a file of another model, data set or setting is never taken for one's own.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_scripts.drop_report import write_json

KEY = b"amvi"
SCORE = pa.struct(
    {
        "model": pa.string(),
        "speed": pa.float64(),
        "unit": pa.string(),
        "hypothesis": pa.string(),
        "error_rate": pa.float64(),
        "confidence": pa.float64(),
        "min_window_confidence": pa.float64(),
        "greedy_confidence": pa.float64(),
        "lm_score": pa.float64(),
        "problem": pa.string(),
    }
)
MODEL_PART = pa.schema({"id": pa.string(), "scores": pa.list_(SCORE), "audio_digest": pa.uint64()})
LM_PART = pa.schema({"id": pa.string(), "lm_score": pa.float64(), "lm_scores": pa.list_(pa.float64())})
SCORES = pa.schema(
    {
        "id": pa.string(),
        "text": pa.string(),
        "duration_s": pa.float64(),
        "corpus": pa.string(),
        "speaker": pa.string(),
        "dialect": pa.string(),
        "emotion": pa.string(),
        "scores": pa.list_(SCORE),
        "lm_score": pa.float64(),
        "audio_digest": pa.uint64(),
        "shard": pa.int32(),
    }
)


class ScoringError(ValueError):
    """Scores that cannot be made or belong to something else; the message says what to do."""


def part_path(output: Path, part: str, number: int) -> Path:
    """Where the scores of a model (or "lm") for a shard are."""
    return output / "scores" / f"{part}-{number:05d}.parquet"


def made_of(path: Path) -> dict[str, Any] | None:
    """What a file of scores says it was made of; None where there is no file.

    Raises:
        ScoringError: the file is something else.
    """
    if not path.is_file():
        return None
    try:
        return json.loads((pq.read_schema(path).metadata or {})[KEY])
    except (KeyError, ValueError, pa.ArrowException, OSError) as error:
        raise ScoringError(f"{path} is no file of scores: {error!r}; choose another output_dir") from error


def is_done(path: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether a part is there and is ours.

    Raises:
        ScoringError: it is of another model, data set or setting; names every difference.
    """
    there = made_of(path)
    if there is None:
        return False
    different = [
        f"{key} was {there.get(key)!r}, now {wanted.get(key)!r}"
        for key in sorted(there.keys() | wanted.keys())
        if there.get(key) != wanted.get(key)
    ]
    if different:
        raise ScoringError(
            f"{path} was made of something else: {'; '.join(different)}. Choose another output_dir, or another name "
            "for a changed model"
        )
    return True


def write_part(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema, wanted: Mapping[str, Any]) -> None:
    """Write a part, whole or not at all; the same rows give the same bytes."""
    text = json.dumps(dict(wanted), ensure_ascii=False, sort_keys=True)
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema.with_metadata({KEY: text.encode()}))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def merge(
    output: Path, parts: Sequence[str], lm: bool, shards: Iterable[tuple[int, list[dict[str, Any]]]], wanted: Any
) -> dict[str, Any]:
    """Put the parts of all shards into `scores.parquet`, a shard at a time, and count what they say.

    Args:
        parts: names of the models, in the order of the config.
        lm: whether there are parts of a language model.
        shards: number and described rows (`id`, `text`, …) of every shard, in order.
        wanted: what the table is made of, kept in its metadata.

    Returns:
        The counts, also in scores.json: rows, hours, and by model how many scores have which problem.
    """
    problems = {part: Counter() for part in parts}
    rows = hours = 0
    text = json.dumps(wanted, ensure_ascii=False, sort_keys=True)
    schema = SCORES.with_metadata({KEY: text.encode()})
    partial = output / ".scores.parquet.partial"
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for number, described in shards:
            columns = [_column(part_path(output, part, number), described, "scores") for part in parts]
            digests = _column(part_path(output, parts[0], number), described, "audio_digest")
            judged = _lm_columns(part_path(output, "lm", number), described) if lm else None
            for index, row in enumerate(described):
                scores = [score for column in columns for score in column[index]]
                row.pop("spans", None)
                row.update(scores=scores, shard=number, audio_digest=digests[index])
                row.update(lm_score=judged[0][index] if judged else None)
                for position, score in enumerate(scores):
                    if judged:
                        score["lm_score"] = judged[1][index][position]
                    if score["problem"]:
                        problems[score["model"]][score["problem"]] += 1
                hours += (row["duration_s"] or 0.0) / 3600
            rows += len(described)
            writer.write_table(pa.Table.from_pylist(described, schema=schema))
    os.replace(partial, output / "scores.parquet")
    counts = {name: dict(sorted(counter.items())) for name, counter in problems.items()}
    report = {"rows": rows, "hours": round(hours, 4), "problems": counts}
    write_json(output / "scores.json", report)
    return report


def _column(path: Path, described: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    table = pq.read_table(path, columns=["id", name])
    if table["id"].to_pylist() != [row["id"] for row in described]:
        raise ScoringError(f"{path} holds other rows than its shard; choose another output_dir")
    return table[name].to_pylist()


def _lm_columns(path: Path, described: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    return _column(path, described, "lm_score"), _column(path, described, "lm_scores")


def file_digest(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()
