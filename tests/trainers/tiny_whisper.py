"""A tiny Whisper from scratch, and the rows of tiny_tspc, whose letters are tones."""

from types import SimpleNamespace

import torch
from tiny_tspc import WORDS, speech

from trainers.collators import SpeechInputs
from trainers.whisper import WhisperCollator, build_whisper

SIZES = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_heads": 2, "ffn_dim": 64, "num_mel_bins": 80}


def arguments(**changes):
    """`WhisperArguments` of a model with a 1 s window."""
    plain = {"path": None, "language": "vi", "freeze_encoder": False, "dropout": 0.0, "timestamp_share": 0.0}
    more = {"ctc_weight": 0.0, "window_s": 1, "vocab_size": 280, **SIZES}
    return SimpleNamespace(**{**plain, **more, **changes})


def make_whisper(seed=0, texts=WORDS, **changes):
    """`(processor, model)` with random weights."""
    torch.manual_seed(seed)
    processor, model = build_whisper(arguments(**changes), list(texts))
    return processor, model.eval()


def collator(processor, **options):
    return WhisperCollator(SpeechInputs(processor.feature_extractor), processor.tokenizer, **options)


def row(text, **changes):
    return {"id": f"id-{text}", "text": text, "audio": {"path": None, "bytes": speech(text)}, "spans": []} | changes
