"""A Hub that refuses, fails, hangs or cuts: the run ends in time, says what happened, and loses nothing."""

import json
import sys
import time
from pathlib import Path

import pytest
from traced import Outcome

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from publishing.loopback_hub import TOKEN, USER, Fault, serve_hub

BOUND_S = 75
MANY = 10**6
# fault → exit status, and whether the finished model is on the Hub
REFUSALS = {
    "401 at the start": (Fault("whoami", 401, MANY), 2),
    "403 at the start": (Fault("auth-check/write", 403, MANY), 2),
    "hangs at the start": (Fault("whoami", -1, MANY), 2),
    "401 during the upload": (Fault("preupload", 401, MANY), 3),
    "403 during the upload": (Fault("preupload", 403, MANY), 3),
    "409 during the upload": (Fault("/commit/", 409, MANY), 3),
    "429 for a while": (Fault("preupload", 429, 2), 0),
    "500 for a while": (Fault("/commit/", 500, 2), 0),
    "503 for a while": (Fault("lfs/objects/batch", 503, 2), 0),
    "503 for ever": (Fault("/commit/", 503, MANY), 3),
    "hangs during the upload": (Fault("/commit/", -1, MANY), 3),
    "cuts an upload": (Fault("PUT /lfs/", 0, 1), 0),
    "cuts every upload": (Fault("PUT /lfs/", 0, MANY), 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSALS)
def test_a_faulty_hub(what, launcher, arguments, tmp_path, faults):
    fault, status = REFUSALS[what]
    run = tmp_path / "run"
    with serve_hub() as hub:
        hub.faults.append(fault)
        argv = arguments(run, "--publish.push", "true", "--publish.repo_id", "mine", "--publish.checkpoints", "true")
        argv += ["--publish.deadline_s", "6", "--training.max_steps", "4", "--training.save_steps", "2"]
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
        started = time.monotonic()
        outcome: Outcome = launcher.run(argv, tmp_path / "trace", environment=environment)
        seconds = time.monotonic() - started
        held = hub.files(f"{USER}/mine") if f"{USER}/mine" in hub.repos else {}
    faults.check(6, f"Hub: {what}", outcome.codes == [status] and seconds < BOUND_S, f"{seconds:.0f} s {outcome}")
    if status == 2:
        assert not (run / "model").exists(), "nothing was trained for nothing"
        return
    assert (run / "model" / "model.safetensors").is_file(), "the model is safe on the disk"
    pushed = json.loads((run / "push_status.json").read_text(encoding="utf-8"))
    assert (pushed["published"] == "model") == (status == 0)
    if status:
        assert any(entry["state"] == "failed" and entry["what"] == "model" for entry in pushed["tries"])
    else:
        assert held["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    secrets = [path for path in run.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    sent = [name for name, data in held.items() if TOKEN.encode() in data]
    hidden = not secrets and not sent and TOKEN not in outcome.log
    faults.check(8, "a token in the environment: in no file, log or upload", hidden, secrets + sent)
