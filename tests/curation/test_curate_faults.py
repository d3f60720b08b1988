"""The same bytes from one process, from two, from Ray workers, and after ten kills."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_curation import save_corpus, save_ctc, save_s2p

ROOT = Path(__file__).resolve().parents[2]
RUNS = Path(__file__).with_name("curation_runs.py")
pytestmark = pytest.mark.slow


def run(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    return done.stdout


def contents(folder):
    """Bytes of every file, by its path; partial files are what kills leave behind, and no part of the output."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".partial")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    save_ctc(folder / "a")
    save_ctc(folder / "b", seed=0)
    save_s2p(folder / "s2p")
    save_corpus(folder / "corpus", rows_in_shards=(5, 4, 3, 6, 5, 4, 6, 5))
    (folder / "sentences.txt").write_text("bật đèn lên\ntắt quạt đi\nxin chào\n" * 3, encoding="utf-8")
    return folder


def config(place, out):
    path = place / f"{out}.yaml"
    path.write_text(
        f"output_dir: {place / out}\n"
        f"source: {{path: {place / 'corpus'}}}\n"
        "models:\n"
        f"  - {{name: a, path: {place / 'a'}, speeds: [1.0, 0.9]}}\n"
        f"  - {{name: b, path: {place / 'b'}, speeds: [1.0, 0.9]}}\n"
        f"  - {{name: s2p, path: {place / 's2p'}}}\n"
        "device: cpu\n"
        "decide: {methods: [voting]}\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def undisturbed(place):
    run(RUNS, config(place, "undisturbed"))
    found = contents(place / "undisturbed")
    assert len([name for name in found if name.startswith("scores/")]) == 3 * 8
    assert "decisions/default/decisions.parquet" in found and "kept/default/train-00007.parquet" in found
    return found


def test_ten_kills_leave_the_same_bytes(place, undisturbed):
    out = run(RUNS, config(place, "killed"), 10, 7)
    assert "10 attempts killed" in out and int(out.split("killed, ")[1].split()[0]) < 7, out
    assert contents(place / "killed") == undisturbed


def test_two_processes_write_what_one_does(place, undisturbed):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", port]
    for command in ("score", "decide", "export"):
        run(*launch, ROOT / "scripts" / "curate.py", command, "--config", config(place, "two"))
    assert contents(place / "two") == undisturbed


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_engines_write_what_one_process_does(place, undisturbed, engine, request):
    if engine == "ray":
        request.getfixturevalue("ray")
    options = ["--engine.name", engine, "--engine.num_workers", "2"]
    for command in ("score", "decide", "export"):
        run(ROOT / "scripts" / "curate.py", command, "--config", config(place, engine), *options)
    assert contents(place / engine) == undisturbed
