"""A run never writes over another; it resumes what it can, or says why not."""

import json

import pytest

from trainers.checkpoints import KEY_VARIABLE, seal
from trainers.config import read_config
from trainers.runs import Run, RunError, begin_run, plan_run, read_metrics, settle_checkpoint

SPEECH = ["--data.train", "[{path: corpus}]", "--data.validation", "[{path: corpus}]"]


def config_in(folder, *argv):
    return read_config([*SPEECH, "--training.output_dir", str(folder), *argv])


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "key"))


def add_checkpoint(run, step: int):
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "model.safetensors").write_bytes(b"weights")
    seal(folder, {"step": step})
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
    # The right size but other bytes: only reading them all tells.
    (started / "checkpoint-10" / "model.safetensors").write_bytes(b"weighty")
    run = plan_run(config)
    assert run.checkpoint == started / "checkpoint-10"
    assert settle_checkpoint(run).checkpoint == started / "checkpoint-2"
    assert "model.safetensors" in caplog.text and (started / "damaged-checkpoint-10").is_dir()


def test_all_checkpoints_damaged(started):
    run = plan_run(config_in(started, "--training.resume", "auto"))
    for step in (2, 10):
        (started / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"State")
    with pytest.raises(RunError, match=r"every checkpoint .* was damaged"):
        settle_checkpoint(run, required=True)
    assert settle_checkpoint(run).checkpoint is None
    assert plan_run(config_in(started, "--training.resume", "auto")).checkpoint is None


def test_pickles_of_others_are_not_resumed_from(started, tmp_path, monkeypatch):
    states = started / "checkpoint-10" / "global_step10"
    states.mkdir()
    (states / "mp_rank_00_model_states.pt").write_bytes(b"pickle")
    seal(started / "checkpoint-10", {})
    run = plan_run(config_in(started, "--training.resume", "auto"))
    assert settle_checkpoint(run).checkpoint == started / "checkpoint-10"
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "stranger"))
    with pytest.raises(RunError, match="not sealed with your key"):
        settle_checkpoint(run)


def test_a_restart_by_the_launcher_goes_on(started, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert plan_run(config_in(started)).checkpoint == started / "checkpoint-10"


def test_nothing_to_resume(tmp_path, started):
    with pytest.raises(RunError, match="nothing to resume"):
        plan_run(config_in(tmp_path / "new", "--training.resume", "true"))
    assert plan_run(config_in(tmp_path / "new", "--training.resume", "auto")).checkpoint is None
    for step in (2, 10):
        (started / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(RunError, match=r"no whole checkpoint.*\n.*optimizer.pt is missing"):
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
    allowed = ["--training.allow_resume_mismatch", "true", "--training.seed", "7"]
    assert plan_run(config_in(started, "--training.resume", "auto", *allowed)).checkpoint is not None


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
