"""What the training-step benchmarks share: PhoWhisper-base's shape, four-second utterances, interleaved timing."""

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
from transformers import WhisperConfig, WhisperFeatureExtractor

from data_scripts.text.g2p import G2P
from data_scripts.text.phonemes import phoneme_symbols
from models.tspc import S2PConfig, S2PForConditionalGeneration, build_phoneme_tokenizer
from trainers.collators import PhonemeLabels, SpeechInputs

BATCH_SIZE = 4
UTTERANCE_S = 4.0
NUM_ROWS = 8
# Thirteen syllables, the rate of Vietnamese speech in four seconds; with their tones 47 phonemes.
TEXT = "hôm nay trời nắng nên chúng tôi đi ra chợ mua cá tươi"


def encoder_config() -> WhisperConfig:
    """The exact shape of vinai/PhoWhisper-base (and openai/whisper-base)."""
    return WhisperConfig(
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        num_mel_bins=80,
        max_source_positions=1500,
    )


def phoneme_tokenizer() -> Any:
    return build_phoneme_tokenizer(phoneme_symbols("full"))


def make_s2p() -> S2PForConditionalGeneration:
    """S2P of that encoder, frozen and padded to 30 s as it was pre-trained; random weights."""
    torch.manual_seed(0)
    model = S2PForConditionalGeneration(
        S2PConfig(encoder_config=encoder_config(), encoder_window="padded", vocab_size=len(phoneme_tokenizer()))
    )
    model.encoder.requires_grad_(False)
    return model.train()


def make_rows() -> Dataset:
    """Different noises of four seconds with the same text."""
    rows = []
    for index in range(NUM_ROWS):
        file = io.BytesIO()
        noise = np.random.default_rng(index).standard_normal(int(16_000 * UTTERANCE_S))
        soundfile.write(file, 0.1 * noise, 16_000, format="FLAC")
        audio = {"path": None, "bytes": file.getvalue()}
        rows.append({"id": str(index), "audio": audio, "text": TEXT, "duration_s": UTTERANCE_S, "spans": []})
    return Dataset.from_list(rows)


def speech_inputs() -> SpeechInputs:
    return SpeechInputs(WhisperFeatureExtractor())


def phoneme_labels() -> PhonemeLabels:
    return PhonemeLabels(G2P(), phoneme_tokenizer())


def batches(rows: Any, collate: Callable[[list], dict[str, torch.Tensor]]) -> Callable[[], dict[str, torch.Tensor]]:
    """Draws random batches, reading and collating included."""
    rng = np.random.default_rng(0)
    return lambda: collate([rows[int(index)] for index in rng.choice(len(rows), BATCH_SIZE, replace=False)])


def trainer_step(model: torch.nn.Module, draw: Callable[[], dict[str, torch.Tensor]]) -> Callable[[], None]:
    """Forward, backward and AdamW step of the trainable parameters."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(**draw()).loss.backward()
        optimizer.step()

    return step


def compare(
    name: str, peer: str, ours: Callable[[], None], theirs: Callable[[], None], rounds: int
) -> list[dict[str, Any]]:
    """CPU seconds of one thread per second of audio, rounds interleaved, median of the rounds' ratios."""
    ours()  # warm-up
    theirs()
    seconds: list[tuple[float, float]] = []
    for _ in range(rounds):
        # CPU time and not wall time: other programs on the machine would count on one side or the other.
        start = time.process_time()
        ours()
        middle = time.process_time()
        theirs()
        seconds.append((middle - start, time.process_time() - middle))
    per_audio = 1000 / (BATCH_SIZE * UTTERANCE_S)
    row = {
        "name": name,
        "peer": peer,
        "ours": per_audio * statistics.median(mine for mine, _ in seconds),
        "theirs": per_audio * statistics.median(other for _, other in seconds),
        "unit": "CPU ms per audio second",
        "ratio": statistics.median(other / mine for mine, other in seconds),
    }
    return [row]


def cache_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="amvi-benchmark-")
