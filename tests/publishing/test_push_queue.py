"""Uploads beside a run: in order, the newest only, never silent, never in the way."""

import json
import logging
import shutil
import threading

import pytest

from trainers.publishing import PublishError, check_rights
from trainers.push_queue import STATUS_FILE, PushQueue

from .loopback_hub import USER, Fault


def status(run):
    return json.loads((run / STATUS_FILE).read_text(encoding="utf-8"))


class Gate:
    """Stands in for `publish`: notes what it is given, and waits to be let through."""

    def __init__(self, fail=()):
        self.sent, self.gate, self.entered, self.fail = [], threading.Event(), threading.Event(), set(fail)

    def __call__(self, folder, repo_id, **options):
        self.sent.append((folder.name, sorted(path.name for path in folder.iterdir())))
        self.entered.set()
        assert self.gate.wait(20)
        if folder.name in self.fail:
            raise PublishError("made to fail")
        return f"https://hub/{repo_id}"


@pytest.fixture
def default_hub(hub, monkeypatch):
    """A hub that is met without being named, as a user meets it."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    return hub


@pytest.fixture
def checkpoint(model_folder, tmp_path):
    def make(step):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        shutil.copytree(model_folder, folder)
        (folder / "optimizer.pt").write_bytes(b"private")
        return folder

    return make


def test_the_newest_waiting_checkpoint_is_sent_even_when_rotated_away(checkpoint, model_folder, tmp_path):
    send = Gate()
    queue = PushQueue(tmp_path / "run", "a/b", private=True, send=send)
    folders = [checkpoint(step) for step in (1, 2, 3)]
    queue.offer(folders[0], 1)
    assert send.entered.wait(10)
    for step in (2, 3):
        queue.offer(folders[step - 1], step)
        shutil.rmtree(folders[step - 1])
    threading.Timer(0.2, send.gate.set).start()
    assert queue.finish(model_folder)
    names = [name for name, _ in send.sent]
    assert names[0] == "checkpoint-1" and names[-1] == "model" and "checkpoint-2" not in names
    assert all("optimizer.pt" not in files and "model.safetensors" in files for _, files in send.sent[:1])
    tried = {entry["what"]: entry["state"] for entry in status(tmp_path / "run")["tries"]}
    assert tried["checkpoint-2"] == "replaced" and tried["model"] == "published"
    assert status(tmp_path / "run")["published"] == "model"
    assert not (tmp_path / "run" / ".uploading").exists()


def test_a_failed_upload_is_said_and_the_next_one_tried(checkpoint, model_folder, tmp_path, caplog):
    send = Gate(fail={"checkpoint-1"})
    send.gate.set()
    queue = PushQueue(tmp_path / "run", "a/b", private=True, send=send)
    queue.offer(checkpoint(1), 1)
    assert queue.finish(model_folder)
    assert "checkpoint-1 was not uploaded: made to fail" in caplog.text
    assert [entry["state"] for entry in status(tmp_path / "run")["tries"]] == ["failed", "published"]


def test_a_hub_that_hangs_is_given_up(checkpoint, model_folder, tmp_path):
    send = Gate()
    queue = PushQueue(tmp_path / "run", "a/b", private=True, deadline_s=0.2, send=send)
    queue.offer(checkpoint(1), 1)
    assert not queue.finish(model_folder)
    send.gate.set()  # an answer that comes too late changes nothing
    assert status(tmp_path / "run")["published"] is None
    assert "no answer" in status(tmp_path / "run")["tries"][-1]["detail"]


def test_a_check_before_training(default_hub, tmp_path):
    queue = PushQueue(tmp_path, "mine", private=True, deadline_s=5)
    queue.check()
    assert queue.repo_id == f"{USER}/mine" and default_hub.repos[f"{USER}/mine"].private
    assert not default_hub.files(f"{USER}/mine").keys() - {".gitattributes"}, "nothing is uploaded by asking"
    with pytest.raises(PublishError, match=r"exists and is private, but public was asked for: set publish.private"):
        PushQueue(tmp_path, "mine", private=False, deadline_s=5).check()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("whoami", 401, 9), "hf auth login"),
        (Fault("auth-check", 403, 9), "may not write"),
        (Fault("repos/create", 403, 9), "may not write"),
        (Fault("whoami", -1, 9), "does not answer"),
        (Fault("whoami", 503, 10**6), "try|later"),
    ],
    ids=["401", "403 write", "403 create", "hangs", "503"],
)
def test_a_check_that_fails_says_what_to_do(default_hub, tmp_path, fault, words):
    default_hub.faults.append(fault)
    with pytest.raises(PublishError, match=words):
        PushQueue(tmp_path, "mine", private=True, deadline_s=1.5).check()


def test_rights_are_asked_without_a_token(monkeypatch, tmp_path):
    monkeypatch.setattr("trainers.publishing.get_token", lambda: None)
    with pytest.raises(PublishError, match="no Hugging Face token"):
        check_rights("a/b")


def test_a_folder_that_cannot_be_staged_is_no_reason_to_stop(tmp_path, monkeypatch, checkpoint, caplog):
    caplog.set_level(logging.ERROR)
    queue = PushQueue(tmp_path / "run", "a/b", private=True, send=Gate())
    monkeypatch.setattr("trainers.push_queue.files_to_publish", lambda folder: ["missing.json"])
    queue.offer(checkpoint(1), 1)
    assert "could not be staged" in caplog.text
