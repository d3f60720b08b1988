"""Faults in one process: bad rows, saves that fail, signals; what is left behind is always good."""

import errno
import logging
import os
import signal

import numpy as np
import pytest
import torch
from tiny_tspc import make_p2t, make_rows, make_s2p, p2t_collator, s2p_collator
from transformers import Seq2SeqTrainingArguments, TrainerCallback

from trainers import checkpoints
from trainers.checkpoints import KEY_VARIABLE, find_damage, read_seal
from trainers.guards import MAX_DROPPED_STEPS, NotFinite, Preempted
from trainers.seq2seq import SpeechSeq2SeqTrainer


@pytest.fixture(autouse=True)
def seeded(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "key"))


def make_trainer(folder, collator=None, model=None, callbacks=(), **changes):
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    return SpeechSeq2SeqTrainer(
        model=model or make_p2t(),
        args=Seq2SeqTrainingArguments(**settings | changes),
        data_collator=collator or p2t_collator(),
        train_dataset=make_rows(24),
        callbacks=list(callbacks),
        length_column=None,
        seal_facts={"data": "abc"},
    )


def weights(model):
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


class Poison:
    """A collator whose batches at some calls have features that are not finite, in one row."""

    def __init__(self, calls):
        self.collator, self.calls, self.count = s2p_collator(), set(calls), 0
        self.poisoned = []

    def __call__(self, rows):
        batch = self.collator(rows)
        if self.count in self.calls:
            batch["input_features"][1, 0, 0] = float("nan")
            self.poisoned.append(rows[1]["id"])
        self.count += 1
        return batch


