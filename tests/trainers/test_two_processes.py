"""Two CPU processes train what one does: data parallel, ZeRO-2, ZeRO-3, resumed, cached and streamed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rank_server import free_port, run_ranks
from tiny_tspc import make_p2t, make_s2p

RUN = Path(__file__).with_name("tiny_run.py")
pytestmark = pytest.mark.slow


def launch(out, *options, processes=2, accelerate=False):
    """Runs tiny_run.py and returns what rank 0 wrote."""
    if not accelerate:
        run_ranks(RUN, [out, *options], out.with_suffix(".log"), processes=processes)
    else:
        # `accelerate launch --cpu` and MULTI_CPU configs silently start one process, --multi_gpu with use_cpu two.
        start = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        start += ["--main_process_port", str(free_port())]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", *start, str(RUN), str(out), *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["world_size"] == processes
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def alone(folder):
    """One process, two batches accumulated: the reference for two processes with one batch each."""
    import torch

    torch.manual_seed(3)
    make_s2p(ctc_weight=0.3).save_pretrained(folder / "s2p")
    make_p2t().save_pretrained(folder / "p2t")
    return {
        stage: launch(
            folder / f"{stage}.json",
            "--stage",
            stage,
            "--model",
            str(folder / stage),
            "--accumulation",
            "2",
            processes=1,
        )
        for stage in ("s2p", "p2t")
    }


def assert_same(found, expected, tolerance):
    assert len(found["losses"]) == len(expected["losses"]) == 20
    assert expected["losses"][-1] < 0.95 * expected["losses"][0]
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=tolerance)
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], abs=2 * tolerance)
    # Seven rows do not divide by two: none is scored twice, none is left out, and they come in order.
    assert found["eval_rows"] == expected["eval_rows"] == 7
    assert found["labels"] == expected["labels"]


@pytest.fixture(scope="module")
def together(folder, alone):
    """S2P on two ranks, with checkpoints."""
    options = ["--model", str(folder / "s2p"), "--save_steps", "7"]
    return launch(folder / "s2p-2.json", *options, accelerate=True)


def test_data_parallel(folder, alone, together):
    assert_same(together, alone["s2p"], 1e-4)
    found = launch(folder / "p2t-2.json", "--stage", "p2t", "--model", str(folder / "p2t"))
    assert_same(found, alone["p2t"], 1e-4)


def test_resumed_run_is_bit_identical_on_two_ranks(folder, together):
    # The last one would leave nothing to train.
    (folder / "s2p-2" / "checkpoint-20").rename(folder / "checkpoint-20")
    options = ["--model", str(folder / "s2p"), "--save_steps", "7", "--resume"]
    assert launch(folder / "s2p-2.json", *options) == together


@pytest.mark.parametrize(("stage", "zero"), [("s2p", 3), ("p2t", 3)])
def test_deepspeed(folder, alone, zero, stage):
    config = {
        "zero_optimization": {
            "stage": zero,
            "stage3_gather_16bit_weights_on_model_save": True,
            "stage3_param_persistence_threshold": 0,  # else tensors as small as these are never partitioned
        },
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
    }
    path = folder / f"zero{zero}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    options = ["--stage", stage, "--model", str(folder / stage), "--deepspeed", str(path)]
    assert_same(launch(folder / f"{stage}-zero{zero}.json", *options), alone[stage], 1e-3)


def test_ranks_build_one_cache(folder, alone):
    options = ["--model", str(folder / "s2p"), "--cache", str(folder / "cache")]
    two = launch(folder / "cached-2.json", *options)
    parts = {path.name: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.bin")}
    assert len(parts) == 2
    one = launch(folder / "cached-1.json", *options, "--accumulation", "2", processes=1)
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.bin")} == parts
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("workers", [0, 2])
def test_streams_go_on_where_two_ranks_stopped(folder, workers):
    options = ["--stream", "--steps", "10", "--workers", str(workers), "--save_steps", "4", "--accumulation", "2"]
    name = f"stream-{workers}"
    straight = launch(folder / f"{name}.json", *options)
    assert np.isfinite(straight["losses"]).all() and len(straight["losses"]) == 10
    (folder / name / "checkpoint-8").rename(folder / f"{name}-checkpoint-8")
    (folder / name / "checkpoint-10").rename(folder / f"{name}-checkpoint-10")
    states = [json.loads((folder / name / "checkpoint-4" / f"data_state_{r}.json").read_text("utf-8")) for r in (0, 1)]
    assert [state["rank"] for state in states] == [0, 1]
    assert all(len(state["lanes"]) == max(1, workers) for state in states)
    assert launch(folder / f"{name}.json", *options, "--resume") == straight
