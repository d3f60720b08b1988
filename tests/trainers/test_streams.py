"""Streams in batches: every row once a pass for any division, and a place from which exactly the rest follows."""

import json
import random
from collections import Counter
from itertools import chain

import pytest
import torch
from datasets import Dataset
from tiny_tspc import make_p2t, make_rows, make_s2p, p2t_collator, s2p_collator
from transformers import Seq2SeqTrainingArguments

from data_scripts.mixtures import mix
from trainers import streams
from trainers.datasets_map import with_phoneme_counts
from trainers.seq2seq import SpeechSeq2SeqTrainer
from trainers.streams import StreamBatches


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(streams, "WINDOW_ROWS", 20)
    monkeypatch.setattr(streams, "BLOCK_ROWS", 4)


def corpus(name, count, num_shards):
    rows = {"id": [f"{name}{i}" for i in range(count)], "duration_s": [1 + (i * 37 % 50) / 10 for i in range(count)]}
    return Dataset.from_dict(rows).to_iterable_dataset(num_shards=num_shards)


def mixture(num_shards):
    return mix([corpus("a", 60, num_shards), corpus("b", 60, num_shards)], [1, 2], seed=0).rows


def run(rows, stop, state=None, start=0, **division):
    """The batches of one rank, as (id, pass) pairs, and its state after each."""
    batches = StreamBatches(rows, budget=20.0, length_column="duration_s", seed=1, **division)
    if state is not None:
        batches.load_state_dict(json.loads(json.dumps(state)))
    places, seen, states = dict(batches.places), [], []
    for number in range(start, stop):
        batch = batches.__getitems__([number])
        lengths = [row["duration_s"] for row in batch]
        assert len(batch) == 1 or len(batch) * max(lengths) <= 20.0
        places[batch.place["lane"]] = batch.place
        seen.append([(row["id"], row["epoch"]) for row in batch])
        states.append(batches.state_dict(places))
    return seen, states


DIVISIONS = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]


@pytest.mark.parametrize("num_shards", [1, 2, 6])
@pytest.mark.parametrize(("world_size", "num_lanes"), DIVISIONS)
def test_every_row_once_in_each_pass(small_windows, num_shards, world_size, num_lanes):
    seen = Counter()
    for rank in range(world_size):
        division = {"rank": rank, "world_size": world_size, "num_lanes": num_lanes}
        seen.update(pair for batch in run(corpus("a", 47, num_shards), 60, **division)[0] for pair in batch)
    first = {pair: count for pair, count in seen.items() if pair[1] < 3}
    assert first == {(f"a{i}", epoch): 1 for i in range(47) for epoch in range(3)}


@pytest.mark.parametrize("num_shards", [1, 6])
@pytest.mark.parametrize(("world_size", "num_lanes"), DIVISIONS)
@pytest.mark.parametrize("make", [mixture, lambda num_shards: corpus("a", 47, num_shards)], ids=["mixture", "plain"])
def test_the_rest_follows_from_any_place(small_windows, make, num_shards, world_size, num_lanes):
    division = {"rank": world_size - 1, "world_size": world_size, "num_lanes": num_lanes}
    straight, states = run(make(num_shards), 50, **division)
    for stop in random.Random(num_shards + world_size).sample(range(1, 50), 4):
        assert run(make(num_shards), 50, states[stop - 1], stop, **division)[0] == straight[stop:]
    # Without a place everything is read again, and nothing else is lost.
    assert run(make(num_shards), 50, None, 45, **division)[0] == straight[45:]


def test_other_seeds_passes_and_lanes_have_other_orders(small_windows):
    def order(**changes):
        batches = StreamBatches(corpus("a", 20, 1), **{"max_batch_size": 4, "seed": 1} | changes)
        return [[row["id"] for row in batches.__getitems__([n])] for n in range(10)]

    assert order() == order() != order(seed=2)
    first, second = order()[:5], order()[5:]
    assert first != second and sorted(chain(*first)) == sorted(chain(*second))


def test_little_padding_within_a_window():
    batches = StreamBatches(corpus("a", 5000, 8), budget=120.0, length_column="duration_s", seed=0)
    lengths = [[row["duration_s"] for row in batches.__getitems__([number])] for number in range(100)]
    assert sum(map(sum, lengths)) / sum(len(batch) * max(batch) for batch in lengths) > 0.92


