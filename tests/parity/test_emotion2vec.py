"""emotion2vec against the reference implementation of its authors' toolkit (PyPI `funasr`), with random weights.

What the reference gave for tiny models is kept beside this file, so that the numbers are checked also where it is not
installed; `python tests/parity/test_emotion2vec.py` writes that file again.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "models"))
from emotion2vec_kit import FEATURES, published_config, published_state, waves

from models.emotion2vec.converting_emotion2vec import convert

FROZEN = Path(__file__).with_name("emotion2vec_tiny.npz")
LABELS = ["a", "b", "c", "d", "e"]
LENGTHS = (400, 5000, 16_001)
VARIANTS = {
    "post_norm": {},
    "layer_norm_first": {"layer_norm_first": True},
    "scale_per_layer": {"learned_alibi_scale_per_layer": True, "norm_affine": False},
    "scale_of_all_heads": {"learned_alibi_scale_per_head": False, "conv_pos_depth": 4},
    "no_alibi": {"use_alibi_encoder": False},
}
BASE = {
    "embed_dim": 768,
    "num_heads": 12,
    "depth": 8,
    "prenet_depth": 4,
    "conv_pos_groups": 16,
    "num_extra_tokens": 10,
}
LARGE = {**BASE, "embed_dim": 1024, "num_heads": 16, "depth": 16, "prenet_depth": 8}


def reference_model(published, state):
    """The reference with our tensors; its decoder, which inference does not use, stays random."""
    module = importlib.import_module("funasr.models.emotion2vec.model")
    conf = {**published["model_conf"], "norm_eps": 1e-5}  # it takes the text "1e-05" for no number
    model = module.Emotion2vec(model_conf=conf, vocab_size=len(LABELS) if "proj.weight" in state else -1).eval()
    result = model.load_state_dict(state, strict=False)
    assert not result.unexpected_keys and all(".decoder." in name for name in result.missing_keys)
    return model


@torch.no_grad()
def reference_outputs(model, waveform):
    """Frames, utterance vector and probabilities, as its `inference` computes them for one file."""
    source = torch.from_numpy(waveform)
    source = torch.nn.functional.layer_norm(source, source.shape).view(1, -1)
    frames = model.extract_features(source)["x"][0]
    utterance = frames.mean(0)
    return {
        "frames": frames.numpy(),
        "utterance": utterance.numpy(),
        "scores": model.proj(utterance).softmax(-1).numpy(),
    }


@torch.no_grad()
def our_outputs(model, waveform):
    output = model(**FEATURES([waveform], sampling_rate=16_000, return_tensors="pt"), output_hidden_states=True)
    return {
        "frames": output.hidden_states[-1][0].numpy(),
        "utterance": output.embeddings[0].numpy(),
        "scores": output.logits[0].softmax(-1).numpy(),
    }


def loud_waves():
    """With an offset and another loudness than the model hears, so that normalising shows."""
    return [0.1 * waveform + 0.02 for waveform in waves(*LENGTHS, seed=7)]


def assert_close(ours, theirs):
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.fixture
def funasr():
    if importlib.util.find_spec("funasr") is None:
        pytest.skip("the reference is not installed: unpack funasr and list its folder in AMVI_ORACLES")


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_of_the_reference_that_were_kept(variant):
    published = published_config(**VARIANTS[variant])
    model = convert(published_state(published, len(LABELS)), published, LABELS)
    with np.load(FROZEN) as frozen:
        for index, waveform in enumerate(loud_waves()):
            theirs = {name: frozen[f"{variant}/{index}/{name}"] for name in ("frames", "utterance", "scores")}
            assert_close(our_outputs(model, waveform), theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_tiny_models_equal_the_reference(funasr, variant):
    published = published_config(**VARIANTS[variant])
    state = published_state(published, len(LABELS), seed=3)
    theirs, ours = reference_model(published, state), convert(state, published, LABELS)
    for waveform in loud_waves():
        assert_close(our_outputs(ours, waveform), reference_outputs(theirs, waveform))


@pytest.mark.slow
@pytest.mark.parametrize(
    "size, parameters, layer_norm_first",
    # The large one in the published order alone: it takes as long as all else here.
    [(BASE, 93_171_212, False), (BASE, 93_171_212, True), (LARGE, 313_285_648, False)],
    ids=["base", "base-norm-first", "large"],
)
def test_published_sizes_equal_the_reference(funasr, size, parameters, layer_norm_first):
    published = published_config(**size, layer_norm_first=layer_norm_first, channels=512)
    state = published_state(published, len(LABELS), seed=5)
    theirs, ours = reference_model(published, state), convert(state, published, LABELS)
    assert ours.emotion2vec.num_parameters() == parameters
    for waveform in loud_waves():
        assert_close(our_outputs(ours, waveform), reference_outputs(theirs, waveform))


if __name__ == "__main__":
    kept = {}
    for variant, changes in VARIANTS.items():
        published = published_config(**changes)
        model = reference_model(published, published_state(published, len(LABELS)))
        for index, waveform in enumerate(loud_waves()):
            for name, values in reference_outputs(model, waveform).items():
                kept[f"{variant}/{index}/{name}"] = values
    np.savez_compressed(FROZEN, **kept)
