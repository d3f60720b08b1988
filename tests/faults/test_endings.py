"""How runs end: asked to stop, fed with rows that are not finite, out of disk, without one of their ranks."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from settings import difference, prepare, starts_of, steps_of
from traced import ROOT, read_trace, wait_for_steps

from trainers import checkpoints


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path):
    yield
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def terminate(rank, after_steps):
    def fault(processes, trace):
        wait_for_steps(trace, after_steps, processes)
        os.kill(processes[rank].pid, signal.SIGTERM)

    return fault


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "rank"),
    [("1 rank, map-style", 0), ("2 ranks, map-style", 0), ("2 ranks, map-style", 1), ("2 ranks, streaming", 1)],
)
def test_sigterm_to_one_rank(setting, rank, launcher, arguments, workspace, tmp_path, undisturbed, faults):
    ranks, more = prepare(setting, workspace)
    argv = arguments(tmp_path / "run", *more)
    first = launcher.run(argv, tmp_path / "trace", ranks=ranks, fault=terminate(rank, 4), timeout_s=90)
    faults.check(3, "SIGTERM to one rank: all leave with 143", first.codes == [143] * ranks, first)
    stopped = int(re.search(r"ended after step (\d+)", first.log)[1])
    folder = tmp_path / "run" / f"checkpoint-{stopped}"
    damage = checkpoints.find_damage(folder)
    faults.check(3, "SIGTERM to one rank: the same step is saved", damage is None, damage)
    faults.check(3, "SIGTERM to one rank: nothing is finished", not (tmp_path / "run" / "model").exists())
    second = launcher.run(argv, tmp_path / "trace", ranks=ranks)
    assert second.codes == [0] * ranks, second
    reference = undisturbed(setting)
    found = [difference(reference[r], read_trace(tmp_path / f"trace-{r}.jsonl")) for r in range(ranks)]
    faults.check(3, "the preempted run goes on bit for bit", found == [None] * ranks, found)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_row_that_is_not_finite(ranks, launcher, arguments, tmp_path, faults):
    argv = arguments(tmp_path / "run")
    outcome = launcher.run(argv, tmp_path / "trace", ranks=ranks, poison="train-5")
    dropped = re.findall(r"dropped: .*rows: (.*)", outcome.log)
    survived = outcome.codes == [0] * ranks and bool(dropped) and set(dropped) == {"train-5"}
    faults.check(4, "a row with NaN: its steps are dropped, it is named", survived, outcome)
    whole = all(checkpoints.find_damage(folder) is None for folder in checkpoints.checkpoints(tmp_path / "run"))
    faults.check(4, "a row with NaN: checkpoints stay whole", whole)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_rows_that_are_never_finite(ranks, launcher, arguments, tmp_path, faults):
    outcome = launcher.run(arguments(tmp_path / "run"), tmp_path / "trace", ranks=ranks, poison="train-")
    survived = outcome.codes == [4] * ranks and "3 steps in a row" in outcome.log
    faults.check(4, "only NaN: stops after 3 steps, exit 4", survived, outcome)
    saved = checkpoints.checkpoints(tmp_path / "run") + list((tmp_path / "run").glob("model"))
    faults.check(4, "only NaN: nothing is saved", not saved, saved)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB in memory, and a way to make it larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        return subprocess.run(["mount", *options, str(place)], capture_output=True, check=False).returncode == 0

    if not mount(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]):
        pytest.skip("mounting a small file system needs root")
    yield place, lambda: mount(["-o", "remount,size=64m"])
    subprocess.run(["umount", str(place)], check=False)


@pytest.mark.slow
@pytest.mark.parametrize("checked", [True, False], ids=["checked before", "met in the middle of a save"])
def test_the_disk_fills_up(checked, launcher, arguments, tmp_path, small_disk, faults):
    place, enlarge = small_disk
    argv = arguments(place / "run", "--training.save_total_limit", "9")
    how = "full disk, " + ("found before the save" if checked else "found while saving")
    first = launcher.run(argv, tmp_path / "trace", hide_full_disk=not checked)
    kept = checkpoints.checkpoints(place / "run")
    last_step = steps_of(read_trace(tmp_path / "trace-0.jsonl")).keys()
    survived = first.codes == [5] and max(last_step) == 14 and "Training goes on" in first.log
    faults.check(1, f"{how}: the run lives, exit 5", survived, first)
    whole = bool(kept) and all(checkpoints.find_damage(folder) is None for folder in kept)
    faults.check(1, f"{how}: earlier checkpoints stay whole", whole, kept)
    assert enlarge()
    second = launcher.run(argv, tmp_path / "again")
    finished = second.codes == [0] and (place / "run" / "model" / "model.safetensors").is_file()
    faults.check(1, f"{how}: with room again the run goes on", finished, second)


@pytest.mark.slow
def test_death_of_a_rank(arguments, tmp_path, undisturbed, faults):
    """torchrun starts all ranks again; the run goes on by itself from the last sealed checkpoint."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_USE_CPU": "true",
        # Otherwise the new group of ranks reads the addresses of the dead one.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TRACE": str(tmp_path / "trace"),
        "DIE_AT_STEP": "8",
    }
    worker = str(Path(__file__).with_name("elastic_worker.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--max-restarts", "2", worker, *arguments(tmp_path / "run", "--training.resume", "false")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    survived = done.returncode == 0 and (tmp_path / "run" / "model").is_dir()
    faults.check(5, "death of a rank under torchrun: recovers by itself", survived, done.stderr[-3000:])
    reference = undisturbed("2 ranks, map-style")
    traces = [read_trace(tmp_path / f"trace-{rank}.jsonl") for rank in range(2)]
    assert len(starts_of(traces[0])) == 2, "no rank died"
    found = [difference(reference[rank], traces[rank]) for rank in range(2)]
    faults.check(5, "the restarted run goes on bit for bit", found == [None, None], found)


def test_sigterm_to_a_single_process(launcher, arguments, tmp_path, faults):
    argv = arguments(tmp_path / "run", "--training.save_steps", "100")
    outcome = launcher.run(argv, tmp_path / "trace", fault=terminate(0, 2))
    saved = checkpoints.checkpoints(tmp_path / "run")
    survived = outcome.codes == [143] and len(saved) == 1 and checkpoints.find_damage(saved[0]) is None
    faults.check(3, "SIGTERM to a single process: saved, exit 143", survived, outcome)
