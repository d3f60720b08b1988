"""Running the scripts that train: in this process, which has paid for the imports, or in others."""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Script:
    """One of `scripts`, by its name without ".py"."""

    def __init__(self, name: str):
        self.path = ROOT / "scripts" / f"{name}.py"

    def run(self, *argv: str) -> dict[str, float]:
        """What its main gives, in this process."""
        return runpy.run_path(str(self.path))["main"](list(argv))

    def refused(self, capsys: pytest.CaptureFixture, *argv: str) -> str:
        """What it says when it does not start."""
        with pytest.raises(SystemExit) as caught:
            self.run(*argv)
        assert caught.value.code == 2
        return capsys.readouterr().err

    def launch(self, *argv: str, launcher: Sequence[str] = ()) -> None:
        """Run it in processes of its own."""
        done = subprocess.run(
            [sys.executable, *launcher, str(self.path), *argv],
            capture_output=True,
            text=True,
            timeout=280,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"


def as_if_killed(whole: Path, cut: Path, last_step: int) -> None:
    """A copy of a finished run as if its process had died before its last checkpoint."""
    shutil.copytree(whole, cut)
    for lost in (cut / "model", cut / f"checkpoint-{last_step}"):
        shutil.rmtree(lost)
