"""Rows whose phonemes do not fit are found, counted and left out; the others are not looked up."""

import pytest
from datasets import Dataset

from data_scripts.drop_report import DropReport
from trainers.checks import ConfigError
from trainers.config import read_config
from trainers.label_limits import LabelLimits, drop_long_labels

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
