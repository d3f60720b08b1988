"""Real clips with known faults planted among them, to see whether curation finds them.

    python tests/curation/planted.py CLIPS NOISE OUT [--test_share 0.2] [--seed 0]

OUT/noisy becomes a prepared folder with splits train (faults planted) and test (clean), OUT/clean one with the
training rows as they were; OUT/faults.json holds id -> fault. Of the training rows 20 % get the transcript of another
row, 10 % lose all but the first part of their audio and 10 % hold noise in place of speech.
"""

import argparse
import csv
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from data_scripts.audio import SAMPLING_RATE_HZ, SoundfileAudio, read_audio
from data_scripts.schema import FEATURES
from data_scripts.tables import table_from_rows
from data_scripts.text.normalize import normalize_text

SHARES = {"wrong_text": 0.2, "truncated": 0.1, "noise": 0.1}
ROWS_PER_SHARD = 250


def read_clips(folder: Path, max_duration_s: float = 10.0) -> list[dict[str, Any]]:
    """Rows of a folder with metadata.csv, audio decoded."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        records = [record for record in csv.DictReader(file) if float(record["duration"]) <= max_duration_s]
    names = [record["file_name"] for record in records]
    texts = [normalize_text(record["text"]) for record in records]
    return [
        {"id": name, "text": text, "samples": read_audio(str(folder / name))}
        for name, text in zip(names, texts, strict=True)
    ]


def plant(rows: list[dict[str, Any]], noises: list[np.ndarray], seed: int) -> dict[str, str]:
    """Change rows in place; the fault of each changed row by id."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    faults: dict[str, str] = {}
    start = 0
    texts = [row["text"] for row in rows]
    for fault, share in SHARES.items():
        count = round(share * len(rows))
        for index in order[start : start + count]:
            row = rows[index]
            faults[row["id"]] = fault
            if fault == "wrong_text":
                others = [text for text in texts if text != row["text"]]
                row["text"] = others[rng.integers(len(others))]
            elif fault == "truncated":
                row["samples"] = row["samples"][: int(len(row["samples"]) * rng.uniform(0.25, 0.5))]
            else:
                noise = noises[rng.integers(len(noises))]
                row["samples"] = np.resize(noise, len(row["samples"]))
        start += count
    return faults


def write(rows: list[dict[str, Any]], folder: Path, split: str) -> None:
    """A split of a prepared folder."""
    (folder / ".prepared" / split).mkdir(parents=True, exist_ok=True)
    for shard, start in enumerate(range(0, len(rows), ROWS_PER_SHARD)):
        made = []
        for row in rows[start : start + ROWS_PER_SHARD]:
            file = io.BytesIO()
            soundfile.write(file, row["samples"], SAMPLING_RATE_HZ, format="FLAC", subtype="PCM_16")
            made.append(
                {"id": row["id"], "audio": {"bytes": file.getvalue(), "path": None}, "text": row["text"],
                 "duration_s": len(row["samples"]) / SAMPLING_RATE_HZ, "speaker": None, "dialect": None, "spans": [],
                 "emotion": None, "corpus": "planted"}
            )  # fmt: skip
        table = table_from_rows(made, FEATURES).cast_column("audio", SoundfileAudio(sampling_rate=SAMPLING_RATE_HZ))
        table.to_parquet(folder / f"{split}-{shard:05d}.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="the recordings: a folder with train/metadata.csv (and test/)")
    parser.add_argument("noise", type=Path, help="a folder with metadata.csv of noises")
    parser.add_argument("out", type=Path)
    parser.add_argument("--test_share", type=float, default=0.2, help="of train, where there is no split test")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make(args.clips, args.noise, args.out, args.test_share, args.seed)


def make(
    clips: Path, noise: Path, out: Path, test_share: float = 0.2, seed: int = 0, texts: Collection[str] = ()
) -> dict[str, str]:
    """Write the planted folder; the faults by id. With `texts`, of clips with these transcripts alone."""
    train = [row for row in read_clips(clips / "train") if not texts or row["text"] in texts]
    if (clips / "test").is_dir():
        test = read_clips(clips / "test")
    else:
        order = np.random.default_rng(seed + 1).permutation(len(train))
        cut = round(test_share * len(train))
        test, train = [train[i] for i in sorted(order[:cut])], [train[i] for i in sorted(order[cut:])]
    with (noise / "metadata.csv").open(encoding="utf-8", newline="") as file:
        names = [record["file_name"] for record in csv.DictReader(file) if record["kind"] == "noise"]
    noises = [read_audio(str(noise / name), allow_silent=True) for name in names[::4]]
    write(test, out / "noisy", "test")
    write(train, out / "clean", "train")
    faults = plant(train, [one for one in noises if np.abs(one).max() > 0.01], seed)
    write(train, out / "noisy", "train")
    (out / "faults.json").write_text(json.dumps(faults, indent=1), encoding="utf-8")
    return faults


if __name__ == "__main__":
    main()
