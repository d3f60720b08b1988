"""Averaged weights are the mean they claim to be, survive a resume bit by bit, and are kept only where they help."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from averaging_kit import make_trainer, weights
from safetensors import safe_open
from transformers import TrainerCallback

from trainers.averaging import AVERAGE_FILE, AverageCallback, BatchCountCallback, WeightMean, put
from trainers.checkpoints import KEY_VARIABLE, find_damage


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "key"))


class Watch(TrainerCallback):
    """The weights after each step, and at the end before they are replaced."""

    def __init__(self):
        self.weights = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights[state.global_step] = weights(model)


class Tied(torch.nn.Module):
    """A tied pair, a frozen tensor, batch statistics and a counter."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 3)
        self.second = torch.nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)
        self.norm = torch.nn.BatchNorm1d(3)


def test_the_mean_is_of_what_training_changes():
    torch.manual_seed(0)
    model, mean, seen = Tied(), WeightMean(), []
    frozen = model.frozen.weight.clone()
    for step in range(5):
        with torch.no_grad():
            for parameter in (*model.first.parameters(), *model.norm.parameters()):
                parameter.copy_(torch.randn(parameter.shape))
            model.norm.running_mean.copy_(torch.randn(3))
            model.norm.num_batches_tracked += 1
        mean.add(model, step + 10)
        seen.append((model.first.weight.clone(), model.norm.running_mean.clone()))
    assert (mean.count, mean.first_step) == (5, 10)
    assert not any("frozen" in name or "tracked" in name or name == "second.weight" for name in mean.tensors)
    before = mean.swap(model)
    for found, values in zip((model.first.weight, model.norm.running_mean), zip(*seen, strict=True), strict=True):
        torch.testing.assert_close(found.detach(), torch.stack(values).mean(0).detach())
    assert model.second.weight is model.first.weight and torch.equal(model.frozen.weight, frozen)
    assert model.norm.num_batches_tracked == 5
    put(model, before)
    assert torch.equal(model.first.weight, seen[-1][0])


def test_weights_of_another_model_are_refused():
    mean = WeightMean()
    mean.add(torch.nn.Linear(2, 3), 1)
    with pytest.raises(ValueError, match="weight is missing, too much or misshapen"):
        mean.swap(torch.nn.Linear(3, 3, bias=True))
    with pytest.raises(ValueError, match="averaged weights of another model"):
        mean.swap(torch.nn.Linear(2, 3, bias=False))


def test_a_run_ends_with_the_mean_of_its_second_half(tmp_path):
    watch = Watch()
    trainer = make_trainer(tmp_path, callbacks=[watch])
    trainer.train()
    expected = torch.stack([watch.weights[step].double() for step in (6, 8, 10, 12)]).mean(0)
    torch.testing.assert_close(weights(trainer.model), expected.float(), rtol=1e-6, atol=1e-8)
    assert not torch.equal(weights(trainer.model), watch.weights[12])
    for step in (6, 12):
        folder = tmp_path / f"checkpoint-{step}"
        assert find_damage(folder) is None
        with safe_open(folder / AVERAGE_FILE, "pt") as file:
            assert file.metadata()["mean"] == f"[{(step - 4) // 2}, 6]"


def test_a_resumed_run_ends_with_the_same_mean(tmp_path):
    straight = make_trainer(tmp_path / "straight", save_steps=4)
    straight.train()
    make_trainer(tmp_path / "resumed", save_steps=4).train()
    for step in (4, 8):  # before anything was added, and after
        resumed = make_trainer(tmp_path / "resumed", save_steps=4)
        resumed.train(resume_from_checkpoint=str(tmp_path / "resumed" / f"checkpoint-{step}"))
        assert torch.equal(weights(resumed.model), weights(straight.model))


def test_a_checkpoint_without_a_mean_is_resumed_with_a_warning(tmp_path, caplog):
    make_trainer(tmp_path, save_steps=8).train()
    (tmp_path / "checkpoint-8" / AVERAGE_FILE).unlink()
    trainer = make_trainer(tmp_path, save_steps=8)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert "average.safetensors is missing: weights are averaged from step 8 on" in caplog.text
    assert trainer.callback_handler.callbacks[-1].mean.count == 2


