"""Zipformer: config, losses, padding, bad input, saving; numbers against icefall stand in tests/parity."""

import math

import pytest
import torch
from transformers import AutoModelForCTC

from models.zipformer import CheckpointError, ZipformerConfig, ZipformerForASR
from models.zipformer.zipformer_layers import SWOOSH_L, SWOOSH_R, relative_positions
from models.zipformer.zipformer_training import Balancer, Scheduled, Whiten, whitening_metric

TINY = {
    "vocab_size": 30,
    "downsampling": [1, 4, 2],
    "num_layers": 1,
    "encoder_dim": [32, 48, 32],
    "unmasked_dim": 32,
    "feedforward_dim": [32, 48, 32],
    "num_heads": 2,
    "query_head_dim": 8,
    "value_head_dim": 4,
    "conv_kernel": [7, 5, 7],
    "position_dim": 12,
    "decoder_dim": 32,
    "joiner_dim": 32,
    "num_mel_bins": 20,
}
HEADS = [
    {},
    {"training_loss": "full"},
    {"training_loss": "ctc"},
    {"transducer_weight": 0.5},
    {"ctc_weight": 0},
    {"context_size": 1},
]


def tiny(**fields):
    torch.manual_seed(0)
    return ZipformerForASR(ZipformerConfig(**{**TINY, **fields})).eval()


def batch(lengths=(150, 90, 61), labels=(9, 5, 3)):
    torch.manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    features = torch.randn(len(lengths), max(lengths), 20).masked_fill(mask[..., None] == 0, math.log(1e-10))
    targets = torch.randint(1, 30, (len(labels), max(labels)))
    targets[torch.arange(max(labels)) >= torch.tensor(labels)[:, None]] = -100
    return {"input_features": features, "attention_mask": mask, "labels": targets}


# Counts of icefall's RESULTS.md; `bypass_scale` of every layer, which nothing uses, is not among ours.
@pytest.mark.parametrize(
    ("preset", "fields", "count"),
    [
        ("zipformer-s", {"vocab_size": 500, "ctc_weight": 0}, 23_285_615),
        ("zipformer-m", {"vocab_size": 500, "ctc_weight": 0}, 65_549_011),
        ("zipformer-m", {"vocab_size": 500}, 65_805_511),
        ("zipformer-l", {"vocab_size": 500, "ctc_weight": 0}, 148_439_574),
        ("zipformer-30m", {"vocab_size": 2048}, 30_085_203),
    ],
)
def test_parameter_counts(preset, fields, count):
    config = ZipformerConfig.preset(preset, **fields)
    with torch.device("meta"):
        model = ZipformerForASR(config)
    unused = sum(dim * layers for dim, layers in zip(config.encoder_dim, config.num_layers, strict=True))
    assert model.num_parameters() + unused == count


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_heads": [4, 4]}, "num_heads has 2 numbers for 3 stacks"),
        ({"conv_kernel": 8}, "conv_kernel holds 8"),
        ({"unmasked_dim": 40}, "unmasked_dim holds 40"),
        ({"training_loss": "pruning"}, "'pruned', 'full', 'ctc'"),
        ({"training_loss": "ctc", "transducer_weight": 0.5}, "no transducer"),
        ({"transducer_weight": 1.5}, "must be in"),
        ({"lm_scale": 0.7, "am_scale": 0.3}, "less than 1"),
        ({"blank_token_id": 30}, "blank_token_id is 30"),
        ({"default_search": "ctc_beam", "ctc_weight": 0}, "no CTC head"),
        ({"prune_range": 1}, "at least 2"),
        ({"downsampling": 2}, "must be a list"),
        ({"encoder_dim": [10**6] * 3, "feedforward_dim": 10**6}, "damaged"),
    ],
)
def test_impossible_configs_are_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        ZipformerConfig(**{**TINY, **fields})
    with pytest.raises(ValueError, match="zipformer-xl"):
        ZipformerConfig.preset("zipformer-xl")


@pytest.mark.parametrize("fields", HEADS)
def test_trains_and_every_parameter_gets_a_gradient(fields):
    model = tiny(**fields).train()
    # At once: all that is random at the start of training, when positions are skipped half of the time.
    model.set_batch_count(0)
    output = model(**batch())
    output.loss.backward()
    assert output.loss.isfinite() and output.num_skipped == 0
    # Distributed training would wait for a parameter that has none.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (output.transducer_loss is None) == (fields.get("training_loss") == "ctc")
    assert (output.ctc_loss is None) == (fields.get("ctc_weight") == 0)


