"""`make demo` calls the demo as it wants to be called, and the demo goes through from synthesis to transcripts."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_make_demo_goes_through(repo_root):
    name = f"test-demo-{os.getpid()}"
    listed = subprocess.run(
        ["make", "-n", "demo", f"RUN={name}"], capture_output=True, text=True, cwd=repo_root, check=True
    ).stdout
    (line,) = [line for line in listed.splitlines() if "scripts/demo.py" in line]
    # What it takes ten minutes for, in two: a few sentences, four steps a stage.
    command = [sys.executable, *shlex.split(line)[1:], "--sentences", "48", "--config", "configs/smoke.yaml"]
    folder = repo_root / "runs" / name
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=repo_root, timeout=280, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert {"per_full", "wer_seen_voices", "wer_unseen_voices", "wer_zero", "seconds"} <= scores.keys()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
