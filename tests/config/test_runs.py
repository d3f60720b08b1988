"""A run never writes over another; it resumes what it can, or says why not."""

import json
import struct

import pytest

from trainers.config import read_config
from trainers.runs import Run, RunError, begin_run, checkpoint_problem, newest_checkpoint, plan_run, read_metrics

SPEECH = ["--data.train", "[{path: corpus}]", "--data.validation", "[{path: corpus}]"]


def config_in(folder, *argv):
    return read_config([*SPEECH, "--training.output_dir", str(folder), *argv])


def safetensors(num_values: int = 4) -> bytes:
    end = 4 * num_values
    header = json.dumps({"w": {"dtype": "F32", "shape": [num_values], "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(end)


def add_checkpoint(run, step: int):
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "model.safetensors").write_bytes(safetensors())
    return folder


@pytest.fixture
def started(tmp_path):
    """A run with one checkpoint at step 2 and one at step 10."""
    folder = tmp_path / "run"
    config = config_in(folder)
    begin_run(plan_run(config), config, ["train.py", "--name", "a b"], world_size=2, device="cpu")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n', encoding="utf-8")
    add_checkpoint(folder, 2)
    add_checkpoint(folder, 10)
    return folder


def test_a_new_run(tmp_path):
    folder = tmp_path / "a" / "b"
    config = config_in(folder)
    assert plan_run(config) == Run(folder, None)
    assert not folder.exists(), "planning only reads"
    begin_run(plan_run(config), config, ["train.py", "--name", "a b"], world_size=2, device="cpu")
    assert read_config(["--config", str(folder / "config.yaml")]) == config
    (start,) = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert start["command"] == "train.py --name 'a b'" and start["world_size"] == 2
    assert start["packages"]["torch"] and start["resumed_from"] is None


def test_a_run_that_never_trained_is_started_again(tmp_path):
    config = config_in(tmp_path / "run")
    begin_run(plan_run(config), config, ["train.py"])
    other = config_in(tmp_path / "run", "--training.seed", "5")
    assert plan_run(other).checkpoint is None
    begin_run(plan_run(other), other, ["train.py"])
    assert len(json.loads((tmp_path / "run/environment.json").read_text(encoding="utf-8"))) == 2


def test_another_run_is_never_written_over(started, tmp_path):
    with pytest.raises(RunError, match=r"already holds an unfinished run.*--training.resume auto"):
        plan_run(config_in(started))
    (started / "model").mkdir()
    with pytest.raises(RunError, match="already holds a finished run"):
        plan_run(config_in(started))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "precious.txt").write_text("x", encoding="utf-8")
    for resume in ("false", "true", "auto"):
        with pytest.raises(RunError, match="is not empty and holds no run"):
            plan_run(config_in(tmp_path / "notes", "--training.resume", resume))
    with pytest.raises(RunError, match="is a file"):
        plan_run(config_in(tmp_path / "notes" / "precious.txt"))


@pytest.mark.parametrize("resume", ["true", "auto"])
def test_resume_takes_the_newest_whole_checkpoint(started, resume, caplog):
    config = config_in(started, "--training.resume", resume)
    assert plan_run(config).checkpoint == started / "checkpoint-10"
    weights = started / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert plan_run(config).checkpoint == started / "checkpoint-2"
    assert "checkpoint-10" in caplog.text and "truncated" in caplog.text


def test_nothing_to_resume(tmp_path, started):
    with pytest.raises(RunError, match="nothing to resume"):
        plan_run(config_in(tmp_path / "new", "--training.resume", "true"))
    assert plan_run(config_in(tmp_path / "new", "--training.resume", "auto")).checkpoint is None
    for step in (2, 10):
        (started / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(RunError, match="no complete checkpoint"):
        plan_run(config_in(started, "--training.resume", "true"))
    assert plan_run(config_in(started, "--training.resume", "auto")).checkpoint is None


def test_resume_refuses_another_config_but_not_another_machine(started):
    allowed = ["--training.dataloader_num_workers", "2", "--training.report_to", "[none]", "--cache.folder", "x"]
    assert plan_run(config_in(started, "--training.resume", "auto", *allowed)).checkpoint is not None
    with pytest.raises(RunError) as caught:
        plan_run(config_in(started, "--training.resume", "auto", "--training.seed", "7", "--data.max_rows", "3"))
    message = str(caught.value)
    assert "training.seed: was 42, now 7" in message and "data.max_rows: was None, now 3" in message
    assert "config.yaml" in message


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "checkpoint-is-incomplete.txt").write_text(""), "interrupted"),
        (lambda f: (f / "trainer_state.json").unlink(), "trainer_state.json"),
        (lambda f: (f / "trainer_state.json").write_text('{"global'), "trainer_state.json"),
        (lambda f: (f / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda f: (f / "model.safetensors").unlink(), "no .safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "not a safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(safetensors()[:-1]), "truncated"),
        (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2**62)), "not a safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]"), "not readable"),
        (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 3) + b"{x}"), "not readable"),
    ],
)
def test_broken_checkpoints(tmp_path, spoil, words):
    folder = add_checkpoint(tmp_path, 1)
    assert checkpoint_problem(folder) is None
    spoil(folder)
    assert words in checkpoint_problem(folder)
    assert newest_checkpoint(tmp_path) is None


def test_metrics_log_survives_a_crash_and_a_resume(tmp_path):
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from trainers.callbacks import MetricsLogCallback

    log, control = MetricsLogCallback(tmp_path), TrainerControl()
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    state = TrainerState(is_world_process_zero=True)
    for step in (1, 2, 3):
        state.global_step, state.epoch = step, step / 10
        log.on_log(args, state, control, logs={"loss": float("nan") if step == 2 else 1.5, "text": "hòa", "x": [1]})
    with log.path.open("a", encoding="utf-8") as file:
        file.write('{"step": 1, "lo')
    state.global_step = 2
    log.on_train_begin(args, state, control)
    entries = read_metrics(tmp_path)
    assert [entry["step"] for entry in entries] == [1, 2]
    assert entries[0] == {"step": 1, "loss": 1.5, "text": "hòa", "epoch": 0.1} and entries[1]["loss"] is None
    state.is_world_process_zero = False
    log.on_log(args, state, control, logs={"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 2