def test_loss_is_weighted_as_the_config_says():
    inputs = batch()
    for fields in ({"ctc_weight": 0.3}, {"transducer_weight": 0.4}, {"training_loss": "full"}):
        model = tiny(**fields)
        output = model(**inputs)
        simple = 0.5 * output.simple_loss if output.simple_loss is not None else 0.0
        transducer, weight = simple + output.transducer_loss, fields.get("transducer_weight")
        expected = transducer + model.config.ctc_weight * output.ctc_loss
        if weight:
            expected = weight * transducer + (1 - weight) * output.ctc_loss
        torch.testing.assert_close(output.loss, expected)
    model = tiny(ctc_weight=0, loss_warmup_batches=100).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for count, (simple_scale, scale) in {0: (1.0, 0.1), 50: (0.75, 0.55), 100: (0.5, 1.0)}.items():
        model.set_batch_count(count)
        output = model(**inputs)
        torch.testing.assert_close(output.loss, simple_scale * output.simple_loss + scale * output.transducer_loss)


def test_pruned_loss_with_the_full_range_is_the_full_loss():
    pruned, full = tiny(prune_range=10), tiny(training_loss="full")
    full.load_state_dict({name: value for name, value in pruned.state_dict().items() if "simple" not in name})
    torch.testing.assert_close(pruned(**batch()).transducer_loss, full(**batch()).transducer_loss)


def test_loss_is_a_sum_over_utterances():
    model, inputs = tiny(), batch()
    whole = model(**inputs, num_items_in_batch=torch.tensor(17)).loss
    torch.testing.assert_close(whole, model(**inputs).loss)
    parts = [
        model(**{key: value[i : i + 1] for key, value in inputs.items()}, num_items_in_batch=17) for i in range(3)
    ]
    torch.testing.assert_close(whole, sum(part.loss for part in parts))


def test_padding_does_not_change_outputs():
    model, inputs = tiny(), batch()
    for fields in ({"mask_padding": True}, {"mask_padding": False}):
        model.encoder.mask_padding = model.config.mask_padding = fields["mask_padding"]
        with torch.no_grad():
            hidden, lengths = model.encode(inputs["input_features"], inputs["attention_mask"])
            worst = 0.0
            for row, (length, frames) in enumerate(zip((150, 90, 61), lengths.tolist(), strict=True)):
                alone, _ = model.encode(inputs["input_features"][row : row + 1, :length])
                assert alone.shape[1] == frames
                worst = max(worst, (hidden[row, :frames] - alone[0]).abs().max().item())
        # icefall's own way: the end of an utterance sees its padding.
        assert worst < 1e-5 if fields["mask_padding"] else worst > 1e-2


def test_padding_may_hold_anything():
    model, inputs = tiny().train(), batch()
    inputs["input_features"][1, 90:] = float("nan")
    output = model(**inputs)
    output.loss.backward()
    assert output.num_skipped == 0 and all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("fields", HEADS)
def test_bad_utterances_are_left_out(fields):
    model = tiny(**fields)
    good = batch((150,), (9,))
    bad = batch((150, 150, 150, 150, 5), (9, 9, 9, 9, 9))
    bad["input_features"][0] = good["input_features"][0]
    bad["labels"][0] = good["labels"][0]
    bad["labels"][1] = -100  # empty
    bad["input_features"][2, 7, 3] = float("nan")
    bad["input_features"][3, 100] = float("inf")  # the fifth: nine labels for one frame
    expected, found = model(**good, num_items_in_batch=9), model(**bad, num_items_in_batch=9)
    assert found.num_skipped == 4
    torch.testing.assert_close(found.loss, expected.loss)
    gradients = []
    for output in (expected, found):
        model.zero_grad()
        output.loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


def test_a_batch_of_bad_utterances_trains_nothing():
    model = tiny().train()
    inputs = batch()
    inputs["labels"][:] = -100
    output = model(**inputs)
    output.loss.backward()
    assert output.loss == 0 and output.num_skipped == 3
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_silence_and_scraps_of_audio():
    model = tiny()
    silence = torch.full((2, 100, 20), -15.9)
    assert model.recognise(silence, torch.ones(2, 100)) is not None
    for frames in (1, 8, 9, 10):
        hidden, lengths = model.encode(torch.zeros(1, frames, 20))
        assert lengths.tolist() == [1] and hidden.shape[:2] == (1, 1)
    # Beside a longer one, too.
    hidden, lengths = model.encode(torch.zeros(2, 50, 20), torch.arange(50).repeat(2, 1) < torch.tensor([[50], [3]]))
    assert lengths.tolist() == [11, 1]


def test_what_is_wrong_is_said():
    model, inputs = tiny(), batch()
    with pytest.raises(ValueError, match="20 mel bins"):
        model(torch.zeros(1, 50, 80))
    for wrong in (30, 0, -7):
        labels = inputs["labels"].clone()
        labels[1, 2] = wrong
        with pytest.raises(ValueError, match=rf"labels\[1, 2\] is {wrong}"):
            model(**{**inputs, "labels": labels})
    inputs["input_features"][1, 3] = float("nan")
    with pytest.raises(ValueError, match=r"utterances \[1\] hold NaN"):
        model.recognise(inputs["input_features"], inputs["attention_mask"])
    with pytest.raises(ValueError, match="'ctc_greedy', 'ctc_beam'"):
        tiny(training_loss="ctc").recognise(torch.zeros(1, 50, 20), search="beam")


