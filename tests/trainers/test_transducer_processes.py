"""Two CPU processes train aligned recognisers as one does: data parallel, ZeRO-2, resumed, at full size in bf16."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rank_server import run_ranks

RUN = Path(__file__).with_name("aligned_run.py")
DEEPSPEED = Path(__file__).resolve().parents[2] / "configs" / "accelerate" / "deepspeed"
pytestmark = pytest.mark.slow


def launch(out, *options, processes=2):
    """Runs aligned_run.py and returns what rank 0 wrote."""
    run_ranks(RUN, [out, *options], out.with_suffix(".log"), processes=processes)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["world_size"] == processes
    return result


def assert_same(found, expected, tolerance):
    assert len(found["losses"]) == len(expected["losses"])
    assert min(expected["losses"]) < 0.95 * expected["losses"][0]
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=tolerance)
    np.testing.assert_allclose(found["ctc_losses"], expected["ctc_losses"], rtol=2 * tolerance)
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=2 * tolerance)
    # Seven rows do not divide by two: none is scored twice, none is left out, and they come in order.
    assert found["eval_rows"] == expected["eval_rows"] == 7
    assert found["labels"] == expected["labels"]
    # Counted over all ranks.
    assert found["skipped"] == expected["skipped"] and found["skipped"]


def test_data_parallel_and_zero2(tmp_path):
    alone = launch(tmp_path / "1.json", "--accumulation", 2, processes=1)
    assert_same(launch(tmp_path / "2.json"), alone, 1e-4)
    assert_same(launch(tmp_path / "zero2.json", "--deepspeed", DEEPSPEED / "zero2.json"), alone, 1e-4)


def test_scaled_adam_on_two_ranks_and_resumed(tmp_path):
    options = ["--scaled_adam", "--steps", 8]
    together = launch(tmp_path / "2.json", *options, "--save_steps", 3)
    assert_same(together, launch(tmp_path / "1.json", *options, "--accumulation", 2, processes=1), 1e-3)
    # As if both had died after the checkpoint of step 6.
    shutil.rmtree(tmp_path / "2" / "checkpoint-8")
    assert launch(tmp_path / "2.json", *options, "--save_steps", 3, "--resume") == together


def test_thirty_million_parameters_in_bfloat16_and_zero2(tmp_path):
    # Fifty steps were run once: data parallel to the bit as one process, ZeRO-2 within 0.4 %.
    options = ["--system", "zipformer-30m", "--bf16", "--steps", 2, "--batch_size", 2]
    alone = launch(tmp_path / "1.json", *options, "--accumulation", 2, processes=1)
    found = launch(tmp_path / "2.json", *options, "--deepspeed", DEEPSPEED / "zero2.json")
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-2)
