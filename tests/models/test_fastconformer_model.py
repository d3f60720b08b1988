"""FastConformer: losses, what padding and bad utterances do (nothing), batch statistics, searches, saving."""

import copy
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from fastconformer_kit import HEADS, QUIET, gradients, make_inputs, make_labels, make_model
from torch import nn

from models.fastconformer import PRESETS, CheckpointError, FastConformerConfig, FastConformerForASR
from models.fastconformer.modeling_encoder import FRAMES_PER_PIECE, MaskedBatchNorm1d


def losses_of(model, features, mask, labels, **kwargs):
    output = model(features, mask, labels=labels, **kwargs)
    return output.loss, output


@pytest.mark.parametrize(
    ("name", "millions"),
    [("fastconformer-small", 12.8), ("fastconformer-medium", 26.4), ("fastconformer-large", 109.3)],
)
def test_presets_have_the_published_sizes(name, millions):
    with torch.device("meta"):
        model = FastConformerForASR(FastConformerConfig.preset(name, vocab_size=1025))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == millions
    assert name in PRESETS


@pytest.mark.parametrize("head", HEADS)
def test_outputs_and_loss_do_not_depend_on_padding_in_evaluation(head):
    model = make_model(head, ctc_weight=0.3)
    features, mask = make_inputs()
    labels = make_labels()
    with torch.no_grad():
        together = model(features, mask, labels=labels, num_items_in_batch=1)
        total = 0.0
        for row, length in enumerate(mask.sum(1).tolist()):
            alone = model(features[row : row + 1, :length], labels=labels[row : row + 1], num_items_in_batch=1)
            frames = int(alone.lengths)
            assert together.lengths[row] == frames == math.ceil(length / 8)
            torch.testing.assert_close(
                together.last_hidden_state[row, :frames], alone.last_hidden_state[0], atol=2e-6, rtol=1e-5
            )
            assert not together.last_hidden_state[row, frames:].any()
            total += alone.loss
    torch.testing.assert_close(together.loss, total, atol=1e-4, rtol=1e-5)
    assert model.frame_s == pytest.approx(0.08)


@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_neither_loss_nor_gradients_in_training(head):
    model = make_model(head, ctc_weight=0.3, **QUIET).train()
    features, mask = make_inputs((90, 60))
    labels = make_labels((4, 2))
    results = []
    for extra in (0, 56):
        twin = copy.deepcopy(model)
        padded = nn.functional.pad(features, (0, 0, 0, extra), value=7.0)
        loss, _ = losses_of(twin, padded, nn.functional.pad(mask, (0, extra)), labels)
        loss.backward()
        norm = twin.encoder.layers[0].conv.norm
        results.append((loss.detach(), gradients(twin), norm.running_mean.clone(), norm.running_var.clone()))
    (loss, grads, *statistics), (padded_loss, padded_grads, *padded_statistics) = results
    torch.testing.assert_close(loss, padded_loss)
    torch.testing.assert_close(statistics, padded_statistics)
    for name, gradient in grads.items():
        torch.testing.assert_close(padded_grads[name], gradient, atol=2e-5, rtol=1e-3, msg=name)


def test_without_masked_statistics_padding_counts_as_in_transformers():
    features, mask = make_inputs((90, 60))
    labels = make_labels((4, 2))
    model = make_model(masked_batch_norm=False, **QUIET).train()
    loss, _ = losses_of(model, features, mask, labels)
    longer, _ = losses_of(model, nn.functional.pad(features, (0, 0, 0, 56)), nn.functional.pad(mask, (0, 56)), labels)
    assert abs((loss - longer).item()) > 1e-4


def test_masked_statistics_are_those_of_the_true_frames():
    torch.manual_seed(0)
    states = torch.randn(3, 5, 11)
    mask = torch.arange(11) < torch.tensor([11, 6, 1])[:, None]
    ours, stock = MaskedBatchNorm1d(5), nn.BatchNorm1d(5)
    got = ours(states, mask).transpose(1, 2)[mask]
    expected = stock(states.transpose(1, 2)[mask])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.running_mean, stock.running_mean)
    torch.testing.assert_close(ours.running_var, stock.running_var)
    assert ours.num_batches_tracked == 1


