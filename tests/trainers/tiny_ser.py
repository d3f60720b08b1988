"""Tiny emotion classifiers and tones for them: low ones are neutral, high ones negative."""

import io
from typing import Any

import numpy as np
import soundfile
import torch
from datasets import Dataset

from models.emotion2vec import Emotion2VecConfig, Emotion2VecFeatureExtractor, Emotion2VecForAudioClassification
from models.ser import SERConfig, SERForAudioClassification, build_feature_extractor
from trainers.collators import SpeechInputs
from trainers.ser_collator import SERCollator
from trainers.ser_rows import DEFAULT_LABELS, apply_labels

CONVOLUTIONS = {"conv_dim": [8] * 7}
WAV2VEC2 = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, **CONVOLUTIONS,
}  # fmt: skip
EMOTION2VEC = {
    "hidden_size": 16, "num_attention_heads": 2, "num_prenet_layers": 1, "num_main_layers": 1,
    "conv_pos_groups": 2, "conv_pos_width": 19, "conv_pos_depth": 2, **CONVOLUTIONS,
}  # fmt: skip
LABELS = {0: "neutral", 1: "negative"}


def make_fusion(**fields: Any) -> SERForAudioClassification:
    """Without anything random in training."""
    torch.manual_seed(0)
    encoders = [
        {"kind": "filterbank", "config": {"num_mel_bins": 20}, "normalise": False},
        {"kind": "wav2vec2", "config": WAV2VEC2, "features": "conv", "frozen": True},
    ]
    options = {"encoders": encoders, "head_size": 16, "head_dropout": 0.0, "dropout": 0.0, "id2label": LABELS}
    return SERForAudioClassification(SERConfig(**options | fields))


def make_emotion2vec(**fields: Any) -> Emotion2VecForAudioClassification:
    torch.manual_seed(0)
    return Emotion2VecForAudioClassification(Emotion2VecConfig(**EMOTION2VEC, id2label=LABELS, **fields))


def ser_collator(model: Any, augmentation: Any = None, tokenizer: Any = None) -> SERCollator:
    fusion = isinstance(model, SERForAudioClassification)
    extractor = build_feature_extractor() if fusion else Emotion2VecFeatureExtractor()
    names = list(model.encoders) if fusion else []
    return SERCollator(SpeechInputs(extractor, augmentation=augmentation), [0, 1], encoders=names, tokenizer=tokenizer)


def make_rows(count: int, emotions: tuple[str, ...] = ("neutral", "angry", "calm")) -> Any:
    """Labelled rows of 0.3 to 0.5 s."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        emotion = emotions[number % len(emotions)]
        time_s = np.arange(round(16_000 * (0.3 + 0.02 * (number * 7 % 10)))) / 16_000
        audio = 0.1 * np.sin(2 * np.pi * (1500 if emotion == "angry" else 250) * time_s)
        file = io.BytesIO()
        soundfile.write(file, audio + 0.02 * rng.standard_normal(len(audio)), 16_000, format="WAV")
        rows.append(
            {
                "id": f"row-{number}", "audio": {"path": None, "bytes": file.getvalue()}, "text": "",
                "duration_s": len(audio) / 16_000, "emotion": emotion, "corpus": f"corpus-{number % 2}",
            }
        )  # fmt: skip
    return apply_labels(Dataset.from_list(rows), DEFAULT_LABELS)[0]
