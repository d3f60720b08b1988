"""Score, decide and export as a program of its own, killed at random moments if asked to: for test_curate_faults.py.

    python curation_runs.py CONFIG              once, undisturbed
    python curation_runs.py CONFIG KILLS SEED   first KILLS times killed with SIGKILL, then once undisturbed

Everything is imported once; each attempt is a fork, so that a kill hits the work and not the start of Python.
"""

import os
import random
import signal
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import torch  # noqa: F401
import transformers  # noqa: F401

import models.tspc  # noqa: F401
import trainers.curation.export
import trainers.curation.scorers
import trainers.curation.scoring
import trainers.recognisers  # noqa: F401
from scripts.curate import main

datasets.disable_progress_bars()
config, *disturbed = sys.argv[1:]


def attempt() -> int:
    """All three commands in a child process; its id."""
    child = os.fork()
    if not child:
        status = 1
        try:
            status = sum(main([command, "--config", config]) for command in ("score", "decide", "export"))
        finally:
            sys.stdout.flush()
            os._exit(status)
    return child


kills, seed = map(int, disturbed) if disturbed else (0, 0)
rng = random.Random(seed)
done = 0
for number in range(kills):
    # Later attempts live longer, so that kills fall on every stage and the last of them are late.
    child = attempt()
    time.sleep(rng.uniform(0.1, 0.6) * (1 + number / 2))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    done += not os.WIFSIGNALED(status)
print(f"{kills} attempts killed, {done} of them had ended before")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(attempt(), 0)[1]))
