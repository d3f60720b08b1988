"""Transducer losses of batches: utterances do not see each other; what cannot be computed costs nobody anything."""

import math

import pytest
import torch
from transducer_kit import D, V, joiner_of, make_case

from models.zipformer.transducer_loss import (
    Targets,
    computable,
    ctc_loss,
    full_loss,
    keep_finite,
    prune_starts,
    pruned_loss,
    simple_loss,
)


def every_loss(encoder, predictor, output, targets):
    """Losses and gradients of all kinds, by name."""
    am, lm = encoder @ output.T, predictor @ output.T
    simple = simple_loss(am, lm, targets, lm_scale=0.25)
    starts = prune_starts(simple, targets, 3)
    joiner = joiner_of(output)
    losses = {
        "full": full_loss(encoder, predictor, joiner, targets, chunk_elements=200),
        "simple": simple,
        "pruned": pruned_loss(encoder, predictor, joiner, targets, starts, 3),
        "ctc": ctc_loss(am, targets),
    }
    return {
        name: (loss, torch.autograd.grad(loss.losses_B.sum(), (encoder, predictor, output), allow_unused=True))
        for name, loss in ((name, loss) for name, loss in losses.items())
    }


@pytest.fixture
def retain(monkeypatch):
    """Several losses share a graph in these tests."""
    stock = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: stock(*a, **k, retain_graph=True))


def test_a_batch_is_its_utterances_one_by_one(retain):
    frames, labels = (9, 4, 6, 1), (4, 3, 1, 1)
    encoder, predictor, output, targets = make_case(frames, labels, seed=6)
    together = every_loss(encoder, predictor, output, targets)
    for b, (T, U) in enumerate(zip(frames, labels, strict=True)):
        alone = [x[b : b + 1].detach().requires_grad_() for x in (encoder[:, :T], predictor[:, : U + 1])]
        own = Targets.build(targets.labels_BU[b : b + 1, :U], torch.tensor([T]), blank=0)
        for name, (loss, grads) in every_loss(*alone, output, own).items():
            batch_loss, batch_grads = together[name]
            torch.testing.assert_close(batch_loss.losses_B[b], loss.losses_B[0], rtol=0, atol=1e-10)
            torch.testing.assert_close(batch_grads[0][b, :T], grads[0][0], rtol=0, atol=1e-10)
            assert batch_grads[0][b, T:].eq(0).all()


def spoil_nan(encoder, predictor, targets):
    encoder[1, 2, 0] = math.nan


def spoil_infinite(encoder, predictor, targets):
    predictor[1, 1, 3] = math.inf


def spoil_nothing(encoder, predictor, targets):
    pass


@pytest.mark.parametrize(
    "spoil, frames, labels, ok",
    [
        (spoil_nan, (6, 5, 4), (2, 3, 1), {}),
        (spoil_infinite, (6, 5, 4), (2, 3, 1), {}),
        (spoil_nothing, (6, 0, 4), (2, 3, 1), {}),
        (spoil_nothing, (6, 5, 4), (2, 0, 1), {}),
        # Several labels in a frame are a path of the lattice, but not of CTC, and a band climbs by two rows at most.
        (spoil_nothing, (6, 2, 4), (2, 3, 1), dict.fromkeys(("full", "simple", "pruned"), (True, True, True))),
        (spoil_nothing, (6, 1, 4), (2, 3, 1), dict.fromkeys(("full", "simple"), (True, True, True))),
    ],
    ids=["NaN", "inf", "no frames", "no labels", "more labels than frames", "more labels than the band can climb"],
)
def test_what_cannot_be_computed_is_zero_and_leaves_the_rest_alone(spoil, frames, labels, ok, retain):
    encoder, predictor, output, targets = make_case(frames, labels, seed=7)
    spoilt = [x.detach().clone() for x in (encoder, predictor)]
    spoil(*spoilt, targets)
    spoilt = [x.requires_grad_() for x in spoilt]
    clean = every_loss(encoder, predictor, output, targets)
    # As a model does before it projects what it would compute losses of.
    lengths = targets.frame_lengths_B, targets.label_lengths_B + 1
    usable = targets.ok_B
    kept = []
    for states, length in zip(spoilt, lengths, strict=True):
        states, usable = keep_finite(states, length, usable)
        kept.append(states)
    for name, (loss, _) in every_loss(*kept, output, targets.only(usable)).items():
        expected_ok = ok.get(name, (True, False, True))
        assert tuple(loss.ok_B.tolist()) == expected_ok, name
        grads = torch.autograd.grad(loss.losses_B.sum(), (*spoilt, output), allow_unused=True)
        for b in range(3):
            if expected_ok[b]:
                torch.testing.assert_close(loss.losses_B[b], clean[name][0].losses_B[b], rtol=0, atol=1e-10)
                torch.testing.assert_close(grads[0][b], clean[name][1][0][b], rtol=0, atol=1e-10)
            else:
                assert loss.losses_B[b] == 0
                assert all(grad is None or grad[b].eq(0).all() for grad in grads[:2]), name
        assert torch.isfinite(grads[2]).all(), name


