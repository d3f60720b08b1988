"""Rows whose phonemes do not fit are found, counted and left out; the others are not looked up."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_aligned import make_fastconformer, make_zipformer

from data_scripts.drop_report import DropReport
from models.fastconformer import FastConformerFeatureExtractor
from models.zipformer import ZipformerFeatureExtractor
from trainers.asr_rows import _Renumbered, fastconformer_frames, zipformer_frames
from trainers.checks import ConfigError
from trainers.config import read_config
from trainers.label_limits import LabelLimits, TextLimits, drop_long_labels
from trainers.tokenizers import train_bpe

WORDS = "một hai ba bốn năm sáu bảy tám chín mười"  # 39 phonemes


def rows_of(*seconds):
    rows = [{"id": f"u{n}", "text": WORDS, "duration_s": s, "spans": []} for n, s in enumerate(seconds)]
    return Dataset.from_list(rows)


def test_the_frames_of_a_recording_hold_its_phonemes():
    report = DropReport("s", num_rows=3, seconds_kept=2.7)
    kept = drop_long_labels(rows_of(1.0, 0.5, 1.2), LabelLimits("full", 448), report)
    assert kept["id"][:] == ["u0", "u2"]
    assert [(f.row_id, f.detail) for f in report.findings] == [("u1", "39 phonemes in 0.50 s, which are 25 frames")]
    assert report.num_kept == 2 and report.seconds_kept == pytest.approx(2.2)
    assert report.seconds_dropped == pytest.approx(0.5)


def test_the_decoder_holds_the_phonemes_and_their_end():
    for places, fits in ((40, True), (39, False)):
        limits = LabelLimits("full", places)
        assert (limits.problem(rows_of(9.0)[0]) == "") == fits
        assert (limits.problem({**rows_of(9.0)[0], "duration_s": None}) == "") == fits


def test_streams_are_filtered_while_they_are_read():
    report = DropReport("s", num_rows=2)
    stream = drop_long_labels(rows_of(1.0, 0.5).to_iterable_dataset(), LabelLimits("full", 448), report)
    assert [row["id"] for row in stream] == ["u0"] and report.counts["label_too_long"] == 1


def test_short_texts_are_not_looked_up(monkeypatch):
    monkeypatch.setattr("data_scripts.text.g2p.G2P", lambda register: pytest.fail("looked up"))
    rows = rows_of(1.7, 30.0)
    assert drop_long_labels(rows, LabelLimits("full", 448), DropReport()) is rows


def test_limits_of_a_config(tmp_path):
    data = ["--data.train", "[{path: a}]", "--data.validation", "[{path: b}]"]
    limits = LabelLimits.of(read_config([*data, "--model.s2p.max_phonemes", "77"]))
    assert limits is not None and (limits.register, limits.max_phonemes) == ("full", 77)
    assert LabelLimits.of(read_config([*data, "--stage", "p2t"])) is None
    (tmp_path / "config.json").write_text('{"max_target_positions": 33}')
    limits = LabelLimits.of(read_config([*data, "--model.s2p.path", str(tmp_path)]))
    assert limits is not None and limits.max_phonemes == 33
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"model\.s2p\.path"):
        LabelLimits.of(read_config([*data, "--model.s2p.path", str(tmp_path)]))


def test_texts_must_fit_frames_losses_and_places():
    tokenizer = train_bpe(["tôi đi đi đi học", "xin chào"] * 4, 200)
    pieces = len(tokenizer("đi đi đi")["input_ids"])
    assert pieces == 3

    def problem(text, frames, **options):
        return TextLimits(tokenizer, num_frames=lambda seconds: frames, **options).problem(
            {"text": text, "duration_s": 1.0}
        )

    assert problem("đi đi đi", 3) == "" and "need 3 frames in 1.00 s, which are 2" in problem("đi đi đi", 2)
    # CTC has a blank between equal labels.
    assert problem("đi đi đi", 5, repeats_need_frames=True) == ""
    assert "need 5 frames" in problem("đi đi đi", 4, repeats_need_frames=True)
    assert "no word piece" in problem("", 4)
    limits = TextLimits(tokenizer, max_tokens=2)
    assert "places for 2" in limits.problem({"text": "đi đi đi", "duration_s": None})
    assert dict(limits.find(["xin chào", "đi đi đi"], [1.0, None], lambda index: {})).keys() == {1}


def test_frames_are_those_of_the_models():
    zipformer, fastconformer = make_zipformer(), make_fastconformer()
    for seconds in (0.02, 0.11, 0.5, 1.0, 1.234, 7.77):
        audio = [np.random.default_rng(0).standard_normal(round(16_000 * seconds)).astype(np.float32) * 0.1]
        for model, kind, expected in (
            (zipformer, ZipformerFeatureExtractor, zipformer_frames(seconds)),
            (fastconformer, FastConformerFeatureExtractor, fastconformer_frames(seconds, 4)),
        ):
            batch = kind(feature_size=16)(audio, sampling_rate=16_000, return_tensors="pt")
            with torch.no_grad():
                lengths = model(batch["input_features"], batch["attention_mask"]).lengths
            assert abs(int(lengths[0]) - expected) <= (kind is FastConformerFeatureExtractor), seconds


def test_dropped_rows_leave_the_choice_of_an_epoch_as_it_was():
    chosen = _Renumbered(lambda epoch: np.array([4, 0, 2, 2, epoch]), np.array([0, 2, 3, 4]), 5)
    assert chosen(1).tolist() == [3, 0, 1, 1] and chosen(3).tolist() == [3, 0, 1, 1, 2]
