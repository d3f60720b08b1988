"""`prepare_data.py validate`: shards, resuming, and never touching another run's output."""

import json
import os
import subprocess
import sys

import pytest
from datasets import load_dataset

import data_scripts.prepare
from data_scripts.audio import read_audio
from data_scripts.drop_report import DropReport
from data_scripts.prepare import OutputError, prepare_validated
from data_scripts.preparing.blocks import Done
from data_scripts.preparing.checking import check_block
from data_scripts.sources import SourceArguments, load_source
from data_scripts.validate import Limits, TooManyDropped

from .conftest import contents, encode, voice, write_csv


@pytest.fixture
def corpus(tmp_path):
    """Seven rows in FLAC and Opus: the third is empty, the sixth repeats the id of the first."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = []
    for index in range(7):
        kind = "opus" if index % 2 else "flac"
        content = b"" if index == 2 else encode(voice(0.2 + 0.01 * index), kind)
        (folder / f"a{index}.{kind}").write_bytes(content)
        rows.append({"id": f"u{0 if index == 5 else index}", "file_name": f"a{index}.{kind}", "text": "Xin chào"})
    write_csv(folder / "metadata.csv", rows)
    return folder


def prepare(corpus, out, **options):
    split = options.pop("split", "train")
    streaming = options.pop("streaming", False)
    source = SourceArguments(str(corpus), split=split, streaming=streaming)
    return prepare_validated(source, str(out), **{"rows_per_shard": 3, **options})


@pytest.mark.parametrize("streaming", [False, True])
def test_shards_hold_the_files_as_they_were(streaming, corpus, tmp_path):
    out = tmp_path / "out"
    report = prepare(corpus, out, streaming=streaming)
    assert (report.num_rows, report.num_kept) == (7, 5)
    assert not list(out.rglob("*.partial"))
    assert report.counts["empty_file"] == report.counts["duplicate_id"] == 1
    assert sorted(path.name for path in out.glob("*")) == [
        ".prepared",
        "drop_report.json",
        "train-00000.parquet",
        "train-00001.parquet",
        "train-00002.parquet",
    ]
    rows = load_source(SourceArguments(str(out)))
    assert rows["id"][:] == ["u0", "u1", "u3", "u4", "u6"]
    for row in rows:
        index = int(row["id"][1])
        path = corpus / row["audio"]["path"]
        assert row["audio"]["bytes"] == path.read_bytes()
        assert read_audio(row["audio"]).size == round(16_000 * (0.2 + 0.01 * index))
        assert row["text"] == "xin chào"
    assert load_dataset(str(out), split="train")[0]["audio"]["sampling_rate"] == 16_000
    saved = json.loads((out / "drop_report.json").read_text(encoding="utf-8"))
    assert saved == {"train": report.to_dict()}


def test_finished_shards_are_not_redone(corpus, tmp_path, monkeypatch):
    out = tmp_path / "out"
    whole = prepare(corpus, tmp_path / "whole")
    checked = []

    def stop_at_the_second(job, block):
        if block.number == 1:
            raise KeyboardInterrupt
        return check_block(job, block)

    def note(job, block):
        if not isinstance(block, Done):
            checked.append(block.number)
        return check_block(job, block)

    monkeypatch.setattr(data_scripts.prepare, "check_block", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, out)
    assert not (out / "drop_report.json").exists()
    first = out / "train-00000.parquet"
    os.utime(first, ns=(1, 1))
    monkeypatch.setattr(data_scripts.prepare, "check_block", note)
    resumed = prepare(corpus, out)
    assert checked == [1, 2] and first.stat().st_mtime_ns == 1
    assert resumed.to_dict() == whole.to_dict()
    assert contents(out) == contents(tmp_path / "whole")
    checked.clear()
    assert prepare(corpus, out).to_dict() == whole.to_dict() and not checked


def test_a_shard_that_was_deleted_is_made_again(corpus, tmp_path):
    prepare(corpus, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "train-00001.parquet").unlink()
    prepare(corpus, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert load_source(SourceArguments(str(tmp_path / "out")))["id"][:] == ["u0", "u1", "u3", "u4", "u6"]


def test_a_record_that_the_disk_lost_is_made_again(corpus, tmp_path):
    prepare(corpus, tmp_path / "out")
    before = contents(tmp_path / "out")
    record = tmp_path / "out" / ".prepared" / "train" / "00001.json"
    record.write_bytes(bytes(record.stat().st_size))
    prepare(corpus, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_other_runs_are_left_alone(corpus, tmp_path):
    out = tmp_path / "out"
    prepare(corpus, out)
    before = contents(out)
    with pytest.raises(OutputError, match=r"another run.*rows_per_shard \(3 there, 2 now\)"):
        prepare(corpus, out, rows_per_shard=2)
    with pytest.raises(OutputError, match=r"max_duration_s"):
        prepare(corpus, out, limits=Limits(max_duration_s=9))
    with (corpus / "metadata.csv").open("a", encoding="utf-8") as file:
        file.write("u9,a0.flac,xin\n")
    with pytest.raises(OutputError, match=r"source\.content"):
        prepare(corpus, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    with pytest.raises(OutputError, match="did not write"):
        prepare(corpus, tmp_path / "full")
    with pytest.raises(OutputError, match="is a file"):
        prepare(corpus, tmp_path / "full" / "thesis.doc")
    assert contents(out) == before


def test_splits_share_a_folder(make_folder, tmp_path):
    for split, hertz in (("train", 200), ("test", 300)):
        make_folder({f"{split}.wav": encode(voice(0.2, hertz=hertz))}, name=f"c/{split}")
    for split in ("train", "test"):
        prepare(tmp_path / "c", tmp_path / "out", split=split)
    loaded = load_dataset(str(tmp_path / "out"))
    assert {split: rows["id"][:] for split, rows in loaded.items()} == {
        "train": ["c/train.wav"],
        "test": ["c/test.wav"],
    }
    assert set(json.loads((tmp_path / "out" / "drop_report.json").read_text())) == {"train", "test"}


def test_drop_limit_counts_the_whole_and_leaves_the_report(corpus, tmp_path):
    # A third of the first shard is dropped, 2 of 7 rows of the whole.
    prepare(corpus, tmp_path / "a", limits=Limits(max_drop_fraction=0.3))
    with pytest.raises(TooManyDropped):
        prepare(corpus, tmp_path / "b", limits=Limits(max_drop_fraction=0.2))
    saved = json.loads((tmp_path / "b" / "drop_report.json").read_text(encoding="utf-8"))
    assert DropReport.from_dict(saved["train"]).num_dropped == 2
    assert prepare(corpus, tmp_path / "b", limits=Limits(max_drop_fraction=0.5)).num_kept == 5


def test_command_line(corpus, tmp_path, repo_root, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(repo_root))
    monkeypatch.setenv("COLUMNS", "160")
    from scripts.prepare_data import main

    options = ["validate", "--source.path", str(corpus), "--output_dir", str(tmp_path / "out")]
    assert main(options) == 0
    printed = capsys.readouterr()
    assert "kept 5 of 7 rows" in printed.out and "empty_file" in printed.out
    assert main([*options, "--source.columns", "{text: sentense}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error:") and "file_name, text" in error and error.count("\n") == 1
    with pytest.raises(SystemExit) as caught:
        main([*options, "--source.pth", "x"])
    assert caught.value.code == 2


@pytest.mark.slow
def test_command_line_with_processes(corpus, tmp_path, repo_root):
    script = [sys.executable, str(repo_root / "scripts" / "prepare_data.py"), "validate", "--num_workers", "2"]
    options = ["--source.path", str(corpus), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(
        [*script, *options], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "COLUMNS": "160"}
    )
    assert done.returncode == 0 and "kept 5 of 7 rows" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
