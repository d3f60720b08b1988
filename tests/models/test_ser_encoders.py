"""Encoders of the emotion classifiers: their stock counterparts are the oracle; padding, frame rates, freezing."""

import numpy as np
import pytest
import torch
from ser_kit import CONFIGS, STABLE, make_config, make_ser, make_waveforms
from transformers import HubertModel, Wav2Vec2Model, WavLMModel, WhisperFeatureExtractor

from models.ser.configuration_ser import EncoderSpec
from models.ser.encoders_ser import EncoderBranch, normalise, whisper_log_mel
from models.ser.fusion_ser import align

STOCK = {"wav2vec2": Wav2Vec2Model, "hubert": HubertModel, "wavlm": WavLMModel}


def branch(kind, features, config=None, seed=0, **changes):
    torch.manual_seed(seed)
    spec = EncoderSpec(kind, kind, dict(config or CONFIGS[kind]), features, **changes)
    return EncoderBranch(spec).eval()


def filled(target, source):
    """Copy what `target` has of `source`."""
    state = source.state_dict()
    target.load_state_dict({name: state[name] for name in target.state_dict()})


@pytest.mark.parametrize("kind", STOCK)
@pytest.mark.parametrize("config", [None, STABLE], ids=["base", "large"])
@torch.no_grad()
def test_layers_are_those_of_the_stock_model(kind, config):
    whole = branch(kind, "mix", config, normalise=False)
    stock = STOCK[kind](whole.model.config).eval()
    filled(stock, whole.model)
    waveforms = make_waveforms((4_000,))[0]
    expected = stock(waveforms, output_hidden_states=True)
    states, lengths = whole(waveforms, torch.ones_like(waveforms).long())
    assert states.shape == (1, 12, 3, 32) and lengths.tolist() == [12]
    for layer in range(2):
        torch.testing.assert_close(states[:, :, layer], expected.hidden_states[layer], atol=1e-5, rtol=0)
    torch.testing.assert_close(states[:, :, 2], expected.last_hidden_state, atol=1e-5, rtol=0)
    for features in (0, 1, 2):
        part = branch(kind, features, config, seed=5, normalise=False)
        filled(part.model, whole.model)
        assert len(part.model.encoder.layers) == features
        torch.testing.assert_close(
            part(waveforms, torch.ones_like(waveforms).long())[0], states[:, :, features], atol=1e-6, rtol=0
        )


@torch.no_grad()
def test_convolutions_are_the_normed_ones():
    whole = branch("wav2vec2", "mix", normalise=False)
    part = branch("wav2vec2", "conv", seed=5, normalise=False)
    filled(part.model, whole.model)
    waveforms = make_waveforms((4_000,))[0]
    stock = Wav2Vec2Model(whole.model.config).eval()
    filled(stock, whole.model)
    features, _ = part(waveforms, torch.ones_like(waveforms).long())
    torch.testing.assert_close(features, stock(waveforms).extract_features, atol=1e-5, rtol=0)
    # The transformer is not even built.
    assert sum(p.numel() for p in part.parameters()) < 0.2 * sum(p.numel() for p in whole.parameters())


@torch.no_grad()
def test_emotion2vec_is_that_of_its_own_folder():
    from models.emotion2vec import Emotion2VecConfig, Emotion2VecModel, normalise_waveforms

    waveforms, mask = make_waveforms((4_000, 2_500))
    torch.manual_seed(0)
    alone = Emotion2VecModel(Emotion2VecConfig(**CONFIGS["emotion2vec"])).eval()
    expected = alone(normalise_waveforms(waveforms, mask), mask, output_hidden_states=True)
    for features in (0, 1, 2):
        part = branch("emotion2vec", features, seed=4)
        filled(part.model, alone)
        states, lengths = part(waveforms, mask)
        torch.testing.assert_close(states, expected.hidden_states[features], atol=1e-5, rtol=0)
        assert lengths.tolist() == expected.frame_mask.sum(1).tolist()
    part = branch("emotion2vec", "conv", seed=4)
    filled(part.model, alone)
    assert part(waveforms, mask)[0].shape == (2, 12, 16)


def test_log_mel_is_that_of_the_feature_extractor():
    audio = make_waveforms((7_777,))[0]
    stock = WhisperFeatureExtractor(feature_size=80, chunk_length=2)
    expected = stock(audio[0].numpy(), sampling_rate=16_000, return_tensors="np")["input_features"]
    np.testing.assert_allclose(whisper_log_mel(audio, 80, 32_000).numpy(), expected, atol=2e-5)


def test_log_mel_is_not_computed_in_half_precision():
    audio = make_waveforms((7_777,))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = whisper_log_mel(audio, 80, 32_000)
    assert torch.equal(found, whisper_log_mel(audio, 80, 32_000))


