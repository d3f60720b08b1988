"""TDT loss: against transformers', against the sum over all paths, and what it does with hopeless utterances."""

import itertools

import pytest
import torch
from transformers.loss.loss_tdt import tdt_loss as stock_loss

from models.fastconformer.tdt_loss import tdt_loss
from models.fastconformer.transducer_loss import Targets

BLANK, VOCABULARY, WIDTH = 2, 7, 5


def inputs(frames=(13, 9, 6), labels=(4, 5, 2), durations=(0, 1, 2, 3, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    encoder = torch.randn(len(frames), max(frames), WIDTH, **options).requires_grad_()
    predictor = torch.randn(len(frames), max(labels) + 1, WIDTH, **options).requires_grad_()
    weight = torch.randn(WIDTH, VOCABULARY + len(durations), **options).requires_grad_()
    tokens = torch.randint(3, VOCABULARY, (len(frames), max(labels)), generator=generator)
    tokens = tokens.masked_fill(torch.arange(max(labels)) >= torch.tensor(labels)[:, None], -100)
    targets = Targets.build(tokens, torch.tensor(frames), blank=BLANK)
    return encoder, predictor, weight, targets


def joiner_of(weight):
    return lambda encoder, predictor: torch.tanh(encoder + predictor) @ weight


def by_paths(logits, labels, frames, durations):
    """Sum over every sequence of arcs from (0, 0) to (frames, U)."""
    tokens = logits[..., :VOCABULARY].log_softmax(-1)
    lasting = logits[..., VOCABULARY:].log_softmax(-1)

    def total(t, u):
        found = []
        for i, d in enumerate(durations):
            if d > 0 and t + d == frames and u == len(labels):
                found.append(tokens[t, u, BLANK] + lasting[t, u, i])
            if t + d < frames:
                if d > 0:
                    found.append(tokens[t, u, BLANK] + lasting[t, u, i] + total(t + d, u))
                if u < len(labels):
                    found.append(tokens[t, u, labels[u]] + lasting[t, u, i] + total(t + d, u + 1))
        return torch.stack(found).logsumexp(0) if found else torch.tensor(-torch.inf, dtype=torch.float64)

    return -total(0, 0)


@pytest.mark.parametrize("durations", [(0, 1), (0, 1, 2), (1, 2), (0, 2, 3)])
def test_it_is_the_sum_over_all_paths(durations):
    encoder, predictor, weight, targets = inputs((4, 3), (2, 1), durations)
    losses, ok = tdt_loss(encoder, predictor, joiner_of(weight), targets, durations)
    logits = joiner_of(weight)(encoder[:, :, None], predictor[:, None])
    for row, (frames, labels) in enumerate(((4, 2), (3, 1))):
        expected = by_paths(logits[row], targets.labels_BU[row, :labels], frames, durations)
        assert ok[row] == expected.isfinite()
        torch.testing.assert_close(losses[row], torch.where(expected.isfinite(), expected, 0).float())


@pytest.mark.parametrize("chunk_elements", [1, 10**9])
@pytest.mark.parametrize("durations", [(0, 1, 2, 3, 4), (1, 2)])
def test_loss_and_gradients_are_those_of_transformers(durations, chunk_elements):
    encoder, predictor, weight, targets = inputs(durations=durations)
    joiner = joiner_of(weight)
    losses, ok = tdt_loss(encoder, predictor, joiner, targets, durations, chunk_elements=chunk_elements)
    got = torch.autograd.grad(losses.sum(), (encoder, predictor, weight))
    logits = joiner(encoder[:, :, None], predictor[:, None])
    expected = stock_loss(
        logits[..., :VOCABULARY],
        logits[..., VOCABULARY:],
        targets.labels_BU,
        targets.frame_lengths_B,
        targets.label_lengths_B,
        BLANK,
        list(durations),
        reduction="none",
    )
    assert ok.all()
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    if durations[0] == 0:  # without a duration 0, nodes that nothing reaches make its gradient NaN
        wanted = torch.autograd.grad(expected.sum(), (encoder, predictor, weight))
        torch.testing.assert_close(got, wanted, atol=2e-5, rtol=2e-4)
    assert all(gradient.isfinite().all() for gradient in got)


@pytest.mark.parametrize("durations", [(0, 1, 2, 3, 4), (1, 2), (0, 2)])
def test_gradients_are_those_of_finite_differences(durations):
    encoder, predictor, weight, targets = inputs((5, 4), (2, 2), durations)

    def loss(encoder, predictor, weight):
        from models.fastconformer.tdt_loss import _arcs, _log_likelihood

        arcs = _arcs(encoder, predictor, joiner_of(weight), targets, torch.arange(2), len(durations), 10**6)
        return _log_likelihood(*arcs, targets.frame_lengths_B, targets.label_lengths_B, list(durations)).clamp(
            min=-1e6
        )

    assert torch.autograd.gradcheck(loss, (encoder, predictor, weight), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", [("no path",), ("NaN",), ("no labels",), ("NaN", "no path", "no labels")])
def test_hopeless_utterances_have_zero_loss_and_gradient(bad):
    """With durations of 2 and 4 only, an odd number of frames has no path."""
    durations = (2, 4)
    encoder, predictor, weight, targets = inputs((8, 8, 8), (2, 2, 2), durations)
    rows = {"no path": 0, "NaN": 1, "no labels": 2}
    with torch.no_grad():
        if "NaN" in bad:
            encoder[1, 3, 2] = torch.nan
    frames, lengths = targets.frame_lengths_B.clone(), targets.label_lengths_B.clone()
    frames[0] -= int("no path" in bad)
    lengths[2] *= int("no labels" not in bad)
    targets = Targets.build(targets.labels_BU, frames, blank=BLANK, label_lengths_B=lengths)
    losses, ok = tdt_loss(encoder, predictor, joiner_of(weight), targets, durations)
    losses.sum().backward()
    skipped = {rows[name] for name in bad}
    for row, kept in itertools.zip_longest(range(3), ok.tolist()):
        assert kept == (row not in skipped)
        assert (losses[row] > 0) == kept and encoder.grad[row].any() == kept and predictor.grad[row].any() == kept
    assert all(tensor.grad.isfinite().all() for tensor in (encoder, predictor, weight))


def test_it_holds_less_than_the_logits_of_all_nodes():
    encoder, predictor, weight, targets = inputs((60, 60), (20, 20))
    largest = 0

    def joiner(encoder, predictor):
        nonlocal largest
        logits = torch.tanh(encoder + predictor) @ weight
        largest = max(largest, logits.numel())
        return logits

    tdt_loss(encoder, predictor, joiner, targets, (0, 1, 2, 3, 4), chunk_elements=3000)[0].sum().backward()
    assert largest <= 3000 < 2 * 60 * 21 * (VOCABULARY + 5) / 5
