"""The script trains on files and prepared folders, holds texts out, and says what is wrong."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_scripts.curation.ngram import NgramModel, train_ngram
from data_scripts.curation.ngram_text import is_held_out, read_all_texts, read_texts
from data_scripts.readers import SourceError
from scripts.train_lm import main

TRAIN = (Path(__file__).with_name("golden") / "train.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def prepared(tmp_path):
    """A folder with 200 texts of train in two shards and 50 of test, as preparing writes them."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    for name, texts in (
        ("train-00000", TRAIN[:120]),
        ("train-00001", [*TRAIN[120:200], ""]),
        ("test-00000", TRAIN[200:]),
    ):
        table = pa.table({"id": [str(i) for i in range(len(texts))], "text": texts})
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


def run(*arguments, capsys):
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


def test_trains_and_measures(tmp_path, prepared, capsys):
    text = tmp_path / "more.txt"
    text.write_text("Xin CHÀO, các bạn!\n\n", encoding="utf-8")
    output = tmp_path / "lm.arpa.gz"
    arguments = ("--text", text, prepared, "--held_out", f"{prepared}:test", "--order", 3, "--prune", 0, 0, 1)
    code, printed = run(*arguments, "--output", output, capsys=capsys)
    assert code == 0 and "201 sentences" in printed.out and "50 held-out sentences: perplexity" in printed.out
    expected = train_ngram(["xin chào các bạn", *TRAIN[:200]], 3, prune=(0, 0, 1))
    assert NgramModel.load(output).score_batch(TRAIN).tolist() == expected.score_batch(TRAIN).tolist()
    with pytest.raises(SystemExit):
        main(["--text", str(text), "--output", str(output)])
    assert "choose another --output" in capsys.readouterr().err


def test_holds_out_a_share(tmp_path, prepared, capsys):
    arguments = ("--text", prepared, "--held_out_share", 0.2, "--output", tmp_path / "lm.arpa")
    code, printed = run(*arguments, capsys=capsys)
    held_out = sum(is_held_out(text, 0.2) for text in TRAIN[:200])
    assert code == 0 and 20 < held_out < 60
    assert f"{200 - held_out} sentences" in printed.out and f"{held_out} held-out sentences" in printed.out
    assert not is_held_out("xin chào", 0.0) and is_held_out("xin chào", 1.0)


def test_reads_files_of_rows(tmp_path):
    rows = [{"id": "1", "text": "Hòa  đi!"}, {"id": "2", "text": ""}, {"id": "3", "text": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.tsv").write_text("id\ttext\n1\tchào\n", encoding="utf-8")
    assert list(read_all_texts([str(tmp_path / "rows.jsonl"), str(tmp_path / "rows.tsv")])) == ["hoà đi", "chào"]


def test_says_what_is_wrong(tmp_path, prepared, capsys):
    (tmp_path / "rows.csv").write_text("id,sentence\n1,chào\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"rows\.csv:2: no 'text' here, only id, sentence"):
        list(read_texts(tmp_path / "rows.csv"))
    with pytest.raises(SourceError, match=r"no dev-\*\.parquet; splits found: test, train"):
        list(read_texts(prepared, "dev"))
    pq.write_table(pa.table({"sentence": ["a"]}), tmp_path / "train-0.parquet")
    with pytest.raises(SourceError, match="no column 'text'; columns are sentence"):
        list(read_texts(tmp_path))
    code, printed = run("--text", tmp_path / "gone.txt", "--output", tmp_path / "lm.arpa", capsys=capsys)
    assert code == 2 and printed.err.startswith("error: ") and "no such file or folder" in printed.err
    (tmp_path / "empty.txt").write_text("\n")
    code, printed = run("--text", tmp_path / "empty.txt", "--output", tmp_path / "lm.arpa", capsys=capsys)
    assert code == 2 and "no sentence with a word" in printed.err
    assert not (tmp_path / "lm.arpa").exists()
