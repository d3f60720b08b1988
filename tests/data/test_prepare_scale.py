"""Memory does not grow with the corpus, and a Ray cluster writes the bytes that one process writes."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from data_scripts.prepare import prepare_validated
from data_scripts.sources import SourceArguments

from .conftest import contents, encode, voice, write_csv

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CLIP_S = 4.0

# Runs in a process of its own: peak memory of it and of all its workers together.
MEASURE = """
import json, sys, threading, time
import psutil
import data_scripts.prepare
from data_scripts.prepare import prepare_validated
from data_scripts.sources import SourceArguments

me, peak, stop = psutil.Process(), [0, 0], threading.Event()

def watch():
    while not stop.is_set():
        family = []
        for process in [me, *me.children(recursive=True)]:
            try:
                family.append(process.memory_info().rss)
            except psutil.Error:
                pass
        peak[0], peak[1] = max(peak[0], family[0]), max(peak[1], sum(family))
        time.sleep(0.02)

if __name__ == "__main__":
    threading.Thread(target=watch, daemon=True).start()
    source = SourceArguments(**json.loads(sys.argv[1]))
    report = prepare_validated(source, sys.argv[2], rows_per_shard=300, num_workers=int(sys.argv[3]))
    stop.set()
    print(json.dumps({"own": peak[0], "all": peak[1], "rows": report.num_kept, "hours": report.seconds_kept / 3600}))
"""


def make_corpus(folder: Path, hours: float) -> Path:
    """Clips of 4 s that differ in the name of their encoder alone, so that making and writing them is cheap."""
    (folder / "clips").mkdir(parents=True)
    buffer = io.BytesIO()
    soundfile.write(buffer, voice(CLIP_S), 16_000, format="FLAC", subtype="PCM_16")
    content = bytearray(buffer.getvalue())
    encoder = content.index(b"reference libFLAC")
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "speaker"])
        for number in range(round(hours * 3600 / CLIP_S)):
            content[encoder : encoder + 6] = f"{number:06d}".encode()
            (folder / "clips" / f"{number:06d}.flac").write_bytes(content)
            text = f"câu số {['một', 'hai', 'ba', 'bốn', 'năm'][number % 5]}"
            writer.writerow([f"clips/{number:06d}.flac", text, f"s{number % 97}"])
    return folder


def peak_memory(source: dict, out: Path, num_workers: int) -> dict:
    command = [sys.executable, "-c", MEASURE, json.dumps(source), str(out), str(num_workers)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_memory_does_not_grow_with_the_corpus(form, tmp_path):
    peaks = {}
    for hours in (2, 8):
        place = tmp_path / str(hours)
        folder = make_corpus(place / "clips", hours)
        if form == "parquet":
            # A few files of many row groups, as a corpus on the Hub has them.
            prepare_validated(SourceArguments(str(folder)), str(place / "parquet"), rows_per_shard=10_000)
            folder = place / "parquet"
        peaks[hours] = peak_memory({"path": str(folder)}, place / "out", 2)
        assert peaks[hours]["hours"] == pytest.approx(hours)
        shutil.rmtree(place)  # gigabytes
    print(peaks)
    assert peaks[8]["own"] < 1.1 * peaks[2]["own"], peaks
    assert peaks[8]["all"] < 1.1 * peaks[2]["all"], peaks
    assert peaks[8]["all"] < 1 << 30, peaks


# Ray: two nodes of one CPU each on this machine, in a process of its own.

CLUSTER = """
import sys
import ray
from ray.cluster_utils import Cluster
from data_scripts.prepare import prepare_validated
from data_scripts.sources import SourceArguments

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    report = prepare_validated(SourceArguments(sys.argv[1]), sys.argv[2], rows_per_shard=2, engine="ray")
    print(len(ray.nodes()), report.num_kept)
    ray.shutdown()
    cluster.shutdown()
"""


def test_a_ray_cluster_of_two_nodes_writes_the_same_bytes(tmp_path, ray):
    rows = []
    for index in range(9):
        (tmp_path / f"a{index}.flac").write_bytes(encode(voice(0.2 + 0.01 * (index % 7)), "flac"))
        rows.append({"id": f"u{index % 8}", "file_name": f"a{index}.flac", "text": "xin chào"})
    write_csv(tmp_path / "metadata.csv", rows)
    prepare_validated(SourceArguments(str(tmp_path)), str(tmp_path / "local"), rows_per_shard=2)
    command = [sys.executable, "-c", CLUSTER, str(tmp_path), str(tmp_path / "ray")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["2", "8"]
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


RAY_ENGINE = """
import sys, tempfile
from functools import partial
from data_scripts.engines import EngineError, make_engine
from tests.data.test_engines import Numbered, die, fail_at, square

with make_engine("ray", 2) as engine:
    assert [value for value, _ in engine.map(square, range(20))] == [number * number for number in range(20)]
    given = []
    try:
        for result in engine.map(partial(fail_at, 2), range(9)):
            given.append(result)
    except KeyError as error:
        given.append(str(error))
    assert given == [0, 1, "'no 2'"], given
    assert list(engine.map(partial(die, tempfile.mkdtemp(), {3: 1}), map(Numbered, range(6)))) == list(range(6))
    try:
        list(engine.map(partial(die, tempfile.mkdtemp(), {3: 9}), map(Numbered, range(6))))
    except EngineError as error:
        assert "the shard from row 3" in str(error) and "\\n" not in str(error), error
        print("named")
"""


def test_the_ray_engine_keeps_the_promises_of_an_engine(ray):
    done = subprocess.run([sys.executable, "-c", RAY_ENGINE], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "named" in done.stdout, done.stdout + done.stderr