@pytest.mark.parametrize("frames", [0, 1])
def test_batch_norm_of_too_few_frames_uses_and_keeps_the_running_statistics(frames):
    norm = MaskedBatchNorm1d(4)
    with torch.no_grad():
        norm.running_mean.fill_(0.5)
    states = torch.randn(1, 4, 3)
    expected = copy.deepcopy(norm).eval()(states)
    got = norm(states, (torch.arange(3) < frames)[None])
    torch.testing.assert_close(got, expected)
    assert (norm.running_mean == 0.5).all() and (norm.running_var == 1).all()


@pytest.mark.slow
def test_statistics_over_two_processes_are_those_of_the_whole_batch(tmp_path):
    """Loss, gradients and running statistics with sync_batch_norm; without, every process has its own."""
    program = f"""
        import sys, torch
        sys.path[:0] = [r"{Path(__file__).parent}", r"{Path(__file__).parents[2]}"]
        from fastconformer_kit import QUIET, gradients, make_inputs, make_labels, make_model
        torch.set_num_threads(1)

        def work(rank, world, synchronised):
            if world > 1:
                name = f"file://{tmp_path}/store{{synchronised}}"
                torch.distributed.init_process_group("gloo", init_method=name, rank=rank, world_size=world)
            (features, mask), labels = make_inputs(), make_labels()
            rows = [slice(0, 3)] if world == 1 else [slice(0, 1), slice(1, 3)]
            model = make_model(sync_batch_norm=synchronised, **QUIET).train()
            part = rows[rank]
            loss = model(features[part], mask[part], labels=labels[part], num_items_in_batch=torch.tensor(12)).loss
            loss.backward()
            total = [loss.detach(), *gradients(model).values()]
            if world > 1:
                for tensor in total:
                    torch.distributed.all_reduce(tensor)
                torch.distributed.destroy_process_group()
            return [*total, model.encoder.layers[1].conv.norm.running_var]

        def run(rank, synchronised, results):
            results.put((rank, [tensor.tolist() for tensor in work(rank, 2, synchronised)]))

        def close(ours, theirs):
            ours = [torch.tensor(x) for x in ours]
            return all(torch.allclose(x, y, atol=2e-5, rtol=1e-3) for x, y in zip(ours, theirs, strict=True))

        if __name__ == "__main__":
            context = torch.multiprocessing.get_context("fork")
            found = {{}}
            for synchronised in (True, False):
                results = context.SimpleQueue()
                workers = [context.Process(target=run, args=(rank, synchronised, results)) for rank in range(2)]
                for worker in workers:
                    worker.start()
                found[synchronised] = dict(results.get() for _ in workers)[0]
                for worker in workers:
                    worker.join()
            whole = work(0, 1, False)
            print(close(found[True], whole), close(found[False], whole))
    """
    script = tmp_path / "two.py"
    script.write_text(textwrap.dedent(program), encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=250)
    assert done.stdout.split() == ["True", "False"], done.stderr[-3000:]


