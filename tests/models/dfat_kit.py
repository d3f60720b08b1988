"""Tiny DFAT models whose classifiers are fitted to random features, and audio and transcripts for them."""

import numpy as np
import torch
from ser_kit import STACKED, speech

from models.dfat import DFATConfig, DFATForAudioClassification, build_feature_extractor
from trainers.dfat.arguments import TextArguments
from trainers.dfat.ensemble import Settings, fit
from trainers.dfat.text import train_tokenizer

TEXTS = ["hôm nay trời đẹp", "mày đi đâu đấy", "xin chào các bạn", ""]
WAV2VEC2 = {"kind": "wav2vec2", "config": STACKED, "features": 2}
MFCC = {"kind": "filterbank", "config": {"style": "plain", "num_mel_bins": 12, "num_cepstra": 5, "deltas": 1},
        "normalise": False}  # fmt: skip
ALL = [{"classifier": kind, "stream": "joint"} for kind in ("lr", "rf", "xgb")]
WEIGHTS = {"lr": 0.5, "rf": 0.2, "xgb": 0.3}
XGB = {"num_rounds": 4, "max_depth": 2, "learning_rate": 0.3}
SETTINGS = Settings(num_classes=3, num_trees=5)


def tokenizer():
    return train_tokenizer(TEXTS, TextArguments())


def make_dfat(seed=0, classes=(0, 1, 2), **changes):
    """A model of three classes; its classifiers know `classes`."""
    torch.manual_seed(seed)
    fields = {
        "encoder": MFCC,
        "pooling": "statistics",
        "text_vocab_size": len(tokenizer()),
        "text_size": 8,
        "text_embedding_size": 6,
        "text_num_heads": 2,
        "members": ALL,
        "id2label": {0: "neutral", 1: "angry", 2: "sad"},
        **changes,
    }
    model = DFATForAudioClassification(DFATConfig(**fields)).eval()
    return complete(model, classes)


def complete(model, classes=(0, 1, 2), weights=None):
    """Fit the model's classifiers to random features."""
    rng = np.random.default_rng(0)
    labels = np.array(classes)[np.arange(40) % len(classes)]
    fitted = {}
    for member in model.members:
        features = rng.normal(size=(40, model.num_features[member.stream])).astype(np.float32)
        features[:, 0] += 2 * labels
        fitted[member.name] = fit(member.classifier, features, labels, SETTINGS, XGB)
    even = {member.name: 1 / len(model.members) for member in model.members}
    model.set_classifiers(fitted, weights or (WEIGHTS if set(WEIGHTS) == set(even) else even))
    return model


def save(folder, model):
    model.save_pretrained(folder)
    build_feature_extractor().save_pretrained(folder)
    if model.text is not None:
        tokenizer().save_pretrained(folder)
    return folder


def inputs(texts=TEXTS[:3], seconds=(0.9, 0.4, 1.3)):
    """A batch as `forward` takes it."""
    clips = [speech(duration, seed=place) for place, duration in enumerate(seconds)]
    batch = dict(build_feature_extractor()(clips, sampling_rate=16_000, padding=True, return_tensors="pt"))
    encoded = tokenizer()(list(texts), padding=True, return_tensors="pt")
    return {**batch, "input_ids": encoded["input_ids"], "text_attention_mask": encoded["attention_mask"]}
