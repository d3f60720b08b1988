"""The page lists the right rows in the right order, is safe to open, and its sheet can be filled in and read back."""

import csv
import io
import re

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from data_scripts.curation.label_noise import SHEET_COLUMNS, _cell, align, plain_cell, suspicion, write_report
from data_scripts.report import Word


def clip(hertz=220.0):
    buffer = io.BytesIO()
    samples = 0.1 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16_000)
    soundfile.write(buffer, samples, 16_000, format="FLAC")
    return {"path": None, "bytes": buffer.getvalue()}


def row(row_id, error_rate=0.5, confidence: float | None = 0.5, agreement: float | None = None, **others):
    return {
        "id": row_id,
        "transcript": "xin chào các bạn",
        "hypothesis": "xin chào cá",
        "unit": "syllable",
        "error_rate": error_rate,
        "confidence": confidence,
        "agreement": agreement,
        "duration_s": 3.6,
        "keep": True,
        "reasons": [],
        **others,
    }


def sheet_ids(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [plain_cell(line["id"]) for line in csv.DictReader(file)]


def test_suspicion():
    assert suspicion(row("a", None)) is None
    assert suspicion(row("a", 0.0, 0.1)) == 0
    assert suspicion(row("a", 3.0, None)) == 1.0
    assert suspicion(row("a", 0.5, 0.2, 0.1)) == pytest.approx(0.5 * 0.8 * 0.9)
    # Two recognisers that agree against the transcript are worse than two that do not.
    assert suspicion(row("a", agreement=0.0)) > suspicion(row("a", agreement=0.6))


def test_alignment():
    said, heard = align(["tôi", "đi", "ra", "chợ", "mua", "cá"], ["tôi", "ra", "chợ", "tới", "mua", "gà"])
    assert [word.kind for word in said] == ["equal", "missing", "equal", "equal", "equal", "wrong"]
    assert [word.kind for word in heard] == ["equal", "equal", "equal", "extra", "equal", "wrong"]
    assert [word.text for word in heard] == ["tôi", "ra", "chợ", "tới", "mua", "gà"]
    assert align([], ["a"]) == ([], [Word("a", "extra")])


def test_the_most_suspicious_rows_come_first_and_ties_in_order(tmp_path):
    rows = [row(f"r{i}", error_rate=(i % 5) / 4) for i in range(50)] + [row("uncompared", None)]
    path = write_report(iter(rows), tmp_path / "page.html", num_rows=12, find_audio=lambda _: None)
    order = sorted(range(50), key=lambda i: (-(i % 5), i))[:12]
    assert sheet_ids(tmp_path / "page.csv") == [f"r{i}" for i in order]
    page = path.read_text(encoding="utf-8")
    assert [int(i) for i in re.findall(r"<td[^>]*>r(\d+)</td>", page)] == order
    assert "51 rows" in page


def test_rows_play_show_both_sides_and_keep_their_reasons(tmp_path):
    rows = [
        row("a", reasons=["too_hard"], keep=False, scores=[{"model": "x/b", "speed": 0.9, "hypothesis": "chào cá"}]),
        row("b", 0.0, 0.99),
        row("c", 0.25, audio=clip()),
    ]
    asked = []
    page = write_report(rows, tmp_path / "n.html", find_audio=lambda r: asked.append(r["id"]) or clip()).read_text()
    assert asked == ["a", "c"]  # only listed rows; an equal hypothesis is no noise
    assert page.count("<audio controls") == 2 and "data:audio/mpeg;base64," in page
    assert "<mark>cá</mark>" in page and "<del>bạn</del>" in page and "b ×0.9: chào cá" in page
    assert page.count("too_hard") == 2
    write_report([row("d", audio=clip(440))], tmp_path / "own.html")
    assert (tmp_path / "own.html").read_text().count("<audio controls") == 1


def test_phonemes_are_compared_with_phonemes(tmp_path):
    one = row("a", transcript="xin chào", hypothesis="x i n -0 $ ch aː w -1", unit="phoneme", error_rate=0.4)
    page = write_report([one], tmp_path / "n.html", find_audio=lambda _: None).read_text(encoding="utf-8")
    assert "PER" in page and "phoneme error rate" in page and "<span>i</span>" in page and "$" not in page


def test_hostile_rows_are_text(tmp_path):
    evil = '<script>alert(1)</script>"></td><img src=x onerror=y>\u202e\x00'
    rows = [row(evil, transcript=evil, hypothesis=f"{evil} {evil}", reasons=[evil], speaker=evil, corpus="=1+1")]
    page = write_report(rows, tmp_path / "n.html", title=evil, find_audio=lambda _: {"bytes": b"<html>"}).read_text()
    assert "<script" not in page and "<img" not in page and "\u202e" not in page and "\x00" not in page
    assert "cannot be played" in page
    assert sheet_ids(tmp_path / "n.csv") == [evil]
    assert "'=1+1" in (tmp_path / "n.csv").read_text()


@given(st.text())
def test_cells_never_begin_a_formula_and_come_back(text):
    cell = _cell(text)
    assert not cell or cell[0] not in "=+-@\t\r"
    assert plain_cell(cell) == text


def test_numbers_in_the_sheet_are_plain(tmp_path):
    write_report([row("a", lm_score=-2.25)], tmp_path / "n.html", find_audio=lambda _: None)
    with open(tmp_path / "n.csv", encoding="utf-8", newline="") as file:
        (line,) = csv.DictReader(file)
    assert tuple(line) == SHEET_COLUMNS
    assert (line["lm_score"], line["error_rate"], line["verdict"], line["text"]) == ("-2.25", "0.5", "", "")


def test_work_of_a_person_is_not_written_over(tmp_path):
    rows = [row("a"), row("b")]
    write_report(rows, tmp_path / "n.html", find_audio=lambda _: None)
    before = (tmp_path / "n.html").read_bytes(), (tmp_path / "n.csv").read_bytes()
    write_report(rows, tmp_path / "n.html", find_audio=lambda _: None)  # nothing was filled in: the same again
    assert before == ((tmp_path / "n.html").read_bytes(), (tmp_path / "n.csv").read_bytes())
    filled = before[1].replace(b"a,,", b"a,drop,", 1)
    (tmp_path / "n.csv").write_bytes(filled)
    with pytest.raises(FileExistsError, match=r"n\.csv is there and differs .* Move it away"):
        write_report(rows, tmp_path / "n.html", find_audio=lambda _: None)
    assert (tmp_path / "n.csv").read_bytes() == filled


def test_nothing_to_show(tmp_path):
    page = write_report([], tmp_path / "none.html").read_text()
    assert "No row is suspicious" in page
    assert sheet_ids(tmp_path / "none.csv") == []
    with pytest.raises(ValueError, match="num_rows must be at least 1, got 0"):
        write_report([], tmp_path / "none.html", num_rows=0)


def test_memory_holds_listed_rows_only(tmp_path):
    alive = []

    class Tracked(dict):
        def __del__(self):
            alive.pop()

    def rows():
        for i in range(500):
            alive.append(None)
            yield Tracked(row(f"r{i}", error_rate=(i % 97) / 97))
            assert len(alive) < 20

    write_report(rows(), tmp_path / "n.html", num_rows=5, find_audio=lambda _: None)