@pytest.mark.parametrize("head", HEADS)
def test_loss_is_a_sum_over_utterances_divided_by_the_tokens_of_the_global_batch(head):
    model = make_model(head, ctc_weight=0.3)
    features, mask = make_inputs()
    labels = make_labels()
    tokens = int((labels != -100).sum())
    whole, _ = losses_of(model, features, mask, labels)
    parts = [
        losses_of(model, features[rows], mask[rows], labels[rows], num_items_in_batch=torch.tensor(tokens))[0]
        for rows in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(whole, sum(parts), atol=1e-5, rtol=1e-5)
    assert model.accepts_loss_kwargs


def test_hybrid_loss_weighs_its_terms():
    model = make_model("rnnt", ctc_weight=0.25)
    _, output = losses_of(model, *make_inputs(), make_labels())
    expected = 0.75 * output.transducer_loss + 0.25 * output.ctc_loss
    torch.testing.assert_close(output.loss.detach(), expected)
    assert make_model("ctc")(*make_inputs(), labels=make_labels()).transducer_loss is None


BAD = {
    "NaN features": lambda features, mask, labels: features.__setitem__((2, 5, 3), float("nan")),
    "infinite features": lambda features, mask, labels: features.__setitem__((2, 5, 3), float("inf")),
    "no labels": lambda features, mask, labels: labels.__setitem__(2, -100),
    "no frames": lambda features, mask, labels: mask.__setitem__(2, 0),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("head", HEADS)
def test_a_bad_utterance_is_skipped_counted_and_leaves_no_trace(head, bad):
    model = make_model(head, ctc_weight=0.3 if head == "rnnt" else 0.0, **QUIET).train()
    (features, mask), labels = make_inputs(), make_labels()
    BAD[bad](features, mask, labels)
    counted = torch.tensor(12)
    with_bad = copy.deepcopy(model)
    loss, output = losses_of(with_bad, features, mask, labels, num_items_in_batch=counted)
    loss.backward()
    assert output.num_skipped == 1 and output.loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(with_bad).values())
    if bad == "no labels":  # its frames are sound, and count in the batch statistics
        return
    expected, without = losses_of(model, features[:2], mask[:2], labels[:2], num_items_in_batch=counted)
    expected.backward()
    assert without.num_skipped == 0
    torch.testing.assert_close(loss, expected)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradients(with_bad)[name], gradient, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_bad_utterances_has_zero_loss_and_gradients_for_every_process(head):
    model = make_model(head).train()
    (features, mask), labels = make_inputs(), make_labels()
    labels[0] = -100
    features[1, 0, 0] = float("nan")
    mask[2] = 0
    loss, output = losses_of(model, features, mask, labels)
    loss.backward()
    assert loss == 0 and output.num_skipped == 3
    found = gradients(model)
    missing = {name for name, _ in model.named_parameters()} - found.keys()
    assert not missing and not any(gradient.any() for gradient in found.values())


def test_more_labels_than_frames_are_left_out_of_ctc_and_learned_by_rnnt():
    features, mask = make_inputs((40, 9))  # 5 and 2 frames
    labels = make_labels((4, 3))
    assert make_model("ctc")(features, mask, labels=labels).num_skipped == 1
    assert make_model("rnnt")(features, mask, labels=labels).num_skipped == 0
    repeated = torch.tensor([[3, 3, 3, 3]])  # needs seven frames
    assert make_model("ctc")(features[:1], mask[:1], labels=repeated).num_skipped == 1


@pytest.mark.parametrize("head", HEADS)
def test_utterances_shorter_than_the_subsampling_are_a_frame(head):
    model = make_model(head, **QUIET).train()
    features, mask = make_inputs((3,))
    loss, output = losses_of(model, features, mask, torch.tensor([[4]]))
    loss.backward()
    assert output.lengths == 1 and output.num_skipped == 0 and loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    assert len(model.eval().recognise(features, mask)) == 1


def test_silence_and_what_does_not_fit_the_model():
    model = make_model()
    silence = torch.zeros(2, 50, 16)
    assert model.train()(silence, labels=torch.tensor([[3], [4]])).loss.isfinite()
    with pytest.raises(ValueError, match=r"\[20\].*0 to 19 without the blank \(0\)"):
        model(silence, labels=torch.tensor([[3], [20]]))
    with pytest.raises(ValueError, match="without the blank"):
        model(silence, labels=torch.tensor([[3], [0]]))
    with pytest.raises(ValueError, match="frames, 16"):
        model(torch.zeros(2, 50, 80))


@pytest.mark.parametrize("head", HEADS)
def test_gradient_checkpointing_changes_no_gradient_and_counts_each_batch_once(head):
    (features, mask), labels = make_inputs(), make_labels()
    results = []
    for checkpointing in (False, True):
        model = make_model(head, **QUIET).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loss, _ = losses_of(model, features, mask, labels)
        loss.backward()
        norm = model.encoder.layers[1].conv.norm
        results.append((gradients(model), norm.running_var, norm.num_batches_tracked))
    (plain, *statistics), (checkpointed, *again) = results
    assert model.encoder.layers[0].gradient_checkpointing
    torch.testing.assert_close(statistics, again)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_bf16_loss_is_computed_in_float32(head):
    (features, mask), labels = make_inputs(), make_labels()
    exact, _ = losses_of(make_model(head, ctc_weight=0.3), features, mask, labels)
    low, output = losses_of(make_model(head, ctc_weight=0.3).bfloat16(), features.bfloat16(), mask, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        auto, _ = losses_of(make_model(head, ctc_weight=0.3), features, mask, labels)
    assert low.dtype == auto.dtype == torch.float32 and output.last_hidden_state.dtype == torch.bfloat16
    assert abs(low - exact) < 0.05 * exact and abs(auto - exact) < 0.05 * exact


@pytest.mark.parametrize("head", HEADS)
def test_a_saved_model_loads_strictly(head, tmp_path):
    model = make_model(head, ctc_weight=0.3)
    model.save_pretrained(tmp_path)
    loaded = FastConformerForASR.from_pretrained(tmp_path)
    features, mask = make_inputs()
    with torch.no_grad():
        torch.testing.assert_close(loaded(features, mask).logits, model(features, mask).logits, rtol=0, atol=0)
    assert loaded.config.encoder_fields() == model.config.encoder_fields() and loaded.config.head == head
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("ctc_head.bias")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: ctc_head\.bias"):
        FastConformerForASR.from_pretrained(tmp_path)


def test_a_fresh_head_on_a_trained_encoder(tmp_path):
    source = make_model("ctc")
    source.save_pretrained(tmp_path)
    model = FastConformerForASR.from_pretrained_encoder(tmp_path, {"head": "rnnt", "vocab_size": 31}).eval()
    features, mask = make_inputs()
    with torch.no_grad():
        torch.testing.assert_close(model.encode(features, mask), source.encode(features, mask))
    assert model.joint.head.out_features == 31
    with pytest.raises(ValueError, match="vocab_size"):
        FastConformerForASR.from_pretrained_encoder(tmp_path, {"head": "rnnt"})
    with pytest.raises(ValueError, match="has shape"):
        FastConformerForASR.from_pretrained_encoder(tmp_path, {"vocab_size": 31, "intermediate_size": 64})


def test_a_frozen_encoder_stands_still():
    model = make_model("rnnt")
    model.freeze_encoder()
    model.train()
    before = copy.deepcopy(model.encoder.state_dict())
    (features, mask), labels = make_inputs(), make_labels()
    losses_of(model, features, mask, labels)[0].backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert model.joint.head.weight.grad.any() and not model.encoder.training and model.decoder.training


def test_pooling_reads_the_true_frames():
    model = make_model()
    features, mask = make_inputs()
    with torch.no_grad():
        pooled = model.pool(*model.encode(features, mask))
        alone = model.encode(features[1:2, :71]).states_BTD.mean(1)
    torch.testing.assert_close(pooled[1:2], alone, atol=2e-6, rtol=1e-5)


def test_long_input_is_subsampled_in_pieces_that_make_no_difference(monkeypatch):
    model = make_model()
    features, mask = make_inputs((300, 123))
    whole = model.encode(features, mask)
    monkeypatch.setattr("models.fastconformer.modeling_encoder.FRAMES_PER_PIECE", 64)
    pieces = model.encode(features, mask)
    assert FRAMES_PER_PIECE % 16 == 0
    torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=1e-6)


def test_layerdrop_leaves_out_blocks_in_training_only(monkeypatch):
    model = make_model(layerdrop=0.5, **QUIET)
    called = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda *_: called.append(1))
    features, mask = make_inputs()
    model(features, mask)
    assert len(called) == 2
    monkeypatch.setattr(torch, "rand", lambda *_: torch.tensor(0.1))
    model.train()(features, mask)
    assert len(called) == 2
