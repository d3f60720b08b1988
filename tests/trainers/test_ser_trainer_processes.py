"""Two CPU processes train an emotion classifier as one does, and go on where they died."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

RUN = Path(__file__).with_name("ser_run.py")
pytestmark = pytest.mark.slow


def launch(out, *options, processes=2):
    """Runs ser_run.py and returns what rank 0 wrote."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes == 2 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *start, str(RUN), str(out), *map(str, options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["world_size"] == processes
    return result


@pytest.mark.parametrize("system", ["fusion", "emotion2vec"])
def test_two_ranks_are_one_batch_of_twice_the_size(system, tmp_path):
    alone = launch(tmp_path / "1.json", "--system", system, "--batch_size", 6, processes=1)
    found = launch(tmp_path / "2.json", "--system", system)
    assert alone["losses"][-1] != alone["losses"][0]
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=2e-4)
    # Compared over both ranks, so the contrastive loss is that of the whole batch as well.
    np.testing.assert_allclose(found["parts"], alone["parts"], rtol=2e-4)
    assert found["norm"] == pytest.approx(alone["norm"], rel=1e-6)
    # None is scored twice, none is left out, and they come in order. (Batches of evaluation are compared by rank.)
    assert found["eval"][1] == alone["eval"][1] == 7
    assert found["eval"][2] == pytest.approx(alone["eval"][2], rel=1e-3)
    assert found["labels"][0] == found["labels"][1] == alone["labels"][0]
    if system == "fusion":
        # As if both had died after the checkpoint of step 4.
        shutil.rmtree(tmp_path / "2" / "checkpoint-6")
        assert launch(tmp_path / "2.json", "--system", system, "--resume") == found
    else:
        assert found["eval"][0] == pytest.approx(alone["eval"][0], rel=1e-4)
