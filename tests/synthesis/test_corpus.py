"""Corpora of synthetic speech: equal bytes for any number of processes and after any interruption."""

import csv
import json
import subprocess
import sys

import pytest
import soundfile

from data_scripts.synthesis import corpus as corpus_module
from data_scripts.synthesis.corpus import synthesise_corpus, synthesise_splits
from data_scripts.synthesis.sentences import generate_sentences
from data_scripts.synthesis.speech import make_speakers


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def table(folder):
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rows():
    return list(generate_sentences(40, seed=1))


@pytest.fixture(scope="module")
def speakers():
    return make_speakers(4)[0]


@pytest.fixture(scope="module")
def folder(rows, speakers, tmp_path_factory):
    out = tmp_path_factory.mktemp("serial") / "train"
    synthesise_corpus(rows, speakers, out)
    return out


def test_folder_holds_what_the_table_says(folder, rows, speakers):
    listed = table(folder)
    assert [row["id"] for row in listed] == [row["id"] for row in rows]
    dialects = {speaker.id: speaker.dialect for speaker in speakers}
    for got, row in zip(listed, rows, strict=True):
        assert (got["text"], json.loads(got["spans"]), got["corpus"]) == (row["text"], row["spans"], "demo")
        assert got["dialect"] == dialects[got["speaker"]]
        info = soundfile.info(folder / got["file_name"])
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
        assert float(got["duration_s"]) == pytest.approx(info.duration, abs=1e-4)
        assert 0.06 < info.duration / len(row["text"].split()) < 1.2
        assert abs(soundfile.read(folder / got["file_name"])[0]).max() > 0.1
    assert {row["speaker"] for row in listed} == set(dialects)
    assert len(contents(folder)) == len(rows) + 1


def test_parallel_equals_serial(folder, rows, speakers, tmp_path):
    report = synthesise_corpus(iter(rows), speakers, tmp_path / "p", num_workers=2)
    assert report.rendered == len(rows) and not report.skipped
    assert contents(tmp_path / "p") == contents(folder)


def test_an_interrupted_run_ends_up_equal(folder, rows, speakers, tmp_path):
    out = tmp_path / "again"

    def cut_short():
        yield from rows[:25]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise_corpus(cut_short(), speakers, out)
    assert not (out / "metadata.csv").exists()
    files = sorted(out.rglob("*.flac"))
    assert len(files) == 25
    for path in files[::2]:
        path.unlink()
    files[1].write_bytes(files[1].read_bytes()[:20])  # damaged by other means
    files[3].with_suffix(".part").write_bytes(b"half a file")
    files[3].unlink()
    report = synthesise_corpus(rows, speakers, out)
    assert (report.kept, report.rendered) == (10, 30)
    assert contents(out) == contents(folder)
    assert synthesise_corpus(rows, speakers, out).kept == 40


