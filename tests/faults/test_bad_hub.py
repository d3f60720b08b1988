"""A Hub that does not take what is sent, H1 to H9, and T1: where a token must not turn up.

Here the way to the Hub is tried alone; whole runs against the same faults are in test_hub.py.
"""

import json
import logging
import shutil
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
from bad_inputs import Checker, covers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from publishing.loopback_hub import TOKEN, USER, Fault, Repo, StoredFile, serve_hub
from publishing.tiny_tspc import save_tiny_models

from trainers import assembly
from trainers.checks import ConfigError
from trainers.config import load_config, read_config
from trainers.push_queue import STATUS_FILE, PushQueue
from trainers.runs import Run
from trainers.training import START_ERRORS, open_queue, train

MANY = 10**6


@pytest.fixture
def check(faults):
    return Checker(faults)


@pytest.fixture
def hub(monkeypatch):
    """A Hub that this process talks to by default, and no time to wait."""
    with serve_hub() as running:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("trainers.publishing.time.sleep", lambda seconds: None)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield running


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished model."""
    return save_tiny_models(tmp_path_factory.mktemp("models"))["s2p"]


def config_of(tmp_path, *argv):
    data = ["--data.train", "[{path: a}]", "--data.validation", "[{path: b}]"]
    run = ["--training.output_dir", str(tmp_path / "run"), "--publish.push", "true", "--publish.deadline_s", "3"]
    (tmp_path / "run").mkdir(exist_ok=True)
    return read_config([*data, *run, "--publish.repo_id", "mine", *argv])


def refusal(tmp_path, *argv):
    """What a run says before it reads any data."""
    config = config_of(tmp_path, *argv)
    with pytest.raises(START_ERRORS) as caught:
        open_queue(config, Run(tmp_path / "run", None))
    return str(caught.value)


@covers("H1")
def test_no_token(tmp_path, monkeypatch, check):
    monkeypatch.setattr("trainers.training.get_token", lambda: None)
    with pytest.raises(ConfigError) as caught:
        train(config_of(tmp_path), Run(tmp_path / "run", None), ["train"], assembly)
    check("H1", "needs a token of the Hub: run `hf auth login` or set HF_TOKEN" in str(caught.value), caught.value)


@covers("H2", "H3", "H6", "H8", "H9")
def test_what_is_known_before_training(hub, tmp_path, check):
    cases = [
        ("H2", Fault("whoami", 401, MANY), (), "does not accept the token"),
        ("H3", Fault("auth-check", 403, MANY), (), "may not write to mine"),
        ("H3", Fault("repos/create", 403, MANY), (), "may not write to mine"),
        ("H6", Fault("whoami", -1, MANY), (), "does not answer"),
        ("H8", None, ("--publish.repo_id", "someone/else"), "may not write to someone/else"),
        ("H9", None, ("--publish.private", "false"), f"{USER}/mine exists and is private, but public was asked for"),
    ]
    for code, fault, argv, words in cases:
        hub.repos.clear()
        if code == "H9":
            hub.repos[f"{USER}/mine"] = Repo(private=True)
            hub.repos[f"{USER}/mine"].commit({})
        hub.faults[:] = [fault] if fault else []
        started = time.monotonic()
        said = refusal(tmp_path, *argv)
        seconds = time.monotonic() - started
        check(code, "publish.push" in said and words in said and seconds < 20 and TOKEN not in said, said)
    check("H9", hub.repos[f"{USER}/mine"].private, "what was private stays so")


@covers("H8")
def test_a_repository_of_ours_is_gone_on_with(hub, tmp_path, finished, check):
    """Of this user: its earlier model is replaced in one commit, other files stay."""
    repo = hub.repos[f"{USER}/mine"] = Repo(private=True)
    repo.commit({"old.safetensors": StoredFile(b"old", True), "notes.txt": StoredFile(b"keep", False)})
    queue = open_queue(config_of(tmp_path), Run(tmp_path / "run", None))
    sent = queue.finish(finished)
    held = hub.files(f"{USER}/mine")
    check("H8", sent and "old.safetensors" not in held and held["notes.txt"] == b"keep", sorted(held))


TROUBLE = [
    ("H2", Fault("preupload", 401, MANY), False),
    ("H3", Fault("preupload", 403, MANY), False),
    ("H4", Fault("preupload", 429, 2), True),
    ("H4", Fault("preupload", 429, MANY), False),
    ("H5", Fault("/commit/", 500, 2), True),
    ("H5", Fault("lfs/objects/batch", 503, 2), True),
    ("H5", Fault("/commit/", 503, MANY), False),
    ("H6", Fault("/commit/", -1, MANY), False),
    ("H7", Fault("PUT /lfs/", 0, 1), True),
    ("H7", Fault("PUT /lfs/", 0, MANY), False),
]


@covers(*(code for code, _, _ in TROUBLE))
@pytest.mark.parametrize("code, fault, arrives", TROUBLE, ids=lambda value: str(value)[:40])
def test_trouble_while_uploading(code, fault, arrives, hub, tmp_path, finished, check, caplog):
    """Retried to its end or given up in time: the model stays, the status says so; a run then exits with 3."""
    model = Path(shutil.copytree(finished, tmp_path / "model"))
    hub.faults.append(Fault(fault.pattern, fault.status, fault.times))
    # Waiting costs nothing here, but counts.
    queue = PushQueue(tmp_path, f"{USER}/mine", private=True, deadline_s=20.0 if arrives else 2.0)
    started = time.monotonic()
    sent = queue.finish(model)
    seconds = time.monotonic() - started
    status = json.loads((tmp_path / STATUS_FILE).read_text(encoding="utf-8"))
    told = status["tries"][-1]["state"] == ("published" if arrives else "failed")
    told &= arrives or "model was not uploaded" in caplog.text
    check(code, sent == arrives and told and seconds < 30 and (model / "model.safetensors").is_file(), status)
    if arrives:
        held = hub.files(f"{USER}/mine")
        check(code, held["model.safetensors"] == (model / "model.safetensors").read_bytes(), sorted(held))


@covers("T1")
def test_where_a_token_must_not_turn_up(hub, tmp_path, finished, check, capsys, caplog, monkeypatch):
    from trainers.card import write_model_card
    from trainers.runs import begin_run
    from trainers.secrets import hide_tokens

    # A config takes none.
    for key in ("training.hub_token", "publish.token", "training.push_to_hub_token"):
        with pytest.raises(SystemExit) as left:
            load_config([f"--{key}", TOKEN])
        check("T1", left.value.code == 2 and f"{key}: unknown key" in capsys.readouterr().err, key)
    # A run writes none down, though the command line and the environment hold it.
    config = config_of(tmp_path)
    run = Run(tmp_path / "run", None)
    command = ["train.py", "--name", TOKEN]
    begin_run(run, config, command)
    args = config.training.build(run.folder, metric_for_best_model="loss", run_name="x")
    check("T1", args.hub_token is None and TOKEN not in json.dumps(args.to_dict(), default=str), "arguments")
    model = Path(shutil.copytree(finished, run.folder / "model"))
    write_model_card(model, stage="s2p", command=" ".join(command), hardware=TOKEN, base_model=[f"a/{TOKEN}"])
    factory, hook = logging.getLogRecordFactory(), sys.excepthook
    try:
        hide_tokens()
        hub.faults.append(Fault("preupload", 403, 1))
        queue = PushQueue(run.folder, f"{USER}/mine", private=True, deadline_s=2.0)
        sent = [queue.finish(model), queue.finish(model)]
        logging.getLogger("other").warning("Authorization: Bearer %s", TOKEN)
    finally:
        logging.setLogRecordFactory(factory)
        sys.excepthook = hook
    check("T1", sent == [False, True] and TOKEN not in caplog.text and "hf_***" in caplog.text, caplog.text)
    written = [str(path) for path in run.folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    held = [name for name, data in hub.files(f"{USER}/mine").items() if TOKEN.encode() in data]
    check("T1", not written and not held, written + held)
