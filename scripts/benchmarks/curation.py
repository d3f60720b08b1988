"""What curation costs: CPU seconds per hour of audio to decode and to align, and decisions a second.

    OMP_NUM_THREADS=1 python scripts/benchmarks/curation.py

Random weights of real size (wav2vec 2.0 base, 94 M) and of the demo's S2P encoder: speed does not depend on what a
model has learned. Process CPU time is measured, on one thread, so a busy machine does not change it much.
"""

import itertools
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from data_scripts.curation.decisions import DecisionSettings, Overview, decide_row
from models.zipformer.ctc_alignment import align

CLIP_S, BATCH, LETTERS_PER_S, FRAMES_PER_S = 8.0, 4, 13.0, 50
VOCABULARIES = {"letters (110)": 110, "phonemes (64)": 64, "word pieces (2,048)": 2048}


def cpu_seconds(work: Any, repeats: int = 2) -> float:
    """The least of a few tries, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    table = Table("step", "CPU seconds per audio hour", title=f"clips of {CLIP_S:g} s, batches of {BATCH}")
    per_hour = 3600 / (CLIP_S * BATCH)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=110)).eval()
    audio_BN = torch.randn(BATCH, int(CLIP_S * 16_000))
    with torch.no_grad():
        seconds = cpu_seconds(lambda: model(audio_BN).logits.log_softmax(-1))
    table.add_row("decode, wav2vec 2.0 base (94 M)", f"{seconds * per_hour:,.0f}")
    generator = np.random.default_rng(0)
    frames = [int(CLIP_S * FRAMES_PER_S)] * 16
    for name, size in VOCABULARIES.items():
        log_probs_BTV = torch.randn(16, frames[0], size).log_softmax(-1)
        labels = [generator.integers(1, size, int(CLIP_S * LETTERS_PER_S)).tolist() for _ in frames]
        seconds = cpu_seconds(lambda outputs=log_probs_BTV, ids=labels: align(outputs, frames, ids, 0))
        table.add_row(f"align, {name}", f"{seconds * 3600 / (CLIP_S * 16):,.1f}")
    Console().print(table)
    text = "một hai ba bốn năm sáu bảy tám"
    score = {
        "model": "a", "speed": 1.0, "unit": "syllable", "hypothesis": text, "error_rate": 0.1,
        "confidence": 0.7, "min_window_confidence": 0.6, "greedy_confidence": 0.9, "lm_score": -2.0, "problem": None,
    }  # fmt: skip
    scores = [{**score, "model": model, "speed": speed} for model, speed in itertools.product("ab", (1.0, 0.9))]
    row = {"id": "x", "text": text, "duration_s": 3.0, "corpus": "c", "speaker": "s",
           "lm_score": -2.0, "shard": 0, "scores": scores}  # fmt: skip
    settings = DecisionSettings(methods=["voting", "confidence", "rules"])
    settings.confidence = replace(settings.confidence, model="a")
    seconds = cpu_seconds(lambda: [decide_row(row, settings, Overview("a")) for _ in range(2000)])
    Console().print(f"decide (voting, confidence and rules): {2000 / seconds:,.0f} rows a CPU second")


if __name__ == "__main__":
    main()
