"""Training the head of an emotion classifier on cached features, against two frozen 95 M encoders in the loop; and
SpeechFormer++ against a plain Transformer of its size.

    python scripts/benchmarks/ser_head.py

Wav2Vec2-base and emotion2vec-base by their sizes, with random weights; batches of four utterances of four seconds.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models.ser import SERConfig, SERForAudioClassification, SpeechFormer

BATCH, DURATION_S, LONG_S, WIDTH = 4, 4.0, 20.0, 256
HEADS = {"mlp": {}, "speechformer": {"speechformer_projection": WIDTH}}


def head_steps(head: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step on cached features, and one with the encoders in the loop."""
    torch.manual_seed(0)
    encoders = [{"kind": kind, "config": {}, "features": 12} for kind in ("wav2vec2", "emotion2vec")]
    model = SERForAudioClassification(
        SERConfig(encoders=encoders, head=head, supcon_weight=0.3, **HEADS[head])
    ).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    waveforms = 0.1 * torch.randn(BATCH, round(DURATION_S * 16_000))
    mask, labels = torch.ones_like(waveforms).long(), torch.arange(BATCH) % 2
    features, masks = model.encode(waveforms, mask)
    half = {name: one.half() for name, one in features.items()}

    def step(**inputs: Any) -> None:
        optimiser.zero_grad()
        loss = model(labels=labels, **inputs).loss
        assert loss is not None
        loss.backward()
        optimiser.step()

    return (
        lambda: step(encoder_features=half, encoder_masks=masks),
        lambda: step(input_values=waveforms, attention_mask=mask),
    )


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


def run(rounds: int = 3) -> list[dict[str, Any]]:
    """Three rows; a minute on one core."""
    torch.set_num_threads(1)
    rows = []
    for head in HEADS:
        row = compare(*head_steps(head), rounds, BATCH * DURATION_S)
        rows.append(
            {"name": f"SER training step, {head} head, features cached", "peer": "encoders in the loop", **row}
        )
    row = compare(*attention_steps(), rounds, BATCH * LONG_S)
    rows.append(
        {"name": f"SpeechFormer++ on {LONG_S:g} s, forward and backward", "peer": "12-layer Transformer", **row}
    )
    return rows


if __name__ == "__main__":
    print(run())
