"""From prepared shards to batches a model takes: our loader against `datasets.map` and the stock collator.

    python scripts/benchmarks/loader.py

Both read the same parquet shards of synthetic speech (espeak-ng; FLAC; lengths drawn from the quantiles of a corpus of
read speech), make Whisper log-mel features and the same phoneme labels, and hand out PyTorch batches of one epoch.

Ours: `ShardRows`, batches of 120 padded seconds, features of the true frames. Theirs: the fine-tuning recipe that most
people copy, `map` to features of 30 seconds, then a `DataLoader` of 16 rows with padding of the labels; it decodes
with the same library as ours. `first epoch` counts their `map`, which ours has no use for; `later epochs` does not.
Time is CPU seconds of one process on one thread; rounds alternate, and the ratio is the median of the rounds' ratios.

Disk is what lies there while training: our shards; theirs and their mapped features. Padding is the share of an
epoch's frames that are padding, against random batches of as many rows, each padded to its longest.
"""

import io
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _training_steps as steps
import datasets
import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader

from data_scripts.audio import SoundfileAudio
from data_scripts.schema import FEATURES
from data_scripts.shards import ShardRows
from data_scripts.synthesis.espeak import Espeak
from data_scripts.synthesis.sentences import generate_sentences
from data_scripts.synthesis.speech import make_speakers, voice_sentence
from data_scripts.tables import table_from_rows
from trainers.collators import S2PCollator
from trainers.sampler import BudgetBatchSampler

NUM_ROWS, NUM_SHARDS, BATCH_ROWS, BUDGET_S, CORPUS_ROWS = 192, 4, 16, 120.0, 20_000
# Twentieths of the durations of a corpus of read Vietnamese (FOSD), in seconds; mean 3.8.
QUANTILES_S = (
    *(0.79, 1.42, 1.63, 1.78, 1.97, 2.11, 2.28, 2.45, 2.62, 2.83, 3.1),
    *(3.353, 3.6, 3.89, 4.3, 4.758, 5.35, 6.02, 7.01, 8.6, 18.25),
)


def draw_lengths(count: int) -> np.ndarray:
    """Seconds, seeded."""
    return np.interp(np.random.default_rng(42).uniform(0, 20, count), range(21), QUANTILES_S)


def write_shards(folder: Path) -> list[str]:
    """Prepared shards of synthetic speech, cut to the drawn lengths."""
    lengths, speakers = draw_lengths(NUM_ROWS), make_speakers(4)[0]
    with Espeak() as espeak:
        spoken = [
            voice_sentence(espeak, row["text"], row["spans"], speakers[number % 4])
            for number, row in enumerate(generate_sentences(60, code_switched_share=0.0))
        ]
    # A recording has noise; without it FLAC would look better than it is.
    voice = np.tile(np.concatenate(spoken), 1 + int(lengths.sum() * 16_000 / sum(map(len, spoken))))
    voice = 0.5 * voice + 0.003 * np.random.default_rng(1).standard_normal(len(voice))
    ends = np.cumsum((lengths * 16_000).astype(int))
    rows = []
    for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        file = io.BytesIO()
        soundfile.write(file, voice[start:end], 16_000, format="FLAC")
        audio = {"path": None, "bytes": file.getvalue()}
        row = {"id": str(number), "audio": audio, "duration_s": lengths[number], "text": steps.TEXT, "spans": []}
        rows.append({**dict.fromkeys(FEATURES), **row, "corpus": "synthetic"})
    paths = [str(folder / f"train-{shard:05d}.parquet") for shard in range(NUM_SHARDS)]
    for shard, path in enumerate(paths):
        table_from_rows(rows[shard::NUM_SHARDS], FEATURES).to_parquet(path)
    return paths


def our_epoch(paths: list[str], collate: S2PCollator) -> int:
    """All batches of an epoch; the number of rows."""
    rows = ShardRows(paths)
    sampler = BudgetBatchSampler(rows["duration_s"], BUDGET_S, blocks=rows.blocks)
    return sum(len(batch["labels"]) for batch in DataLoader(rows, batch_sampler=sampler, collate_fn=collate))  # type: ignore[arg-type]


