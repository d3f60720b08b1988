"""The 69 bad inputs by code, and what each must lead to.

error: a message that names file, row or key, and exit status 2, before training. skipped: dropped, counted and listed
in the report with file, row and code. handled: mended or ignored, and noted.
"""

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import soundfile

NAMES = {
    "A1": "empty file",
    "A2": "header without samples",
    "A3": "one sample",
    "A4": "NaN and infinite samples",
    "A5": "clipped",
    "A6": "float samples at 300",
    "A7": "int16 samples not divided",
    "A8": "stereo as soundfile reads it",
    "A9": "stereo of opposite phase",
    "A10": "8 channels",
    "A11": "8 kHz",
    "A12": "192 kHz",
    "A13": "sampling_rate not given",
    "A14": "truncated FLAC",
    "A15": "truncated WAV and MP3",
    "A16": "WAV header that says 4 GB",
    "A17": "FLAC named .wav",
    "A18": "HTML named .wav",
    "A19": "sampling rate 0 in the header",
    "A20": "m4a without its decoder",
    "A21": "10 hours",
    "A22": "longer than the window of Whisper",
    "A23": "silence with text, speech without",
    "A24": "constant offset",
    "A25": "directory named .wav",
    "M1": "no such audio file",
    "M2": "path or link out of the root",
    "M3": "absolute path",
    "M4": "address as a path",
    "M5": "repeated id, recording in train and test",
    "M6": "empty transcript",
    "M7": "transcripts nan, null, NA, None",
    "M8": "number as a transcript",
    "M9": "text not composed",
    "M10": "two places of the tone mark",
    "M11": "invisible characters",
    "M12": "digits, emoji, address in the text",
    "M13": "letters of another script",
    "M14": "manifest in CP1258 or Latin-1",
    "M15": "formula in a cell that we write",
    "M16": "unclosed quote, broken JSON line",
    "M17": "unknown emotion, `no` read as false",
    "M18": "class without rows",
    "M19": "token id beyond the vocabulary",
    "M20": "label longer than decoder or recording",
    "M21": "wrong, negative or no duration",
    "C1": "unknown key",
    "C2": "1e-4 and other words for numbers",
    "C3": "numbers out of range",
    "C4": "no file, repeated key, Python tag",
    "K1": "truncated safetensors",
    "K2": "header length of 2^62",
    "K3": "vocabulary of another size",
    "K4": "missing and extra layers",
    "K5": "pickle as weights or states",
    "K6": "pickle as training_args.bin",
    "K7": "pickle in a DeepSpeed checkpoint",
    "K8": "config of huge dimensions",
    "K9": "auto_map without trust",
    "H1": "no token",
    "H2": "401",
    "H3": "403",
    "H4": "429",
    "H5": "5xx in the middle of an upload",
    "H6": "a Hub that hangs",
    "H7": "an upload that is cut off",
    "H8": "repository there already, or of another owner",
    "H9": "another visibility than asked for",
    "T1": "token in logs, cards and checkpoints",
}
PROMISES = {"A": 7, "M": 7, "C": 7, "K": 9, "H": 6, "T": 8}
COVERED: set[str] = set()


def covers(*codes: str) -> Callable[[Any], Any]:
    """Marks a test as the one of these inputs."""
    assert set(codes) <= NAMES.keys(), codes
    COVERED.update(codes)
    return lambda test: test


class Checker:
    """`check(code, survived, detail)` in the table of faults."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __call__(self, code: str, survived: bool, detail: object = "") -> None:
        self.table.check(PROMISES[code[0]], f"{code} {NAMES[code]}", survived, detail)


class Answer(NamedTuple):
    """What a user gets from `prepare_data.py validate`."""

    status: int
    printed: str
    errors: str
    rows: dict[str, dict[str, Any]]
    findings: list[dict[str, str]]
    counts: dict[str, dict[str, int]]

    def codes_of(self, row_id: str) -> set[str]:
        return {finding["code"] for finding in self.findings if finding["row_id"] == row_id}

    def names(self, row_id: str, code: str, file: str) -> bool:
        """Whether the report says that this row, with this file, is so."""
        return any(
            (found["row_id"], found["code"]) == (row_id, code) and found["file"].endswith(file)
            for found in self.findings
        )


def validate(source: Path, output: Path, *arguments: str) -> Answer:
    """The command, in this process."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    try:
        from scripts.prepare_data import main
    finally:
        sys.path.pop(0)
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        status = main(["validate", "--source.path", str(source), "--output_dir", str(output), *arguments])
    shards = sorted(output.glob("train-*.parquet"))
    rows: Iterable[Any] = ()
    if shards:
        rows = datasets.Dataset.from_parquet([str(shard) for shard in shards], cache_dir=str(output / ".cache"))
        rows = rows.cast_column("audio", datasets.Audio(decode=False))
    report = {"findings": [], "counts": {}}
    if (output / "drop_report.json").is_file():
        report = json.loads((output / "drop_report.json").read_text(encoding="utf-8"))["train"]
    return Answer(
        status,
        printed.getvalue(),
        errors.getvalue(),
        {row["id"]: row for row in rows},
        report["findings"],
        report["counts"],
    )


RATE_HZ = 16_000


def voice(seconds: float = 0.6, rate_hz: int = RATE_HZ, seed: int = 0) -> np.ndarray:
    """A tone with noise, another one for every seed; float32 (n,)."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).standard_normal(len(time_s))
    return (0.3 * np.sin(2 * np.pi * (200 + 10 * seed) * time_s) + 0.005 * noise).astype(np.float32)


def encode(samples: np.ndarray, rate_hz: int = RATE_HZ, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


def write_manifest(folder: Path, rows: Iterable[Mapping[str, Any]], name: str = "metadata.csv") -> Path:
    """A CSV or JSON lines manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        if name.endswith(".jsonl"):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder
