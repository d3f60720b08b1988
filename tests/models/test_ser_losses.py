"""Losses of the emotion classifiers: against naive loops, across processes, and on batches that teach nothing."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ser import cross_entropy_sum, supervised_contrastive_sum

LOSSES = Path(__file__).resolve().parents[2] / "models" / "ser" / "losses_ser.py"


def naive_supcon(rows, labels, temperature):
    """Khosla et al., equation 2, one anchor at a time; (sum, skipped)."""
    known = [i for i, label in enumerate(labels) if label != -100]
    total, skipped = torch.zeros(()), 0
    for i in known:
        positives = [p for p in known if p != i and labels[p] == labels[i]]
        if not positives or len({labels[j] for j in known}) == 1:
            skipped += 1
            continue
        others = [math.exp(float(rows[i] @ rows[a]) / temperature) for a in known if a != i]
        total += sum(
            -math.log(math.exp(float(rows[i] @ rows[p]) / temperature) / sum(others)) for p in positives
        ) / len(positives)
    return total, skipped


def unit(count, seed=0, width=6):
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([-100, 0, 1, 2]), min_size=1, max_size=9), st.sampled_from([0.07, 0.5, 2.0]))
def test_supcon_is_what_a_loop_computes(labels, temperature):
    rows = unit(len(labels), seed=len(labels))
    loss, skipped = supervised_contrastive_sum(rows, torch.tensor(labels), temperature)
    expected, expected_skipped = naive_supcon(rows, labels, temperature)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)
    assert int(skipped) == expected_skipped


@pytest.mark.parametrize("labels", [[1, 1, 1], [0], [0, 1, 2], [-100, -100], [2, -100, 2]])
def test_batches_that_teach_nothing_give_exactly_zero(labels):
    rows = unit(len(labels)).requires_grad_()
    loss, skipped = supervised_contrastive_sum(rows, torch.tensor(labels), 0.07)
    loss.backward()
    assert loss.item() == 0.0 and rows.grad is not None and not rows.grad.any()
    assert int(skipped) == sum(label != -100 for label in labels)


def test_supcon_has_the_right_gradient():
    labels = torch.tensor([0, 1, 0, 2, 1, -100])
    rows = unit(6).double().requires_grad_()
    # In double precision the cast to float32 would hide the gradient from finite differences.
    from models.ser.losses_ser import anchor_terms

    assert torch.autograd.gradcheck(lambda x: anchor_terms(x[:5], labels[:5], 0.3)[0], (rows,))


def test_identical_projections_stay_finite():
    rows = torch.ones(4, 3).div(math.sqrt(3)).requires_grad_()
    loss, _ = supervised_contrastive_sum(rows, torch.tensor([0, 0, 1, 1]), 0.01)
    loss.backward()
    assert loss.isfinite() and rows.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    rows = unit(6)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    loss, _ = supervised_contrastive_sum(rows.bfloat16(), labels, 0.07)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, supervised_contrastive_sum(rows, labels, 0.07)[0], atol=1.0, rtol=0.05)
    assert cross_entropy_sum(torch.randn(2, 3).bfloat16(), torch.tensor([0, 2])).dtype == torch.float32


def test_cross_entropy_with_weights_and_smoothing():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels, weights, smoothing = torch.tensor([0, 2, -100, 1]), [0.5, 1.0, 2.0], 0.2
    expected = 0.0
    for row, label in zip(logits.log_softmax(1), labels.tolist(), strict=True):
        if label == -100:
            continue
        expected -= (1 - smoothing) * weights[label] * row[label]
        expected -= smoothing / 3 * sum(weights[c] * row[c] for c in range(3))
    torch.testing.assert_close(cross_entropy_sum(logits, labels, weights, smoothing), expected)
    assert cross_entropy_sum(logits, torch.full((4,), -100)).item() == 0.0


WORKER = """
import importlib.util, sys
import torch
from torch import distributed
spec = importlib.util.spec_from_file_location("losses_ser", {path!r})  # needs torch alone
losses = importlib.util.module_from_spec(spec)
spec.loader.exec_module(losses)
rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
rows = torch.nn.functional.normalize(torch.randn(7, 6, generator=torch.Generator().manual_seed(0)), dim=1)
for case, labels in enumerate({cases}):
    labels = torch.tensor(labels)
    own = slice(0, 3) if rank == 0 else slice(3, 7)  # ranks with different numbers of utterances
    mine = rows[own].clone().requires_grad_()
    loss, skipped = losses.supervised_contrastive_sum(mine, labels[own], 0.2, gather=True)
    loss.backward()
    torch.save((loss.detach(), skipped, mine.grad), store + f".{{case}}.{{rank}}")
distributed.destroy_process_group()
"""
CASES = [[0, 1, 2, 0, 1, 1, -100], [0, 0, 0, 0, 0, 0, 0], [-100, -100, -100, 0, 1, 0, 1], [0, 1, 2, 2, 1, 0, 0]]


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(path=str(LOSSES), cases=CASES))
    store = tmp_path / "store"
    workers = [subprocess.Popen([sys.executable, script, str(rank), store]) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    rows = torch.nn.functional.normalize(torch.randn(7, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    for case, labels in enumerate(CASES):
        whole = rows.clone().requires_grad_()
        loss, skipped = supervised_contrastive_sum(whole, torch.tensor(labels), 0.2)
        loss.backward()
        parts = [torch.load(f"{store}.{case}.{rank}", weights_only=True) for rank in range(2)]
        torch.testing.assert_close(parts[0][0] + parts[1][0], loss.detach())
        assert int(parts[0][1] + parts[1][1]) == int(skipped)
        torch.testing.assert_close(torch.cat([parts[0][2], parts[1][2]]), whole.grad)
