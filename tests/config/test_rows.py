"""Rows of a run: sources validated and mixed by weight, text for p2t, generated sentences that never meet."""

import csv
import json

import numpy as np
import pytest
import soundfile

from data_scripts.sources import SourceError
from data_scripts.validate import TooManyDropped
from trainers.config import read_config
from trainers.rows import audio_hours, build_datasets, synthetic_rows


@pytest.fixture
def corpus(tmp_path):
    """Six half-second utterances and one empty file, as train; two as validation."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("validation", 2)):
        folder = tmp_path / "speech" / split
        folder.mkdir(parents=True)
        with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "id", "text"])
            for number in range(count):
                soundfile.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(8000), 16_000)
                table.writerow([f"{number}.wav", f"{split}{number}", "Xin  chào"])
            if split == "train":
                (folder / "empty.wav").write_bytes(b"")
                table.writerow(["empty.wav", "broken", "một hai"])
    (tmp_path / "text.txt").write_text("hôm nay\nngày mai\n", encoding="utf-8")
    return tmp_path


def config_of(corpus, *argv, stage="s2p", weight=1):
    speech = f"path: {corpus}/speech"
    return read_config(
        ["--stage", stage, "--data.train", f"[{{{speech}, weight: {weight}}}]", "--data.max_dropped", "0.2",
         "--data.validation", f"[{{{speech}, split: validation}}]", *argv]
    )  # fmt: skip


def test_speech_is_validated_and_reported(corpus):
    rows = build_datasets(config_of(corpus), corpus / "run")
    assert sorted(rows.train["id"]) == [f"train{number}" for number in range(6)]
    assert set(rows.train["text"]) == {"xin chào"}
    assert len(rows.validation) == 2
    assert audio_hours(rows.train) == pytest.approx(6 * 0.5 / 3600)
    report = json.loads((corpus / "run" / "drop_report-train-0.json").read_text(encoding="utf-8"))
    assert report["num_dropped"] == 1 and "broken" in {finding["row_id"] for finding in report["findings"]}


def test_weights_repeat_rows_after_validation(corpus):
    rows = build_datasets(config_of(corpus, weight=2.5))
    counts = {row_id: rows.train["id"].count(row_id) for row_id in set(rows.train["id"])}
    assert sorted(counts.values()) == [2, 2, 2, 3, 3, 3]
    again = build_datasets(config_of(corpus, weight=2.5))
    assert list(again.train["id"]) == list(rows.train["id"])


def test_limits_of_the_config_hold(corpus):
    assert len(build_datasets(config_of(corpus, "--data.max_rows", "3")).train) == 3
    with pytest.raises(TooManyDropped):
        build_datasets(config_of(corpus, "--data.max_dropped", "0.1"))
    with pytest.raises(SourceError, match="nowhere"):
        build_datasets(config_of(corpus, "--data.validation", "[{path: nowhere}]"))
    silent = ["--training.eval_strategy", "no", "--training.load_best_model_at_end", "false"]
    assert build_datasets(config_of(corpus, *silent)).validation is None


def test_p2t_reads_transcripts_text_and_generated_sentences(corpus):
    argv = ["--data.text", f"[{{path: {corpus}/text.txt}}]", "--data.synthetic_sentences", "20"]
    argv += ["--data.synthetic_validation_sentences", "5"]
    rows = build_datasets(config_of(corpus, *argv, stage="p2t"))
    assert "audio" not in rows.train.column_names
    # The broken recording has a transcript all the same.
    assert len(rows.train) == 7 + 2 + 20 and len(rows.validation) == 2 + 5
    assert {"hôm nay", "một hai"} <= set(rows.train["text"])
    assert len(set(rows.train["id"])) == 29
    assert audio_hours(rows.train) is None


def test_generated_sentences_never_meet():
    train = set(synthetic_rows(300, 1, "train")["text"])
    validation = set(synthetic_rows(300, 2, "validation")["text"])
    assert len(train) == len(validation) == 300 and not train & validation
    assert list(synthetic_rows(5, 1, "train")["text"]) == list(synthetic_rows(300, 1, "train")["text"])[:5]


def test_a_stream_stays_a_stream(corpus):
    source = f"[{{path: {corpus}/speech, streaming: true}}]"
    rows = build_datasets(config_of(corpus, "--data.train", source, "--training.max_steps", "3"))
    assert not hasattr(rows.train, "num_rows")
    for _ in range(2):
        assert {row["id"] for row in rows.train} == {f"train{number}" for number in range(6)}
