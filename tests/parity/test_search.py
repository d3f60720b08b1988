"""Greedy and modified beam search give the hypotheses of the `zipformer` package (icefall's code without k2).

What the package found for a few small models is kept in zipformer_search.npz, so that it is checked where the package
is not installed; `python tests/parity/test_search.py` with the package makes the file anew.
"""

import importlib.util
import os
import sys
from pathlib import Path
from unittest.mock import MagicMock, patch

import numpy as np
import pytest
import torch

from models.zipformer.transducer_decoding import StatelessPredictor, transducer_beam, transducer_greedy

GOLDEN = Path(__file__).with_name("zipformer_search.npz")
BLANK, CONTEXT, WIDTH = 0, 2, 12
# Blank penalties make icefall's results differ in length; temperatures flatten them.
SETTINGS = [(15, 0.0, 1.0), (4, 1.5, 1.0), (15, 2.0, 1.7)]
NAMES = ("embedding", "convolution", "encoder_proj", "decoder_proj", "output", "bias")


def random_weights(seed, vocab):
    draw = np.random.default_rng(seed).standard_normal
    return {
        "embedding": 0.8 * draw((vocab, WIDTH)),
        "convolution": 0.8 * draw((WIDTH, 4, CONTEXT)),
        "encoder_proj": 0.6 * draw((WIDTH, WIDTH)),
        "decoder_proj": 0.6 * draw((WIDTH, WIDTH)),
        "output": 0.8 * draw((vocab, WIDTH)),
        "bias": 0.5 * draw(vocab),
    }


def random_outputs(seed, lengths):
    return 1.5 * np.random.default_rng(100 + seed).standard_normal((len(lengths), max(lengths), WIDTH))


def tensors(weights):
    return {name: torch.from_numpy(np.asarray(array, np.float32)) for name, array in weights.items()}


def ours(weights, outputs_BTD, lengths, beam, blank_penalty, temperature):
    """(tokens, frames) of each utterance by modified beam search, and by greedy search."""
    w = tensors(weights)

    def decoder(ids_NC):
        embedded = torch.nn.functional.embedding(ids_NC.clamp(min=0), w["embedding"]) * (ids_NC >= 0)[..., None]
        mixed = torch.nn.functional.conv1d(embedded.transpose(1, 2), w["convolution"], groups=WIDTH // 4)
        return mixed[:, :, 0].relu() @ w["decoder_proj"].T

    def join(encoder_ND, predictor_ND):
        return (encoder_ND + predictor_ND).tanh() @ w["output"].T + w["bias"]

    encoder_BTD = torch.from_numpy(np.asarray(outputs_BTD, np.float32)) @ w["encoder_proj"].T
    arguments = (encoder_BTD, torch.tensor(lengths), StatelessPredictor(decoder, CONTEXT, BLANK), join)
    options = {"blank": BLANK, "blank_penalty": blank_penalty}
    beams = transducer_beam(*arguments, beam_size=beam, temperature=temperature, **options)
    greedy = transducer_greedy(*arguments, **options)
    return tuple([(one.tokens, one.frames) for (one,) in found] for found in (beams, greedy))


def load_package():
    """`zipformer.decode.search` and the package's Decoder and Joiner; what else it imports is stood in for."""
    missing = {}
    for name in ("webdataset", "kaldifst", "atdataset", "kaldialign"):
        try:
            importlib.import_module(name)
        except ImportError:
            missing[name] = MagicMock()
    with patch.dict(sys.modules, missing):
        search = importlib.import_module("zipformer.decode.search")
        model = importlib.import_module("zipformer.modules.model")
    return search, model.Decoder, model.Joiner


def theirs(package, weights, outputs_BTD, lengths, beam, blank_penalty, temperature):
    search, decoder_class, joiner_class = package
    w = tensors(weights)
    vocab = len(w["output"])
    model = torch.nn.Module()
    model.decoder = decoder_class(vocab, WIDTH, BLANK, CONTEXT)
    model.joiner = joiner_class(WIDTH, WIDTH, WIDTH, vocab)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.decoder.embedding.weight.copy_(w["embedding"])
        model.decoder.conv.weight.copy_(w["convolution"])
        model.joiner.encoder_proj.weight.copy_(w["encoder_proj"])
        model.joiner.decoder_proj.weight.copy_(w["decoder_proj"])
        model.joiner.output_linear.weight.copy_(w["output"])
        model.joiner.output_linear.bias.copy_(w["bias"])
        arguments = (model, torch.from_numpy(np.asarray(outputs_BTD, np.float32)), torch.tensor(lengths))
        options = {"blank_penalty": blank_penalty, "return_timestamps": True}
        beams = search.modified_beam_search(*arguments, beam=beam, temperature=temperature, **options)
        greedy = search.greedy_search(*arguments, **options)
    return tuple(list(zip(found.hyps, found.timestamps, strict=True)) for found in (beams, greedy))


@pytest.fixture(scope="module")
def package():
    if importlib.util.find_spec("zipformer") is None:
        pytest.skip("the zipformer package is not installed: make parity")
    return load_package()


@pytest.mark.parametrize("vocab", [5, 40, 500])
@pytest.mark.parametrize(("beam", "blank_penalty", "temperature"), [*SETTINGS, (1, 0.0, 1.0), (30, 0.5, 1.0)])
def test_the_package_finds_the_same(package, vocab, beam, blank_penalty, temperature):
    lengths = [17, 25, 4, 25, 1, 9]
    for seed in range(3):
        inputs = (random_weights(seed, vocab), random_outputs(seed, lengths), lengths)
        settings = (beam, blank_penalty, temperature)
        assert ours(*inputs, *settings) == theirs(package, *inputs, *settings)


def test_what_the_package_found_once():
    golden = np.load(GOLDEN)
    tokens_seen = 0
    for seed in range(2):
        weights = {name: golden[f"{seed}/{name}"] for name in NAMES}
        lengths = golden[f"{seed}/lengths"].tolist()
        for number, settings in enumerate(SETTINGS):
            for name, found in zip(
                ("beam", "greedy"), ours(weights, golden[f"{seed}/outputs"], lengths, *settings), strict=True
            ):
                expected = golden[f"{seed}/{number}/{name}"]
                assert rows_of(found) == expected.tolist()
                tokens_seen += len(expected)
    assert tokens_seen > 100


def rows_of(found):
    """[utterance, frame, token] of every token."""
    return [
        [row, frame, token]
        for row, (tokens, frames) in enumerate(found)
        for token, frame in zip(tokens, frames, strict=True)
    ]


def freeze():
    package, lengths = load_package(), [14, 20, 3, 20, 1]
    arrays = {}
    for seed in range(2):
        weights = {name: array.astype(np.float32) for name, array in random_weights(seed, 20).items()}
        outputs = random_outputs(seed, lengths).astype(np.float32)
        arrays |= {f"{seed}/{name}": array for name, array in weights.items()}
        arrays |= {f"{seed}/outputs": outputs, f"{seed}/lengths": np.array(lengths)}
        for number, settings in enumerate(SETTINGS):
            for name, found in zip(
                ("beam", "greedy"), theirs(package, weights, outputs, lengths, *settings), strict=True
            ):
                arrays[f"{seed}/{number}/{name}"] = np.array(rows_of(found))
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    os.environ.setdefault("K2_ONNX_EXPORT", "1")
    sys.path += os.environ.get("AMVI_ORACLES", "").split(os.pathsep)
    freeze()
