"""Engines give results in order, few in flight, and outlive a worker that is killed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from data_scripts.engines import EngineError, make_engine


@dataclass(frozen=True)
class Numbered:
    number: int

    @property
    def name(self) -> str:
        return f"the shard from row {self.number}"


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def fail_at(wrong: int, number: int) -> int:
    if number == wrong:
        raise KeyError(f"no {number}")
    return number


def die(folder: str, deadly: dict[int, int], task: Numbered) -> int:
    """Kill this process the first `deadly[number]` times that a task is tried; a file counts the tries."""
    tries = Path(folder) / str(task.number)
    with tries.open("a") as file:
        file.write("x")
    if tries.stat().st_size <= deadly.get(task.number, 0):
        os.kill(os.getpid(), signal.SIGKILL)
    return task.number


def sleep_there(folder: str, _: int) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def tries_of(folder: Path) -> dict[int, int]:
    return {int(path.name): path.stat().st_size for path in folder.iterdir()}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_come_in_order_and_tasks_are_drawn_as_needed(num_workers):
    drawn = []

    def tasks():
        for number in range(40):
            drawn.append(number)
            yield number

    with make_engine("local", num_workers) as engine:
        results = engine.map(square, tasks())
        assert next(results)[0] == 0
        assert len(drawn) <= 5
        rest = list(results)
    assert [value for value, _ in rest] == [number * number for number in range(1, 40)]
    processes = {process for _, process in rest}
    assert processes == {os.getpid()} if num_workers == 0 else os.getpid() not in processes and len(processes) <= 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_a_task_raises_comes_at_its_place(num_workers):
    with make_engine("local", num_workers) as engine:
        results = engine.map(partial(fail_at, 2), range(100))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(KeyError, match="no 2"):
            next(results)
        # The engine is still good.
        assert list(engine.map(partial(fail_at, -1), range(3))) == [0, 1, 2]


def test_a_task_whose_worker_is_killed_is_tried_again(tmp_path):
    with make_engine("local", 2) as engine:
        results = list(engine.map(partial(die, str(tmp_path), {3: 1, 9: 1}), map(Numbered, range(14))))
    assert results == list(range(14))
    tries = tries_of(tmp_path)
    assert tries[3] == tries[9] == 2
    # Only what was in flight beside them ran twice.
    assert sum(count - 1 for count in tries.values()) <= 8


def test_a_task_that_kills_twice_is_named_and_what_was_before_it_is_given_out(tmp_path):
    given = []
    with make_engine("local", 2) as engine:
        with pytest.raises(EngineError, match=r"the shard from row 5.*same command continues.*num_workers=0"):
            for result in engine.map(partial(die, str(tmp_path), {5: 9}), map(Numbered, range(50))):
                given.append(result)
    assert given == [0, 1, 2, 3, 4]
    assert tries_of(tmp_path)[5] == 2
    assert max(tries_of(tmp_path)) < 12  # nothing new is begun after the first death


def test_workers_end_with_a_parent_that_is_killed(tmp_path, repo_root):
    code = (
        "from functools import partial\nfrom data_scripts.engines import make_engine\n"
        "from tests.data.test_engines import sleep_there\n"
        "if __name__ == '__main__':\n"
        f"    list(make_engine('local', 2).map(partial(sleep_there, {str(tmp_path)!r}), [0, 1]))\n"
    )
    script = tmp_path / "job" / "job.py"
    script.parent.mkdir()
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    with subprocess.Popen([sys.executable, str(script)], env=environment) as job:
        deadline = time.monotonic() + 60
        while len(workers := [int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()]) < 2:
            assert time.monotonic() < deadline and job.poll() is None
            time.sleep(0.05)
        job.kill()
    deadline = time.monotonic() + 10
    while any(_runs(worker) for worker in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slurm",), r"'slurm'; allowed are local, ray"),
        (("local", -1), "at least 0, got -1"),
        (("local", 1, "auto"), "for engine ray"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_engine(*arguments)


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"pip install 'amvi\[ray\]'"):
        make_engine("ray", 2)
