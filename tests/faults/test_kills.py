"""Killed at any moment, a run goes on as if nothing had happened: same rows, inputs, losses and weights."""

import random
import time

import pytest
from settings import SETTINGS, difference, prepare
from traced import SAVE_PLACES, read_trace, wait_for_steps


def disturbed(launcher, arguments, workspace, tmp_path, setting, reference, **fault):
    """Run with a fault, then again until it ends; what differs from the undisturbed run."""
    ranks, more = prepare(setting, workspace)
    argv = arguments(tmp_path / "run", *more)
    first = launcher.run(argv, tmp_path / "trace", ranks=ranks, **fault)
    assert any(code != 0 for code in first.codes), f"the fault did not happen: {first}"
    second = launcher.run(argv, tmp_path / "trace", ranks=ranks)
    if second.codes != [0] * ranks:
        return second
    found = [difference(reference[rank], read_trace(tmp_path / f"trace-{rank}.jsonl")) for rank in range(ranks)]
    return next((problem for problem in found if problem), None)


def kill_after(seed):
    """Kill every rank, some random time after a random step."""

    def fault(processes, trace):
        moment = random.Random(seed)
        wait_for_steps(trace, moment.randrange(1, 13), processes)
        time.sleep(moment.random() * 0.1)
        for process in processes:
            process.kill()

    return fault


def kill_after_step(step):
    """Kill every rank right after a step."""

    def fault(processes, trace):
        wait_for_steps(trace, step, processes)
        for process in processes:
            process.kill()

    return fault


def check_kill(setting, seed, request):
    launcher, arguments, workspace, tmp_path, undisturbed, faults = (
        request.getfixturevalue(name)
        for name in ("launcher", "arguments", "workspace", "tmp_path", "undisturbed", "faults")
    )
    problem = disturbed(
        launcher, arguments, workspace, tmp_path, setting, undisturbed(setting), fault=kill_after(seed)
    )
    faults.check(2, f"kill -9 at a random moment: {setting}", problem is None, problem)


def test_a_killed_run_goes_on_bit_for_bit(request):
    check_kill("1 rank, map-style", 0, request)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.again)])
@pytest.mark.parametrize("setting", SETTINGS)
def test_kills_at_random_moments(setting, seed, request):
    check_kill(setting, seed, request)


@pytest.mark.slow
@pytest.mark.parametrize("place", SAVE_PLACES)
@pytest.mark.parametrize("setting", ["1 rank, map-style", "2 ranks, map-style"])
def test_kills_inside_a_save(setting, place, launcher, arguments, workspace, tmp_path, undisturbed, faults):
    problem = disturbed(launcher, arguments, workspace, tmp_path, setting, undisturbed(setting), save_fault=(place, 6))
    faults.check(1, f"kill -9 inside a save: {setting.split(',')[0]}", problem is None, problem)
    named = list((tmp_path / "run").glob("damaged-checkpoint-6"))
    faults.check(1, "the interrupted checkpoint is set aside", bool(named), place)


@pytest.mark.slow
def test_every_row_once_an_epoch(launcher, arguments, tmp_path, faults):
    argv = arguments(tmp_path / "run", "--training.max_steps", "-1", "--training.num_train_epochs", "5")
    outcome = launcher.run(argv, tmp_path / "trace", ranks=2)
    assert outcome.codes == [0, 0], outcome
    batches = [
        [entry["rows"] for entry in read_trace(tmp_path / f"trace-{rank}.jsonl") if "rows" in entry]
        for rank in range(2)
    ]
    per_epoch, left = divmod(len(batches[0]), 5)
    assert not left and len(batches[1]) == len(batches[0])
    for epoch in range(5):
        span = slice(epoch * per_epoch, (epoch + 1) * per_epoch)
        rows = sorted(row for rank in range(2) for batch in batches[rank][span] for row in batch)
        expected = sorted(f"train-{number}" for number in range(24))
        faults.check(2, "2 ranks, length bucketing: every row once an epoch", rows == expected, rows)
