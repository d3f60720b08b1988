"""Tiny emotion classifiers that share an encoder with the tiny recognisers, and audio with pauses."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.ser import SERConfig, SERForAudioClassification, build_feature_extractor

LABELS = {0: "neutral", 1: "negative"}


def save_ser_with(folder: Path, kind: str, encoder: nn.Module, features: int | str, **fields) -> Path:
    """A classifier on the encoder of a recogniser; `fields` of `SERConfig`, among them `own` of that encoder."""
    torch.manual_seed(4)
    own = fields.pop("own", {})
    config = encoder.config.to_dict()
    if kind in ("zipformer", "fastconformer"):
        config = {key: value for key, value in config.items() if key in type(encoder.config).__dataclass_fields__}
    first = {"kind": kind, "name": "ears", "config": config, "features": features, "frozen": True, **own}
    model = SERForAudioClassification(
        SERConfig(**{"encoders": [first], "head": "linear", "id2label": LABELS, "fusion_size": 16, **fields})
    ).eval()
    tensors = encoder.state_dict()
    branch = model.encoders["ears"].model
    branch.load_state_dict({name: tensors[name] for name in branch.state_dict()})
    with torch.no_grad():  # untrained, but of some opinion
        model.head.classifier.weight.mul_(4)
    model.save_pretrained(folder)
    build_feature_extractor().save_pretrained(folder)
    return folder


def save_reading_dfat(folder: Path) -> Path:
    """Logistic regression on acoustic features and the transcript."""
    from models.dfat import DFATConfig, DFATForAudioClassification
    from trainers.dfat.ensemble import Settings, fit
    from trainers.tokenizers import train_text_tokenizer

    torch.manual_seed(6)
    tokenizer = train_text_tokenizer(["mày nói gì", "xin chào", "tôi đi chợ"], 110)
    mfcc = {"style": "plain", "num_mel_bins": 12, "num_cepstra": 5, "deltas": 1}
    config = DFATConfig(
        encoder={"kind": "filterbank", "config": mfcc, "normalise": False},
        members=[{"classifier": "lr", "stream": "joint"}],
        text_vocab_size=len(tokenizer), text_size=8, text_embedding_size=6, text_num_heads=2, id2label=LABELS,
    )  # fmt: skip
    model = DFATForAudioClassification(config).eval()
    features_NF = np.random.default_rng(0).normal(size=(40, model.num_features["joint"])).astype(np.float32)
    model.set_classifiers({"lr": fit("lr", features_NF, np.arange(40) % 2, Settings(num_classes=2), {})}, {"lr": 1.0})
    for part in (model, build_feature_extractor(), tokenizer):
        part.save_pretrained(folder)
    return folder


def talk(seconds: float, seed: int = 0, rate: int = 16_000) -> np.ndarray:
    """Float32 noise in words of 0.3 s with pauses of 0.1 s, each word of its own loudness."""
    generator = np.random.default_rng(seed)
    time_N = np.arange(int(seconds * rate)) / rate
    words = (time_N / 0.4).astype(int)
    loudness = generator.uniform(0.02, 0.2, words.max(initial=0) + 1)[words] * ((time_N % 0.4) < 0.3)
    return (loudness * generator.standard_normal(len(time_N))).astype(np.float32)
