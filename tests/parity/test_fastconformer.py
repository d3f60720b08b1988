"""FastConformer against transformers' Parakeet classes and against NeMo's local attention.

NeMo's is one file of `nemo-toolkit`; without it, outputs that it gave once are compared with.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetForRNNT,
    ParakeetForTDT,
    ParakeetRNNTConfig,
    ParakeetTDTConfig,
)
from transformers.loss.loss_rnnt import rnnt_loss

from models.fastconformer import FastConformerConfig, FastConformerFeatureExtractor, FastConformerForASR
from models.fastconformer.modeling_attention import FastConformerAttention

VOCABULARY, BLANK = 20, 19
ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "subsampling_conv_channels": 8,
    "num_mel_bins": 16,
}
FROZEN = Path(__file__).with_name("nemo_local_attention.npz")
NEMO_FILE = "nemo/collections/asr/parts/submodules/multi_head_attention.py"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["ctc", "rnnt", "tdt"])
def both(request, tmp_path):
    """A stock model with random weights, and what we read from its folder."""
    torch.manual_seed(0)
    encoder = ParakeetEncoderConfig(**ENCODER)
    sizes = {"vocab_size": VOCABULARY, "encoder_config": encoder}
    transducer = {**sizes, "blank_token_id": BLANK, "pad_token_id": 2, "decoder_hidden_size": 24}
    stock = {
        "ctc": lambda: ParakeetForCTC(ParakeetCTCConfig(**sizes, pad_token_id=BLANK)),
        "rnnt": lambda: ParakeetForRNNT(ParakeetRNNTConfig(**transducer)),
        "tdt": lambda: ParakeetForTDT(ParakeetTDTConfig(**transducer)),
    }[request.param]().eval()
    with torch.no_grad():
        for name, tensor in [*stock.named_parameters(), *stock.named_buffers()]:
            if tensor.is_floating_point() and not name.endswith("inv_freq"):
                tensor.normal_(std=tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.3)
            if "norm" in name and name.endswith(("weight", "running_var")):
                tensor.abs_().add_(0.7)
        if request.param != "ctc":
            stock.joint.head.bias[BLANK] += 1.0  # or greedy search emits in every step
    stock.save_pretrained(tmp_path)
    ours = FastConformerForASR.from_pretrained(tmp_path).eval()
    assert ours.config.head == request.param and ours.config.layerdrop == 0
    return stock, ours


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([233, 142, 80])
    mask = (torch.arange(233) < lengths[:, None]).long()
    features = torch.randn(3, 233, 16, generator=generator) * mask[:, :, None]
    labels = torch.randint(0, BLANK, (3, 6), generator=generator)
    labels[1, 4:] = labels[2, 2:] = -100
    return features, mask, labels


def padded_with(labels, token):
    return labels.masked_fill(labels == -100, token)


def test_encoder_states_are_those_of_parakeet(both, batch):
    stock, ours = both
    features, mask, _ = batch
    with torch.no_grad():
        expected = stock.encoder(features, mask)
        states, lengths = ours.encode(features, mask)
    frames = expected.attention_mask.bool()
    assert lengths.tolist() == expected.attention_mask.sum(1).tolist()
    torch.testing.assert_close(states[frames], expected.last_hidden_state[frames], atol=1e-6, rtol=1e-5)


def test_loss_and_gradients_are_those_of_parakeet_with_labels_as_it_needs_them(both, batch):
    pytest.importorskip("torchaudio", reason="Parakeet's RNN-T loss is torchaudio's")
    stock, ours = both
    features, mask, labels = batch
    tokens = int((labels != -100).sum())
    head = ours.config.head
    if head == "ctc":
        # Its reduction divides by utterances and their lengths; only the sum can be compared.
        stock.config.ctc_loss_reduction = "sum"
        expected = stock(features, mask, labels=labels).loss / tokens
    else:
        # RNN-T counts labels that are not blank, TDT those that are not its pad, which is a token like others.
        labels = labels.masked_fill(labels == stock.config.pad_token_id, 3)
        pad = BLANK if head == "rnnt" else stock.config.pad_token_id
        inputs = torch.cat([torch.full((3, 1), BLANK), padded_with(labels, BLANK)], 1)
        output = stock(features, mask, decoder_input_ids=inputs, labels=padded_with(labels, pad), reduction="sum")
        expected = output.loss / tokens
    got = ours(features, mask, labels=labels)
    torch.testing.assert_close(got.loss, expected, atol=1e-5, rtol=1e-5)
    got.loss.backward()
    expected.backward()
    theirs = dict(stock.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("both", ["rnnt"], indirect=True)
def test_parakeet_is_silently_wrong_about_labels_padded_as_the_trainer_pads_them(both, batch):
    pytest.importorskip("torchaudio", reason="Parakeet's RNN-T loss is torchaudio's")
    stock, ours = both
    features, mask, labels = batch
    inputs = torch.cat([torch.full((3, 1), BLANK), padded_with(labels, BLANK)], 1)
    with torch.no_grad():
        wrong = stock(features, mask, decoder_input_ids=inputs, labels=labels, reduction="sum")
        lengths = (labels != -100).sum(1)
        frames = ours.encode(features, mask).lengths_B
        right = rnnt_loss(wrong.logits, padded_with(labels, 0), frames, lengths, BLANK, reduction="sum")
        got = ours(features, mask, labels=labels, num_items_in_batch=1).loss
    torch.testing.assert_close(got, right, atol=1e-4, rtol=1e-5)
    assert abs(wrong.loss - right) > 0.1 * right


def test_greedy_search_is_generate(both, batch):
    """One by one: `generate` goes on emitting for an utterance that has ended while others of its batch have not."""
    stock, ours = both
    features, mask, _ = batch
    found = [readings[0] for readings in ours.recognise(features, mask, search="greedy")]
    for row, length in enumerate(mask.sum(1).tolist()):
        one = {"input_features": features[row : row + 1, :length], "attention_mask": mask[row : row + 1, :length]}
        if ours.config.head == "ctc":
            path = torch.unique_consecutive(stock.generate(**one)[0])
            assert found[row].tokens == path[path != BLANK].tolist()
            continue
        output = stock.generate(**one, decoder_start_token_id=BLANK, pad_token_id=BLANK, max_length=200)
        emitted, starts = output.sequences[0, 1:], output.durations[0].cumsum(0)[:-1]
        assert found[row].tokens == emitted[emitted != BLANK].tolist()
        assert found[row].frames == starts[emitted != BLANK].tolist()
    assert any(hypothesis.tokens for hypothesis in found)


def test_features_are_those_of_parakeet_without_the_frame_it_hides():
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(n).astype(np.float32) * 0.1 for n in (16_000, 11_360, 9_001)]
    ours = FastConformerFeatureExtractor()(waveforms, sampling_rate=16_000, return_tensors="pt")
    stock = ParakeetFeatureExtractor()(waveforms, sampling_rate=16_000, return_tensors="pt")
    assert not stock["attention_mask"][:, -1].any() and not stock["input_features"][:, -1].any()
    torch.testing.assert_close(ours["input_features"], stock["input_features"][:, :-1], rtol=0, atol=0)
    assert torch.equal(ours["attention_mask"].bool(), stock["attention_mask"][:, :-1].bool())


# NeMo's local attention


def nemo_module():
    found = [Path(folder) / NEMO_FILE for folder in sys.path if (Path(folder) / NEMO_FILE).is_file()]
    if not found:
        pytest.skip(f"nemo-toolkit is not at hand ({NEMO_FILE} in a folder of AMVI_ORACLES)")
    # Of the package it needs one function, which does nothing on a CPU.
    stubs = {"nemo": types.ModuleType("nemo"), "nemo.utils": types.ModuleType("nemo.utils")}
    stubs["nemo.utils"].avoid_float16_autocast_context = lambda: torch.autocast("cpu", enabled=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stubs.items():
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location("nemo_attention", found[0])
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def attention_and_inputs(context, global_tokens):
    config = FastConformerConfig(
        **ENCODER, attention_context=[context, context], global_tokens=global_tokens, global_attention="content"
    )
    attention = FastConformerAttention(config, 0).eval()
    rng = np.random.default_rng(5)  # torch's generator may change between versions, numpy's does not
    with torch.no_grad():
        for _, parameter in sorted(attention.named_parameters()):
            parameter.copy_(torch.from_numpy(rng.standard_normal(tuple(parameter.shape)) * 0.2))
    states = torch.from_numpy(rng.standard_normal((2, 37, 32))).float()
    positions = torch.from_numpy(rng.standard_normal((1, 2 * context + 1, 32))).float()
    mask = torch.arange(37) < torch.tensor([[37], [26]])
    return attention, states, positions, mask


def comparable(mask, global_tokens):
    """True frames; of several global frames NeMo mixes up the queries among heads and utterances: not those."""
    return mask & (torch.arange(37) >= (global_tokens if global_tokens > 1 else 0))


CASES = [(4, 0), (4, 1), (5, 3)]


@pytest.mark.parametrize(("context", "global_tokens"), CASES)
def test_limited_attention_is_that_of_nemo(context, global_tokens):
    module = nemo_module()
    attention, states, positions, mask = attention_and_inputs(context, global_tokens)
    nemo = module.RelPositionMultiHeadAttentionLongformer(
        4, 32, 0.0, attention.bias_u, attention.bias_v, [context, context], global_tokens=global_tokens
    ).eval()
    names = {"linear_q": "q_proj", "linear_k": "k_proj", "linear_v": "v_proj", "linear_out": "o_proj"}
    for theirs, ours in {**names, "linear_pos": "relative_k_proj"}.items():
        getattr(nemo, theirs).load_state_dict(getattr(attention, ours).state_dict())
    with torch.no_grad():
        expected = nemo(states, states, states, pad_mask=~mask, pos_emb=positions)
        got, _ = attention(states, positions, mask)
    compared = comparable(mask, global_tokens)
    torch.testing.assert_close(got[compared], expected[compared], atol=1e-6, rtol=1e-5)
    with np.load(FROZEN) as frozen:
        np.testing.assert_allclose(frozen[f"{context}_{global_tokens}"], expected[compared].numpy(), atol=1e-6)


@pytest.mark.parametrize(("context", "global_tokens"), CASES)
def test_limited_attention_is_what_nemo_gave_once(context, global_tokens):
    attention, states, positions, mask = attention_and_inputs(context, global_tokens)
    with torch.no_grad():
        got, _ = attention(states, positions, mask)
    with np.load(FROZEN) as frozen:
        expected = frozen[f"{context}_{global_tokens}"]
    np.testing.assert_allclose(got[comparable(mask, global_tokens)].numpy(), expected, atol=2e-6)