@pytest.mark.parametrize("loss_of_mean, kept", [(1.0, True), (3.0, False)])
@pytest.mark.parametrize("best_at_end", [False, True])
def test_the_better_weights_are_kept(tmp_path, monkeypatch, loss_of_mean, kept, best_at_end):
    watch = Watch()
    trainer = make_trainer(
        tmp_path,
        callbacks=[watch],
        evaluate=True,
        average={"period": 2, "start": 0.5, "keep": "better"},
        load_best_model_at_end=best_at_end,
        eval_strategy="steps" if best_at_end else "no",
        eval_steps=6,
    )
    stock = trainer.evaluate

    def evaluate(*args, metric_key_prefix="eval", **kwargs):
        metrics = stock(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        measured = loss_of_mean if metric_key_prefix == "eval_average" else 2.0
        return {**metrics, f"{metric_key_prefix}_loss": measured}

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    trainer.train()
    mean = torch.cat([value.flatten() for value in trainer.callback_handler.callbacks[-1].mean.tensors.values()])
    assert torch.equal(weights(trainer.model), mean.float()) == kept
    if not kept:
        assert torch.equal(weights(trainer.model), watch.weights[trainer.state.best_global_step or 12])


def test_the_mean_is_kept_without_asking_where_the_config_says_so(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, evaluate=True, average={"period": 2, "keep": "average"})
    monkeypatch.setattr(trainer, "evaluate", lambda *a, **k: pytest.fail("nothing is to be compared"))
    trainer.train()
    mean = torch.cat([value.flatten() for value in trainer.callback_handler.callbacks[-1].mean.tensors.values()])
    assert torch.equal(weights(trainer.model), mean.float())


def test_a_run_that_ends_before_averaging_begins_keeps_its_weights(tmp_path):
    class StopEarly(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    watch = Watch()
    trainer = make_trainer(tmp_path, callbacks=[watch, StopEarly()])
    trainer.train()
    assert torch.equal(weights(trainer.model), watch.weights[3])


def test_impossible_averages_are_refused(tmp_path):
    for options in ({"period": 0}, {"start": 1.0}, {"start": -0.1}):
        with pytest.raises(ValueError, match="period must be at least 1"):
            AverageCallback(None, **options)
    trainer = make_trainer(tmp_path)
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="no averaging with ZeRO-3 and FSDP"):
        trainer.callback_handler.callbacks[-1].on_train_begin(trainer.args, trainer.state, trainer.control)


@pytest.mark.slow
def test_two_processes_end_with_the_same_mean(tmp_path):
    run = Path(__file__).with_name("averaging_run.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    ranks = dict(re.findall(r"RANK (\d) (\d+ \w+)", done.stdout))
    assert set(ranks) == {"0", "1"} and ranks["0"] == ranks["1"] and ranks["0"].startswith("3 ")


# Schedules inside of the model


def test_the_model_hears_how_long_it_has_been_trained(tmp_path):
    heard = []

    def train(**options):
        trainer = make_trainer(tmp_path, max_steps=4, save_steps=2, **options)
        trainer.model.set_batch_count = lambda count: heard.append((trainer.state.global_step, count))
        return trainer

    train(callbacks=[BatchCountCallback(seconds_per_step=150.0)], gradient_accumulation_steps=2).train()
    assert heard == [(0, 0.0), (0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    heard.clear()
    train(callbacks=[BatchCountCallback()]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert heard == [(2, 2.0), (2, 2.0), (3, 3.0)]


def test_models_without_schedules_are_refused():
    with pytest.raises(TypeError, match="Linear has no set_batch_count"):
        BatchCountCallback().on_train_begin(None, SimpleNamespace(global_step=0), None, model=torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="seconds_per_step must be above 0, got 0"):
        BatchCountCallback(0)
