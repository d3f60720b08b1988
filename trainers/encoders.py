"""Speech encoders by their sizes, and the front end that belongs to an encoder."""

from math import gcd, prod
from typing import Any

from transformers import (
    AutoFeatureExtractor,
    PreTrainedConfig,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from trainers.arguments import EncoderArguments
from trainers.checks import ConfigError
from trainers.pins import split_pin

SAMPLING_RATE_HZ = 16_000
WINDOW_S = 30


def feature_extractor_of(encoder: str) -> Any:
    """The feature extractor saved with a pre-trained encoder.

    Raises:
        ConfigError: there is none, or it wants another sampling rate than 16 kHz.
    """
    try:
        repo, pin = split_pin(encoder)
        extractor = AutoFeatureExtractor.from_pretrained(repo, **pin)
    except (OSError, ValueError) as error:
        raise ConfigError("model.s2p.encoder", f"cannot load the feature extractor of {encoder}: {error}") from error
    if extractor.sampling_rate != SAMPLING_RATE_HZ:
        message = f"{encoder} hears {extractor.sampling_rate} Hz; only encoders of 16,000 Hz speech are supported"
        raise ConfigError("model.s2p.encoder", message)
    return extractor


def encoder_from_sizes(sizes: EncoderArguments) -> tuple[PreTrainedConfig, Any]:
    """Config and feature extractor of an encoder that is trained from scratch."""
    return {"whisper": _whisper, "wav2vec2": _wav2vec2, "wav2vec2-bert": _wav2vec2_bert}[sizes.type](sizes)


def _whisper(sizes: EncoderArguments) -> tuple[PreTrainedConfig, Any]:
    num_frames = WINDOW_S * SAMPLING_RATE_HZ // sizes.hop_length
    config = WhisperConfig(
        num_mel_bins=sizes.num_mel_bins,
        d_model=sizes.d_model,
        encoder_layers=sizes.num_layers,
        encoder_attention_heads=sizes.num_heads,
        encoder_ffn_dim=sizes.ffn_dim,
        dropout=sizes.dropout,
        # The second convolution halves the frames.
        max_source_positions=num_frames // 2,
    )
    extractor = WhisperFeatureExtractor(
        feature_size=sizes.num_mel_bins,
        hop_length=sizes.hop_length,
        chunk_length=WINDOW_S,
        n_fft=max(400, 2 * sizes.hop_length),
    )
    return config, extractor


def _wav2vec2(sizes: EncoderArguments) -> tuple[PreTrainedConfig, Any]:
    strides = sizes.conv_strides
    if prod(strides) > SAMPLING_RATE_HZ // 10:
        message = f"their product is samples per state and at most 1600 (0.1 s), got {prod(strides)}"
        raise ConfigError("model.s2p.encoder_sizes.conv_strides", message)
    config = Wav2Vec2Config(
        hidden_size=sizes.d_model,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        intermediate_size=sizes.ffn_dim,
        conv_dim=[sizes.conv_dim] * len(strides),
        conv_stride=list(strides),
        # As in wav2vec 2.0: 10 for the first stride of 5, 3 for strides of 2.
        conv_kernel=[2 * stride if stride > 2 else stride + 1 for stride in strides],
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embedding_groups=gcd(16, sizes.d_model),
        hidden_dropout=sizes.dropout,
        attention_dropout=sizes.dropout,
        activation_dropout=sizes.dropout,
        feat_proj_dropout=0.0,
        # Dropped layers and masked stretches are for pre-training.
        layerdrop=0.0,
        apply_spec_augment=False,
    )
    return config, Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)


def _wav2vec2_bert(sizes: EncoderArguments) -> tuple[PreTrainedConfig, Any]:
    config = Wav2Vec2BertConfig(
        hidden_size=sizes.d_model,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        intermediate_size=sizes.ffn_dim,
        feature_projection_input_dim=sizes.num_mel_bins * sizes.frame_stack,
        hidden_dropout=sizes.dropout,
        attention_dropout=sizes.dropout,
        activation_dropout=sizes.dropout,
        conformer_conv_dropout=sizes.dropout,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=False,
        add_adapter=False,
    )
    extractor = SeamlessM4TFeatureExtractor(
        feature_size=sizes.num_mel_bins, num_mel_bins=sizes.num_mel_bins, stride=sizes.frame_stack
    )
    return config, extractor