@pytest.mark.parametrize("spoil", [spoil_nan, spoil_infinite], ids=["NaN", "inf"])
def test_states_that_are_not_finite_never_reach_the_joiner(spoil):
    encoder, predictor, output, targets = make_case((6, 5, 4), (2, 3, 1), seed=8)
    spoilt = [x.detach().clone() for x in (encoder, predictor)]
    spoil(*spoilt, targets)
    spoilt = [x.requires_grad_() for x in spoilt]
    for loss in (
        full_loss(*spoilt, joiner_of(output), targets),
        pruned_loss(*spoilt, joiner_of(output), targets, torch.zeros(3, 6, dtype=torch.long), 4),
    ):
        assert loss.ok_B.tolist() == [True, False, True] and loss.losses_B[1] == 0
        grads = torch.autograd.grad(loss.losses_B.sum(), (*spoilt, output))
        assert all(torch.isfinite(grad).all() for grad in grads) and grads[0][1].eq(0).all()


def test_logits_that_overflow_cost_their_utterance_alone():
    encoder, predictor, output, targets = make_case((6, 5, 4), (2, 3, 1), seed=9)

    def overflowing(states, predictions):
        logits = joiner_of(output)(states, predictions)
        # The second utterance's states are marked.
        return torch.where(states[..., :1].abs() > 50, logits * math.inf, logits)

    clean = full_loss(encoder, predictor, joiner_of(output), targets).losses_B
    marked = encoder.detach().clone()
    marked[1, :, 0] = 100.0
    marked.requires_grad_()
    found = full_loss(marked, predictor, overflowing, targets)
    assert found.ok_B.tolist() == [True, False, True] and found.losses_B[1] == 0
    torch.testing.assert_close(found.losses_B[::2], clean[::2], rtol=0, atol=1e-10)


def test_a_batch_without_anything_to_compute_still_has_gradients(retain):
    encoder, predictor, output, targets = make_case((3, 2), (1, 2), seed=10)
    for name, (loss, grads) in every_loss(encoder, predictor, output, targets.only(torch.tensor([False] * 2))).items():
        assert loss.losses_B.tolist() == [0.0, 0.0] and not loss.ok_B.any(), name
        # All ranks must bring a gradient for every parameter.
        assert grads[2] is not None and grads[2].eq(0).all(), name


def test_keep_finite_looks_at_frames_and_not_at_padding():
    hidden = torch.randn(3, 4, 2)
    hidden[0, 3] = math.nan
    hidden[1, 2, 1] = math.inf
    expected = hidden.clone()
    expected[0, 3], expected[1], expected[2] = 0.0, 0.0, 0.0
    kept, ok = keep_finite(hidden, torch.tensor([3, 4, 4]), torch.tensor([True, True, False]))
    assert ok.tolist() == [True, False, False] and torch.equal(kept, expected)


@pytest.mark.parametrize(
    "labels, length, frames, possible",
    [((1, 2, 3), 3, 3, True), ((1, 1, 3), 3, 3, False), ((1, 1, 3), 3, 4, True), ((1, 1, 3), 1, 1, True)]
    + [((1, 2, 3), 3, 2, False), ((1, 2, 3), 0, 3, False), ((1, 2, 3), 2, 0, False)],
)
def test_ctc_needs_a_frame_more_between_equal_labels(labels, length, frames, possible):
    arguments = torch.tensor([labels]), torch.tensor([length]), torch.tensor([frames])
    assert computable(*arguments, ctc=True).tolist() == [possible]
    targets = Targets.build(arguments[0], arguments[2], blank=0, label_lengths_B=arguments[1])
    loss = ctc_loss(torch.randn(1, 5, V), targets)
    assert loss.ok_B.tolist() == [possible] and (loss.losses_B.item() > 0) == possible


def test_labels_may_be_padded_with_minus_100():
    labels = torch.tensor([[3, 4, -100], [2, -100, -100]])
    targets = Targets.build(labels, torch.tensor([4, 4]), blank=6)
    assert targets.label_lengths_B.tolist() == [2, 1]
    assert targets.labels_BU.tolist() == [[3, 4, 6], [2, 6, 6]]


def test_losses_are_float32_under_autocast():
    encoder, predictor, _, targets = make_case((9, 5, 3), (4, 3, 2), dtype=torch.float32)
    output = torch.nn.Linear(D, V)

    def joiner(encoder, predictor):
        return output(torch.tanh(encoder + predictor))

    def losses():
        am, lm = output(encoder), output(predictor)
        simple = simple_loss(am, lm, targets, lm_scale=0.25)
        pruned = pruned_loss(encoder, predictor, joiner, targets, prune_starts(simple, targets, 3), 3)
        return simple, pruned, full_loss(encoder, predictor, joiner, targets), ctc_loss(am, targets)

    exact = losses()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = losses()
    for found, expected in zip(rough, exact, strict=True):
        assert found.losses_B.dtype == torch.float32
        torch.testing.assert_close(found.losses_B, expected.losses_B, rtol=0.03, atol=0.03)
    ours, theirs = (
        torch.autograd.grad(sum(loss.losses_B.sum() for loss in each), output.weight)[0] for each in (rough, exact)
    )
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999
