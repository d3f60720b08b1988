"""Tiny random emotion classifiers, and audio for them."""

import numpy as np
import torch

from models.ser import SERConfig, SERForAudioClassification

STACKED = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
STABLE = {**STACKED, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
EMOTION2VEC = {
    "hidden_size": 24,
    "num_attention_heads": 2,
    "num_prenet_layers": 1,
    "num_main_layers": 1,
    "conv_dim": [16] * 7,
    "conv_pos_groups": 2,
}
WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "max_source_positions": 100,
    "num_mel_bins": 80,
    "vocab_size": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
}
CONFIGS = {
    "wav2vec2": STACKED,
    "hubert": STACKED,
    "wavlm": STACKED,
    "whisper": WHISPER,
    "emotion2vec": EMOTION2VEC,
}
WINNER = (("wav2vec2", "conv"), ("emotion2vec", 2))


def make_config(encoders=WINNER, frozen=True, **changes):
    """`encoders`: (kind, features) pairs."""
    specs = [
        {"kind": kind, "config": CONFIGS[kind], "features": features, "frozen": frozen} for kind, features in encoders
    ]
    return SERConfig(encoders=specs, **{"head_size": 12, "speechformer_heads": 4, "fusion_size": 16, **changes})


def make_ser(encoders=WINNER, seed=0, **changes):
    torch.manual_seed(seed)
    return SERForAudioClassification(make_config(encoders, **changes)).eval()


def make_waveforms(lengths=(16_000, 9_011, 100), seed=3):
    """Random clips padded with garbage, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    waveforms = torch.randn(len(lengths), max(lengths), generator=generator) * 0.1
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return waveforms, mask


def speech(seconds=0.6, rate=16_000, seed=0):
    """Float32 noise whose loudness rises and falls like syllables."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.1 * noise * (0.2 + np.abs(np.sin(2 * np.pi * 2 * time)))).astype(np.float32)
