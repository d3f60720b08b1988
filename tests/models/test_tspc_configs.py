"""Configs: what they refuse and that they come back from disk as they were."""

import pytest
from model_kit import ENCODERS, make_s2p
from transformers import AutoConfig, Wav2Vec2Config, WhisperConfig

from models.tspc import P2TConfig, S2PConfig, TSPCConfig


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"decoder_type": "rnn"}, "'transformer', 'gru', 'lstm'"),
        ({"encoder_window": "cut"}, "'padded', 'trimmed'"),
        ({"encoder_config": {"model_type": "hubert"}}, "'whisper', 'wav2vec2', 'wav2vec2-bert'"),
        ({"encoder_config": {"d_model": 16}}, "model_type"),
        ({"d_model": 30, "decoder_attention_heads": 4}, "not a multiple of decoder_attention_heads"),
        ({"d_model": "512"}, "whole number"),
        ({"decoder_layers": 0}, "at least 1"),
        ({"ctc_weight": 1.0}, r"\[0, 1\)"),
        ({"label_smoothing": -0.1}, r"\[0, 1\)"),
        ({"max_phonemes_per_frame": 0}, "positive"),
        ({"encoder_config": dict(ENCODERS["wav2vec2"]), "encoder_window": "trimmed"}, "concerns Whisper only"),
        ({"encoder_config": {**ENCODERS["wav2vec2"], "add_adapter": True}}, "add_adapter=False"),
    ],
)
def test_s2p_config_refuses_and_teaches(fields, says):
    with pytest.raises(ValueError, match=says):
        S2PConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"vocab_size": 1 << 40},
        {"decoder_layers": 10**6},
        {"d_model": 1 << 20, "decoder_ffn_dim": 1 << 20},
        {"encoder_config": {**ENCODERS["whisper"], "max_source_positions": 10**12}},
        {"encoder_config": {**ENCODERS["wav2vec2"], "conv_dim": [10**6] * 7}},
        {"encoder_config": {**ENCODERS["wav2vec2-bert"], "feature_projection_input_dim": 1 << 40}},
    ],
    ids=str,
)
def test_huge_models_are_refused_before_they_are_built(fields):
    with pytest.raises(ValueError, match=r"S2PConfig.* describes a model of about .* parameters"):
        S2PConfig(**fields)


def test_huge_text_models_are_refused_and_large_ones_are_not():
    with pytest.raises(ValueError, match="P2TConfig describes"):
        P2TConfig(d_ff=1 << 40)
    # mT5-XXL and the widest Whisper: the largest that there are.
    P2TConfig(vocab_size=250_112, d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64)
    large = WhisperConfig(d_model=1280, encoder_layers=32, decoder_layers=32, encoder_ffn_dim=5120, num_mel_bins=128)
    S2PConfig(encoder_config=large, d_model=1280, decoder_layers=32, decoder_attention_heads=20, decoder_ffn_dim=5120)


def test_stages_with_other_phonemes_do_not_join():
    with pytest.raises(ValueError, match=r"emits 30 .* reads 31"):
        TSPCConfig(s2p_config={"vocab_size": 30}, p2t_config={"phoneme_vocab_size": 31})
    with pytest.raises(ValueError, match="'tspc_p2t'"):
        TSPCConfig(p2t_config=WhisperConfig())


def test_configs_survive_a_round_trip(tmp_path):
    s2p = S2PConfig(encoder_config=Wav2Vec2Config(**ENCODERS["wav2vec2"]), decoder_type="gru", vocab_size=30)
    p2t = P2TConfig(phoneme_vocab_size=30, vocab_size=50, tie_lm_head=False, num_decoder_layers=3)
    for config in (s2p, p2t, TSPCConfig(s2p_config=s2p, p2t_config=p2t)):
        config.save_pretrained(tmp_path)
        loaded = AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)
        assert type(loaded) is type(config)
        loaded.name_or_path = ""
        assert loaded.to_dict() == config.to_dict()
    assert isinstance(loaded.s2p_config.encoder_config, Wav2Vec2Config)
    assert loaded.p2t_config.bridge_hidden_size == s2p.d_model
    assert (loaded.p2t_config.tie_lm_head, loaded.p2t_config.scale_decoder_outputs) == (False, False)


def test_attention_implementation_reaches_every_part():
    model = make_s2p()
    model.set_attn_implementation("eager")
    assert model.encoder.config._attn_implementation == "eager"
    assert model.decoder.config._attn_implementation == "eager"
