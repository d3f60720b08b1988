"""Encoders of recognisers in emotion classifiers: the recognisers are the oracle, from waveforms and from folders."""

import json

import numpy as np
import pytest
import torch
from fastconformer_kit import make_model as make_fastconformer
from ser_kit import CONFIGS, make_waveforms
from transformers import ParakeetCTCConfig, ParakeetFeatureExtractor, ParakeetForCTC

from models.fastconformer import FastConformerFeatureExtractor
from models.ser import CheckpointError, SERConfig, SERForAudioClassification
from models.ser.encoders_ser import EncoderBranch
from models.ser.recognisers_ser import parakeet_log_mel, zipformer_log_mel
from models.zipformer import ZipformerConfig, ZipformerForASR
from models.zipformer.features_zipformer import ZipformerFeatureExtractor

STACKS = {
    "vocab_size": 20, "num_mel_bins": 32, "subsampling_channels": [4, 8, 8], "downsampling": [1, 2, 2],
    "num_layers": 1, "encoder_dim": [24, 40, 32], "unmasked_dim": 16, "feedforward_dim": 32, "num_heads": 2,
    "query_head_dim": 8, "value_head_dim": 6, "position_head_dim": 4, "conv_kernel": 7, "position_dim": 16,
    "decoder_dim": 16, "joiner_dim": 16,
}  # fmt: skip
LENGTHS = (16_000, 9_011, 7_040, 300)
CONTEXT = {"attention_context": [4, 2], "global_tokens": 1}


def make_zipformer(**changes):
    torch.manual_seed(0)
    model = ZipformerForASR(ZipformerConfig(**{**STACKS, **changes})).eval()
    with torch.no_grad():  # as after some training
        for parameter in model.encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def make_recogniser(kind, **changes):
    if kind == "zipformer":
        model = make_zipformer(**changes)
        return model, ZipformerFeatureExtractor(feature_size=32)
    model = make_fastconformer("rnnt", **changes)
    return model, FastConformerFeatureExtractor(feature_size=16)


def save(kind, folder, **changes):
    model, extractor = make_recogniser(kind, **changes)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model, extractor


def classifier(folder, features="mix", **fields):
    return SERForAudioClassification.from_encoders([{"path": str(folder), "features": features, **fields}])


def clips():
    waveforms, mask = make_waveforms(LENGTHS)
    return waveforms, mask, [one[:length].numpy() for one, length in zip(waveforms, LENGTHS, strict=True)]


@pytest.mark.parametrize("bins", [16, 80])
def test_front_ends_are_those_of_the_feature_extractors(bins):
    waveforms, mask, alone = clips()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # which is not for front ends
        features, lengths = parakeet_log_mel(waveforms * mask, mask.sum(1), bins)
    expected = FastConformerFeatureExtractor(feature_size=bins)(alone, sampling_rate=16_000, return_tensors="pt")
    assert lengths.tolist() == expected["attention_mask"].sum(1).tolist()
    torch.testing.assert_close(features, expected["input_features"], atol=2e-5, rtol=0)
    features, lengths = zipformer_log_mel(waveforms * mask, mask.sum(1), bins)
    for row, clip in enumerate(alone):
        (one,) = ZipformerFeatureExtractor(feature_size=bins)([clip])["input_features"]
        assert lengths[row] == len(one)
        np.testing.assert_allclose(features[row, : len(one)], one, atol=2e-4)


@pytest.mark.parametrize(
    ("kind", "changes"), [("fastconformer", {}), ("fastconformer", CONTEXT), ("zipformer", {})],
    ids=["fastconformer", "limited_context", "zipformer"],
)  # fmt: skip
@torch.no_grad()
def test_states_are_those_of_the_recogniser(kind, changes, tmp_path):
    recogniser, extractor = save(kind, tmp_path, **changes)
    model = classifier(tmp_path)
    (branch,) = model.branches
    assert (branch.frame_rate_hz, branch.size) == ((12.5, 32) if kind == "fastconformer" else (25.0, 40))
    assert model.config.encoders[0]["normalise"] is False and "vocab_size" not in model.config.encoders[0]["config"]
    waveforms, mask, alone = clips()
    states, lengths = branch(waveforms, mask)
    assert states.shape[2:] == (3 if kind == "fastconformer" else 4, branch.size)
    batch = extractor(alone, sampling_rate=16_000, return_tensors="pt")
    expected, counts = recogniser.encode(batch["input_features"], batch["attention_mask"])[:2]
    assert lengths.tolist() == counts.tolist()
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(states[row, :count, -1], expected[row, :count], atol=1e-5, rtol=1e-4)
    # The first layers alone are those of the whole encoder.
    for layer in range(states.shape[2]):
        (part,) = classifier(tmp_path, layer).branches
        assert sum(p.numel() for p in part.parameters()) <= sum(p.numel() for p in branch.model.parameters())
        torch.testing.assert_close(part(waveforms, mask)[0], states[:, :, layer], atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_stock_parakeet(tmp_path):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "subsampling_conv_channels": 8, "num_mel_bins": 16,
    }  # fmt: skip
    stock = ParakeetForCTC(ParakeetCTCConfig(vocab_size=20, pad_token_id=19, encoder_config=sizes)).eval()
    stock.save_pretrained(tmp_path)
    ParakeetFeatureExtractor(feature_size=16).save_pretrained(tmp_path)
    (branch,) = classifier(tmp_path, 2).branches
    waveform = make_waveforms((16_000,))[0]
    batch = ParakeetFeatureExtractor(feature_size=16)(waveform[0].numpy(), sampling_rate=16_000, return_tensors="pt")
    expected = stock.encoder(**batch).last_hidden_state
    states, (count,) = branch(waveform, torch.ones_like(waveform).long())
    torch.testing.assert_close(states[0, :count], expected[0, :count], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["fastconformer", "zipformer"])
