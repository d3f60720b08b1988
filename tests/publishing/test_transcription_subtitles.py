"""Subtitles that players can read, tables that come back as they went in, and no file of others written over."""

import csv
import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.subtitles import cues_of, targets, to_csv, to_srt, to_txt, to_vtt, write_formats

SRT_TIME = r"(\d\d+):([0-5]\d):([0-5]\d),(\d{3})"
SRT_BLOCK = re.compile(rf"(\d+)\n{SRT_TIME} --> {SRT_TIME}\n([^\n]+)\n\n")
VTT_BLOCK = re.compile(rf"\n{SRT_TIME} --> {SRT_TIME}\n([^\n]+)\n".replace(",", r"\."))


def seconds(hours, minutes, secs, milliseconds):
    return int(hours) * 3600 + int(minutes) * 60 + int(secs) + int(milliseconds) / 1000


def read_srt(text):
    """[(start_s, end_s, text)]; every character must belong to a block."""
    blocks = list(SRT_BLOCK.finditer(text))
    assert "".join(block.group() for block in blocks) == text
    assert [int(block[1]) for block in blocks] == list(range(1, len(blocks) + 1))
    return [(seconds(*block.groups()[1:5]), seconds(*block.groups()[5:9]), block[10]) for block in blocks]


def read_vtt(text):
    assert text.startswith("WEBVTT\n")
    blocks = list(VTT_BLOCK.finditer(text, len("WEBVTT\n")))
    assert "WEBVTT\n" + "".join(block.group() for block in blocks) == text
    return [(seconds(*block.groups()[0:4]), seconds(*block.groups()[4:8]), block[9]) for block in blocks]


def segment(start_s, end_s, text, emotion="neutral"):
    scores = {"neutral": 0.75, "negative": 0.25}
    return {"start_s": start_s, "end_s": end_s, "text": text, "emotion": emotion, "scores": scores}


def entry(*segments, **more):
    text = " ".join(one["text"] for one in segments)
    return {"file": "a.wav", "duration_s": 9.0, "text": text, "segments": list(segments), **more}


def test_a_subtitle_for_each_piece():
    made = entry(segment(0, 2.5, "xin chào"), segment(2.5, 3, " "), segment(3, 3725.0406, "mày nói gì", "negative"))
    expected = [(0, 2.5, "[neutral] xin chào"), (3, 3725.041, "[negative] mày nói gì")]
    assert read_srt(to_srt(cues_of(made))) == expected
    assert read_vtt(to_vtt(cues_of(made))) == expected
    assert to_srt([]) == "" and read_vtt(to_vtt([])) == []
    plain = {"file": "a.wav", "duration_s": 1.5, "text": "không có đoạn"}  # a record made without pieces
    assert read_srt(to_srt(cues_of(plain))) == [(0, 1.5, "không có đoạn")]


def test_arrows_and_lines_in_a_text_stay_text():
    cues = cues_of(entry(segment(0, 1, "a --> b\n\n2\n00:00:01,000 <i>&")))
    assert read_srt(to_srt(cues)) == [(0, 1, "[neutral] a → b 2 00:00:01,000 <i>&")]
    assert read_vtt(to_vtt(cues)) == [(0, 1, "[neutral] a --&gt; b 2 00:00:01,000 &lt;i&gt;&amp;")]


def test_long_pieces_are_split_between_words():
    words = [{"text": f"w{i}", "timestamp": [0.5 * i, 0.5 * i + 0.4]} for i in range(50)]
    made = entry(segment(0, 14, "first"), segment(14, 25, "second", "negative"), chunks=words)
    cues = cues_of(made)
    assert all(cue.end_s - cue.start_s <= 10 for cue in cues) and len(cues) == 4
    assert " ".join(cue.text for cue in cues) == " ".join(word["text"] for word in words)
    assert [cue.emotion for cue in cues] == ["neutral", "neutral", "negative", "negative"]
    spaced = [{"text": f" w{i}", "timestamp": [i, i + 0.9]} for i in range(12)]
    spaced[6]["timestamp"] = (6.0, None)  # as Whisper leaves a word whose end it did not hear
    assert [cue.text for cue in cues_of(entry(segment(0, 12, "x"), chunks=spaced))] == [
        "w0 w1 w2 w3 w4 w5",  # a pause of more than a second
        "w7 w8 w9 w10 w11",
    ]
    assert [cue.text for cue in cues_of(entry(segment(0, 9, "whole"), chunks=words))] == ["whole"]


