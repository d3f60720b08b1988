"""Encoders: the same numbers as the stock classes where those are right, and no dependence on the batch."""

import pytest
import torch
from model_kit import ENCODER_CASES, ENCODERS, feature_extractor, make_inputs, make_s2p, speech
from transformers import Wav2Vec2BertModel, Wav2Vec2Model, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids

from models.tspc import speech_inputs


@pytest.mark.parametrize(("encoder", "window"), ENCODER_CASES)
def test_states_do_not_depend_on_batch_or_padding(encoder, window):
    model = make_s2p(encoder, window)
    features, mask, alone = make_inputs(encoder)
    with torch.no_grad():
        states, frame_mask = model.encode(features, mask)
        single, single_mask = model.encode(alone)
        # What stands in the padding must not matter either.
        inner = mask[:, None] if encoder == "whisper" else mask if encoder == "wav2vec2" else mask[..., None]
        noisy, _ = model.encode(torch.where(inner == 1, features, torch.full_like(features, 7.0)), mask)
    length = int(frame_mask[1].sum())
    assert length == single_mask.sum() == single.shape[1]
    torch.testing.assert_close(states[1, :length], single[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(states, noisy, atol=1e-6, rtol=0)
    assert states[1, length:].abs().max() == 0


def stock_whisper(model):
    stock = WhisperEncoder(model.encoder.config).eval()
    stock.load_state_dict(model.encoder.state_dict())
    return stock


def test_padded_window_equals_the_stock_encoder_on_the_stock_features():
    model, extractor = make_s2p(), feature_extractor()
    waveforms = [speech(1.3), speech(0.41, seed=1), 1e-9 * speech(0.3, seed=2)]
    full = extractor(waveforms, sampling_rate=16_000, return_tensors="pt")["input_features"]
    short = speech_inputs(extractor, waveforms)
    assert short["input_features"].shape[2] < full.shape[2]
    with torch.no_grad():
        stock = stock_whisper(model)(full).last_hidden_state
        states, mask = model.encode(short["input_features"], short["attention_mask"])
        same, _ = model.encode(full, torch.nn.functional.pad(short["attention_mask"], (0, 200 - 132)))
    for row in range(3):
        true = int(mask[row].sum())
        torch.testing.assert_close(states[row, :true], stock[row, :true], atol=2e-5, rtol=0)
        torch.testing.assert_close(same[row, :true], stock[row, :true], atol=1e-6, rtol=0)


def test_trimmed_equals_the_stock_encoder_on_a_window_of_that_length():
    model = make_s2p(window="trimmed")
    features, _, _ = make_inputs()
    with torch.no_grad():
        states, mask = model.encode(features[:, :, :120])
        stock = WhisperEncoder(WhisperConfig(**{**ENCODERS["whisper"], "max_source_positions": 60})).eval()
        weights = model.encoder.state_dict()
        weights["embed_positions.weight"] = weights["embed_positions.weight"][:60]
        stock.load_state_dict(weights)
        expected = stock(features[:, :, :120]).last_hidden_state
    assert mask.shape == (2, 60)
    torch.testing.assert_close(states, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("encoder", ["wav2vec2", "wav2vec2-bert"])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_other_encoders_equal_the_stock_ones_without_padding(encoder, norm):
    changes = {"feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"} if encoder == "wav2vec2" else {}
    model = make_s2p(encoder, encoder_changes=changes)
    _, _, alone = make_inputs(encoder)
    stock = (Wav2Vec2Model if encoder == "wav2vec2" else Wav2Vec2BertModel)(model.encoder.config).eval()
    stock.load_state_dict(model.encoder.state_dict())
    with torch.no_grad():
        expected = stock(alone, attention_mask=torch.ones(alone.shape[:2], dtype=torch.long)).last_hidden_state
        states, _ = model.encode(alone)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)


def test_a_fresh_whisper_encoder_is_initialised_as_stock():
    model = make_s2p()
    assert torch.equal(model.encoder.embed_positions.weight, sinusoids(100, 32))
    assert not model.encoder.embed_positions.weight.requires_grad
    assert 0.015 < model.encoder.layers[0].fc1.weight.std() < 0.025


@pytest.mark.parametrize(
    ("encoder", "shape", "says"),
    [
        ("whisper", (1, 64, 120), "80 mel bins"),
        ("whisper", (1, 80, 202), "window holds 200 .*split the audio"),
        ("wav2vec2", (1, 80, 100), "raw waveforms"),
        ("wav2vec2-bert", (1, 50, 80), r"\(batch, frames, 160\)"),
    ],
)
def test_wrong_inputs_teach(encoder, shape, says):
    with pytest.raises(ValueError, match=says):
        make_s2p(encoder).encode(torch.zeros(shape))


def test_a_mask_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"expected \(1, 100\)"):
        make_s2p().encode(torch.zeros(1, 80, 100), torch.ones(1, 99))


def test_training_short_audio_with_spec_augment():
    model = make_s2p("wav2vec2").train()
    states, _ = model.encode(torch.randn(2, 1600), torch.ones(2, 1600))
    assert torch.isfinite(states).all()
