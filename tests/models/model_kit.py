"""Tiny random models of every kind, and inputs for them."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    PreTrainedTokenizerFast,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from models.tspc import (
    P2TConfig,
    P2TForConditionalGeneration,
    S2PConfig,
    S2PForConditionalGeneration,
    TSPCForConditionalGeneration,
    build_phoneme_tokenizer,
)

SYMBOLS = "p t k b d m n s z l h i u a e o ə ɛ -0 -1 -2 -3 -4 -5 iz uz tz pz".split()  # noqa: SIM905
WORDS = "xin chào các bạn hôm nay tôi đi meeting với team deadline của project là mai".split()  # noqa: SIM905
PHONEMES = build_phoneme_tokenizer(SYMBOLS)

WINDOW_FRAMES = 200
ENCODERS = {
    "whisper": {
        "model_type": "whisper",
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "max_source_positions": WINDOW_FRAMES // 2,
        "num_mel_bins": 80,
        "decoder_layers": 1,
        "decoder_ffn_dim": 32,
        "decoder_attention_heads": 2,
        "vocab_size": 20,
        "pad_token_id": 0,
    },
    "wav2vec2": {
        "model_type": "wav2vec2",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    },
    "wav2vec2-bert": {
        "model_type": "wav2vec2-bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "feature_projection_input_dim": 160,
    },
}
# (encoder, window) pairs that behave differently
ENCODER_CASES = [("whisper", "padded"), ("whisper", "trimmed"), ("wav2vec2", "padded"), ("wav2vec2-bert", "padded")]
DECODERS = ("transformer", "gru", "lstm")


def word_tokenizer(words=WORDS):
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def feature_extractor(encoder="whisper"):
    if encoder == "whisper":
        return WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_FRAMES // 100)
    if encoder == "wav2vec2":
        return Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    return SeamlessM4TFeatureExtractor()


def make_s2p(encoder="whisper", window="padded", decoder="transformer", seed=0, encoder_changes=(), **changes):
    torch.manual_seed(seed)
    config = S2PConfig(
        encoder_config={**ENCODERS[encoder], **dict(encoder_changes)},
        encoder_window=window,
        decoder_type=decoder,
        **{
            "vocab_size": len(PHONEMES),
            "d_model": 24,
            "decoder_layers": 2,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 48,
            "max_phonemes_per_frame": 0.25,
            "tie_word_embeddings": False,  # tied and random, every token predicts itself
            **changes,
        },
    )
    model = S2PForConditionalGeneration(config).eval()
    with torch.no_grad():  # distinct phonemes instead of one repeated
        model.proj_out.weight.mul_(8)
    return model


def make_p2t(seed=1, **changes):
    torch.manual_seed(seed)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = P2TConfig(phoneme_vocab_size=len(PHONEMES), **{"vocab_size": 40, **sizes, **changes})
    return P2TForConditionalGeneration(config).eval()


def make_tspc(bridge=False, s2p=None, p2t=None, **changes):
    """With `bridge`, the output projections are random as after some training."""
    model = TSPCForConditionalGeneration.from_stages(s2p or make_s2p(), p2t or make_p2t(), **changes)
    if bridge:
        torch.manual_seed(2)
        with torch.no_grad():
            for block in model.p2t.encoder.block:
                block.bridge.EncDecAttention.o.weight.normal_(std=0.3)
    return model


def make_inputs(encoder="whisper", seed=3):
    """Two utterances, the second about half as long: features, mask, and the second alone."""
    generator = torch.Generator().manual_seed(seed)
    if encoder == "wav2vec2":
        features, short = torch.randn(2, 8000, generator=generator), 5003
        alone = features[1:, :short]
    elif encoder == "wav2vec2-bert":
        features, short = torch.randn(2, 60, 160, generator=generator), 33
        alone = features[1:, :short]
    else:
        features, short = torch.randn(2, 80, 121, generator=generator), 71
        alone = features[1:, :, :short]
    length = features.shape[2] if encoder == "whisper" else features.shape[1]
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, short:] = 0
    return features, mask, alone


def make_labels(vocabulary=24, seed=4):
    """(2, 7): the second row ends after four tokens."""
    labels = torch.randint(4, vocabulary, (2, 7), generator=torch.Generator().manual_seed(seed))
    labels[0, 6] = labels[1, 3] = 1
    labels[1, 4:] = -100
    return labels


def speech(seconds=0.6, rate=16_000, seed=0):
    """Float32 noise whose loudness rises and falls like syllables."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.1 * noise * (0.2 + np.abs(np.sin(2 * np.pi * 2 * time)))).astype(np.float32)
