"""Batches of a Trainer from shards and mixtures, in any workers: exact, resumable, no waiting, no leaks."""

import gc
import json
import os
import time

import numpy as np
import psutil
import pytest
import torch
from tiny_tspc import make_rows, make_s2p, s2p_collator
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainingArguments

from data_scripts import shards
from data_scripts.mixtures import Passes
from data_scripts.schema import FEATURES
from data_scripts.shards import ShardRows
from data_scripts.tables import table_from_rows
from trainers.datasets_map import EpochRows
from trainers.loading import BudgetBatches
from trainers.sampler import BudgetBatchSampler
from trainers.seq2seq import SpeechSeq2SeqTrainer


@pytest.fixture
def files(tmp_path):
    """Sixty rows in three shards, row groups of seven."""
    paths = []
    for number in range(3):
        rows = make_rows(20, start=20 * number)
        full = [{**dict.fromkeys(FEATURES), **row, "emotion": None} for row in rows]
        paths.append(str(tmp_path / f"train-{number:05d}.parquet"))
        table_from_rows(full, FEATURES).to_parquet(paths[-1], batch_size=7)
    return paths


class Watching:
    """A collator that notes the rows it saw."""

    def __init__(self, collate):
        self.collate, self.seen = collate, []

    def __call__(self, rows):
        self.seen.append([(row["id"], row["epoch"]) for row in rows])
        return self.collate(rows)


def train(folder, rows, *, select=None, resume=None, **changes):
    torch.manual_seed(1)
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "max_steps": 12,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 11,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    collate = Watching(s2p_collator())
    trainer = SpeechSeq2SeqTrainer(
        model=make_s2p(dropout=0.1), args=Seq2SeqTrainingArguments(**settings | changes), data_collator=collate,
        train_dataset=rows, batch_budget=1.5, select=select,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, collate.seen, trainer


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_shards_train_and_resume_exactly(files, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("trainers.sampler.WINDOW_ROWS", 21)
    rows = ShardRows(files)
    assert len(rows.blocks) == 9
    options = {"dataloader_num_workers": workers, "gradient_accumulation_steps": 2}
    losses, seen, trainer = train(tmp_path, rows, **options)
    if not workers:
        steps = len(trainer.get_train_dataloader())
        assert sorted(row for batch in seen[:steps] for row in batch) == sorted((row_id, 0) for row_id in rows["id"])
    read = []
    monkeypatch.setattr(shards, "read_group", lambda group, columns, real=shards.read_group: (
        read.append(columns), real(group, columns))[1])  # fmt: skip
    checkpoint = tmp_path / "checkpoint-11"
    again, after, _ = train(tmp_path, ShardRows(files), resume=str(checkpoint), **options)
    assert again == losses
    if not workers:
        # Two batches are left: neither skipped rows nor the windows before them are read.
        assert after == seen[22:] and sum(len(columns) > 1 for columns in read) <= 6
    state = json.loads((checkpoint / "data_state.json").read_text(encoding="utf-8"))
    assert (state["epoch"], state["num_batches"]) == divmod(22, steps) if not workers else state["order"]


def test_weights_reach_the_batches(tmp_path):
    rows, passes = make_rows(20), Passes((8, 12), (0.5, 2.0), seed=0)
    _, seen, trainer = train(tmp_path, rows, select=passes, max_steps=30, save_strategy="no")
    steps = len(trainer.get_train_dataloader())
    for epoch in range(30 // steps):
        ids = [row_id for batch in seen[epoch * steps : (epoch + 1) * steps] for row_id, _ in batch]
        assert sorted(ids) == sorted(rows["id"][int(row)] for row in passes(epoch))


def test_changed_data_is_noticed(tmp_path, caplog):
    train(tmp_path, make_rows(20), max_steps=2, save_steps=2)
    train(tmp_path, make_rows(30), max_steps=3, resume=str(tmp_path / "checkpoint-2"))
    assert "other rows or batch settings" in caplog.text


def ids_and_epochs(rows):
    return {"rows": [(row["id"], row["epoch"]) for row in rows]}


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("persistent", [False, True])
def test_epochs_reach_workers(files, method, persistent):
    rows = EpochRows(ShardRows(files))
    sampler = BudgetBatchSampler(rows.rows["duration_s"], 3.0, blocks=rows.rows.blocks)
    loader = DataLoader(
        rows, batch_sampler=sampler, collate_fn=ids_and_epochs, num_workers=2, persistent_workers=persistent,
        multiprocessing_context=method,
    )  # fmt: skip
    for epoch in range(2 if method == "spawn" else 3):
        for target in (rows, sampler):
            target.set_epoch(epoch)
        seen = [pair for batch in loader for pair in batch["rows"]]
        assert sorted(seen) == sorted((row_id, epoch) for row_id in rows.rows["id"])


def test_collators_travel_to_spawned_workers():
    import pickle

    collate = s2p_collator()
    batch = [{**make_rows(1)[0], "epoch": 0}]
    again = pickle.loads(pickle.dumps(collate))
    assert torch.equal(again(batch)["input_features"], collate(batch)["input_features"])


class SlowRows(torch.utils.data.Dataset):
    """Sixteen rows that take 20 ms each to read."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        time.sleep(0.02)
        return {"id": str(index)}


@pytest.mark.slow
def test_steps_do_not_wait_for_workers():
    loader = DataLoader(SlowRows(), batch_size=2, num_workers=2, collate_fn=len)
    batches, waited = iter(loader), []
    next(batches)  # the workers start
    for _ in range(7):
        time.sleep(0.1)  # a step; two workers need 20 ms for each batch meanwhile
        start = time.monotonic()
        next(batches)
        waited.append(time.monotonic() - start)
    assert np.median(waited) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_flat_over_epochs(files, workers):
    rows = EpochRows(ShardRows(files))
    sampler = BudgetBatchSampler(rows.rows["duration_s"], 3.0, blocks=rows.rows.blocks)
    loader = DataLoader(rows, batch_sampler=sampler, collate_fn=s2p_collator(), num_workers=workers)
    process, resident, handles = psutil.Process(os.getpid()), [], []
    children = len(process.children())  # of earlier tests: multiprocessing keeps a process of its own
    for epoch in range(24):
        rows.set_epoch(epoch)
        sampler.set_epoch(epoch)
        for _ in loader:
            pass
        if epoch % 8 == 7:
            gc.collect()  # a finished loader's pipes go with it
            resident.append(process.memory_info().rss)
            handles.append(process.num_fds())
    assert resident[-1] - resident[0] < 8 << 20 and handles[-1] <= handles[0] + 2
    assert len(process.children()) == children


def test_the_mixin_serves_any_trainer():
    assert SpeechSeq2SeqTrainer.get_train_dataloader is BudgetBatches.get_train_dataloader
