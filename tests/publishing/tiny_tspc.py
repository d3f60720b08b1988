"""Random models of this project's three kinds, each saved as a complete folder."""

from pathlib import Path

import torch

from data_scripts.text.phonemes import phoneme_symbols
from models.tspc import (
    P2TConfig,
    P2TForConditionalGeneration,
    S2PConfig,
    S2PForConditionalGeneration,
    S2PProcessor,
    TSPCForConditionalGeneration,
    TSPCProcessor,
    build_phoneme_tokenizer,
)
from trainers.card import write_model_card
from trainers.tokenizers import train_text_tokenizer

SENTENCES = ["mở email đi", "xin chào", "tôi là team leader", "ba má đi chợ", "gửi file cho tôi"]


def save_tiny_models(root: Path, register: str = "full") -> dict[str, Path]:
    """Folders "s2p", "p2t" and "tspc" (the first two joined) below `root`; the speech window is 1 s."""
    from transformers import WhisperConfig, WhisperFeatureExtractor

    torch.manual_seed(1)
    phonemes = build_phoneme_tokenizer(phoneme_symbols(register))
    text = train_text_tokenizer(SENTENCES, 110)
    encoder = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, num_mel_bins=80,
        max_source_positions=50, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16,
    )  # fmt: skip
    s2p = S2PForConditionalGeneration(
        S2PConfig(
            encoder_config=encoder,
            vocab_size=len(phonemes),
            d_model=16,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=16,
            max_target_positions=64,
            max_phonemes_per_frame=0.1,
            initializer_range=0.6,
        )
    ).eval()
    p2t = P2TForConditionalGeneration(
        P2TConfig(
            vocab_size=len(text),
            phoneme_vocab_size=len(phonemes),
            d_model=16,
            d_kv=8,
            d_ff=16,
            num_layers=1,
            num_decoder_layers=1,
            num_heads=2,
            initializer_factor=3.0,
        )
    ).eval()
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    tspc = TSPCForConditionalGeneration.from_stages(s2p, p2t, max_text_tokens_per_phoneme=0.5)
    folders = {name: root / name for name in ("s2p", "p2t", "tspc")}
    s2p.save_pretrained(folders["s2p"])
    S2PProcessor(extractor, phonemes).save_pretrained(folders["s2p"])
    p2t.save_pretrained(folders["p2t"])
    text.save_pretrained(folders["p2t"])
    phonemes.save_pretrained(folders["p2t"] / "phoneme_tokenizer")
    tspc.save_pretrained(folders["tspc"])
    TSPCProcessor(extractor, text, phonemes).save_pretrained(folders["tspc"])
    for name, folder in folders.items():
        write_model_card(folder, stage=name, register=register)
    return folders
