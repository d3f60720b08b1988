"""Batches by budget: every row once, equal steps, balanced ranks, a function of seed and epoch."""

import math

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.sampler import BudgetBatchSampler

LENGTHS = st.lists(st.floats(0.1, 30.0), min_size=1, max_size=120)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.floats(1.0, 90.0), st.integers(1, 5), st.integers(0, 3), st.booleans())
def test_every_epoch_is_a_partition_within_the_budget(lengths, budget, world_size, epoch, shuffle):
    sampler = BudgetBatchSampler(lengths, budget, world_size=world_size, seed=3, shuffle=shuffle)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler) and len(batches) % world_size == 0
    rows = [row for batch in batches for row in batch]
    assert set(rows) == set(range(len(lengths)))
    # Rows are repeated only where there are fewer rows than batches.
    assert len(rows) == max(len(lengths), len(batches))
    assert len(rows) - len(lengths) < world_size
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(0, 20))
def test_number_of_batches_does_not_change_between_epochs(lengths, world_size, epoch):
    sampler = BudgetBatchSampler(lengths, 40.0, world_size=world_size)
    assert len(sampler.batches(epoch)) == len(sampler)


def lognormal(count, seed=0):
    return np.clip(np.random.default_rng(seed).lognormal(1.2, 0.5, count), 0.4, 20.0)


def test_order_depends_on_seed_and_epoch_alone():
    first, again = (BudgetBatchSampler(lognormal(200), 30.0, world_size=2, seed=9) for _ in range(2))
    again.set_epoch(7)
    list(again)
    again.set_epoch(0)
    assert list(first) == list(again)
    again.set_epoch(1)
    assert list(first) != list(again)
    assert list(first) != list(BudgetBatchSampler(lognormal(200), 30.0, world_size=2, seed=10))


def test_batch_mates_change_between_epochs():
    sampler = BudgetBatchSampler(lognormal(400), 30.0)
    pairs = [
        {frozenset((a, b)) for batch in sampler.batches(e) for a in batch for b in batch if a != b} for e in (0, 1)
    ]
    assert len(pairs[0] & pairs[1]) < 0.5 * len(pairs[0])


def test_little_padding_and_balanced_ranks():
    lengths = lognormal(5000)
    sampler = BudgetBatchSampler(lengths, 120.0, world_size=4)
    costs = np.array([len(batch) * lengths[batch].max() for batch in sampler])
    assert lengths.sum() / costs.sum() > 0.88
    steps = costs.reshape(-1, 4)
    # What ranks lose waiting for the slowest one.
    assert steps.mean() / steps.max(1).mean() > 0.98


def test_steps_are_the_same_for_any_division_of_the_global_batch():
    one = BudgetBatchSampler(lognormal(100), 20.0, world_size=4, seed=1)
    ranks = [BatchSamplerShard(one, num_processes=2, process_index=rank, even_batches=False) for rank in range(2)]
    dealt = [list(rank) for rank in ranks]
    assert len(dealt[0]) == len(dealt[1]) == len(ranks[0]) == len(one) // 2
    assert [batch for pair in zip(*dealt, strict=True) for batch in pair] == list(one)


def test_long_rows_are_alone_and_count_alone_works():
    assert [0] in list(BudgetBatchSampler([50.0, 1.0, 1.0], 10.0))
    sizes = [len(batch) for batch in BudgetBatchSampler([1.0] * 10, math.inf, max_batch_size=4, shuffle=False)]
    assert sorted(sizes) == [2, 4, 4]


def test_fewer_rows_than_ranks_repeats_them(caplog):
    batches = list(BudgetBatchSampler([1.0, 2.0], 10.0, world_size=5))
    assert len(batches) == 5 and {row for batch in batches for row in batch} == {0, 1}
    assert "3 repeated" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": [], "budget": 1.0}, "empty"),
        ({"lengths": [1.0, float("nan")], "budget": 1.0}, "row 1"),
        ({"lengths": [1.0], "budget": 0.0}, "budget"),
        ({"lengths": [1.0], "budget": math.inf}, "max_batch_size"),
        ({"lengths": [1.0], "budget": 1.0, "world_size": 0}, "world_size"),
    ],
)
def test_refuses_what_cannot_be_batched(arguments, message):
    with pytest.raises(ValueError, match=message):
        BudgetBatchSampler(**arguments)