@pytest.mark.parametrize("fields", HEADS)
def test_recognises_with_every_search_it_has(fields):
    model, inputs = tiny(**fields), batch()
    del inputs["labels"]
    searches = [name for name in ("greedy", "beam", "ctc_greedy", "ctc_beam") if model._has_head(name)]
    assert model.config.default_search in searches
    for search in searches:
        found = model.recognise(**inputs, search=search)
        alone = model.recognise(inputs["input_features"][1:2, :90], search=search)
        assert len(found) == 3 and found[1][0].tokens == alone[0][0].tokens
        assert all(frame < 21 for frame in found[1][0].frames)
    assert math.isclose(model.frame_s, 0.04)


def test_saves_and_loads(tmp_path):
    model, inputs = tiny(), batch()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCTC.from_pretrained(tmp_path)
    assert isinstance(loaded, ZipformerForASR) and not loaded.training
    torch.testing.assert_close(loaded(**inputs).loss, model(**inputs).loss)
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json").read_text().replace('"joiner_dim": 32', '"joiner_dim": 16')
    )
    with pytest.raises(CheckpointError, match="joiner"):
        ZipformerForASR.from_pretrained(tmp_path)


def test_gradient_checkpointing_changes_nothing():
    gradients = []
    for checkpointing in (False, True):
        model = tiny().train()
        model.set_batch_count(100)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            assert model.is_gradient_checkpointing
        torch.manual_seed(3)  # both draw the same: dropout, skips, who is balanced
        model(**batch()).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16(autocast):
    model, inputs = tiny(), batch()
    exact = model(**inputs)
    model = model if autocast else model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = model(**inputs)
        with torch.no_grad():
            lean = model.encode(inputs["input_features"], inputs["attention_mask"])[0]
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss, exact.loss, rtol=0.05, atol=0.05)
    difference = (lean.float() - exact.last_hidden_state).abs().mean() / exact.last_hidden_state.abs().mean()
    assert difference < 0.05
    model.train()(**inputs).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_lean_evaluation_equals_evaluation_with_gradients():
    model, inputs = tiny(), batch()
    with torch.no_grad():
        lean = model(**inputs)
    torch.testing.assert_close(lean.last_hidden_state, model(**inputs).last_hidden_state, atol=1e-5, rtol=0)
    # Positions that inference mode computed first still serve training.
    with torch.inference_mode():
        relative_positions(5, 14, torch.device("cpu"), torch.float32)
    assert not relative_positions(5, 14, torch.device("cpu"), torch.float32).is_inference()


@pytest.mark.parametrize(("swoosh", "offset", "constant"), [(SWOOSH_L, 4.0, 0.035), (SWOOSH_R, 1.0, 0.313261687)])
def test_swoosh(swoosh, offset, constant):
    # The last is beyond what exp can hold.
    for x in (torch.linspace(-30, 30, 601, dtype=torch.float64), torch.tensor([-200.0, 0.0, 200.0]).double()):
        expected = torch.nn.functional.softplus(x - offset, threshold=50) - 0.08 * x - constant
        torch.testing.assert_close(swoosh(x.float()).double(), expected, atol=2e-6, rtol=1e-6)
    assert torch.autograd.gradcheck(swoosh, torch.linspace(-6, 6, 13, dtype=torch.float64, requires_grad=True))


def test_schedules():
    rate = Scheduled((10, 1.0), (20, 0.5), (40, 0.1), default=0.7)
    assert float(rate) == 0.7
    for count, value in {0: 1.0, 15: 0.75, 20: 0.5, 30: 0.3, 99: 0.1}.items():
        rate.batch_count = count
        assert math.isclose(float(rate), value)
    assert float(rate.eval()) == 0.7


@pytest.mark.parametrize(
    "shaping", [Balancer(0.4, 0.6, 0.5, 2.0, probability=1.0), Whiten(1.5, groups=2, grad_scale=0.5)]
)
def test_gradient_shaping_moves_features_where_they_should_be(shaping):
    torch.manual_seed(0)
    shaping.probability = 1.0
    x = (3.0 * torch.randn(200, 1) + 0.3 * torch.randn(200, 8) + 4.0).requires_grad_()
    optimizer = torch.optim.SGD([x], lr=1.0)
    shares, metric = (x > 0).float().mean(), whitening_metric(x, 2).item()
    for _ in range(300):
        optimizer.zero_grad()
        shaped = shaping(x)
        assert torch.equal(shaped, x)
        shaped.backward(torch.randn_like(x))
        optimizer.step()
    if isinstance(shaping, Whiten):
        assert whitening_metric(x, 2).item() < 0.5 * metric
    else:
        assert (x > 0).float().mean() < shares - 0.1 or x.square().mean().sqrt() < 4.0
    shaping.eval()
    assert shaping(x) is x
