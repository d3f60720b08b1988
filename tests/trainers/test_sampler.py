"""Batches by budget: every row once, equal steps, balanced ranks, a function of seed and epoch."""

import csv
import json
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


@settings(max_examples=20, deadline=None)
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


def dealt(sampler, world_size):
    """What each rank gets of the current epoch, through accelerate."""
    shards = [BatchSamplerShard(sampler, world_size, rank, even_batches=False) for rank in range(world_size)]
    return [list(shard) for shard in shards]


@pytest.mark.parametrize("blocks", [None, range(0, 500, 37)], ids=["any order", "blocks"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_partition_every_epoch(monkeypatch, world_size, blocks):
    monkeypatch.setattr("trainers.sampler.WINDOW_ROWS", 120)
    lengths = lognormal(500)
    sampler = BudgetBatchSampler(lengths, 40.0, world_size=world_size, seed=2, blocks=blocks)
    for epoch in range(6):
        sampler.set_epoch(epoch)
        ranks = dealt(sampler, world_size)
        assert len({len(rank) for rank in ranks}) == 1
        rows = [row for rank in ranks for batch in rank for row in batch]
        assert sorted(rows) == list(range(500))


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(1, 40), st.integers(3, 30), st.integers(0, 30))
def test_blocks_are_a_partition_too(lengths, world_size, block, window, epoch):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("trainers.sampler.WINDOW_ROWS", window)
        sampler = BudgetBatchSampler(lengths, 40.0, world_size=world_size, blocks=range(0, len(lengths), block))
        batches = sampler.batches(epoch)
    assert len(batches) == len(sampler)
    rows = [row for batch in batches for row in batch]
    assert set(rows) == set(range(len(lengths))) and len(rows) == max(len(lengths), len(batches))


def test_blocks_are_read_a_window_at_a_time(monkeypatch):
    monkeypatch.setattr("trainers.sampler.WINDOW_ROWS", 300)
    lengths = lognormal(3000)
    sampler = BudgetBatchSampler(lengths, 60.0, world_size=2, seed=1, blocks=range(0, 3000, 100))
    orders = []
    for epoch in (0, 1):
        order = [{row // 100 for row in batch} for batch in sampler.batches(epoch)]
        # A block is met within one stretch of the epoch: at most its window and the rest that is handed on.
        for block in range(30):
            places = [place for place, blocks in enumerate(order) if block in blocks]
            assert max(places) - min(places) < 2.2 * len(order) / 10
        orders.append(order)
    assert orders[0] != orders[1]
    costs = [len(batch) * lengths[batch].max() for batch in sampler.batches(1)]
    assert lengths.sum() / sum(costs) > 0.92


def test_select_decides_the_rows_of_an_epoch():
    lengths = lognormal(300)

    def select(epoch):
        return np.random.default_rng(epoch).choice(300, 120 + 40 * (epoch == 50), replace=False)

    sampler = BudgetBatchSampler(lengths, 30.0, world_size=2, select=select)
    for epoch in (0, 1, 7, 23, 50):
        batches = sampler.batches(epoch)
        assert len(batches) == len(sampler)
        assert sorted(row for batch in batches for row in batch) == sorted(select(epoch))
        if epoch != 50:  # a third more rows: its budget is stretched
            assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= 30.0 for batch in batches)
    by_count = BudgetBatchSampler(lengths, math.inf, max_batch_size=4, select=select)
    with pytest.raises(ValueError, match="epoch 50 needs 40 batches"):
        by_count.batches(50)
    with pytest.raises(ValueError, match="nothing was selected"):
        BudgetBatchSampler(lengths, 30.0, select=lambda epoch: np.zeros(0, dtype=int))
    twice = BudgetBatchSampler([1.0, 2.0], 4.0, select=lambda epoch: np.array([0, 0, 1]))
    assert sorted(row for batch in twice for row in batch) == [0, 0, 1]


@pytest.mark.parametrize("stop", [0, 1, 17, 39])
def test_state_goes_on_in_the_middle_of_an_epoch(stop):
    def make(**changes):
        return BudgetBatchSampler(lognormal(400), **{"budget": 30.0, "world_size": 2, "seed": 3} | changes)

    sampler = make()
    sampler.set_epoch(4)
    batches = list(sampler)
    state = json.loads(json.dumps(sampler.state_dict(stop)))
    again = make()
    again.load_state_dict(state)
    assert list(again) == batches[stop:] and list(again) == batches
    for changes in ({"budget": 31.0}, {"seed": 4}, {"world_size": 1}, {"select": lambda epoch: np.arange(50)}):
        with pytest.raises(ValueError, match="other rows or batch settings"):
            make(**changes).load_state_dict(state)


# Twentieths of the durations of the FOSD corpus, in seconds.
FOSD_QUANTILES_S = [
    *(0.79, 1.42, 1.63, 1.78, 1.97, 2.11, 2.28, 2.45, 2.62, 2.83, 3.1),
    *(3.353, 3.6, 3.89, 4.3, 4.758, 5.35, 6.02, 7.01, 8.6, 18.25),
]


def waste(lengths, budget, **options):
    """Share of padding in an epoch."""
    sampler = BudgetBatchSampler(lengths, budget, **options)
    lengths = np.asarray(lengths)
    return max(1 - lengths.sum() / sum(len(b) * lengths[b].max() for b in sampler.batches(e)) for e in range(3))


@pytest.mark.parametrize("budget", [60.0, 120.0, 240.0])
def test_padding_on_durations_of_a_corpus(budget):
    places = np.random.default_rng(42).uniform(0, 20, 2344)
    assert waste(np.interp(places, range(21), FOSD_QUANTILES_S), budget) <= 0.08


def test_padding_on_the_real_durations(shared_data):
    with (shared_data / "vi_asr" / "train" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        lengths = [float(row["duration"]) for row in csv.DictReader(file)]
    for budget in (60.0, 120.0, 240.0):
        assert waste(lengths, budget, world_size=2) <= 0.08
    assert waste(lengths, 120.0, blocks=range(0, len(lengths), 500)) <= 0.08
