"""Tiny classifiers that share an encoder with the tiny recognisers, audio with pauses, and both models one by one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.ser import SERConfig, SERForAudioClassification, build_feature_extractor
from trainers.classifiers import load_classifier

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


RATE = 16_000
SECONDS = (0.7, 0.9, 0.35, 0.1)  # within the window of the tiny Whispers, 1 s


def audio(samples):
    return {"array": samples, "sampling_rate": RATE}


def shared_ser(recogniser, folder, features, **fields):
    """A classifier, saved in the folder and loaded, on the encoder of the recogniser."""
    model = recogniser.pipe.model
    kind = model.config.model_type
    if kind in ("zipformer", "fastconformer"):
        return load_classifier(str(save_ser_with(folder, kind, model, features, **fields)), device="cpu")
    encoder = model.s2p.encoder if kind == "tspc" else getattr(model, "wav2vec2", None) or model.get_encoder()
    if encoder.config.model_type == "whisper":
        fields["own"] = {"normalise": False, **fields.get("own", {})}
    return load_classifier(
        str(save_ser_with(folder, encoder.config.model_type, encoder, features, **fields)), device="cpu"
    )


def separately(recogniser, classifier, samples, **options):
    if recogniser.kind == "tspc":
        options["return_phonemes"] = True
    heard = recogniser.pipe(audio(samples), **options)
    text = {"text": heard["text"]} if classifier.reads_text else {}
    felt = classifier.pipe({"raw": samples, "sampling_rate": RATE} | text)
    return heard, {entry["label"]: entry["score"] for entry in felt}


def assert_equal_to_separate(understand, clips, results, tolerance=1e-5):
    assert len(results) == len(clips)
    for samples, result in zip(clips, results, strict=True):
        heard, scores = separately(understand.recogniser, understand.classifier, samples)
        assert result["text"] == heard["text"].strip()
        assert result.get("phonemes") == heard.get("phonemes")
        assert result["scores"] == pytest.approx(scores, abs=tolerance)
        assert result["emotion"] == max(scores, key=scores.get)
