"""Transcribing with emotion: each line and each piece has one, and all that was true of transcribing stays true."""

import csv
import json

import numpy as np
import pytest
import soundfile

from scripts.transcribe import main
from trainers.classifiers import load_classifier
from trainers.recognisers import load_recogniser
from trainers.transcription import Settings, TranscriptionError, find_audio, pending, transcribe_files

from .ser_folders import save_emotion2vec, save_ser
from .test_transcription_subtitles import read_srt, read_vtt
from .tiny_recognisers import save_tiny_zipformer
from .understanding_kit import talk


@pytest.fixture(scope="module")
def ser(tmp_path_factory):
    return save_ser(tmp_path_factory.mktemp("ser"))


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "calls"
    folder.mkdir()
    for index, length_s in enumerate((0.5, 2.4, 0.8)):
        soundfile.write(folder / f"{index}.wav", talk(length_s, index), 16_000)
    return folder


def words(recordings, tspc, ser, output, *more):
    argv = [str(recordings), "--model", str(tspc), "--output", str(output), "--device", "cpu"]
    return [*argv, *(["--emotion", str(ser)] if ser else []), *map(str, more)]


def lines(output):
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def test_every_line_and_piece_has_an_emotion(recordings, tiny_models, ser, tmp_path, capsys):
    (recordings / "broken.wav").write_bytes(b"RIFF nothing")
    soundfile.write(recordings / "silent.wav", np.zeros(8000), 16_000)
    output, subtitles = tmp_path / "t.jsonl", tmp_path / "subtitles"
    options = ["--formats", "json", "srt", "vtt", "csv", "txt", "--output_folder", subtitles, "--phonemes", "true"]
    argv = words(recordings, tiny_models["tspc"], ser, output, *options)
    assert main(argv) == 1
    printed = capsys.readouterr()
    assert "3 of 5 files transcribed" in printed.err and "broken.wav" in printed.err and "silent" in printed.err
    assert "0.wav: [" in printed.out
    record = {entry["file"].rpartition("/")[2]: entry for entry in lines(output)}
    assert {name for name, entry in record.items() if "error" in entry} == {"broken.wav", "silent.wav"}
    long = record["1.wav"]
    assert long["emotion"] in ("neutral", "negative") and sum(long["scores"].values()) == pytest.approx(1, abs=2e-6)
    assert len(long["segments"]) >= 3 and long["segments"][-1]["end_s"] == long["duration_s"] == 2.4
    assert {"text", "emotion", "scores"} <= set(long["segments"][0]) and "phonemes" in long
    rows = list(csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8", newline="")))
    assert len(rows) == sum(len(entry.get("segments", ())) for entry in record.values())
    assert float(rows[0]["p_negative"]) == pytest.approx(record["0.wav"]["scores"]["negative"])
    said = [segment for segment in long["segments"] if segment["text"]]
    expected = [(one["start_s"], one["end_s"], f"[{one['emotion']}] {' '.join(one['text'].split())}") for one in said]
    assert read_srt((subtitles / "1.srt").read_text(encoding="utf-8")) == expected
    assert len(read_vtt((subtitles / "1.vtt").read_text(encoding="utf-8"))) == len(said)
    assert json.loads((subtitles / "1.json").read_text(encoding="utf-8")) == long
    text = (tmp_path / "t.txt").read_text(encoding="utf-8").splitlines()
    assert len(text) == 3 and text[0].split("\t")[1] == record["0.wav"]["emotion"]
    assert [path.name for path in recordings.iterdir() if path.suffix != ".wav"] == []


def test_formats_are_made_again_without_models(recordings, tiny_models, ser, tmp_path, monkeypatch, capsys):
    output = tmp_path / "t.jsonl"
    assert main(words(recordings, tiny_models["tspc"], ser, output)) == 0
    before = output.read_bytes()
    monkeypatch.setattr("trainers.recognisers.load_recogniser", lambda *_, **__: pytest.fail("loaded a model"))
    monkeypatch.setattr("trainers.classifiers.load_classifier", lambda *_, **__: pytest.fail("loaded a model"))
    assert main(words(recordings, tiny_models["tspc"], ser, output, "--formats", "srt")) == 0
    assert (recordings / "1.srt").exists() and output.read_bytes() == before
    (recordings / "1.srt").write_text("mine", encoding="utf-8")
    capsys.readouterr()
    assert main(words(recordings, tiny_models["tspc"], ser, output, "--formats", "srt")) == 2
    assert "1.srt" in capsys.readouterr().err and (recordings / "1.srt").read_text(encoding="utf-8") == "mine"


def test_the_text_is_that_without_emotion(recordings, tiny_models, ser, tmp_path):
    for name, more in (("plain", []), ("felt", ["--emotion", str(ser)]), ("cut", ["--formats", "srt"])):
        assert main([*words(recordings, tiny_models["tspc"], None, tmp_path / f"{name}.jsonl"), *more]) == 0
    plain, felt, cut = (lines(tmp_path / f"{name}.jsonl") for name in ("plain", "felt", "cut"))
    for one, other, third in zip(plain, felt, cut, strict=True):
        assert one["text"] == other["text"] == third["text"]
        assert "emotion" not in one and "segments" not in one
        assert "emotion" not in third and [part["end_s"] for part in third["segments"]] == [
            part["end_s"] for part in other["segments"]
        ]


def test_a_run_with_emotion_goes_on(recordings, tiny_models, ser, tmp_path):
    output = tmp_path / "t.jsonl"
    settings = Settings(model=str(tiny_models["tspc"]), emotion=str(ser), segments=True)
    recogniser = load_recogniser(settings.model, device="cpu")
    classifier = load_classifier(str(ser), device="cpu")
    files = find_audio([recordings])

    def stop(entry):
        raise KeyboardInterrupt

    options = {"classifier": classifier, "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):
        transcribe_files(recogniser, files, output, settings, on_result=stop, **options)
    assert len(lines(output)) == 1 and len(pending(files, output, settings)) == 2
    with pytest.raises(TranscriptionError, match="no classifier was given"):
        transcribe_files(recogniser, files, output, settings)
    done = []
    entries = transcribe_files(recogniser, files, output, settings, on_result=done.append, **options)
    assert len(done) == 2 and all("emotion" in entry for entry in entries)
    with pytest.raises(TranscriptionError, match=r"was made with emotion=.*; choose another --output"):
        pending(files, output, Settings(model=settings.model, segments=True))
    with pytest.raises(TranscriptionError, match="was made with rules=False"):
        pending(files, output, Settings(model=settings.model, emotion=str(ser), segments=True, rules=True))


def test_a_record_with_pieces_serves_without_them(recordings, tiny_models, tmp_path):
    output, model = tmp_path / "t.jsonl", str(tiny_models["tspc"])
    recogniser = load_recogniser(model, device="cpu")
    transcribe_files(recogniser, find_audio([recordings / "0.wav"]), output, Settings(model=model, segments=True))
    entries = transcribe_files(recogniser, find_audio([recordings]), output, Settings(model=model))
    assert all("segments" in entry and entry["settings"]["segments"] for entry in entries)
    other = tmp_path / "plain.jsonl"
    transcribe_files(recogniser, find_audio([recordings / "0.wav"]), other, Settings(model=model))
    with pytest.raises(TranscriptionError, match="was made with segments=False"):
        pending(find_audio([recordings]), other, Settings(model=model, segments=True))
    old = lines(other)[0]
    for key in ("emotion", "rules", "segments"):  # as records were before there were emotions
        del old["settings"][key]
    other.write_text(json.dumps(old) + "\n", encoding="utf-8")
    assert pending(find_audio([recordings / "0.wav"]), other, Settings(model=model)) == []


def test_words_and_emotions(recordings, ser, tmp_path):
    zipformer = save_tiny_zipformer(tmp_path / "zipformer")
    soundfile.write(recordings / "long.wav", talk(12.5, 7), 16_000)
    options = ["--timestamps", "word", "--formats", "vtt", "--output_folder", tmp_path / "out"]
    assert main(words(recordings, zipformer, ser, tmp_path / "t.jsonl", *options)) == 0
    entry = next(entry for entry in lines(tmp_path / "t.jsonl") if entry["file"].endswith("long.wav"))
    assert len(entry["chunks"]) > 1 and len(entry["segments"]) == 1
    cues = read_vtt((tmp_path / "out" / "long.vtt").read_text(encoding="utf-8"))
    assert len(cues) > 1 and all(end - start <= 10 for start, end, _ in cues)
    assert all(text.startswith(f"[{entry['emotion']}] ") for *_, text in cues)


def test_long_files_are_read_as_they_are_understood(tiny_models, tmp_path, monkeypatch):
    folder = save_emotion2vec(tmp_path / "e2v")
    monkeypatch.setattr("trainers.transcription.LONG_S", 1.0)
    soundfile.write(tmp_path / "long.wav", talk(3.1, rate=8000), 8000)
    seen = []
    settings = Settings(model=str(tiny_models["tspc"]), emotion=str(folder), segments=True)
    recogniser = load_recogniser(settings.model, device="cpu")
    classifier = load_classifier(str(folder), device="cpu")
    from trainers import understanding

    stream = understanding.stream_audio
    monkeypatch.setattr(
        understanding, "stream_audio", lambda source, rate: seen.append(source) or stream(source, rate)
    )
    entry = transcribe_files(
        recogniser, [tmp_path / "long.wav"], tmp_path / "t.jsonl", settings, classifier=classifier
    )[0]
    assert seen == [str(tmp_path / "long.wav")] and entry["segments"][-1]["end_s"] == pytest.approx(3.1, abs=1e-3)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--rules", "true"], "give --emotion MODEL too"),
        (["--emotion", "x", "--rules", "rules.txt"], "must be true, false or a .json file"),
        (["--formats", "pdf"], "pdf"),
    ],
)
def test_options_that_make_no_sense(more, message, recordings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words(recordings, "m", None, tmp_path / "t.jsonl", *more))
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_models_that_cannot(recordings, tiny_models, ser, tiny_whisper, tmp_path, capsys):
    for model, emotion, more, message in (
        (tiny_models["tspc"], tmp_path / "none", [], "cannot load"),
        (tiny_models["tspc"], tiny_models["tspc"], [], "as an audio classifier"),
        (tiny_models["s2p"], ser, [], "hears phonemes, not text"),
        (tiny_models["tspc"], ser, ["--timestamps", "word"], "gives no times"),
        (tiny_whisper, ser, ["--phonemes", "true"], "gives no phonemes"),
        (tiny_models["tspc"], ser, ["--rules", str(tmp_path / "gone.json")], "gone.json"),
    ):
        assert main(words(recordings, model, emotion, tmp_path / "t.jsonl", *more)) == 2
        assert message in capsys.readouterr().err
        assert not lines(tmp_path / "t.jsonl") if (tmp_path / "t.jsonl").exists() else True