def test_a_killed_process_is_resumed(folder, rows, speakers, tmp_path):
    out = tmp_path / "killed"
    code = (
        "import os; from itertools import islice\n"
        "from data_scripts.synthesis import corpus\n"
        "from data_scripts.synthesis.sentences import generate_sentences\n"
        "from data_scripts.synthesis.speech import make_speakers\n"
        "write, count = os.replace, 0\n"
        "def replace(a, b):\n"
        "    global count\n"
        "    count += 1\n"
        "    if count == 8: os._exit(9)\n"
        "    write(a, b)\n"
        "corpus.os.replace = replace\n"
        f"corpus.synthesise_corpus(generate_sentences(40, seed=1), make_speakers(4)[0], {str(out)!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert len(list(out.rglob("*.flac"))) == 7 and len(list(out.rglob("*.part"))) == 2
    synthesise_corpus(rows, speakers, out)
    assert contents(out) == contents(folder)


def test_other_settings_never_reuse_a_file(rows, speakers, tmp_path):
    first = synthesise_corpus(rows[:3], speakers, tmp_path, seed=0)
    other = synthesise_corpus(rows[:3], speakers, tmp_path, seed=1)
    changed = [{**row, "text": row["text"] + " nhé"} for row in rows[:3]]
    assert (first.rendered, other.rendered, other.kept) == (3, 3, 0)
    assert synthesise_corpus(changed, speakers, tmp_path, seed=0).rendered == 3
    assert [row["text"] for row in table(tmp_path)] == [row["text"] for row in changed]


def test_what_cannot_be_voiced_is_skipped_and_listed(rows, speakers, tmp_path, caplog):
    bad = [
        {**rows[0], "id": "digits", "text": "lúc 9 giờ", "spans": []},
        {**rows[0], "id": "emoji", "text": "vui quá 😀", "spans": []},
        {**rows[0], "id": "spans", "text": "xin chào", "spans": [{"start": 3, "end": 90, "lang": "en"}]},
        {**rows[0], "id": "empty", "text": "", "spans": []},
        {**rows[0], "id": "../odd id", "text": "xin chào", "spans": []},
    ]
    report = synthesise_corpus(bad + rows[:1], speakers, tmp_path)
    assert [(s.id, s.code) for s in report.skipped] == [
        ("digits", "digits"),
        ("emoji", "emoji"),
        ("spans", "spans"),
        ("empty", "empty"),
    ]
    assert [row["id"] for row in table(tmp_path)] == ["../odd id", rows[0]["id"]]
    assert all(p.resolve().is_relative_to(tmp_path) for p in tmp_path.rglob("*.flac"))
    assert len(list(tmp_path.rglob("*.flac"))) == 2
    with open(tmp_path / "skipped.csv", encoding="utf-8", newline="") as file:
        assert [row["code"] for row in csv.DictReader(file)] == ["digits", "emoji", "spans", "empty"]
    assert "lúc 9 giờ" in caplog.text and "4 skipped (" in str(report)
    synthesise_corpus(rows[:1], speakers, tmp_path)
    assert not (tmp_path / "skipped.csv").exists()


def test_splits_share_no_sentence_and_unseen_voices_are_new(tmp_path):
    reports = synthesise_splits(tmp_path, train=12, validation=3, test=4, seen_speakers=3, unseen_speakers=2)
    assert {name: r.rendered for name, r in reports.items()} == {
        "train": 12, "validation": 3, "test_seen": 4, "test_unseen": 4,
    }  # fmt: skip
    rows = {name: table(tmp_path / name) for name in reports}
    texts = {name: [row["text"] for row in rows[name]] for name in rows}
    voices = {name: {row["speaker"] for row in rows[name]} for name in rows}
    assert texts["test_seen"] == texts["test_unseen"]
    assert not set(texts["train"]) & set(texts["test_seen"]) and not set(texts["train"]) & set(texts["validation"])
    assert voices["test_seen"] <= {s.id for s in make_speakers(3, 2)[0]}
    assert not voices["test_unseen"] & voices["train"]


def test_bad_arguments_are_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="speakers is empty"):
        synthesise_corpus(rows, [], tmp_path)
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        synthesise_corpus(rows, make_speakers(1)[0], tmp_path, num_workers=0)


def test_a_dead_worker_is_one_clear_error(rows, speakers, tmp_path, monkeypatch):
    from concurrent.futures.process import BrokenProcessPool

    class DeadPool(corpus_module.ProcessPoolExecutor):
        def submit(self, *args, **kwargs):
            raise BrokenProcessPool

    monkeypatch.setattr(corpus_module, "ProcessPoolExecutor", DeadPool)
    with pytest.raises(RuntimeError, match="finished files are kept"):
        synthesise_corpus(rows, speakers, tmp_path, num_workers=2)


def test_command_line(repo_root, tmp_path):
    def run(*words):
        command = [sys.executable, str(repo_root / "scripts" / "synthesise.py"), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True)

    sentences = tmp_path / "s.jsonl"
    done = run("sentences", "--out", sentences, "--num", 5, "--split", "test")
    assert done.returncode == 0 and "5 sentences" in done.stdout
    done = run("speech", "--out", tmp_path / "clips", "--sentences", sentences, "--workers", 1)
    assert done.returncode == 0 and "5 rendered" in done.stdout, done.stderr
    assert len(table(tmp_path / "clips")) == 5
    done = run("speech", "--out", tmp_path / "x", "--sentences", tmp_path / "none.jsonl")
    assert done.returncode == 1 and "none.jsonl" in done.stderr and "Traceback" not in done.stderr
