"""Every kind of bad row gets its code; good rows pass, mended ones are counted."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from data_scripts.sources import SourceArguments, load_source
from data_scripts.validate import CODES, DropReport, Limits, RowChecker, Seen, TooManyDropped, validate_rows

from .conftest import encode, voice, write_csv

GOOD = encode(voice(), "flac")
NAN = voice()
NAN[50] = np.nan

# name: (file name, content or None for no file, text, stated duration, code expected or None)
ROWS = {
    "good": ("good.flac", GOOD, "xin chào", "", None),
    "empty": ("empty.wav", b"", "xin chào", "", "empty_file"),
    "truncated": ("cut.flac", GOOD[: len(GOOD) // 2], "xin chào", "", "truncated"),
    "truncated_ogg": ("cut.opus", encode(voice(2), "opus")[:-40], "xin chào", "", "truncated"),
    "shorter_than_stated": ("short.wav", encode(voice(0.61)), "xin chào", "1.2", "truncated"),
    "longer_than_stated": ("longer.wav", encode(voice(1.5)), "xin chào", "0.9", "duration_mismatch"),
    "within_tolerance": ("near.wav", encode(voice(0.62)), "xin chào", "1.0", None),
    "silent": ("silent.wav", encode(np.zeros(8000, np.float32)), "xin chào", "", "silent"),
    "nan": ("nan.wav", encode(NAN, "float.wav"), "xin chào", "", "non_finite"),
    "one_sample": ("one.wav", encode(np.full(1, 0.3, np.float32)), "xin chào", "", "too_short"),
    "no_samples": ("none.wav", encode(np.zeros(0, np.float32)), "xin chào", "", "no_samples"),
    "too_long": ("long.flac", encode(voice(3.5), "flac"), "xin chào", "", "too_long"),
    "opposite": ("opposite.wav", encode(np.stack([voice(), -voice()], 1)), "xin chào", "", "cancelled_stereo"),
    "html": ("page.wav", b"<html></html>" * 99, "xin chào", "", "not_audio"),
    "missing": ("missing.wav", None, "xin chào", "", "missing"),
    "no_audio": ("", None, "xin chào", "", "missing"),
    "8_khz": ("low.wav", encode(voice(rate_hz=8_000), "wav", 8_000), "xin chào", "", None),
    "96_khz": ("high.wav", encode(voice(0.7, rate_hz=96_000), "wav", 96_000), "xin chào", "", None),
    "stereo": ("stereo.wav", encode(np.stack([voice(0.8), voice(0.8, hertz=300)], 1)), "xin chào", "", None),
    "wrong_extension": ("really_flac.wav", encode(voice(0.9), "flac"), "xin chào", "", None),
    "offset": ("offset.wav", encode(voice(0.63) + 0.3), "xin chào", "", None),
    "no_text": ("a0.wav", encode(voice(0.64)), "", "", "no_text"),
    "blank_text": ("a1.wav", encode(voice(0.65)), "  \t", "", "no_text"),
    "only_punctuation": ("a2.wav", encode(voice(0.66)), "...!", "", "no_text"),
    "digits": ("a3.wav", encode(voice(0.67)), "có 25 người", "", "text_digits"),
    "percent": ("a4.wav", encode(voice(0.68)), "một trăm %", "", "text_symbols"),
    "emoji": ("a5.wav", encode(voice(0.69)), "vui quá 😀", "", "text_emoji"),
    "cyrillic": ("a6.wav", encode(voice(0.71)), "xin сhào", "", "text_other_script"),
    "han": ("a7.wav", encode(voice(0.72)), "你好 nhé", "", "text_other_script"),
    "nfd": ("a8.wav", encode(voice(0.73)), "xin cha\u0300o", "", None),
    "zero_width": ("a9.wav", encode(voice(0.74)), "xin\u200b chào", "", None),
    "control": ("b0.wav", encode(voice(0.75)), "xin\x07 chào", "", None),
    "capitals": ("b1.wav", encode(voice(0.76)), "Xin chào!", "", None),
    "nan_is_a_word": ("b2.wav", encode(voice(0.77)), "nan", "", None),
}
NOTES = {
    "resampled": 2,
    "downmixed": 1,
    "wrong_extension": 1,
    "dc_offset": 1,
    "text_nfd": 1,
    "text_zero_width": 1,
    "text_control": 1,
    "text_normalised": 1,
}


@pytest.fixture(scope="module")
def bad_corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    rows = []
    for name, (file, content, text, duration, _) in ROWS.items():
        if content is not None:
            (folder / file).write_bytes(content)
        rows.append({"id": name, "file_name": file, "text": text, "duration": duration})
    # The second of each pair repeats an id, the third a recording.
    rows.append({**rows[0]})
    rows.append({**rows[0], "id": "same_recording"})
    write_csv(folder / "metadata.csv", rows)
    return str(folder)


def validate(path, streaming=False, **options):
    source = SourceArguments(path, streaming=streaming)
    rows = load_source(source, normalise=False, fill_durations=False)
    clean, report = validate_rows(rows, source=path, **{"max_duration_s": 3.0, **options})
    return list(clean), report


@pytest.fixture(scope="module")
def validated(bad_corpus):
    return validate(bad_corpus)


@pytest.mark.parametrize("name", ROWS)
def test_every_bad_row_has_its_code(name, validated):
    clean, report = validated
    expected = ROWS[name][4]
    found = [(f.code, f.file) for f in report.findings if f.row_id == name and CODES[f.code][0] == "dropped"]
    if name == "good":
        found.remove(("duplicate_id", found[0][1]))
    assert [code for code, _ in found] == ([expected] if expected else [])
    assert (name in [row["id"] for row in clean]) == (expected is None)
    for _, file in found:
        assert file.endswith(ROWS[name][0])


def test_repairs_are_counted(validated):
    _, report = validated
    assert {code: count for code, count in report.counts.items() if CODES[code][0] == "repaired"} == NOTES
    assert report.counts["duplicate_id"] == 1
    assert report.counts["duplicate_audio"] == 1
    assert any(finding.detail == "same as good" for finding in report.findings)


def test_clean_rows_are_mended(validated):
    clean, report = validated
    rows = {row["id"]: row for row in clean}
    for name in ("nfd", "zero_width", "control", "capitals"):
        assert rows[name]["text"] == "xin chào"
    assert rows["nan_is_a_word"]["text"] == "nan"
    assert rows["within_tolerance"]["duration_s"] == pytest.approx(0.62)
    assert rows["96_khz"]["duration_s"] == pytest.approx(0.7)
    assert report.num_rows == len(ROWS) + 2 and report.num_kept == len(clean)
    assert report.seconds_kept == pytest.approx(sum(row["duration_s"] for row in clean))


@pytest.mark.parametrize(
    "options",
    [{"streaming": True}, {"num_workers": 1}, pytest.param({"num_workers": 3}, marks=pytest.mark.slow)],
)
def test_streams_and_processes_give_the_same(options, validated, bad_corpus):
    clean, report = validate(bad_corpus, **options)
    assert clean == validated[0]
    assert report.to_dict() == validated[1].to_dict()


def test_report_table_and_json(validated, tmp_path):
    _, report = validated
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table())
    printed = console.export_text()
    for part in ("too_long", "one.wav", "text_emoji", "kept", f"{report.num_dropped}"):
        assert part in printed
    report.save(tmp_path / "drop_report.json")
    data = json.loads((tmp_path / "drop_report.json").read_text(encoding="utf-8"))
    assert data["counts"]["dropped"]["silent"] == 1
    assert {"code", "row_id", "file", "detail"} == set(data["findings"][0])
    assert DropReport.from_dict(data).to_dict() == data
    assert [path.name for path in tmp_path.iterdir()] == ["drop_report.json"]


def test_brackets_in_file_names_are_printed():
    report = DropReport("s", num_rows=1)
    report.add("missing", "r", "clips/[red]x.wav", "no such file")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table())
    assert "[red]x.wav" in console.export_text()


def test_reports_merge():
    parts = []
    for start in (0, 30):
        report = DropReport("s", num_rows=40, seconds_kept=10.0)
        for index in range(30):
            report.add("text_nfd", f"r{start + index}")
        report.add("silent", f"x{start}", "a.wav")
        parts.append(report)
    parts[0].merge(parts[1])
    merged = parts[0]
    assert (merged.num_rows, merged.num_dropped, merged.counts["text_nfd"]) == (80, 2, 60)
    assert sum(finding.code == "text_nfd" for finding in merged.findings) == 20
    assert merged.drop_fraction == 2 / 80
    with pytest.raises(ValueError, match="unknown code"):
        merged.add("odd", "r")


def test_drop_limit_stops(bad_corpus):
    with pytest.raises(TooManyDropped, match=r"max_drop_fraction is 0\.1.*Most often") as caught:
        validate(bad_corpus, max_drop_fraction=0.1)
    assert caught.value.report.num_rows == len(ROWS) + 2
    validate(bad_corpus, max_drop_fraction=0.9)


def test_drop_limit_stops_a_stream(tmp_path):
    rows = [{"file_name": "none.wav", "text": "xin chào"}] * 1100
    write_csv(tmp_path / "metadata.csv", rows)
    with pytest.raises(TooManyDropped):
        validate(str(tmp_path), streaming=True, max_drop_fraction=0.5)


def test_kept_text_problems(tmp_path):
    (tmp_path / "a.wav").write_bytes(encode(voice()))
    write_csv(tmp_path / "metadata.csv", [{"file_name": "a.wav", "text": "có 25 người"}])
    clean, _ = validate(str(tmp_path), keep_text_problems=["digits"])
    assert clean[0]["text"] == "có 25 người"
    with pytest.raises(ValueError, match="keep_text_problems"):
        validate(str(tmp_path), keep_text_problems=["digit"])


def test_repeats_across_sources(bad_corpus):
    seen = Seen()
    first, _ = validate(bad_corpus, seen=seen)
    second, report = validate(bad_corpus, seen=seen)
    assert first and not second
    assert report.counts["duplicate_id"] == report.num_rows


def test_text_rows(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("Xin chào\ncó 5 người\n...\n", encoding="utf-8")
    rows = load_source(SourceArguments(str(path)), normalise=False)
    clean, report = validate_rows(rows, need_audio=False)
    assert clean["text"][:] == ["xin chào"] and "audio" not in clean.column_names
    assert report.counts["text_digits"] == report.counts["no_text"] == 1


def test_spans_move_with_the_text(tmp_path):
    (tmp_path / "a.wav").write_bytes(encode(voice()))
    write_csv(tmp_path / "m.csv", [{"audio": "a.wav", "marked_text": "Có:  [en]Meeting[/en]!"}])
    rows = load_source(SourceArguments(str(tmp_path / "m.csv")), normalise=False)
    clean, _ = validate_rows(rows)
    row = clean[0]
    assert [row["text"][span["start"] : span["end"]] for span in row["spans"]] == ["meeting"]


def test_a_shuffled_selection_keeps_audio_and_text_together(bad_corpus):
    rows = load_source(SourceArguments(bad_corpus), normalise=False, fill_durations=False)
    order = list(range(len(ROWS)))[::-1]
    clean, _ = validate_rows(rows.select(order), max_duration_s=3.0)
    for row in clean:
        assert row["audio"]["path"].endswith(ROWS[row["id"]][0])
    assert clean["id"][-1] == "good"


def test_limits_are_checked():
    for options in ({"min_duration_s": 2, "max_duration_s": 1}, {"max_drop_fraction": 2}):
        with pytest.raises(ValueError):
            Limits(**options)
    with pytest.raises(ValueError, match="num_workers"):
        RowChecker(Limits(), -1)


def test_real_recordings_pass(shared_data):
    rows = load_source(SourceArguments(str(shared_data / "vi_asr"), split="validation", max_rows=60))
    clean, report = validate_rows(rows, max_drop_fraction=0.01)
    assert len(clean) == 60 and report.seconds_kept == pytest.approx(sum(rows["duration_s"]), abs=1)


def test_every_audio_error_has_a_meaning(repo_root):
    source = (repo_root / "data_scripts" / "decoding.py").read_text(encoding="utf-8")
    codes = set(re.findall(r'AudioError\("(\w+)"', source))
    assert len(codes) > 12 and codes <= set(CODES)
