"""Reading and cutting audio for the pipeline."""

import io
import sys
import wave

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kit import speech

from models.tspc.audio_input import AudioInputError, load_audio, resample, split_at_quiet


def encoded(samples, rate=16_000, file_format="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=file_format, subtype=subtype)
    return file.getvalue()


def hide(monkeypatch, *names):
    """Make imports of these packages fail."""
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


SAMPLES = speech(0.3)


@pytest.mark.parametrize(
    "source",
    [
        SAMPLES,
        SAMPLES.astype(np.float64),
        torch.from_numpy(SAMPLES),
        torch.from_numpy(SAMPLES)[None],
        np.stack([SAMPLES, SAMPLES]),
        np.stack([SAMPLES, SAMPLES], axis=1),
        SAMPLES.tolist(),
        {"array": SAMPLES, "sampling_rate": 16_000, "path": None},
        {"raw": SAMPLES, "sampling_rate": 16_000},
        {"bytes": encoded(SAMPLES, subtype="FLOAT"), "path": None},
        encoded(SAMPLES, subtype="FLOAT"),
        encoded(np.stack([SAMPLES, SAMPLES], axis=1), subtype="FLOAT"),
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_form_gives_the_same_samples(source):
    samples, extra = load_audio(source, 16_000)
    assert samples.dtype == np.float32 and extra == {}
    np.testing.assert_allclose(samples, SAMPLES, atol=1e-6)


@pytest.mark.parametrize(("file_format", "error"), [("FLAC", 1e-4), ("WAV", 1e-4), ("OGG", 0.1), ("MP3", 0.1)])
def test_file_formats_whatever_the_extension(tmp_path, file_format, error):
    path = tmp_path / "sound.txt"
    path.write_bytes(encoded(SAMPLES, file_format=file_format))
    for source in (path, str(path), {"path": str(path)}):
        samples, _ = load_audio(source, 16_000)
        assert abs(len(samples) - len(SAMPLES)) < 2500
        assert np.abs(samples[1000:3000]).mean() == pytest.approx(
            np.abs(SAMPLES[1000:3000]).mean(), rel=max(error, 0.3)
        )


def test_integers_are_fractions_of_full_scale():
    for dtype, full in ((np.int16, 32_768), (np.int32, 2**31)):
        samples, _ = load_audio((SAMPLES.astype(np.float64) * full).astype(dtype), 16_000)
        np.testing.assert_allclose(samples, SAMPLES, atol=1e-4)
    unsigned = np.round(SAMPLES * 128 + 128).astype(np.uint8)
    np.testing.assert_allclose(load_audio(unsigned, 16_000)[0], SAMPLES, atol=0.01)


@pytest.mark.parametrize("without_soxr", [False, True])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 96_000])
def test_other_rates(monkeypatch, rate, without_soxr):
    if without_soxr:
        hide(monkeypatch, "soxr")
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    samples, _ = load_audio({"array": tone, "sampling_rate": rate}, 16_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert abs(len(samples) - 16_000) <= 1
    np.testing.assert_allclose(samples[1000:15_000], expected[1000:15_000], atol=5e-3)


def test_resampling_without_soxr_handles_a_single_sample(monkeypatch):
    hide(monkeypatch, "soxr")
    assert resample(np.ones(1, np.float32), 44_100, 16_000).shape == (1,)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
def test_pcm_wav_needs_no_package(monkeypatch, subtype):
    data = encoded(np.stack([SAMPLES, SAMPLES], axis=1), subtype=subtype)
    hide(monkeypatch, "soundfile", "av")
    np.testing.assert_allclose(load_audio(data, 16_000)[0], SAMPLES, atol=0.01)
    with pytest.raises(AudioInputError, match="pip install soundfile"):
        load_audio(b"fLaC" + bytes(100), 16_000)


def truncated_wav():
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", ""))
        writer.writeframes(bytes(32_000))
    return file.getvalue()[:9_000]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"", "empty, 0 bytes"),
        (encoded(np.zeros(0)), "empty, it has no samples"),
        (truncated_wav(), "truncated, 9000 of 32044 bytes"),
        (encoded(speech(1.0), file_format="FLAC")[:3_000], "truncated|not readable"),
        (b"hello, this is no audio" * 20, "not readable as audio"),
        (np.zeros(0, np.float32), r"array of shape \(0,\): empty"),
        (np.array([0.0, np.nan, np.inf]), "2 of 3 samples are NaN"),
        (np.zeros((2, 2, 2)), "3 dimensions"),
        (np.zeros((12, 400)), "12 channels"),
        (np.array(["a"]), "not numbers"),
        ({"array": SAMPLES}, "sampling_rate is None"),
        ({"array": SAMPLES, "sampling_rate": 0}, "sampling_rate is 0"),
        ({"text": "x"}, "keys .'text'."),
        (3.5, "type float"),
        (None, "type NoneType"),
    ],
)
def test_bad_input_is_named(source, says):
    with pytest.raises(AudioInputError, match=says):
        load_audio(source, 16_000)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.wav: no such audio file"):
        load_audio(str(tmp_path / "gone.wav"), 16_000)
    with pytest.raises(AudioInputError, match="a folder, not an audio file"):
        load_audio(tmp_path, 16_000)
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"")
    with pytest.raises(AudioInputError, match=r"bad\.wav: empty"):
        load_audio(bad, 16_000)


def test_other_keys_of_a_dict_are_kept():
    _, extra = load_audio({"array": SAMPLES, "sampling_rate": 16_000, "speaker": "a"}, 16_000)
    assert extra == {"speaker": "a"}


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60_000), st.floats(0.2, 3.0), st.integers(0, 5))
def test_pieces_are_short_enough_and_make_up_the_whole(length, longest_s, seed):
    samples = np.random.default_rng(seed).standard_normal(length).astype(np.float32)
    pieces = list(split_at_quiet(samples, 16_000, longest_s))
    assert all(0 < len(piece) <= longest_s * 16_000 for piece in pieces)
    assert np.array_equal(np.concatenate(pieces), samples)


def test_cuts_fall_into_pauses():
    loud, pause = speech(1.5), np.zeros(4_800, np.float32)
    samples = np.concatenate([loud, pause, loud, pause, loud])
    boundaries = np.cumsum([len(piece) for piece in split_at_quiet(samples, 16_000, 2.2)])[:-1]
    assert len(boundaries) == 2
    for boundary, start in zip(boundaries, (24_000, 52_800), strict=True):
        assert start <= boundary <= start + 4_800
