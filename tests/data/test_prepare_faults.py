"""Whatever happens while shards are made, the same command ends with the same bytes."""

import multiprocessing
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
import soundfile

import data_scripts.prepare
from data_scripts.engines import EngineError
from data_scripts.files import DiskFull
from data_scripts.prepare import OutputError, prepare_validated
from data_scripts.preparing.checking import check_block
from data_scripts.sources import SourceArguments
from data_scripts.validate import Limits

from .conftest import contents, encode, voice, write_csv

NUM_ROWS, ROWS_PER_SHARD = 22, 4
KILLS = 10


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """22 rows: one empty; ids repeated within a shard and across shards; recordings repeated across shards."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for index in range(NUM_ROWS):
        sounds_as = {9: 2, 17: 2, 20: 11}.get(index, index)
        content = b"" if index == 5 else encode(voice(0.15 + 0.01 * sounds_as), "flac")
        (folder / f"a{index}.flac").write_bytes(content)
        row_id = {3: 1, 8: 1, 12: 5, 13: 0}.get(index, index)
        rows.append({"id": f"u{row_id}", "file_name": f"a{index}.flac", "text": f"Xin chào {'a' * index}"})
    write_csv(folder / "metadata.csv", rows)
    return folder


def prepare(corpus, out, **options):
    return prepare_validated(SourceArguments(str(corpus)), str(out), **{"rows_per_shard": ROWS_PER_SHARD, **options})


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    report = prepare(corpus, out)
    assert (report.num_rows, report.num_kept) == (NUM_ROWS, NUM_ROWS - 5)
    assert report.counts["duplicate_id"] == 4 and report.counts["duplicate_audio"] == 3
    files = contents(out)
    assert {name for name in files if not name.startswith(".prepared/train/0")} == {
        *(f"train-{number:05d}.parquet" for number in range(6)),
        "drop_report.json",
        ".prepared/lock",
        ".prepared/train/lock",
        ".prepared/train/run.json",
    }
    return files


@pytest.mark.parametrize("num_workers", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_workers_change_nothing(num_workers, corpus, undisturbed, tmp_path):
    prepare(corpus, tmp_path / "out", num_workers=num_workers)
    assert contents(tmp_path / "out") == undisturbed


# A process that dies by itself at its n-th step on disk, from a server that has paid for the imports.


def _prepare_until(corpus: str, out: str, last_step: int, before: bool, steps) -> None:
    """Prepare, counting syncs, renames and removals; die at `last_step`, before or after doing it."""

    def counted(do, *args, **options):
        steps.value += 1
        if steps.value == last_step and before:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return do(*args, **options)
        finally:
            if steps.value == last_step:
                os.kill(os.getpid(), signal.SIGKILL)

    for name in ("fsync", "replace", "unlink", "open"):
        setattr(os, name, partial(counted, getattr(os, name)))
    prepare(corpus, out)


@pytest.fixture(scope="module")
def die_at():
    """`die_at(corpus, out, step)` → (steps done, exit code) of a process that was to die at a step."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["data_scripts.prepare", __name__])

    def run(corpus, out, last_step, before=True):
        steps = server.Value("i", 0)
        process = server.Process(target=_prepare_until, args=(str(corpus), str(out), last_step, before, steps))
        process.start()
        process.join(60)
        return steps.value, process.exitcode

    return run