class StockCollator:
    """`DataCollatorSpeechSeq2SeqWithPadding` of the fine-tuning recipe."""

    def __init__(self, feature_extractor: Any, tokenizer: Any):
        self.feature_extractor, self.tokenizer = feature_extractor, tokenizer

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        inputs = [{"input_features": feature["input_features"]} for feature in features]
        batch = self.feature_extractor.pad(inputs, return_tensors="pt")
        labels = self.tokenizer.pad([{"input_ids": feature["labels"]} for feature in features], return_tensors="pt")
        batch["labels"] = labels["input_ids"].masked_fill(labels.attention_mask.ne(1), -100)
        return batch


def stock_map(paths: list[str], cache: Path, collate: S2PCollator) -> datasets.Dataset:
    """Features and labels of every row, written to the cache."""
    extractor = collate.inputs.feature_extractor
    rows = datasets.load_dataset("parquet", data_files={"train": paths}, split="train", cache_dir=str(cache))
    rows = rows.cast_column("audio", SoundfileAudio(sampling_rate=16_000))  # type: ignore[union-attr]

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        audio = row["audio"]
        inputs = extractor(audio["array"], sampling_rate=audio["sampling_rate"]).input_features[0]
        return {"input_features": inputs, "labels": collate.labels(row)}

    return rows.map(prepare, remove_columns=rows.column_names, load_from_cache_file=False)  # type: ignore[return-value]


def stock_epoch(mapped: datasets.Dataset, collate: StockCollator) -> int:
    loader = DataLoader(mapped, batch_size=BATCH_ROWS, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    return sum(len(batch["labels"]) for batch in loader)


def padding() -> tuple[float, float]:
    """Per cent of an epoch: ours, and random batches of as many rows."""
    lengths = draw_lengths(CORPUS_ROWS)
    batches = BudgetBatchSampler(lengths, BUDGET_S).batches(0)
    order = np.random.default_rng(2).permutation(CORPUS_ROWS)
    random_batches = np.array_split(order, len(batches))
    return tuple(  # type: ignore[return-value]
        100 * (1 - float(lengths.sum()) / sum(len(batch) * float(lengths[batch].max()) for batch in each))
        for each in (batches, random_batches)
    )


def run(rounds: int = 3) -> list[dict[str, Any]]:
    """Four rows; three minutes on one core."""
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    collate = S2PCollator(steps.speech_inputs(), steps.phoneme_labels())
    stock = StockCollator(collate.inputs.feature_extractor, steps.phoneme_tokenizer())
    hours = float(draw_lengths(NUM_ROWS).sum()) / 3600
    times: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="amvi-benchmark-") as folder:
        paths = write_shards(Path(folder))
        for number in range(rounds):
            cache = Path(folder, f"cache-{number}")
            start = time.process_time()
            assert our_epoch(paths, collate) == NUM_ROWS
            ours = time.process_time()
            mapped = stock_map(paths, cache, collate)
            map_done = time.process_time()
            assert stock_epoch(mapped, stock) == NUM_ROWS
            times.append((ours - start, map_done - ours, time.process_time() - map_done))
        shards = sum(Path(path).stat().st_size for path in paths)
        cached = sum(path.stat().st_size for path in cache.rglob("*.arrow")) if rounds else 0
    peer, unit = "datasets.map + stock collator", "audio hours/s/core"
    rows = []
    for name, theirs in (("first epoch", [m + e for _, m, e in times]), ("later epochs", [e for _, _, e in times])):
        mine = [one for one, _, _ in times]
        figures = {"ours": hours / statistics.median(mine), "theirs": hours / statistics.median(theirs), "unit": unit}
        ratio = statistics.median(other / one for one, other in zip(mine, theirs, strict=True))
        rows.append({"name": f"Loader, {name}", "peer": peer, **figures, "ratio": ratio})
    disk = {"ours": shards / hours / 2**30, "theirs": (shards + cached) / hours / 2**30, "unit": "GiB/audio hour"}
    rows.append({"name": "Loader, disk", "peer": peer, **disk, "ratio": disk["theirs"] / disk["ours"]})
    ours_percent, random_percent = padding()
    waste = {
        "ours": ours_percent,
        "theirs": random_percent,
        "unit": "% padding",
        "ratio": random_percent / ours_percent,
    }
    rows.append({"name": "Batches of 120 s, padding", "peer": "random batches", **waste})
    return rows


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    for row in run():
        print(row)
