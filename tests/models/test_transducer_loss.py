"""Transducer losses against their definitions, torchaudio, and values of k2's reference implementation.

golden/fast_rnnt.npz holds inputs and outputs of `fast_rnnt` 1.3, whose C++ was built for that with
`torch.utils.cpp_extension` from its source distribution; everything in float64, stored inputs are exact in float32.
"""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transducer_kit import V, joiner_of, make_case

from models.zipformer.transducer_loss import (
    SimpleLosses,
    Targets,
    computable,
    full_loss,
    prune_starts,
    pruned_loss,
    simple_loss,
)

GOLDEN = Path(__file__).parent / "golden" / "fast_rnnt.npz"


def all_log_probs(encoder, predictor, output):
    return torch.log_softmax(joiner_of(output)(encoder[:, :, None], predictor[:, None]), dim=-1)


def enumerated(log_probs, labels, T, U, inside=lambda t, u: True):
    """-log of the sum over all alignments of one utterance, each written down as the frames of its labels."""
    paths = []
    for label_frames in itertools.combinations_with_replacement(range(T), U):
        score, u, nodes = log_probs.new_zeros(()), 0, []
        for t in range(T):
            while u < U and label_frames[u] == t:
                nodes.append((t, u))
                score, u = score + log_probs[t, u, labels[u]], u + 1
            nodes.append((t, u))
            score = score + log_probs[t, u, 0]
        if all(inside(*node) for node in nodes):
            paths.append(score)
    return -torch.logsumexp(torch.stack(paths), dim=0)


def recursion(log_probs, labels, T, U, inside=lambda t, u: True):
    """The textbook forward recursion, for autograd."""
    alpha = {}
    for t in range(T):
        for u in range(U + 1):
            if not inside(t, u):
                continue
            ways = [log_probs.new_zeros(())] if t == u == 0 else []
            if (t - 1, u) in alpha:
                ways.append(alpha[t - 1, u] + log_probs[t - 1, u, 0])
            if (t, u - 1) in alpha:
                ways.append(alpha[t, u - 1] + log_probs[t, u - 1, labels[u - 1]])
            if ways:
                alpha[t, u] = torch.logsumexp(torch.stack(ways), dim=0)
    return -(alpha[T - 1, U] + log_probs[T - 1, U, 0])


def gradients(loss, tensors):
    return torch.autograd.grad(loss, tensors)


# Exact loss


@pytest.mark.parametrize("frames, labels", [((4, 3, 1), (3, 2, 1)), ((2, 3, 4), (3, 3, 1)), ((1, 1), (1, 3))])
def test_full_loss_is_the_sum_over_all_alignments(frames, labels):
    encoder, predictor, output, targets = make_case(frames, labels)
    found = full_loss(encoder, predictor, joiner_of(output), targets)
    log_probs = all_log_probs(encoder, predictor, output)
    for b, (T, U) in enumerate(zip(frames, labels, strict=True)):
        expected = enumerated(log_probs[b], targets.labels_BU[b], T, U)
        torch.testing.assert_close(found.losses_B[b], expected, rtol=0, atol=1e-10)
    assert found.ok_B.all()


def test_full_loss_and_gradients_equal_torchaudio():
    functional = pytest.importorskip("torchaudio").functional
    frames, labels = (13, 7, 11), (5, 6, 2)
    encoder, predictor, output, targets = make_case(frames, labels, dtype=torch.float32)
    found = full_loss(encoder, predictor, joiner_of(output), targets)
    lengths = [torch.tensor(each, dtype=torch.int32) for each in (frames, labels)]
    logits = joiner_of(output)(encoder[:, :, None], predictor[:, None])
    expected = functional.rnnt_loss(logits, targets.labels_BU.int(), *lengths, blank=0, reduction="none")
    torch.testing.assert_close(found.losses_B, expected, rtol=1e-5, atol=1e-5)
    weights = torch.tensor([1.0, -2.0, 0.5])
    ours = gradients((found.losses_B * weights).sum(), (encoder, predictor, output))
    theirs = gradients((expected * weights).sum(), (encoder, predictor, output))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk_elements", [1, 300, 1 << 22])
