"""Converted weights give what the `zipformer` package (icefall's code without k2) gives: states, logits, gradients.

What the package computes for a tiny model is kept in zipformer_model.npz, so that it is checked where the package is
not installed; `python tests/parity/test_zipformer_model.py` with the package makes the file anew.
"""

import importlib.util
import math
import random
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from models.zipformer import ZipformerConfig, ZipformerForASR, zipformer_encoder, zipformer_layers, zipformer_training
from models.zipformer.icefall_zipformer import convert_weights, infer_config

GOLDEN = Path(__file__).with_name("zipformer_model.npz")
BENCHMARK = Path(__file__).parents[2] / "scripts" / "benchmarks" / "zipformer_encoder.py"
LENGTHS = (97, 61, 30)
# Every kind of stack: more channels than the one before, fewer, and of another width than the output.
TINY = {
    "downsampling": [1, 2, 4],
    "num_layers": [2, 1, 1],
    "encoder_dim": [16, 24, 20],
    "unmasked_dim": [12, 16, 16],
    "feedforward_dim": [16, 24, 24],
    "num_heads": [2, 4, 2],
    "query_head_dim": 8,
    "value_head_dim": 4,
    "conv_kernel": [7, 5, 5],
    "position_dim": 12,
    "decoder_dim": 16,
    "joiner_dim": 12,
    "vocab_size": 11,
    "num_mel_bins": 20,
    "mask_padding": False,
}


