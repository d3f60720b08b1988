"""The command: corpora by name to shards, cards and statistics; every refusal one line and exit code 2."""

import json
import re

import httpx
import pytest
import yaml
from corpora.trees import write_hub_form, write_tree
from data.conftest import contents, encode, voice, write_csv
from datasets import load_dataset
from huggingface_hub.errors import GatedRepoError

import data_scripts.prepare
from data_scripts.preparing.corpora import find_target
from data_scripts.preparing.duplicates import shared_recordings
from data_scripts.readers import SourceError

NO_STATISTICS = ("--statistics", "false")


@pytest.fixture
def run(repo_root, monkeypatch, capsys):
    """`run("list")` → exit code, output, errors."""
    monkeypatch.syspath_prepend(str(repo_root))
    monkeypatch.setenv("COLUMNS", "200")
    from scripts.prepare_data import main

    def command(*arguments):
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


@pytest.fixture
def vivos(tmp_path):
    return write_tree("vivos", tmp_path / "VIVOS")


@pytest.fixture
def bud500(tmp_path):
    return write_hub_form("bud500", tmp_path / "bud500")


def test_list_and_show(run):
    code, out, _ = run("list")
    assert code == 0 and all(name in out for name in ("vivos", "bud500", "iemocap", "fosd"))
    code, out, _ = run("show", "vivos")
    assert code == 0 and "CC BY-NC-SA" in out and "prompts.txt" in out and "@" in out
    code, _, err = run("show", "vivoz")
    assert code == 2 and "Did you mean 'vivos'?" in err and err.count("\n") == 1


