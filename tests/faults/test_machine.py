"""A machine that is not fit is told apart from one that is, before a run finds out."""

import os
import subprocess
import sys

import pytest
from traced import ROOT


@pytest.mark.slow
def test_the_doctor_names_what_is_broken(tmp_path, faults):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torchaudio.py").write_text("raise OSError('libc10_cuda.so: cannot open shared object file')\n")
    cases = {
        "a broken torchaudio": ({"PYTHONPATH": str(broken)}, [], "libc10_cuda.so", "pip install torch=="),
        "no space left for runs": ({}, ["--wanted_gb", "1e9"], "wanted: 1e+09", "free some space"),
    }
    for fault, (environment, options, problem, mend) in cases.items():
        command = [sys.executable, str(ROOT / "scripts" / "doctor.py"), "--folder", str(tmp_path), *options]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=200, check=False
        )
        lines = done.stdout.splitlines()
        failed = [index for index, line in enumerate(lines) if line.startswith("FAIL") and problem in line]
        named = done.returncode == 1 and bool(failed) and mend in lines[failed[0] + 1]
        faults.check(10, f"{fault}: named with its mend, exit 1", named, done.stdout + done.stderr)