@torch.no_grad()
def test_padding_changes_nothing_and_silence_is_finite(kind, tmp_path):
    save(kind, tmp_path)
    (branch,) = classifier(tmp_path).branches
    waveforms, mask, _ = clips()
    states, lengths = branch(waveforms, mask)
    for row, length in enumerate(LENGTHS):
        alone, (count,) = branch(waveforms[row : row + 1, :length], mask[row : row + 1, :length])
        assert count == lengths[row] >= 1
        torch.testing.assert_close(states[row, :count], alone[0], atol=2e-5, rtol=0)
        assert not states[row, count:].any()
    assert branch(torch.zeros(1, 5_000), torch.ones(1, 5_000).long())[0].isfinite().all()


@pytest.mark.parametrize("kind", ["fastconformer", "zipformer"])
def test_beside_other_encoders_saved_and_tuned(kind, tmp_path):
    save(kind, tmp_path / "asr")
    model = SERForAudioClassification.from_encoders(
        [
            {"path": str(tmp_path / "asr"), "features": "mix", "frozen": False},
            {"kind": "hubert", "config": CONFIGS["hubert"], "features": 1},
        ],
        {"head_dropout": 0.0},
    )
    waveforms, mask = make_waveforms((16_000, 9_011))
    output = model(waveforms, mask, labels=torch.tensor([0, 1]))
    assert abs(output.last_hidden_state.shape[1] - 49) <= 3
    model.save_pretrained(tmp_path / "ser")
    again = SERForAudioClassification.from_pretrained(tmp_path / "ser")
    assert torch.equal(again(waveforms, mask).logits, output.logits)
    assert model.cacheable == ["hubert"]
    model.train()
    model(waveforms, mask, labels=torch.tensor([0, 1])).loss.backward()
    grads = [p.grad for p in model.encoders[kind].model.parameters()]
    assert sum(grad is not None and bool(grad.any()) for grad in grads) > 0.8 * len(grads)


@pytest.mark.parametrize("kind", ["fastconformer", "zipformer"])
def test_fresh_weights_are_those_of_a_fresh_recogniser(kind):
    config = {**STACKS} if kind == "zipformer" else {"num_hidden_layers": 2, "hidden_size": 32, "num_mel_bins": 16}
    model = SERForAudioClassification(SERConfig(encoders=[{"kind": kind, "config": config, "features": 1}]))
    (branch,) = model.branches
    linear = next(one for one in branch.model.modules() if isinstance(one, torch.nn.Linear))
    # Uniform within the inverse root of the inputs, as in the recognisers, and not the classifier's Xavier.
    bound = linear.in_features**-0.5
    assert 0.9 * bound < linear.weight.abs().max() <= bound
    assert isinstance(branch, EncoderBranch) and not any(p.requires_grad for p in branch.model.parameters())


def test_refusals(tmp_path):
    save("fastconformer", tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "hop_length": 200}))
    with pytest.raises(ValueError, match=r"hop_length of its feature extractor is 200, but .* with 160"):
        classifier(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="'conv', which a fastconformer does not have"):
        classifier(tmp_path, "conv")
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("encoder.layers.0.norm_out.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors are missing: encoder\.layers\.0\.norm_out\.weight"):
        classifier(tmp_path)
    with pytest.raises(ValueError, match=r"encoders\[0\]\.config: no field dim in the configuration of a zipformer"):
        SERConfig(encoders=[{"kind": "zipformer", "config": {"dim": 3}}])
    with pytest.raises(ValueError, match=r"encoders\[0\]\.config: FastConformerConfig\.conv_kernel_size is 8"):
        SERConfig(encoders=[{"kind": "fastconformer", "config": {"conv_kernel_size": 8}}])
