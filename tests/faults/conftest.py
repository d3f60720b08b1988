"""The table of promises: every fault that is injected reports how often it was survived.

`pytest tests/faults --faults faults.json` runs all of them and writes the table; the suites leave out those that only
repeat a fault elsewhere (`again`).
"""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent))  # `traced` must be importable by the processes forked from a server

from settings import prepare, steps_of
from traced import Launcher, read_trace

SENTENCES = ["xin chào", "hôm nay họp team", "một hai ba", "deadline ngày mai", "tôi đi học", "bốn năm sáu"]
PROMISES = {
    1: "sealed checkpoints",
    2: "exact resume",
    3: "preemption",
    4: "non-finite guard",
    5: "rank death",
    6: "publishing",
    7: "bad rows",
    8: "nothing runs, no secret leaves",
    9: "strict loading",
    10: "doctor",
}


class FaultTable:
    """Runs and survivals by promise and fault."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, str], list[int]] = {}

    def check(self, promise: int, fault: str, survived: bool, detail: object = "") -> None:
        """Count one run, and fail the test if it did not end as promised."""
        row = self.rows.setdefault((promise, fault), [0, 0])
        row[0] += 1
        row[1] += bool(survived)
        assert survived, f"promise {promise} ({PROMISES[promise]}), {fault}: {detail}"

    def as_json(self) -> list[dict]:
        return [
            {"promise": number, "name": PROMISES[number], "fault": fault, "runs": runs, "survived": survived}
            for (number, fault), (runs, survived) in sorted(self.rows.items())
        ]


TABLE = FaultTable()


def pytest_collection_modifyitems(config, items):
    if config.getoption("--faults"):
        return
    repetitions = [item for item in items if item.get_closest_marker("again")]
    config.hook.pytest_deselected(items=repetitions)
    items[:] = [item for item in items if item not in repetitions]


def pytest_terminal_summary(terminalreporter, config):
    path = config.getoption("--faults")
    if not path:
        return
    rows = TABLE.as_json()
    Path(path).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'promise':34} {'fault':64} {'runs':>5} {'survived':>9}")
    for row in rows:
        promise = f"{row['promise']} {row['name']}"
        terminalreporter.write_line(f"{promise:34} {row['fault']:64} {row['runs']:>5} {row['survived']:>9}")
    terminalreporter.write_line(f"written to {path}")


@pytest.fixture(scope="session")
def faults() -> FaultTable:
    return TABLE


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    """24 + 4 utterances of 0.3 to 0.9 s, and a config that names them."""
    root = tmp_path_factory.mktemp("faults")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 4)):
        folder = root / "data" / split
        folder.mkdir(parents=True)
        with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "id", "text"])
            for number in range(count):
                time_s = np.arange(4800 + 400 * number) / 16_000
                audio = 0.1 * np.sin(2 * np.pi * (200 + 60 * (number % 6)) * time_s)
                soundfile.write(folder / f"{number}.wav", audio + 0.01 * rng.standard_normal(len(audio)), 16_000)
                table.writerow([f"{number}.wav", f"{split}-{number}", SENTENCES[number % 6]])
    (root / "mine.yaml").write_text(
        f"data:\n  train: [{{path: {root}/data, split: train}}]\n"
        f"  validation: [{{path: {root}/data, split: validation}}]\n"
        "  batch_duration_s: 3\n  max_duration_s: 2\n  max_rows: null\n"
        "  augmentation: {speed: 0.1, gain_db: 6, noise_snr_db: 10, time_masks: 1}\n"
        "training: {disable_tqdm: true, eval_strategy: 'no', load_best_model_at_end: false, save_strategy: steps,\n"
        "  save_steps: 3, max_steps: 14, save_total_limit: 2, resume: auto, early_stopping_patience: null}\n",
        encoding="utf-8",
    )
    return root


@pytest.fixture(scope="session")
def arguments(workspace):
    """Command line of a traced run in a folder."""

    def build(folder: Path, *more: str, stage: str = "s2p") -> list[str]:
        argv = ["--config", f"configs/tspc/{stage}.yaml", "--config", "configs/smoke.yaml"]
        return [*argv, "--config", str(workspace / "mine.yaml"), "--training.output_dir", str(folder), *more]

    return build


@pytest.fixture(scope="session")
def launcher(tmp_path_factory) -> Iterator[Launcher]:
    yield Launcher(tmp_path_factory.mktemp("launches"))


@pytest.fixture(scope="session")
def undisturbed(launcher, arguments, workspace, tmp_path_factory):
    """The trace of each rank of a run that nothing happens to, by setting."""
    known = {}

    def run(setting):
        if setting not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            ranks, more = prepare(setting, workspace)
            outcome = launcher.run(arguments(folder / "run", *more), folder / "trace", ranks=ranks)
            assert outcome.codes == [0] * ranks, outcome
            known[setting] = [steps_of(read_trace(folder / f"trace-{rank}.jsonl")) for rank in range(ranks)]
            assert all(len(trace) == 14 for trace in known[setting])
        return known[setting]

    return run