class Watch(TrainerCallback):
    """The weights after each step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(weights(model))


def test_checkpoints_are_sealed_rotated_and_hold_no_pickled_arguments(tmp_path):
    make_trainer(tmp_path, save_total_limit=2).train()
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-6"]
    for step in (4, 6):
        folder = tmp_path / f"checkpoint-{step}"
        assert find_damage(folder) is None
        assert read_seal(folder)["facts"] == {"data": "abc", "step": step, "world_size": 1}
        assert not (folder / "training_args.bin").exists()


def test_a_bad_row_costs_one_step_and_is_named(tmp_path, caplog):
    poison, watch = Poison([2]), Watch()
    trainer = make_trainer(tmp_path, poison, make_s2p(), [watch])
    trainer.train()
    steps = watch.weights
    assert torch.equal(steps[1], steps[2]) and not torch.equal(steps[2], steps[3])
    assert all(torch.isfinite(step).all() for step in steps)
    (line,) = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert "step 3 dropped" in line and line.endswith(f"rows: {poison.poisoned[0]}")
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged[1].get("dropped_steps") is None and logged[2]["dropped_steps"] == 1
    assert all(np.isfinite(entry["loss"]) for entry in logged)


def test_bad_steps_in_a_row_end_the_run_with_the_weights_before_them(tmp_path):
    watch = Watch()
    trainer = make_trainer(tmp_path, Poison(range(2, 24)), make_s2p(), [watch], max_steps=24)
    with pytest.raises(NotFinite, match=f"{MAX_DROPPED_STEPS} steps in a row, up to step 5") as stop:
        trainer.train()
    assert stop.value.exit_code == 4
    assert torch.equal(weights(trainer.model), watch.weights[1])
    for folder in checkpoints.checkpoints(tmp_path):
        assert find_damage(folder) is None


def test_a_bad_batch_within_an_accumulated_step_drops_the_step(tmp_path):
    watch = Watch()
    make_trainer(tmp_path, Poison([3]), make_s2p(), [watch], gradient_accumulation_steps=2, max_steps=3).train()
    assert torch.equal(watch.weights[0], watch.weights[1]) and not torch.equal(watch.weights[1], watch.weights[2])


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 4:
                next(model.parameters()).data.flatten()[0] = float("inf")

    trainer = make_trainer(tmp_path, callbacks=[Spoil()], max_steps=4)
    trainer.train()
    assert names(tmp_path) == ["checkpoint-2"]
    assert trainer.failed_saves == ["checkpoint-4: a weight is not finite"]


@pytest.mark.parametrize("part", ["save_model", "optimizer", "random states", "trainer state"])
def test_a_save_that_fails_leaves_the_run_and_the_earlier_checkpoint(tmp_path, monkeypatch, caplog, part):
    import transformers.trainer

    full = OSError(errno.ENOSPC, "No space left on device")
    trainer = make_trainer(tmp_path)

    def fail(*args, **kwargs):
        if trainer.state.global_step == 4:
            raise full
        return real(*args, **kwargs)

    if part == "save_model":
        real = trainer.model.save_pretrained
        monkeypatch.setattr(trainer.model, "save_pretrained", fail)
    elif part == "trainer state":
        real = transformers.trainer.TrainerState.save_to_json
        monkeypatch.setattr(transformers.trainer.TrainerState, "save_to_json", fail)
    else:
        real, wanted = torch.save, "optimizer.pt" if part == "optimizer" else "rng_state.pth"
        monkeypatch.setattr(torch, "save", lambda value, to: (fail if str(to).endswith(wanted) else real)(value, to))
    trainer.train()
    assert trainer.state.global_step == 6
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-6"]
    assert "No space left" in trainer.failed_saves[0] and trainer.failed_saves[0].startswith("checkpoint-4")
    assert "Training goes on" in caplog.text
    assert all(find_damage(folder) is None for folder in checkpoints.checkpoints(tmp_path))


def test_a_rotation_that_fails_costs_no_checkpoint(tmp_path, monkeypatch, caplog):
    def fail(*args):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(checkpoints, "rotate", fail)
    trainer = make_trainer(tmp_path, save_total_limit=1)
    trainer.train()
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"] and not trainer.failed_saves
    assert all(find_damage(folder) is None for folder in checkpoints.checkpoints(tmp_path))
    assert "checkpoint-6 is sealed, but what follows a save failed" in caplog.text


def test_a_save_is_not_begun_without_room(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    real = checkpoints.shutil.disk_usage

    def nearly_full(path):
        usage = real(path)
        return usage._replace(free=1000) if trainer.state.global_step == 4 else usage

    monkeypatch.setattr(checkpoints.shutil, "disk_usage", nearly_full)
    trainer.train()
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-6"]
    (failure,) = trainer.failed_saves
    assert str(tmp_path) in failure and "0.0 MB are free" in failure


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_the_step_and_ends_the_run(tmp_path, number):
    class Send(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    trainer = make_trainer(tmp_path, callbacks=[Send()], save_steps=100)
    with pytest.raises(Preempted, match="after step 3, and its checkpoint is saved") as stop:
        trainer.train()
    assert stop.value.exit_code == 143
    assert names(tmp_path) == ["checkpoint-3"] and find_damage(tmp_path / "checkpoint-3") is None
    assert signal.getsignal(number) is before


def test_a_preempted_run_goes_on_as_if_it_had_never_stopped(tmp_path):
    class Send(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = make_trainer(tmp_path / "whole")
    whole.train()
    torch.manual_seed(0)
    first = make_trainer(tmp_path / "cut", callbacks=[Send()])
    with pytest.raises(Preempted):
        first.train()
    torch.manual_seed(1)
    second = make_trainer(tmp_path / "cut")
    second.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    assert torch.equal(weights(second.model), weights(whole.model))


def test_a_step_saved_again_keeps_what_was_there(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "model.safetensors").write_bytes(b"half")
    make_trainer(tmp_path, max_steps=2).train()
    assert names(tmp_path) == ["checkpoint-2", "damaged-checkpoint-2"]
    assert find_damage(tmp_path / "checkpoint-2") is None


def test_row_ids_never_reach_the_model(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, save_strategy="no")
    batch = next(iter(trainer.get_train_dataloader()))
    assert len(batch["row_ids"]) == 4 and batch["row_ids"][0].startswith("row-")
    trainer.model.train()
    assert "row_ids" not in trainer._prepare_inputs(batch)