@pytest.mark.parametrize("recompute", [True, False])
def test_chunks_change_nothing(chunk_elements, recompute):
    encoder, predictor, output, targets = make_case((9, 4, 6), (4, 5, 1))
    options = {"chunk_elements": chunk_elements, "recompute": recompute}
    found = full_loss(encoder, predictor, joiner_of(output), targets, **options).losses_B
    log_probs = all_log_probs(encoder, predictor, output)
    lengths = zip(targets.frame_lengths_B.tolist(), targets.label_lengths_B.tolist(), strict=True)
    expected = torch.stack([recursion(log_probs[b], targets.labels_BU[b], T, U) for b, (T, U) in enumerate(lengths)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    ours = gradients(found.sum(), (encoder, predictor, output))
    theirs = gradients(expected.sum(), (encoder, predictor, output))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_full_loss_passes_gradcheck():
    encoder, predictor, output, targets = make_case((4, 2), (2, 1))
    assert torch.autograd.gradcheck(
        lambda *inputs: full_loss(*inputs[:2], joiner_of(inputs[2]), targets, chunk_elements=60).losses_B,
        (encoder, predictor, output),
    )


# Simple loss, band and pruned loss


def test_simple_loss_is_that_of_an_additive_joiner():
    torch.manual_seed(1)
    am = torch.randn(2, 4, V, dtype=torch.float64, requires_grad=True)
    lm = torch.randn(2, 3, V, dtype=torch.float64, requires_grad=True)
    labels, frames, lengths = torch.tensor([[2, 2], [5, 1]]), (4, 3), (2, 1)
    targets = Targets.build(labels, torch.tensor(frames), blank=0, label_lengths_B=torch.tensor(lengths))
    found = simple_loss(am, lm, targets)
    log_probs = torch.log_softmax(am[:, :, None] + lm[:, None], dim=-1)
    expected = torch.stack([enumerated(log_probs[b], labels[b], frames[b], lengths[b]) for b in range(2)])
    torch.testing.assert_close(found.losses_B, expected, rtol=0, atol=1e-10)
    ours, theirs = gradients(found.losses_B.sum(), (am, lm)), gradients(expected.sum(), (am, lm))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_smoothing_mixes_log_probabilities():
    torch.manual_seed(2)
    am, lm = torch.randn(1, 3, V, dtype=torch.float64), torch.randn(1, 3, V, dtype=torch.float64)
    labels = torch.tensor([[4, 1]])
    targets = Targets.build(labels, torch.tensor([3]), blank=0)
    found = simple_loss(am, lm, targets, lm_scale=0.25, am_scale=0.1).losses_B
    mean = torch.softmax(lm, -1).mean(1, keepdim=True).log()
    log_probs = (
        0.65 * torch.log_softmax(am[:, :, None] + lm[:, None], -1)
        + 0.25 * torch.log_softmax(lm, -1)[:, None]
        + 0.1 * torch.log_softmax(am + mean, -1)[:, :, None]
    )
    torch.testing.assert_close(found[0], enumerated(log_probs[0], labels[0], 3, 2), rtol=0, atol=1e-10)


def test_simple_loss_passes_gradcheck():
    torch.manual_seed(3)
    am = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    lm = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    targets = Targets.build(torch.tensor([[2, 3], [1, 1]]), torch.tensor([4, 3]), blank=0)
    assert torch.autograd.gradcheck(
        lambda am, lm: simple_loss(am, lm, targets, lm_scale=0.25, am_scale=0.1).losses_B, (am, lm)
    )


def test_pruned_loss_with_the_full_range_is_the_full_loss():
    encoder, predictor, output, targets = make_case((9, 5, 3), (4, 3, 2))
    starts = torch.zeros(3, 9, dtype=torch.long)
    full = full_loss(encoder, predictor, joiner_of(output), targets).losses_B
    for prune_range in (5, 8):
        pruned = pruned_loss(encoder, predictor, joiner_of(output), targets, starts, prune_range).losses_B
        torch.testing.assert_close(pruned, full, rtol=0, atol=1e-10)
    ours, theirs = (gradients(loss.sum(), (encoder, predictor, output)) for loss in (pruned, full))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("recompute", [True, False])
def test_pruned_loss_and_gradients_are_those_of_the_paths_inside_of_the_band(recompute):
    frames, labels, S = (8, 5, 3), (5, 4, 1), 3
    encoder, predictor, output, targets = make_case(frames, labels, seed=4)
    starts = prune_starts(simple_loss(torch.randn(3, 8, V), torch.randn(3, 6, V), targets), targets, S)
    found = pruned_loss(
        encoder, predictor, joiner_of(output), targets, starts, S, chunk_elements=50, recompute=recompute
    ).losses_B
    log_probs = all_log_probs(encoder, predictor, output)
    expected = []
    for b, (T, U) in enumerate(zip(frames, labels, strict=True)):

        def inside(t, u, b=b):
            return starts[b, t] <= u < starts[b, t] + S

        expected.append(recursion(log_probs[b], targets.labels_BU[b], T, U, inside))
        exact = enumerated(log_probs[b], targets.labels_BU[b], T, U, inside)
        torch.testing.assert_close(expected[b], exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-10)
    ours = gradients(found.sum(), (encoder, predictor, output))
    theirs = gradients(torch.stack(expected).sum(), (encoder, predictor, output))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    full = full_loss(encoder, predictor, joiner_of(output), targets).losses_B
    assert (found >= full - 1e-12).all()


def test_pruned_loss_passes_gradcheck():
    encoder, predictor, output, targets = make_case((4, 3), (3, 2), seed=5)
    starts = torch.tensor([[0, 0, 1, 2], [0, 0, 1, 1]])
    assert torch.autograd.gradcheck(
        lambda *inputs: pruned_loss(*inputs[:2], joiner_of(inputs[2]), targets, starts, 2, chunk_elements=30).losses_B,
        (encoder, predictor, output),
    )


def test_posteriors_count_the_arcs_of_an_alignment():
    torch.manual_seed(0)
    targets = Targets.build(torch.tensor([[3, 1, 2], [4, -100, -100]]), torch.tensor([6, 4]), blank=0)
    simple = simple_loss(torch.randn(2, 6, V), torch.randn(2, 4, V), targets)
    # Every frame is left by one blank, every row by one label.
    torch.testing.assert_close(simple.blank_BTN.sum(2), torch.tensor([[1.0] * 6, [1.0] * 4 + [0.0] * 2]))
    torch.testing.assert_close(simple.label_BTN.sum(1), torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.integers(2, 6))
def test_bands_start_at_the_bottom_climb_slowly_and_end_at_the_top(seed, T, U, S):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(1, T + 1, (3,), generator=generator)
    labels = torch.randint(1, U + 1, (3,), generator=generator)
    targets = Targets.build(torch.ones(3, U, dtype=torch.long), frames, blank=0, label_lengths_B=labels)
    label, blank = torch.rand(2, 3, T, U + 1, generator=generator)
    starts = prune_starts(SimpleLosses(label[:, 0, 0], label[:, 0, 0] >= 0, label, blank), targets, S)
    width = min(S, U + 1)
    possible = computable(targets.labels_BU, labels, frames, prune_range=S)
    for b in range(3):
        band, rows = starts[b, : frames[b]].tolist(), int(labels[b]) + 1
        assert band[0] == 0 and min(band) >= 0 and max(band) <= max(rows - width, 0)
        assert all(0 <= after - before <= S - 1 for before, after in itertools.pairwise(band))
        assert bool(possible[b]) == (int(labels[b]) <= (S - 1) * int(frames[b]))
        if possible[b]:
            assert band[-1] == max(rows - width, 0)


def test_a_band_of_one_row_is_refused():
    targets = Targets.build(torch.tensor([[1]]), torch.tensor([2]), blank=0)
    with pytest.raises(ValueError, match="prune_range must be at least 2, got 1"):
        prune_starts(simple_loss(torch.rand(1, 2, V), torch.rand(1, 2, V), targets), targets, 1)


def test_losses_band_and_gradients_equal_fast_rnnt():
    golden = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN).items()}
    am, lm, encoder, predictor, output = (
        golden[name].double().requires_grad_() for name in ("am", "lm", "encoder", "predictor", "output")
    )
    labels, frames, lengths = golden["labels"], golden["frame_lengths"], golden["label_lengths"]
    targets = Targets.build(labels, frames, blank=0, label_lengths_B=lengths)
    torch.testing.assert_close(simple_loss(am, lm, targets).losses_B, golden["simple"], rtol=0, atol=1e-9)
    smoothed = simple_loss(am, lm, targets, lm_scale=0.25)
    torch.testing.assert_close(smoothed.losses_B, golden["smoothed"], rtol=0, atol=1e-9)
    whole = Targets.build(labels, torch.full_like(frames, am.shape[1]), blank=0)
    both = simple_loss(am, lm, whole, lm_scale=0.25, am_scale=0.15).losses_B
    torch.testing.assert_close(both, golden["smoothed_both_full_length"], rtol=0, atol=1e-9)
    starts = prune_starts(smoothed, targets, 3)
    assert torch.equal(starts, golden["starts"])
    pruned = pruned_loss(encoder, predictor, joiner_of(output), targets, starts, 3).losses_B
    torch.testing.assert_close(pruned, golden["pruned"], rtol=0, atol=1e-9)
    for name, found in zip(
        ("encoder", "predictor", "output"), gradients(pruned.sum(), (encoder, predictor, output)), strict=True
    ):
        torch.testing.assert_close(found, golden[f"pruned_grad_{name}"], rtol=0, atol=1e-9)
