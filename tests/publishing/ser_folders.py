"""Tiny random emotion classifiers, each saved as a complete folder, and a corpus to hear."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from models.emotion2vec import Emotion2VecConfig, Emotion2VecFeatureExtractor, Emotion2VecForAudioClassification
from models.ser import KNNDatastore, SERConfig, SERForAudioClassification, build_feature_extractor
from trainers.card import write_model_card

STACKED = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
EMOTION2VEC = {
    "hidden_size": 16, "num_attention_heads": 2, "num_prenet_layers": 1, "num_main_layers": 1,
    "conv_dim": [8] * 7, "conv_pos_groups": 2,
}  # fmt: skip
LABELS = {0: "neutral", 1: "negative"}
EMOTIONS = ("neutral", "angry", "calm", "sad", "neutral", "fearful", "happy", "angry")


def _save(folder: Path, stage: Any, *parts: Any) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    write_model_card(folder, stage=stage)
    return folder


def save_ser(folder: Path, *, knn: bool = True, seed: int = 0) -> Path:
    """A fusion classifier of two classes, with a k-NN datastore."""
    torch.manual_seed(seed)
    encoder = {"kind": "wav2vec2", "config": STACKED, "features": "conv", "frozen": True}
    model = SERForAudioClassification(SERConfig(encoders=[encoder], head_size=8, id2label=LABELS)).eval()
    if knn:
        keys = torch.randn(8, model.head.embedding_size, generator=torch.Generator().manual_seed(1))
        model.datastore = KNNDatastore(keys, torch.arange(8) % 2, model.label_names, beta=0.5, k=3)
    return _save(folder, "ser", model, build_feature_extractor())


def save_reading_ser(folder: Path) -> Path:
    """A fusion classifier that reads the transcript as well."""
    from trainers.tokenizers import train_text_tokenizer

    torch.manual_seed(4)
    tokenizer = train_text_tokenizer(["mày nói gì", "xin chào", "tôi đi chợ"], 110)
    encoder = {"kind": "wav2vec2", "config": STACKED, "features": 1, "frozen": True}
    config = SERConfig(
        encoders=[encoder], fusion="cross_attention", fusion_size=8, fusion_layers=1, fusion_heads=2, head_size=8,
        text_vocab_size=len(tokenizer), id2label=LABELS,
    )  # fmt: skip
    return _save(folder, "ser", SERForAudioClassification(config).eval(), build_feature_extractor(), tokenizer)


def save_dfat(folder: Path) -> Path:
    """Logistic regression on acoustic features alone."""
    from models.dfat import DFATConfig, DFATForAudioClassification
    from trainers.dfat.ensemble import Settings, fit

    mfcc = {"style": "plain", "num_mel_bins": 12, "num_cepstra": 5, "deltas": 1}
    encoder = {"kind": "filterbank", "config": mfcc, "normalise": False}
    members = [{"classifier": "lr", "stream": "joint"}]
    model = DFATForAudioClassification(DFATConfig(encoder=encoder, members=members, id2label=LABELS)).eval()
    features_NF = np.random.default_rng(0).normal(size=(40, model.num_features["joint"])).astype(np.float32)
    fitted = fit("lr", features_NF, np.arange(40) % 2, Settings(num_classes=2), {})
    model.set_classifiers({"lr": fitted}, {"lr": 1.0})
    return _save(folder, "dfat", model, build_feature_extractor())


def save_emotion2vec(folder: Path) -> Path:
    """An emotion2vec classifier of two classes."""
    torch.manual_seed(2)
    model = Emotion2VecForAudioClassification(Emotion2VecConfig(**EMOTION2VEC, id2label=LABELS)).eval()
    return _save(folder, "emotion2vec", model, Emotion2VecFeatureExtractor())


def save_stock(folder: Path, *, head: bool = True) -> Path:
    """A Wav2Vec2 of transformers with the label names of IEMOCAP; without `head`, the encoder alone."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForSequenceClassification,
        Wav2Vec2Model,
    )

    torch.manual_seed(3)
    labels = {0: "neu", 1: "hap", 2: "ang", 3: "sad"}
    config = Wav2Vec2Config(
        **STACKED, classifier_proj_size=8, id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    (Wav2Vec2ForSequenceClassification if head else Wav2Vec2Model)(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    return folder


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Float32 noise whose loudness rises and falls like syllables."""
    time_N = np.arange(int(seconds * 16_000)) / 16_000
    noise_N = np.random.default_rng(seed).standard_normal(len(time_N))
    return (0.1 * noise_N * (0.2 + np.abs(np.sin(4 * np.pi * time_N)))).astype(np.float32)


def save_corpus(folder: Path) -> Path:
    """Eight recordings of three speakers in two corpora, one of an emotion without a class, and two bad rows."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file_name,id,text,emotion,speaker,corpus"]
    for index, emotion in enumerate(EMOTIONS):
        soundfile.write(folder / f"{index}.wav", noise(0.4 + 0.3 * (index % 3), index), 16_000)
        text = "mày nói gì" if emotion == "angry" else "xin chào"
        lines.append(f"{index}.wav,u{index},{text},{emotion},s{index % 3},{'one' if index < 5 else 'two'}")
    (folder / "broken.wav").write_bytes(b"RIFF nothing")
    lines += ["broken.wav,broken,ba,sad,s0,one", "gone.wav,gone,má,neutral,s0,one"]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