def test_a_place_of_another_division_is_refused():
    _, states = run(corpus("a", 40, 4), 3)
    for division, message in (({"num_lanes": 2}, "1 data loader workers"), ({"world_size": 2}, "1 processes")):
        batches = StreamBatches(corpus("a", 40, 4), max_batch_size=4, **division)
        with pytest.raises(ValueError, match=message):
            batches.load_state_dict(states[-1])


def test_bad_streams_are_named():
    with pytest.raises(ValueError, match="no rows"):
        run(corpus("a", 1, 1), 2, rank=1, world_size=2)
    with pytest.raises(ValueError, match="'x' of the stream has no duration_s"):
        run(Dataset.from_dict({"id": ["x"]}).to_iterable_dataset(), 1)


def trainer_of(folder, rows, collate, model=None, *, budget=None, **changes):
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    args = Seq2SeqTrainingArguments(**settings | changes)
    model = model or make_s2p(dropout=0.1)
    return SpeechSeq2SeqTrainer(model=model, args=args, data_collator=collate, train_dataset=rows, batch_budget=budget)


class Watching:
    """A collator that remembers its rows."""

    def __init__(self, collate):
        self.collate, self.seen = collate, []

    def __call__(self, rows):
        self.seen.append([(row["id"], row["epoch"]) for row in rows])
        return self.collate(rows)


def test_training_sees_every_row_in_every_pass(tmp_path):
    rows, collate = make_rows(24), Watching(s2p_collator())
    stream = rows.to_iterable_dataset(num_shards=3)
    trainer_of(tmp_path, stream, collate, max_steps=6).train()
    expected = [(row_id, epoch) for row_id in rows["id"] for epoch in (0, 1)]
    assert sorted(chain(*collate.seen)) == sorted(expected)
    with pytest.raises(ValueError, match="max_steps"):
        trainer_of(tmp_path, stream, collate, max_steps=-1).train()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "map"])
def test_a_resumed_run_repeats_nothing(small_windows, tmp_path, streamed, workers):
    read = []

    def watched(row):
        read.append(row["id"])
        return row

    def train(folder, resume=None):
        torch.manual_seed(1)
        rows, collate = make_rows(60), Watching(s2p_collator())
        rows = rows.to_iterable_dataset(num_shards=4).map(watched, features=rows.features) if streamed else rows
        options = {"dataloader_num_workers": workers, "save_strategy": "steps", "save_steps": 5, "max_steps": 12}
        options |= {"gradient_accumulation_steps": 2, "seed": 4}
        trainer = trainer_of(folder, rows, collate, budget=1.2, **options)
        trainer.train(resume_from_checkpoint=resume)
        losses = [(entry["loss"], entry["epoch"]) for entry in trainer.state.log_history if "loss" in entry]
        weights = torch.cat([value.flatten() for value in trainer.model.state_dict().values()])
        return losses, weights, collate.seen

    losses, weights, seen = train(tmp_path)
    state = json.loads((tmp_path / "checkpoint-10" / "data_state.json").read_text(encoding="utf-8"))
    read.clear()
    again, same, after = train(tmp_path, resume=str(tmp_path / "checkpoint-10"))
    assert again == losses and torch.equal(same, weights)
    if streamed:
        # A window and what is read ahead of it, not the 20 batches before.
        assert state["lanes"]["0"]["num_batches"] == 20 // max(1, workers) and len(read) <= 60
    else:
        assert state["epoch"] >= 1
    if not workers:
        assert after == seen[20:]


def test_streamed_text_is_batched_by_phonemes(tmp_path):
    rows = make_rows(40).remove_columns(["audio", "duration_s"])
    collate = Watching(p2t_collator())
    counted = with_phoneme_counts(rows.to_iterable_dataset(num_shards=2), collate.collate.phonemes)
    trainer = trainer_of(tmp_path, counted, collate, make_p2t(), budget=60.0, max_steps=4)
    trainer.length_column = "num_phonemes"
    trainer.train()
    lengths = dict(zip(rows["id"], with_phoneme_counts(rows, collate.collate.phonemes)["num_phonemes"], strict=True))
    for batch in collate.seen:
        assert len(batch) * max(lengths[row_id] for row_id, _ in batch) <= 60