def test_killed_at_any_moment_it_continues_to_the_same_bytes(corpus, undisturbed, die_at, tmp_path):
    num_steps, code = die_at(corpus, tmp_path / "whole", -1)
    assert code == 0 and num_steps > 50
    chosen = random.Random(3)
    for number, step in enumerate(sorted(chosen.sample(range(1, num_steps + 1), KILLS))):
        out = tmp_path / str(number)
        _, code = die_at(corpus, out, step, before=chosen.random() < 0.5)
        assert code == -signal.SIGKILL
        if number % 3 == 0:  # and again, before it has caught up
            die_at(corpus, out, max(1, step // 2))
        prepare(corpus, out)
        assert contents(out) == undisturbed, f"killed at step {step} of {num_steps}"


@pytest.mark.slow
def test_the_command_killed_at_random_moments(corpus, undisturbed, tmp_path, repo_root):
    script = [sys.executable, str(repo_root / "scripts" / "prepare_data.py"), "validate", "--num_workers", "2"]
    options = ["--source.path", str(corpus), "--rows_per_shard", str(ROWS_PER_SHARD), "--output_dir"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    start = time.monotonic()
    subprocess.run([*script, *options, str(tmp_path / "whole")], check=True, **quiet)
    took_s = time.monotonic() - start
    chosen, out = random.Random(5), tmp_path / "out"
    for _ in range(KILLS):
        with subprocess.Popen([*script, *options, str(out)], **quiet) as process:
            time.sleep(chosen.uniform(0.4, 1.0) * took_s)
            process.kill()
    subprocess.run([*script, *options, str(out)], check=True, **quiet)
    assert contents(out) == contents(tmp_path / "whole") == undisturbed


def test_interrupted_in_a_commit(corpus, undisturbed, tmp_path, monkeypatch):
    """A block that waits for one before it is used as it is."""
    seen = []

    def fail_at_the_first(job, block):
        if block.number == 0 and not seen:
            for later in (1, 2):
                seen.append(later)
                check_block(job, blocks[later])
            raise KeyboardInterrupt
        return check_block(job, block)

    from data_scripts.preparing.blocks import plan_blocks

    source = SourceArguments(str(corpus))
    blocks = list(plan_blocks(source, True, ROWS_PER_SHARD, lambda number: False, Path).blocks)
    monkeypatch.setattr(data_scripts.prepare, "check_block", fail_at_the_first)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, tmp_path / "out")
    waiting = sorted(path.name for path in (tmp_path / "out").rglob("checked-*"))
    assert waiting[:2] == ["checked-00001-000.parquet", "checked-00001.json"] and len(waiting) == 4
    prepare(corpus, tmp_path / "out")
    assert contents(tmp_path / "out") == undisturbed


def test_two_runs_at_once_are_refused(corpus, tmp_path, monkeypatch):
    def second_run(job, block):
        with pytest.raises(OutputError, match="another run is writing there"):
            prepare(corpus, tmp_path / "out")
        raise KeyboardInterrupt

    monkeypatch.setattr(data_scripts.prepare, "check_block", second_run)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, tmp_path / "out")


# A worker that the kernel kills.


def _killed(marks: str, times: int, number: int, job, block):
    # Workers beside it end with it, in the middle of a file.
    (job.folder.state / f".checked-{block.number:05d}-000.parquet.{os.getpid()}.partial").touch()
    if block.number == number:
        with open(marks, "a") as file:
            file.write("x")
        if os.path.getsize(marks) <= times:
            os.kill(os.getpid(), signal.SIGKILL)
    return check_block(job, block)


@pytest.mark.slow
def test_a_worker_killed_by_the_kernel_is_replaced(corpus, undisturbed, tmp_path, monkeypatch):
    killed = partial(_killed, str(tmp_path / "marks"), 1, 3)
    monkeypatch.setattr(data_scripts.prepare, "check_block", killed)
    prepare(corpus, tmp_path / "out", num_workers=2)
    assert (tmp_path / "marks").stat().st_size == 2
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.slow
def test_a_shard_that_always_kills_is_named(corpus, undisturbed, tmp_path, monkeypatch):
    killed = partial(_killed, str(tmp_path / "marks"), 99, 3)
    monkeypatch.setattr(data_scripts.prepare, "check_block", killed)
    with pytest.raises(EngineError, match=r"the shard from row 12\b.*the same command continues.*memory"):
        prepare(corpus, tmp_path / "out", num_workers=2)
    finished = {name: data for name, data in contents(tmp_path / "out").items() if name.endswith(".parquet")}
    for number in range(3):
        assert finished[f"train-{number:05d}.parquet"] == undisturbed[f"train-{number:05d}.parquet"]
    monkeypatch.undo()
    prepare(corpus, tmp_path / "out", num_workers=2)
    assert contents(tmp_path / "out") == undisturbed


# A disk that fills up.


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB; only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(
    ("num_workers", "foreseen"), [(0, True), (0, False), pytest.param(2, True, marks=pytest.mark.slow)]
)
def test_a_disk_that_fills_up(num_workers, foreseen, corpus, undisturbed, small_disk, monkeypatch):
    # It may be full all the same: others write to it, or the estimate was low.
    monkeypatch.setattr("data_scripts.files.RESERVE_BYTES", 0 if foreseen else -(1 << 40))
    out, ballast = small_disk / "out", small_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    with pytest.raises(DiskFull, match=rf"{out}.*MiB or more needed, \d\.\d MiB free.*same command") as caught:
        prepare(corpus, out, num_workers=num_workers)
    assert "\n" not in str(caught.value)
    assert not list(out.rglob("*.partial"))
    for path in out.glob("*.parquet"):
        assert path.read_bytes() == undisturbed[path.name]
    if not num_workers and not foreseen:
        assert list(out.glob("*.parquet"))
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    prepare(corpus, out, num_workers=num_workers)
    assert contents(out) == undisturbed


# Files that are too big to look at.


def wav_header(num_samples: int) -> bytes:
    size = 2 * num_samples
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    return head + struct.pack("<4sI", b"data", size)


def flac_header(num_samples: int) -> bytes:
    """A short FLAC file whose header claims another length (36 bits in STREAMINFO)."""
    content = bytearray(encode(voice(), "flac"))
    content[21] = content[21] & 0xF0 | num_samples >> 32
    content[22:26] = struct.pack(">I", num_samples & 0xFFFF_FFFF)
    return bytes(content)


def test_a_ten_hour_recording_is_dropped_by_its_header(tmp_path, monkeypatch):
    """A WAV of 1.2 GB (sparse on disk) and a FLAC beside a good row: neither is decoded or held."""
    hours_10 = 36_000 * 16_000
    with (tmp_path / "ten_hours.wav").open("wb") as file:
        file.write(wav_header(hours_10))
        file.truncate(44 + 2 * hours_10)
    (tmp_path / "ten_hours.flac").write_bytes(flac_header(hours_10))
    assert soundfile.info(str(tmp_path / "ten_hours.flac")).duration == 36_000
    (tmp_path / "good.flac").write_bytes(encode(voice(), "flac"))
    files = ["ten_hours.wav", "ten_hours.flac", "good.flac"]
    write_csv(tmp_path / "metadata.csv", [{"file_name": name, "text": "xin chào"} for name in files])
    decoded = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda file, **how: decoded.append(1) or read(file, **how))
    tracemalloc.start()
    report = prepare(tmp_path, tmp_path / "out")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (report.counts["too_long"], report.num_kept) == (2, 1)
    assert len(decoded) == 1 and peak_bytes < 20 << 20
    assert [finding.detail for finding in report.findings if finding.code == "too_long"] == [
        "36000.0 s, at most 30 s allowed"
    ] * 2


def test_a_damaged_source_keeps_what_was_finished(corpus, tmp_path):
    """A row that cannot be understood stops the run at its place, and says which."""
    lines = (corpus / "metadata.csv").read_text(encoding="utf-8").splitlines()
    emotions = ["emotion", *(["sad"] * 13), "angri", *(["sad"] * 8)]
    (corpus / "emotional.csv").write_text(
        "\n".join(map(",".join, zip(lines, emotions, strict=True))), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"emotional\.csv:15: unknown emotion 'angri'.*'angry'"):
        prepare(corpus / "emotional.csv", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        f"train-{number:05d}.parquet" for number in range(3)
    ]


def test_limits_that_read_numbers_aloud_are_another_run(corpus, tmp_path):
    prepare(corpus, tmp_path / "out")
    with pytest.raises(OutputError, match=r"limits\.spoken_form \(False there, True now\)"):
        prepare(corpus, tmp_path / "out", limits=Limits(spoken_form=True))