def test_corpora_by_name(run, vivos, bud500, tmp_path):
    out = tmp_path / "out"
    command = ["prepare", f"vivos={vivos}", f"bud500={bud500}", "--output_dir", out]
    code, printed, err = run(*command)
    assert code == 0, err
    assert "vivos (train): kept 2 of 3 rows" in printed and "bud500 (test): kept 2 of 2 rows" in printed
    assert sorted(path.name for path in (out / "bud500").iterdir()) == [
        ".prepared",
        "README.md",
        "drop_report.json",
        "statistics.html",
        "statistics.json",
        "test-00000.parquet",
        "test-00001.parquet",
        "train-00000.parquet",
        "train-00001.parquet",
        "validation-00000.parquet",
        "validation-00001.parquet",
    ]
    loaded = load_dataset(str(out / "vivos"))
    assert {split: rows["text"][:] for split, rows in loaded.items()} == {
        "train": ["khách sạn", "nan"],
        "test": ["xin chào"],
    }
    card = (out / "vivos" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["language"] == ["vi"] and [part["split"] for part in front["configs"][0]["data_files"]] == [
        "train",
        "test",
    ]
    assert "| train | 2 |" in card and "missing 1" in card and "CC BY-NC-SA 4.0" in card and "spoken form" in card
    assert "prepare vivos=FOLDER --output_dir FOLDER" in card and str(tmp_path) not in card
    # The splits of this toy corpus are one: told, not hidden. Each later place of a recording beside its first.
    shared = json.loads((out / "shared_recordings.json").read_text(encoding="utf-8"))
    assert {places: pair["count"] for places, pair in shared.items()} == {
        "bud500/test and bud500/train": 2,
        "bud500/test and bud500/validation": 2,
        "bud500/test and vivos/train": 1,
    }
    before = contents(out)
    assert run(*command)[0] == 0 and contents(out) == before


def test_recordings_shared_by_corpora_are_told(run, tmp_path, caplog):
    for name, hertz in (("one", (200, 300)), ("two", (300, 400, 500))):
        for split in ("train", "test"):
            folder = tmp_path / name / split
            folder.mkdir(parents=True)
            rows = []
            for number in hertz:
                # The test part of one and the training part of two have 300 Hz in common, nothing else has.
                away = {"one/train": 1000, "two/test": 2000}.get(f"{name}/{split}", 0)
                (folder / f"{number}.wav").write_bytes(encode(voice(0.2, hertz=number + away)))
                rows.append({"file_name": f"{number}.wav", "text": "xin chào"})
            write_csv(folder / "metadata.csv", rows)
    folders = [tmp_path / "one", tmp_path / "two"]
    assert run("prepare", *folders, "--output_dir", tmp_path / "out", *NO_STATISTICS)[0] == 0
    found = shared_recordings([tmp_path / "out" / "one", tmp_path / "out" / "two"])
    assert found == {"one/test and two/train": {"count": 1, "ids": [["one/300.wav", "two/300.wav"]]}}
    assert "one/test and two/train share 1 recording(s)" in caplog.text


def test_written_numbers_are_read(run, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.flac").write_bytes(encode(voice(), "flac"))
    write_csv(tmp_path / "corpus" / "metadata.csv", [{"file_name": "a.flac", "text": "Giá 25 nghìn đồng"}])
    code, printed, _ = run("prepare", tmp_path / "corpus", "--output_dir", tmp_path / "out")
    assert code == 0 and "spoken_form" in printed
    assert load_dataset(str(tmp_path / "out" / "corpus"), split="train")["text"][:] == ["giá hai mươi lăm nghìn đồng"]
    off = ["--limits.spoken_form", "false", *NO_STATISTICS, "--output_dir", tmp_path / "written"]
    code, printed, _ = run("prepare", tmp_path / "corpus", *off)
    assert code == 0 and "text_digits" in printed
    card = (tmp_path / "written" / "corpus" / "README.md").read_text(encoding="utf-8")
    assert "--limits.spoken_form False" in card and "spoken form" not in card


def test_a_folder_holds_one_corpus(run, tmp_path):
    """Another corpus of the same name: refused before a split of it is written beside those of the first."""
    for place, splits in (("here", ("train",)), ("there", ("test",))):
        for split in splits:
            folder = tmp_path / place / "corpus" / split
            folder.mkdir(parents=True)
            (folder / "a.wav").write_bytes(encode(voice()))
            write_csv(folder / "metadata.csv", [{"file_name": "a.wav", "text": "xin chào"}])
    out = tmp_path / "out"
    assert run("prepare", tmp_path / "here" / "corpus", "--output_dir", out, *NO_STATISTICS)[0] == 0
    before = contents(out)
    code, _, err = run("prepare", tmp_path / "there" / "corpus", "--output_dir", out, *NO_STATISTICS)
    assert code == 2 and "holds split 'train' of another corpus or other rules: source.path" in err
    assert contents(out) == before
    # What an earlier command prepared beside it counts when recordings are compared.
    assert run("prepare", tmp_path / "there", "--splits", "[test]", "--output_dir", out, *NO_STATISTICS)[0] == 2
    (tmp_path / "there" / "corpus").rename(tmp_path / "there" / "other")
    assert run("prepare", tmp_path / "there" / "other", "--output_dir", out, *NO_STATISTICS)[0] == 0
    shared = json.loads((out / "shared_recordings.json").read_text(encoding="utf-8"))
    assert list(shared) == ["corpus/train and other/test"]


def test_emotion_corpora_need_no_text(run, tmp_path):
    tree = write_tree("ravdess", tmp_path / "ravdess")
    code, printed, err = run("prepare", f"ravdess={tree}", "--output_dir", tmp_path / "out", *NO_STATISTICS)
    assert code == 0 and "no_text" not in printed, err


def test_gated_without_a_token_is_told_before_anything_is_written(run, vivos, tmp_path, monkeypatch):
    def refuse(*_, **__):
        answer = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co"))
        raise GatedRepoError("Access is restricted.\nYou must be authenticated.", response=answer)

    monkeypatch.setattr("huggingface_hub.HfApi.auth_check", refuse)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    code, _, err = run("prepare", f"vivos={vivos}", "bud500", "--output_dir", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("error: Viet_Bud500 (linhtran92/viet_bud500) is gated") and "hf auth login" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vivos={tmp}/nothing"], r"nothing: no such folder"),
        (["vivos={tmp}/empty"], r"vivos"),
        (["vivoz={tmp}/empty"], r"Did you mean 'vivos'\?"),
        (["{tmp}/empty"], r"neither metadata.csv"),
        (["vivos={tmp}/VIVOS", "--splits", "[dev]"], r"no split 'dev'; it has train, test"),
        (["vivos={tmp}/VIVOS", "vivos={tmp}/VIVOS"], r"both be written to one folder"),
        (["vivos={tmp}/VIVOS", "--num_workers", "-1"], r"at least 0, got -1"),
        (["vivos={tmp}/VIVOS", "--address", "auto"], r"for engine ray"),
    ],
)
def test_bad_input_is_one_line(arguments, message, run, vivos, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    code, _, err = run("prepare", *arguments, "--output_dir", tmp_path / "out")
    assert code == 2 and err.startswith("error: ")
    assert re.search(message, err)
    assert not (tmp_path / "out").exists()


def test_another_layout_shows_the_documented_one(run, tmp_path):
    (tmp_path / "VIVOS" / "wavs").mkdir(parents=True)
    (tmp_path / "VIVOS" / "wavs" / "a.wav").write_bytes(encode(voice()))
    code, _, err = run("prepare", f"vivos={tmp_path / 'VIVOS'}", "--output_dir", tmp_path / "out")
    assert code == 2 and "prompts.txt" in err and not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line(run, vivos, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("data_scripts.files.shutil.disk_usage", lambda path: usage)
    code, _, err = run("prepare", f"vivos={vivos}", "--output_dir", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1
    assert "no space left" in err and "needed" in err and "0.0 MiB free" in err and "same command again" in err


def test_stats(run, vivos, tmp_path, monkeypatch):
    assert run("prepare", f"vivos={vivos}", "--output_dir", tmp_path / "out", *NO_STATISTICS)[0] == 0
    code, printed, _ = run("stats", tmp_path / "out" / "vivos")
    assert code == 0 and "train" in printed and "Tones" in printed
    page = (tmp_path / "out" / "vivos" / "statistics.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and "://" not in page.split("</head>")[0]
    # A folder that was never prepared beside one that was.
    both = [tmp_path / "out" / "vivos", tmp_path / "plain"]
    code, _, err = run("stats", *both)
    assert code == 2 and "plain: no such file, folder or corpus" in err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.wav").write_bytes(encode(voice()))
    write_csv(tmp_path / "plain" / "metadata.csv", [{"file_name": "a.wav", "text": "trời mưa"}])
    code, printed, _ = run("stats", *both)
    assert code == 0 and "plain/train" in printed
    assert json.loads((tmp_path / "statistics.json").read_text(encoding="utf-8"))


def test_targets(tmp_path, vivos):
    assert find_target(f"vivos={vivos}").splits == ("train", "test")
    assert find_target("vivos", ["test"]).splits == ("test",)
    for split in ("train", "dev"):
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / f"{split}-00000.parquet").write_bytes(b"")
    assert find_target(str(tmp_path / "shards")).splits == ("dev", "train")
    (tmp_path / "lines.txt").write_text("xin chào\n", encoding="utf-8")
    target = find_target(str(tmp_path / "lines.txt"))
    assert (target.name, target.splits) == ("lines", ("train",))
    with pytest.raises(SourceError, match="no such file, folder or corpus"):
        find_target("./nowhere")


def test_real_recordings(run, shared_data, tmp_path):
    """FOSD (Opus): nothing is lost, the card counts what is there."""
    out = tmp_path / "out"
    code, printed, _ = run(
        "prepare", shared_data / "vi_asr", "--splits", "[validation]", "--output_dir", out, *NO_STATISTICS
    )
    assert code == 0 and "kept 270 of 270 rows (0.24 h)" in printed
    assert "| validation | 270 | 0.24 | 1 | 0 |" in (out / "vi_asr" / "README.md").read_text(encoding="utf-8")
    assert data_scripts.prepare.Folder(out / "vi_asr", "validation").is_done(0)
