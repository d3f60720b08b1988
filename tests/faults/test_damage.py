"""Damage to any file of a checkpoint: the older good one is used, the damaged one is named; pickles never run."""

import os
import pickle
import shutil

import pytest
from settings import steps_of
from traced import read_trace

from trainers import checkpoints


@pytest.fixture(scope="module")
def stopped(launcher, arguments, tmp_path_factory):
    """A run with checkpoints 12 and 14 that died before its model was finished."""
    folder = tmp_path_factory.mktemp("stopped")
    outcome = launcher.run(arguments(folder / "run"), folder / "trace")
    assert outcome.codes == [0], outcome
    assert [path.name for path in checkpoints.checkpoints(folder / "run")] == ["checkpoint-14", "checkpoint-12"]
    shutil.rmtree(folder / "run" / "model")
    return folder


def spoil(path, damage):
    if damage == "deleted":
        path.unlink()
    elif damage == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 0x10
        path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["deleted", "truncated", "bit flipped"])
def test_every_file_of_a_checkpoint(damage, stopped, launcher, arguments, undisturbed, tmp_path, faults):
    names = [path.relative_to(stopped / "run" / "checkpoint-14") for path in walk(stopped / "run" / "checkpoint-14")]
    assert len(names) >= 10
    # One launch for three files, in copies of the run: the older checkpoint must serve each time.
    for name in names:
        run = tmp_path / f"run-{str(name).replace('/', '-')}"
        shutil.copytree(stopped / "run", run)
        spoil(run / "checkpoint-14" / name, damage)
        whole, damaged = checkpoints.newest_whole(run)
        found = whole == run / "checkpoint-12" and list(damaged) == [run / "checkpoint-14"]
        faults.check(1, f"a file of a checkpoint {damage}: found", found, name)
        named = str(name) in damaged[run / "checkpoint-14"] or name.name == checkpoints.SEAL_FILE
        faults.check(1, f"a file of a checkpoint {damage}: named", named, damaged)
        if name.suffix in (".safetensors", ".pt", ".pth") or name.name in ("trainer_state.json", "seal.json"):
            outcome = launcher.run(arguments(run), tmp_path / f"trace-{name.name}")
            steps = steps_of(read_trace(tmp_path / f"trace-{name.name}-0.jsonl"))
            survived = outcome.codes == [0] and min(steps) == 13 and "checkpoint-14" in outcome.log
            faults.check(1, f"a file of a checkpoint {damage}: the older one serves, exit 0", survived, outcome)
            assert all(steps[step] == undisturbed("1 rank, map-style")[0][step] for step in steps)
        shutil.rmtree(run)


def walk(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Bomb:
    """Leaves a mark wherever it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (os.system, (f"touch '{self.mark}'",))


@pytest.mark.slow
def test_pickles_in_every_slot_of_a_checkpoint(stopped, launcher, arguments, tmp_path, faults):
    slots = ["pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt",
             "optimizer.bin", "adapter_model.bin", "global_step14/mp_rank_00_model_states.pt"]  # fmt: skip
    for sealed in (False, True):
        run, mark = tmp_path / f"run-{sealed}", tmp_path / f"mark-{sealed}"
        shutil.copytree(stopped / "run", run)
        for slot in slots:
            path = run / "checkpoint-14" / slot
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(pickle.dumps(Bomb(mark)))
        if sealed:
            # As a stranger would: with a seal that fits, under a key of their own.
            os.environ[checkpoints.KEY_VARIABLE] = str(tmp_path / "stranger")
            checkpoints.seal(run / "checkpoint-14", checkpoints.read_seal(run / "checkpoint-12")["facts"])
            del os.environ[checkpoints.KEY_VARIABLE]
        outcome = launcher.run(arguments(run), tmp_path / f"trace-{sealed}")
        how = "with a stranger's seal" if sealed else "unsealed"
        faults.check(8, f"pickles in every slot of a checkpoint, {how}: none runs", not mark.exists(), outcome)
        faults.check(
            8, f"pickles in every slot of a checkpoint, {how}: exit", outcome.codes == [2 if sealed else 0], outcome
        )
