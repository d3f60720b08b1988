"""A tiny Zipformer and a tiny FastConformer, for the rows of tiny_tspc, whose letters are tones."""

import torch
from tiny_tspc import WORDS

from models.fastconformer import FastConformerConfig, FastConformerFeatureExtractor, FastConformerForASR
from models.zipformer import ZipformerConfig, ZipformerFeatureExtractor, ZipformerForASR
from trainers.aligned import AlignedCollator, PieceLabels
from trainers.collators import SpeechInputs
from trainers.tokenizers import train_bpe

# Every word becomes one piece.
TOKENIZER = train_bpe([" ".join(WORDS)] * 4, 160)
ZIPFORMER = {
    "vocab_size": len(TOKENIZER),
    "downsampling": [1, 2],
    "num_layers": 1,
    "encoder_dim": [16, 24],
    "unmasked_dim": 16,
    "feedforward_dim": 32,
    "num_heads": 2,
    "query_head_dim": 8,
    "value_head_dim": 4,
    "conv_kernel": [7, 5],
    "decoder_dim": 16,
    "joiner_dim": 16,
    "subsampling_channels": (4, 8, 16),
    "num_mel_bins": 16,
    "default_search": "greedy",
}
FASTCONFORMER = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "subsampling_conv_channels": 8,
    "subsampling_factor": 4,
    "num_mel_bins": 16,
    "decoder_hidden_size": 16,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}


def make_zipformer(**changes):
    torch.manual_seed(0)
    return ZipformerForASR(ZipformerConfig(**{**ZIPFORMER, **changes}))


def make_fastconformer(**changes):
    torch.manual_seed(0)
    return FastConformerForASR(FastConformerConfig(**{**FASTCONFORMER, **changes}))


def aligned_collator(model, augmentation=None):
    kind = ZipformerFeatureExtractor if isinstance(model, ZipformerForASR) else FastConformerFeatureExtractor
    inputs = SpeechInputs(kind(feature_size=16), seed=5, augmentation=augmentation)
    return AlignedCollator(inputs, PieceLabels(TOKENIZER, model.config.vocab_size))