times = st.floats(0, 5000, allow_nan=False)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.tuples(times, times, texts), max_size=6))
def test_subtitles_never_overlap(pieces):
    cues = cues_of(entry(*(segment(min(a, b), max(a, b), text) for a, b, text in pieces)))
    for read in (read_srt(to_srt(cues)), read_vtt(to_vtt(cues))):
        assert len(read) == len(cues) == sum(bool(text.strip()) for *_, text in pieces)
        assert all(start < end for start, end, _ in read)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(read))


@given(st.lists(texts, min_size=1, max_size=4))
def test_a_table_comes_back(said):
    made = [{**entry(*(segment(i, i + 1, text) for i, text in enumerate(said))), "file": 'nó, "a"\t.wav'}]
    rows = list(csv.DictReader(to_csv(made).splitlines()))
    assert list(rows[0]) == ["file", "start_s", "end_s", "text", "emotion", "p_neutral", "p_negative"]
    assert [row["text"] for row in rows] == [" ".join(text.split()) for text in said]
    assert {(row["file"], row["emotion"], float(row["p_negative"])) for row in rows} == {
        ('nó, "a"\t.wav', "neutral", 0.25)
    }
    assert [float(row["start_s"]) for row in rows] == list(range(len(said)))


def test_text_files():
    assert to_txt([{"file": "a\t.wav", "text": "b\nc"}]) == "a .wav\tb c\n"
    assert to_txt([{"file": "a.wav", "text": "b", "emotion": "negative"}]) == "a.wav\tnegative\tb\n"


def test_where_files_go(tmp_path):
    assert targets(["in/x.wav", "in/y.mp3"], "srt") == [Path("in/x.srt"), Path("in/y.srt")]
    assert targets(["in/x.wav", "in/x.mp3"], "vtt") == [Path("in/x.wav.vtt"), Path("in/x.mp3.vtt")]
    assert targets(["in/a/x.wav", "in/b/x.wav"], "srt", "out") == [Path("out/a/x.srt"), Path("out/b/x.srt")]
    assert targets(["in/a/x.wav"], "srt", "out") == [Path("out/x.srt")]


def test_files_of_others_are_not_written_over(tmp_path):
    output, srt = tmp_path / "t.jsonl", tmp_path / "calls" / "a.srt"
    first = entry(segment(0, 1, "một"), file=str(tmp_path / "calls" / "a.wav"))
    formats = ["json", "srt", "csv", "txt"]
    assert write_formats([first, {"file": "b.wav", "error": "x"}], output, formats) == []
    assert "một" in srt.read_text(encoding="utf-8") and not (tmp_path / "calls" / "b.srt").exists()
    assert json.loads((tmp_path / "calls" / "a.json").read_text(encoding="utf-8")) == first
    again = {**first, "segments": [segment(0, 1, "hai")]}
    assert write_formats([again], output, formats) == []  # ours: made again
    assert "hai" in srt.read_text(encoding="utf-8")
    srt.write_text("edited by hand", encoding="utf-8")
    assert write_formats([first], output, formats) == [srt]
    assert srt.read_text(encoding="utf-8") == "edited by hand"
    assert "một" in (tmp_path / "t.csv").read_text(encoding="utf-8")  # the others are written
    srt.unlink()
    assert write_formats([first], output, formats) == [] and srt.exists()
    (tmp_path / "t.files.json").write_text("[")
    with pytest.raises(ValueError, match=r"t\.files\.json is no list of written files"):
        write_formats([first], output, formats)
    assert write_formats([first], tmp_path / "plain.jsonl", ["txt"]) == []
    assert not (tmp_path / "plain.files.json").exists()