def peer_model(config):
    spec = importlib.util.spec_from_file_location("zipformer_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    peer = module.peer_model(config)
    if peer is None:
        pytest.skip("the package zipformer is not installed (make parity)")
    return peer.eval()


def drawn(shapes):
    """Weights of icefall's names and shapes, none as it is initialised; the same on every machine."""
    rng, state = np.random.default_rng(0), {}
    for name, shape in sorted(shapes.items()):
        value = rng.standard_normal(shape)
        if name.endswith("bypass_scale"):
            value = 0.6 + 0.1 * value
        elif name.endswith("log_scale"):
            value = 0.1 * value  # states of unit size, to which 1e-5 is compared
        elif len(shape) < 2:
            value = 0.1 * value
        elif not name.endswith("embedding.weight"):
            value = value / math.sqrt(np.prod(shape[1:]))
        state[name] = torch.from_numpy(np.asarray(value, np.float32))
    return state


def inputs(config, lengths=LENGTHS):
    draw = np.random.default_rng(1).standard_normal((len(lengths), max(lengths), config.num_mel_bins))
    features = torch.from_numpy(draw.astype(np.float32))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    # Padding is not silence to the convolutions: both must treat it alike.
    return features.masked_fill(~mask[..., None], math.log(1e-10) / 10), mask.long()


def our_model(config, state):
    model = ZipformerForASR(config)
    model.load_state_dict(convert_weights(state))
    return model.eval()


def our_outputs(model, features, mask, tokens):
    hidden, lengths = model.encode(features, mask)
    decoded = model.decoder(tokens)
    joined = model.joiner(
        model.joiner.encoder_proj(hidden[:, :5]).unsqueeze(2), model.joiner.decoder_proj(decoded).unsqueeze(1)
    )
    return {
        "states": hidden,
        "lengths": lengths,
        "decoded": decoded,
        "joined": joined,
        "ctc": model.ctc_head(hidden).log_softmax(-1),
        "simple_am": model.simple_am_proj(hidden),
        "simple_lm": model.simple_lm_proj(decoded),
    }


def peer_outputs(peer, features, mask, tokens):
    hidden, lengths = peer.forward_encoder(features, mask.sum(1))
    decoded = peer.decoder(tokens)
    pairs = hidden[:, :5, None].expand(-1, -1, tokens.shape[1], -1), decoded[:, None].expand(-1, 5, -1, -1)
    return {
        "states": hidden,
        "lengths": lengths,
        "decoded": decoded,
        "joined": peer.joiner(*pairs),
        "ctc": peer.ctc_output(hidden),
        "simple_am": peer.simple_am_proj(hidden),
        "simple_lm": peer.simple_lm_proj(decoded),
    }


TOKENS = torch.tensor([[0, 3, 3, 10], [0, 1, 2, 4], [-1, 0, 9, 9]])


@pytest.mark.parametrize(
    "preset", ["zipformer-s", "zipformer-30m", pytest.param("zipformer-m", marks=pytest.mark.slow)]
)
def test_outputs_equal_icefall(preset):
    config = ZipformerConfig.preset(preset, vocab_size=500, mask_padding=False)
    peer = peer_model(config)
    state = drawn({name: tuple(tensor.shape) for name, tensor in peer.state_dict().items()})
    peer.load_state_dict(state)
    assert infer_config(state).to_dict() == config.to_dict()
    features, mask = inputs(config)
    with torch.no_grad():
        expected = peer_outputs(peer, features, mask, TOKENS)
        found = our_outputs(our_model(config, state), features, mask, TOKENS)
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_hypotheses_equal_icefall():
    config = ZipformerConfig(**TINY)
    peer = peer_model(config)
    state = drawn({name: tuple(tensor.shape) for name, tensor in peer.state_dict().items()})
    peer.load_state_dict(state)
    from zipformer.decode import search

    model, (features, mask) = our_model(config, state), inputs(config)
    with torch.no_grad():
        hidden, lengths = peer.forward_encoder(features, mask.sum(1))
        greedy = search.greedy_search(peer, hidden, lengths)
        beam = search.modified_beam_search(peer, hidden, lengths, beam=15)
    for name, expected in (("greedy", greedy), ("beam", beam)):
        found = [hypotheses[0].tokens for hypotheses in model.recognise(features, mask, search=name)]
        assert found == [list(map(int, tokens)) for tokens in expected]
        assert any(found), "nothing was recognised: the test says nothing"


# Gradients in training, with every random choice made: all balancers and whiteners act, nothing is dropped.


def chosen(*shape, **kwargs):
    return torch.ones(*shape, **kwargs)


def our_gradients(model, features, mask, batch_count):
    model.train()
    model.set_batch_count(batch_count)
    for stack in model.encoder.stacks:
        stack.position_dropout.p = 0.0
    weights = torch.linspace(-1, 1, model.config.hidden_size, dtype=features.dtype)
    modules = zipformer_training, zipformer_layers, zipformer_encoder
    with patch.object(torch, "rand", chosen):
        for module in modules:
            module.chance = lambda probability: probability > 0
        try:
            hidden, _ = model.encode(features, mask, 1e-4)
            (hidden * weights).sin().sum().backward()
        finally:
            for module in modules:
                module.chance = CHANCE
    return {name: p.grad for name, p in model.named_parameters() if name.startswith("encoder")}


CHANCE = zipformer_training.chance


def peer_gradients(peer, features, mask, batch_count):
    from zipformer.modules.scaling import Dropout2, ScheduledFloat

    peer.train()
    for module in peer.modules():
        if isinstance(module, ScheduledFloat):
            module.batch_count = batch_count
        if isinstance(module, Dropout2):
            module.p = 0.0
    weights = torch.linspace(-1, 1, peer.encoder_out_dim, dtype=features.dtype)
    with patch.object(torch, "rand", chosen), patch.object(random, "random", lambda: 0.0):
        hidden, _ = peer.forward_encoder(features, mask.sum(1))
        (hidden * weights).sin().sum().backward()
    gradients = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    return convert_weights({name: grad for name, grad in gradients.items() if name.startswith("encoder")})


# Early: positions skipped, attention constant. Later: as for most of a training.
@pytest.mark.parametrize("batch_count", [None, 1000.0, 30_000.0])
def test_training_gradients_equal_icefall(batch_count):
    config = ZipformerConfig(**TINY)
    peer = peer_model(config)
    state = drawn({name: tuple(tensor.shape) for name, tensor in peer.state_dict().items()})
    peer.load_state_dict(state)
    features, mask = inputs(config)
    expected = peer_gradients(peer.double(), features.double(), mask, batch_count)
    found = our_gradients(our_model(config, state).double(), features.double(), mask, batch_count)
    assert_gradients_close(found, expected, 1e-4)


def assert_gradients_close(found, expected, tolerance):
    assert set(expected) <= set(found)
    for name, gradient in found.items():
        if name not in expected:
            assert not gradient.any(), name
            continue
        scale = expected[name].abs().max().clamp(min=1e-6)
        error = ((gradient - expected[name]).abs().max() / scale).item()
        assert error < tolerance, f"{name}: gradients differ by {error:.1e} of the largest"


def golden_shapes(golden):
    return {
        str(name): tuple(map(int, str(shape).split()))
        for name, shape in zip(golden["names"], golden["shapes"], strict=True)
    }


def test_outputs_equal_what_icefall_computed():
    config, golden = ZipformerConfig(**TINY), np.load(GOLDEN)
    model, (features, mask) = our_model(config, drawn(golden_shapes(golden))), inputs(config)
    with torch.no_grad():
        found = our_outputs(model, features, mask, TOKENS)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, torch.from_numpy(golden[name]), atol=1e-5, rtol=0)


def test_gradients_equal_what_icefall_computed():
    config, golden = ZipformerConfig(**TINY), np.load(GOLDEN)
    model, (features, mask) = our_model(config, drawn(golden_shapes(golden))), inputs(config)
    found = our_gradients(model.double(), features.double(), mask, 1000.0)
    kept = {str(name): torch.from_numpy(golden[f"gradient {name}"]).double() for name in golden["gradients"]}
    assert_gradients_close({name: found[name] for name in kept}, kept, 1e-4)


def make_golden():
    config = ZipformerConfig(**TINY)
    peer = peer_model(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in peer.state_dict().items()}
    peer.load_state_dict(drawn(shapes))
    features, mask = inputs(config)
    with torch.no_grad():
        outputs = {name: tensor.numpy() for name, tensor in peer_outputs(peer, features, mask, TOKENS).items()}
    gradients = peer_gradients(peer.double(), features.double(), mask, 1000.0)
    small = {name: grad.float().numpy() for name, grad in gradients.items() if grad.numel() <= 64}
    np.savez_compressed(
        GOLDEN,
        names=list(shapes),
        shapes=[" ".join(map(str, shape)) for shape in shapes.values()],
        gradients=list(small),
        **outputs,
        **{f"gradient {name}": grad for name, grad in small.items()},
    )


if __name__ == "__main__":
    make_golden()
