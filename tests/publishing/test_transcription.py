"""Transcribing folders: one bad file is one line, interruptions cost nothing, wrong arguments are said plainly."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_scripts.audio import AudioError
from scripts.transcribe import main
from trainers import transcription
from trainers.recognisers import Recogniser
from trainers.transcription import Settings, TranscriptionError, find_audio, pending, transcribe_files

SETTINGS = Settings(model="fake")


class FakePipe:
    """Says how many samples it heard; refuses recordings of exactly 8,000."""

    def __init__(self, stop_after=None):
        self.heard, self.stop_after = [], stop_after

    def __call__(self, inputs, batch_size, **options):
        if self.stop_after is not None and len(self.heard) >= self.stop_after:
            raise KeyboardInterrupt
        lengths = [len(each["raw"]) for each in inputs]
        if 8000 in lengths:
            raise RuntimeError("out of\nmemory")
        self.heard += lengths
        return [{"text": f" {length} samples ", "phonemes": ["a"]} for length in lengths]


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "calls" / "deep"
    folder.mkdir(parents=True)
    for index in range(5):
        wave = 0.1 * np.sin(np.arange(4000 + 1000 * index) / 10)
        soundfile.write(folder / f"{index}.wav", wave.astype(np.float32), 16_000)
    (folder / "notes.txt").write_text("not audio")
    return tmp_path / "calls"


def run(recordings, output, pipe, settings=SETTINGS, **options):
    recogniser = Recogniser("fake", pipe, "seq2seq")
    return transcribe_files(recogniser, find_audio([recordings]), output, settings, **options)


def test_files_of_a_folder(recordings, tmp_path):
    files = find_audio([recordings, recordings / "deep" / "1.wav"])
    assert [file.name for file in files] == ["0.wav", "1.wav", "2.wav", "3.wav", "4.wav"]
    with pytest.raises(TranscriptionError, match="does not exist"):
        find_audio([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(TranscriptionError, match="no audio file"):
        find_audio([tmp_path / "empty"])


def test_bad_files_do_not_stop_the_others(recordings, tmp_path):
    (recordings / "deep" / "2.wav").write_bytes(b"RIFF not audio at all")
    output, seen = tmp_path / "out" / "t.jsonl", []
    entries = run(recordings, output, FakePipe(), batch_size=2, on_result=seen.append)
    assert [Path(entry["file"]).name for entry in entries] == [f"{index}.wav" for index in range(5)]
    texts = [entry.get("text") for entry in entries]
    assert texts == ["4000 samples", "5000 samples", None, "7000 samples", None]
    assert "2.wav" in entries[2]["error"] and "\n" not in entries[2]["error"]
    assert entries[4]["error"] == "recognition failed: out of memory"  # alone at fault: its batch mate 3.wav has text
    assert [json.loads(line) for line in output.read_text().splitlines()] == seen
    assert output.with_suffix(".txt").read_text().splitlines()[0].endswith("0.wav\t4000 samples")
    assert len(output.with_suffix(".txt").read_text().splitlines()) == 3


def test_an_interrupted_run_goes_on(recordings, tmp_path):
    output = tmp_path / "t.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(recordings, output, FakePipe(stop_after=2), batch_size=1)
    assert len(output.read_text().splitlines()) == 2
    with output.open("a") as stream:
        stream.write('{"file": "cut o')  # killed in the middle of a line
    pipe = FakePipe()
    entries = run(recordings, output, pipe, batch_size=1)
    assert pipe.heard == [6000, 7000]
    assert sum("text" in entry for entry in entries) == 4
    again = FakePipe()
    assert len(pending(find_audio([recordings]), output, SETTINGS)) == 1  # what failed is tried again
    assert run(recordings, output, again, batch_size=1) == entries and again.heard == []
    assert len(output.read_text().splitlines()) == 5


def test_changed_and_new_files_are_done_again(recordings, tmp_path):
    output = tmp_path / "t.jsonl"
    run(recordings, output, FakePipe())
    for name in ("0.wav", "new.wav"):
        soundfile.write(recordings / "deep" / name, np.full(4321, 0.1, np.float32) * np.sin(np.arange(4321)), 16_000)
    pipe = FakePipe()
    run(recordings, output, pipe)
    assert pipe.heard == [4321, 4321]


def test_an_output_belongs_to_its_settings(recordings, tmp_path):
    output = tmp_path / "t.jsonl"
    run(recordings, output, FakePipe())
    with pytest.raises(TranscriptionError, match=r"was made with num_beams=1; choose another --output"):
        run(recordings, output, FakePipe(), Settings(model="fake", num_beams=4))
    (tmp_path / "notes.jsonl").write_text('{"a": 1}\nb\n')
    with pytest.raises(TranscriptionError, match="line 1, is not a transcript"):
        run(recordings, tmp_path / "notes.jsonl", FakePipe())
    with pytest.raises(TranscriptionError, match=r"must end in \.jsonl"):
        run(recordings, tmp_path / "t.txt", FakePipe())


def test_phonemes_on_request(recordings, tmp_path):
    entries = run(recordings, tmp_path / "t.jsonl", FakePipe(), Settings(model="fake", phonemes=True))
    assert entries[0]["phonemes"] == ["a"]


def test_the_script(recordings, tiny_whisper, tmp_path, capsys):
    output = str(tmp_path / "t.jsonl")
    argv = [str(recordings), "--model", str(tiny_whisper), "--output", output, "--device", "cpu"]
    (recordings / "deep" / "1.wav").write_bytes(b"")
    assert main(argv) == 1
    printed = capsys.readouterr()
    assert "4 of 5 files transcribed" in printed.err and "1.wav: empty file" in printed.err
    assert "0.wav: " in printed.out and "Traceback" not in printed.err
    (recordings / "deep" / "1.wav").unlink()
    assert main(argv) == 0  # nothing left to do
    assert main([str(tmp_path / "none"), "--model", str(tiny_whisper), "--output", output]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_an_interruption_is_one_line(recordings, tiny_whisper, tmp_path, capsys, monkeypatch):
    output = tmp_path / "t.jsonl"
    argv = [str(recordings), "--model", str(tiny_whisper), "--output", str(output), "--device", "cpu"]
    entry = transcription._recognise

    def second_batch_is_interrupted(*args):
        if output.stat().st_size:
            raise KeyboardInterrupt
        yield from entry(*args)

    with monkeypatch.context() as patch:
        patch.setattr(transcription, "_recognise", second_batch_is_interrupted)
        assert main([*argv, "--batch_size", "2"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted: the same command goes on with {output}"
    assert len(output.read_text(encoding="utf-8").splitlines()) == 2
    assert main(argv) == 0 and "files transcribed" in capsys.readouterr().err


def test_an_interruption_that_reading_swallows_is_one(recordings, tiny_whisper, tmp_path, capsys, monkeypatch):
    """soundfile reads by callbacks, in which Python drops exceptions: the file would only look truncated."""
    output = tmp_path / "t.jsonl"
    argv = [str(recordings), "--model", str(tiny_whisper), "--output", str(output), "--device", "cpu"]
    read = transcription.read_audio
    # Shells let jobs in the background ignore it, this one as well.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(audio):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise AudioError("truncated", str(audio), "seems truncated") from None
        return read(audio)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(transcription, "read_audio", interrupted)
            assert main(argv) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert "the same command goes on" in capsys.readouterr().err
    assert [json.loads(line)["error"] for line in output.read_text().splitlines()]
    assert main(argv) == 0 and "5 of 5 files transcribed" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