@torch.no_grad()
def test_whisper_states_are_those_of_the_stock_encoder():
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    part = branch("whisper", "mix", normalise=False)
    stock = WhisperEncoder(part.model.config).eval()
    filled(stock, part.model)
    audio = make_waveforms((7_777,))[0]
    mel = WhisperFeatureExtractor(feature_size=80, chunk_length=2)(
        audio[0].numpy(), sampling_rate=16_000, return_tensors="pt"
    )["input_features"]
    expected = stock(mel).last_hidden_state
    states, lengths = part(audio, torch.ones_like(audio).long())
    assert lengths.tolist() == [25]  # 7,777 samples of 320 each
    torch.testing.assert_close(states[:, :, 2], expected[:, :25], atol=1e-4, rtol=0)


def test_whisper_refuses_more_than_its_window():
    with pytest.raises(ValueError, match=r"clips of 2\.5 s, but Whisper's window holds 2 s"):
        branch("whisper", 1)(torch.zeros(1, 40_000), torch.ones(1, 40_000).long())


@pytest.mark.parametrize(("kind", "features"), [*((k, "mix") for k in CONFIGS), ("hubert", "conv"), ("wavlm", 1)])
@torch.no_grad()
def test_padding_changes_nothing(kind, features):
    part = branch(kind, features)
    waveforms, mask = make_waveforms((9_000, 5_003, 130, 3))
    states, lengths = part(waveforms, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        alone, (count,) = part(waveforms[row : row + 1, :length], mask[row : row + 1, :length])
        assert count == lengths[row] >= 1
        torch.testing.assert_close(states[row, :count], alone[0], atol=2e-5, rtol=0)
        assert not states[row, count:].any()


def test_normalisation_is_over_true_samples_and_silence_stays():
    waveforms, mask = make_waveforms((100, 40))
    normal = normalise(waveforms * mask + 3 * mask, mask, 1e-7)
    torch.testing.assert_close(normal[1, :40].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal[1, :40].var(unbiased=False), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert not normal[1, 40:].any() and not normalise(torch.zeros(1, 9), torch.ones(1, 9), 1e-7).any()


def test_frames_of_other_rates_are_aligned():
    ramp = torch.arange(8.0)[None, :, None].repeat(2, 1, 1)
    lengths, same = torch.tensor([8, 3]), torch.tensor([8, 5])
    aligned = align(ramp, lengths, same, 1.0)[..., 0]
    # The last true frame stands for those that are missing; what lies behind the target is zero.
    assert aligned.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 2, 2, 0, 0, 0]]
    halves = align(ramp, lengths, torch.tensor([4, 2]), 2.0)[..., 0]
    assert halves.tolist() == [[0.5, 2.5, 4.5, 6.5], [0.5, 2.0, 0, 0]]
    doubled = align(ramp, lengths, torch.tensor([16, 6]), 0.5)[..., 0]
    assert doubled[0, :5].tolist() == [0, 0.25, 0.75, 1.25, 1.75] and doubled[1, :7].tolist()[4:] == [1.75, 2.0, 0]


def test_encoders_of_other_frame_rates_work_together():
    slow = {**CONFIGS["hubert"], "conv_stride": [5, 2, 2, 2, 2, 2, 4], "conv_kernel": [10, 3, 3, 3, 3, 2, 4]}
    config = make_config((("wav2vec2", 1),))
    encoders = [*config.encoders, {"kind": "hubert", "config": slow, "features": 1}]
    from models.ser import SERConfig, SERForAudioClassification

    for order in (encoders, encoders[::-1]):
        model = SERForAudioClassification(SERConfig(encoders=order)).eval()
        waveforms, mask = make_waveforms((16_000, 9_011))
        output = model(waveforms, mask)
        assert output.last_hidden_state.shape[2] == 64
        assert abs(output.last_hidden_state.shape[1] - 49) <= 1
        alone = model(waveforms[1:, :9_011])
        torch.testing.assert_close(output.logits[1], alone.logits[0], atol=1e-5, rtol=0)


def test_frozen_encoders_stay_in_evaluation_mode_and_do_not_move():
    model = make_ser((("wav2vec2", 1), ("emotion2vec", "mix"))).train()
    for part in model.branches:
        assert not any(module.training for module in part.model.modules())
        assert not any(parameter.requires_grad for parameter in part.model.parameters())
    assert model.head.training and model.cacheable == ["wav2vec2", "emotion2vec"]
    # The weights of a layer mix are trained with the head.
    waveforms, mask = make_waveforms((4_000, 3_000))
    model(waveforms, mask, labels=torch.tensor([0, 1])).loss.backward()
    assert model.encoders["emotion2vec"].layer_weights.grad.any()
    assert all(parameter.grad is None for part in model.branches for parameter in part.model.parameters())


def test_tuned_encoders_get_gradients():
    model = make_ser((("wavlm", 1), ("whisper", "mix"), ("hubert", "conv")), frozen=False).train()
    waveforms, mask = make_waveforms((16_000, 12_000))
    model(waveforms, mask, labels=torch.tensor([0, 1])).loss.backward()
    assert model.cacheable == []
    for part in model.branches:
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.model.parameters())
    assert not model.encoders["whisper"].model.embed_positions.weight.requires_grad
