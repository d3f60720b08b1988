"""The pipeline of CTC and transducer models: every input form, batches, times, n-best, long audio, clear errors."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tone_recogniser import RATE, ToneConfig, ToneFeatureExtractor, ToneModel, pause, say, tokenizer, tone

from models.zipformer.audio_input import AudioInputError, pieces_at_quiet, split_at_quiet
from models.zipformer.audio_stream import is_silent, stream_audio
from models.zipformer.pipeline_asr import SpeechRecogniserPipeline

WORDS = ("▁ba", "▁bốn", "▁mơ", "▁tê")


@pytest.fixture
def asr():
    return SpeechRecogniserPipeline(
        ToneModel(ToneConfig()), feature_extractor=ToneFeatureExtractor(), tokenizer=tokenizer(), device="cpu"
    )


def test_every_input_form(asr, tmp_path):
    audio = say("▁ba", "▁mơ", "m", "▁tê")
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, audio, RATE)
    wide = np.repeat(audio, 2)  # half the speed at twice the rate
    soundfile.write(tmp_path / "wide.wav", np.stack([wide, wide], 1), 2 * RATE)
    expected = {"text": "ba mơm tê"}
    for source in (
        audio,
        torch.from_numpy(audio),
        np.stack([audio, audio]),
        str(tmp_path / "a.wav"),
        tmp_path / "a.wav",
        str(tmp_path / "a.flac"),
        str(tmp_path / "wide.wav"),
        (tmp_path / "a.wav").read_bytes(),
        {"array": audio, "sampling_rate": RATE},
        {"raw": audio, "sampling_rate": RATE},
        {"path": str(tmp_path / "a.wav"), "bytes": None},
        {"path": None, "bytes": (tmp_path / "a.flac").read_bytes()},
    ):
        assert asr(source) == expected, source
    assert asr({"path": str(tmp_path / "a.wav"), "id": 7}) == expected | {"id": [7]}


def test_a_batch_gives_what_each_gives_alone(asr):
    audios = [say(*WORDS[:count], gap_s=0.08) for count in (1, 4, 2, 3)]
    options = {"return_timestamps": "word"}
    alone = [asr(audio, **options) for audio in audios]
    assert asr(audios, batch_size=3, **options) == alone
    assert list(asr((audio for audio in audios), batch_size=2, **options)) == alone
    assert [len(result["chunks"]) for result in alone] == [1, 4, 2, 3]


def test_times_of_words_tokens_and_pieces(asr):
    audio = np.concatenate([pause(0.2), tone("▁bốn"), tone("n"), pause(0.3), tone("▁ba", 0.4), pause(0.1)])
    words = asr(audio, return_timestamps="word")
    assert words["text"] == "bốnn ba"
    assert [chunk["text"] for chunk in words["chunks"]] == ["bốnn", "ba"]
    # Tokens begin with their tones; a word ends one frame after the start of its last token.
    assert words["chunks"][0]["timestamp"] == pytest.approx((0.2, 0.42), abs=0.021)
    assert words["chunks"][1]["timestamp"][0] == pytest.approx(0.9, abs=0.021)
    for option in ("char", "token"):
        chunks = asr(audio, return_timestamps=option)["chunks"]
        assert [chunk["text"] for chunk in chunks] == [" bốn", "n", " ba"]
        assert [chunk["timestamp"][0] for chunk in chunks] == pytest.approx([0.2, 0.4, 0.9], abs=0.021)
    whole = asr(audio, return_timestamps=True)["chunks"]
    assert whole == [{"text": "bốnn ba", "timestamp": (0.0, 1.4)}]


def test_long_audio_is_its_pieces(asr):
    spoken = [word for _ in range(10) for word in WORDS]
    audio = say(*spoken, gap_s=0.25)
    options = {"chunk_length_s": 1.7, "return_timestamps": "word"}
    whole = asr(audio, batch_size=4, **options)
    assert whole["text"] == asr(audio)["text"] == " ".join(word[1:] for word in spoken)
    pieces = list(split_at_quiet(audio, RATE, 1.7))
    assert len(pieces) > 5 and whole["text"] == " ".join(asr(piece)["text"] for piece in pieces)
    # Word i begins after i + 1 pauses and i tones, whatever piece it is in.
    starts = [chunk["timestamp"][0] for chunk in whole["chunks"]]
    assert starts == pytest.approx([0.25 + 0.45 * index for index in range(40)], abs=0.021)
    assert {shape[1] > 170 for shape, *_ in asr.model.batches[:3]} == {False}  # frames of 10 ms
    segments = asr(audio, chunk_length_s=1.7, return_timestamps=True)["chunks"]
    assert len(segments) == len(pieces)
    assert [segment["timestamp"][1] for segment in segments] == pytest.approx(
        np.cumsum([len(piece) / RATE for piece in pieces]), abs=1e-3
    )


def test_silence_gives_no_text_and_is_not_heard(asr):
    noise = 1e-4 * np.random.default_rng(0).standard_normal(30 * RATE).astype(np.float32)
    audio = np.concatenate([noise, say("▁ba"), noise])
    heard = asr(audio, chunk_length_s=5, return_timestamps="word")
    assert heard["text"] == "ba"
    assert heard["chunks"][0]["timestamp"][0] == pytest.approx(30.1, abs=0.021)
    assert len(asr.model.batches) == 1
    assert asr(noise, return_timestamps="word", nbest=2, search="beam")["chunks"] == []
    assert asr([noise, say("▁ba"), noise], batch_size=3) == [{"text": ""}, {"text": "ba"}, {"text": ""}]
    asr.model.batches.clear()
    asr(noise, chunk_length_s=5, silence_dbfs=None)
    assert len(asr.model.batches) >= 6


def test_is_silent_hears_a_click_and_ignores_an_offset():
    quiet = np.full(RATE, 0.2, np.float32)
    assert is_silent(quiet, RATE, -60) and is_silent(quiet[:0], RATE, -60)
    quiet[-100:] += 0.1
    assert not is_silent(quiet, RATE, -60)


def test_search_options_reach_the_model(asr):
    result = asr(say("▁ba", "▁mơ"), search="ctc_beam", beam_size=6, nbest=3)
    assert asr.model.batches == [(asr.model.batches[0][0], "ctc_beam", 6, 3)]
    assert result["nbest"][0]["text"] == result["text"] == "ba mơ"
    assert len({reading["text"] for reading in result["nbest"]}) > 1
    scores = [reading["score"] for reading in result["nbest"]]
    assert scores == sorted(scores, reverse=True)
    assert asr(say("▁ba"), generate_kwargs={"search": "ctc_beam", "beam_size": 2})["text"] == "ba"


def test_nbest_of_several_pieces(asr):
    audio = say("▁ba", "▁mơ", "▁tê", "▁ba", "▁mơ", "▁tê", gap_s=0.2)
    found = asr(audio, search="ctc_beam", beam_size=6, nbest=4, chunk_length_s=1.0)
    assert len(found["nbest"]) == 4 and found["nbest"][0]["text"] == found["text"]
    assert len({reading["text"] for reading in found["nbest"]}) == 4
    scores = [reading["score"] for reading in found["nbest"]]
    assert scores == sorted(scores, reverse=True)
    best = [asr(piece, search="ctc_beam", beam_size=6, nbest=4)["nbest"] for piece in split_at_quiet(audio, RATE, 1)]
    assert scores[0] == pytest.approx(sum(piece[0]["score"] for piece in best), abs=1e-4)
    seconds = [piece[0]["score"] - piece[1]["score"] for piece in best]
    assert scores[1] == pytest.approx(scores[0] - min(seconds), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_timestamps": "sentence"}, "must be one of: True, 'word', 'char', 'token'"),
        ({"chunk_length_s": -1}, "chunk_length_s is -1"),
        ({"num_beams": 4}, "unknown option 'num_beams'; a search takes: search, beam_size"),
    ],
)
def test_wrong_options(asr, options, message):
    with pytest.raises(ValueError, match=message):
        asr(say("▁ba"), **options)


def test_wrong_inputs(asr, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing at all")
    (tmp_path / "empty.flac").write_bytes(b"")
    audio = say("▁ba")
    soundfile.write(tmp_path / "cut.wav", audio, RATE)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:-1000])
    holes = np.where(np.arange(len(audio)) == 900, np.nan, audio).astype(np.float32)
    soundfile.write(tmp_path / "holes.wav", holes, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "none.wav", audio[:0], RATE)
    for name, message in (
        ("bad.wav", "bad.wav"),
        ("empty.flac", "empty"),
        ("cut.wav", "truncated"),
        ("holes.wav", "NaN or infinite"),
        ("none.wav", "no samples"),
    ):
        with pytest.raises(AudioInputError, match=message):
            asr(str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        asr(str(tmp_path / "missing.wav"))
    with pytest.raises(AudioInputError, match="1 of 6400 samples are NaN"):
        asr(holes)
    assert asr(audio[:40])["text"] == ""  # shorter than a frame


def test_a_tokenizer_of_another_model_is_refused(asr):
    with pytest.raises(ValueError, match="8 tokens and the model 9"):
        SpeechRecogniserPipeline(
            ToneModel(ToneConfig(vocab_size=9)), feature_extractor=ToneFeatureExtractor(), tokenizer=tokenizer()
        )


def test_blocks_do_not_change_the_pieces():
    rng = np.random.default_rng(3)
    for length in (0, 900, 33_333, 80_000, 87_000, 89_999):
        samples = rng.standard_normal(length).astype(np.float32) * np.sin(np.arange(length) / 3_000)
        whole = list(split_at_quiet(samples, 1_000, 8.0))
        assert np.array_equal(np.concatenate(whole), samples) and max(map(len, whole)) <= 8_000
        for size in (1, 777, 9_000, 20_000):
            if size == 1 and length > 1_000:
                continue
            blocks = [samples[start : start + size] for start in range(0, length, size)]
            streamed = list(pieces_at_quiet(blocks, 1_000, 8.0))
            assert [start for start, _ in streamed] == [0, *np.cumsum([len(piece) for piece in whole])[:-1]]
            assert all(np.array_equal(one, two) for (_, one), two in zip(streamed, whole, strict=True))


def test_a_stream_is_the_file(tmp_path):
    samples = 0.3 * np.sin(np.arange(25 * RATE) / 20).astype(np.float32)
    for name, subtype in (("a.wav", "FLOAT"), ("a.flac", "PCM_16")):
        soundfile.write(tmp_path / name, samples, RATE, subtype=subtype)
        blocks, extra = stream_audio({"path": str(tmp_path / name), "id": 3}, RATE)
        blocks = list(blocks)
        assert extra == {"id": 3} and len(blocks) == 3
        assert np.array_equal(np.concatenate(blocks), soundfile.read(tmp_path / name, dtype="float32")[0])
    resampled = np.concatenate(list(stream_audio(str(tmp_path / "a.wav"), 8_000)[0]))
    assert len(resampled) == len(samples) // 2
    assert np.abs(resampled[4_000:-4_000] - samples[::2][4_000:-4_000]).max() < 1e-3


MEASURE = """
    import resource, sys
    import numpy as np, soundfile
    sys.path.insert(0, sys.argv[2])
    import torch
    from tone_recogniser import RATE, ToneConfig, ToneFeatureExtractor, ToneModel, say, tokenizer
    from models.zipformer.pipeline_asr import SpeechRecogniserPipeline

    torch.set_num_threads(1)
    asr = SpeechRecogniserPipeline(
        ToneModel(ToneConfig()), feature_extractor=ToneFeatureExtractor(), tokenizer=tokenizer(), device="cpu"
    )
    result = asr(sys.argv[1], return_timestamps="word", batch_size=2)
    last = result["chunks"][-1]["timestamp"]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, len(result["chunks"]), last[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path):
    minute = np.concatenate([say("▁ba", "▁mơ", "▁tê", gap_s=0.5), pause(57.4)])[: 60 * RATE]
    figures = {}
    for minutes in (3, 30):
        path = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(path, "w", RATE, 1) as file:
            for _ in range(minutes):
                file.write(minute)
        command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(path), str(Path(__file__).parent)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        figures[minutes] = int(printed[0])
        assert int(printed[1]) == 3 * minutes
        assert float(printed[2]) == pytest.approx(60 * (minutes - 1) + 1.9, abs=0.021)
    # The samples of 27 minutes more would be 104 MB.
    assert figures[30] - figures[3] <= 15, figures
