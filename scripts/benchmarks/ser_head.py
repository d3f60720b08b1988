"""Training the head of an emotion classifier on cached features, against two frozen 95 M encoders in the loop (steps,
and a whole epoch with its reading); and SpeechFormer++ against a plain Transformer of its size.

    python scripts/benchmarks/ser_head.py

Wav2Vec2-base and emotion2vec-base by their sizes, with random weights; batches of four utterances of four seconds. An
epoch is of `CORPUS` such utterances and reads them from disk: encoded audio, or what `trainers.ser_cache` keeps.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile
import torch
from datasets import Dataset
from torch import nn

from models.ser import SERConfig, SERForAudioClassification, SpeechFormer, build_feature_extractor
from trainers.collators import SpeechInputs
from trainers.ser_cache import FeatureCache, pad_features

BATCH, CORPUS, DURATION_S, LONG_S, WIDTH = 4, 8, 4.0, 20.0, 256
HEADS = {"mlp": {}, "speechformer": {"speechformer_projection": WIDTH}}


def make_step(head: str) -> tuple[SERForAudioClassification, Callable[..., None]]:
    """A model with two frozen encoders, and a training step of its head."""
    torch.manual_seed(0)
    encoders = [{"kind": kind, "config": {}, "features": 12} for kind in ("wav2vec2", "emotion2vec")]
    model = SERForAudioClassification(
        SERConfig(encoders=encoders, head=head, supcon_weight=0.3, **HEADS[head])
    ).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)

    def step(**inputs: Any) -> None:
        optimiser.zero_grad()
        loss = model(labels=torch.arange(BATCH) % 2, **inputs).loss
        assert loss is not None
        loss.backward()
        optimiser.step()

    return model, step


def head_steps(head: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step on cached features, and one with the encoders in the loop."""
    model, step = make_step(head)
    waveforms = 0.1 * torch.randn(BATCH, round(DURATION_S * 16_000))
    mask = torch.ones_like(waveforms).long()
    features, masks = model.encode(waveforms, mask)
    half = {name: one.half() for name, one in features.items()}
    return (
        lambda: step(encoder_features=half, encoder_masks=masks),
        lambda: step(input_values=waveforms, attention_mask=mask),
    )


def head_epochs(head: str, folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """An epoch on the features that `FeatureCache` keeps in a folder, and one with the encoders in the loop."""
    model, step = make_step(head)
    audio = []
    for seed in range(CORPUS):
        file = io.BytesIO()
        samples = 0.1 * np.random.default_rng(seed).standard_normal(round(DURATION_S * 16_000))
        soundfile.write(file, samples, 16_000, format="flac")
        audio.append({"path": None, "bytes": file.getvalue()})
    rows = Dataset.from_dict(
        {"id": list(map(str, range(CORPUS))), "audio": audio, "duration_s": [DURATION_S] * CORPUS}
    )
    inputs = SpeechInputs(build_feature_extractor())
    cached = FeatureCache(folder).attach(rows, model, inputs, batch_duration_s=BATCH * DURATION_S)

    def epoch(read: Callable[[list[int]], dict[str, Any]]) -> None:
        for first in range(0, CORPUS, BATCH):
            step(**read(list(range(first, first + BATCH))))

    def from_cache(batch: list[int]) -> dict[str, Any]:
        features, masks = pad_features([cached[index]["encoder_features"] for index in batch])
        return {"encoder_features": features, "encoder_masks": masks}

    def from_audio(batch: list[int]) -> dict[str, Any]:
        heard = inputs([rows[index] for index in batch])
        return {"input_values": heard["input_features"], "attention_mask": heard["attention_mask"]}

    return lambda: epoch(from_cache), lambda: epoch(from_audio)


def attention_steps() -> tuple[Callable[[], None], Callable[[], None]]:
    """Forward and backward of SpeechFormer++ and of as many full-attention layers of the same width."""
    torch.manual_seed(0)
    frames = torch.randn(BATCH, round(LONG_S * 50), WIDTH)
    ours = SpeechFormer(WIDTH)
    layer = nn.TransformerEncoderLayer(WIDTH, 8, WIDTH // 2, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
    return lambda: ours(frames)[0].sum().backward(), lambda: theirs(frames).sum().backward()


def compare(ours: Callable[[], None], theirs: Callable[[], None], rounds: int, audio_s: float) -> dict[str, Any]:
    """CPU milliseconds for a second of audio, rounds interleaved, median of the rounds' ratios."""
    ours()  # warm-up
    theirs()
    seconds = []
    for _ in range(rounds):
        # CPU time and not wall time: other programs on the machine would count on one side or the other.
        start = time.process_time()
        ours()
        middle = time.process_time()
        theirs()
        seconds.append((middle - start, time.process_time() - middle))
    return {
        "ours": 1000 / audio_s * statistics.median(mine for mine, _ in seconds),
        "theirs": 1000 / audio_s * statistics.median(other for _, other in seconds),
        "unit": "CPU ms per audio second",
        "ratio": statistics.median(other / mine for mine, other in seconds),
    }


def run(rounds: int = 2) -> list[dict[str, Any]]:
    """Four rows; two minutes on one core."""
    torch.set_num_threads(1)
    rows = []
    for head in HEADS:
        row = compare(*head_steps(head), rounds, BATCH * DURATION_S)
        rows.append(
            {"name": f"SER training step, {head} head, features cached", "peer": "encoders in the loop", **row}
        )
    with tempfile.TemporaryDirectory() as folder:
        row = compare(*head_epochs("speechformer", folder), rounds, CORPUS * DURATION_S)
    name = "SER training epoch, speechformer head, features read from the cache"
    rows.append({"name": name, "peer": "audio read, encoders in the loop", **row})
    row = compare(*attention_steps(), rounds, BATCH * LONG_S)
    rows.append(
        {"name": f"SpeechFormer++ on {LONG_S:g} s, forward and backward", "peer": "12-layer Transformer", **row}
    )
    return rows


if __name__ == "__main__":
    print(run())
