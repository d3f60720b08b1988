"""Reading audio: every container, rate and layout; every way in which a file can be bad."""

import pickle
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.audio import AudioError, audio_info, decode_audio, encode_flac, read_audio

from .conftest import FORMATS, RATE_HZ, encode, voice


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Best normalised cross-correlation: blind to the delay of a codec."""
    cross = np.fft.irfft(np.fft.rfft(a, 2 * len(a)) * np.conj(np.fft.rfft(b, 2 * len(a))))
    return float(np.abs(cross).max() / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("form", ["path", "bytes", "dict_bytes", "dict_path"])
def test_reads_every_container(kind, form, tmp_path):
    content = encode(voice(), kind)
    path = tmp_path / f"clip.{kind}"
    path.write_bytes(content)
    source = {
        "path": path,
        "bytes": content,
        "dict_bytes": {"path": "clip", "bytes": content},
        "dict_path": {"path": str(path), "bytes": None},
    }[form]
    samples = read_audio(source)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert len(samples) == pytest.approx(len(voice()), abs=0.1 * RATE_HZ)
    assert correlation(samples, voice()) > 0.98
    info = audio_info(source)
    assert info.duration_s == pytest.approx(len(samples) / RATE_HZ, abs=0.1)
    assert (info.sampling_rate_hz, info.num_channels) == (RATE_HZ, 1)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_resamples_any_rate(rate_hz):
    samples = read_audio(encode(voice(rate_hz=rate_hz), "wav", rate_hz))
    assert abs(len(samples) - len(voice())) <= 1
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert np.argmax(spectrum) * RATE_HZ / len(samples) == pytest.approx(220, abs=2)


@pytest.mark.parametrize("num_channels", [2, 8])
def test_mixes_channels_to_their_mean(num_channels):
    channels = np.stack([voice(hertz=200 + 50 * c) for c in range(num_channels)], axis=1)
    decoded = decode_audio(encode(channels, "float.wav"))
    np.testing.assert_allclose(decoded.samples, channels.mean(axis=1), atol=1e-6)
    assert decoded.notes == ("downmixed",)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32, np.float64])
def test_arrays_of_any_type(dtype):
    wave = voice()
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        half = (limits.max - int(limits.min) + 1) // 2
        array = np.rint(wave.astype(np.float64) * (half - 1) + (half if limits.min == 0 else 0)).astype(dtype)
    else:
        array = wave.astype(dtype)
    samples = read_audio({"array": array, "sampling_rate": RATE_HZ})
    np.testing.assert_allclose(samples, wave, atol=0.01)


def test_array_layouts_agree():
    stereo = np.stack([voice(), voice(hertz=330)])
    first = read_audio({"array": stereo, "sampling_rate": RATE_HZ})
    second = read_audio({"array": stereo.T, "sampling_rate": RATE_HZ})
    np.testing.assert_array_equal(first, second)
    assert len(first) == len(voice())


def cut(kind: str, part: float) -> bytes:
    content = encode(voice(2.0), kind)
    return content[: int(len(content) * part)]


def without_last_page(kind: str) -> bytes:
    content = encode(voice(4.0), kind)
    return content[: content.rindex(b"OggS")]


def with_sample(value: float) -> bytes:
    samples = voice()
    samples[100] = value
    return encode(samples, "float.wav")


BAD = {
    "empty_file": ("empty_file", b""),
    "html": ("not_audio", b"<html><body>404</body></html>" * 20),
    "text": ("not_audio", "xin chào các bạn ".encode() * 50),
    "zeros": ("not_audio", bytes(1000)),
    "no_samples": ("no_samples", encode(np.zeros(0, np.float32))),
    "one_sample": ("too_short", encode(np.full(1, 0.5, np.float32))),
    "20_ms": ("too_short", encode(voice(0.02))),
    "nan": ("non_finite", with_sample(np.nan)),
    "infinite": ("non_finite", with_sample(np.inf)),
    "scale": ("wrong_scale", encode(voice() * 1e6, "float.wav")),
    "zero_samples": ("silent", encode(np.zeros(8000, np.float32))),
    "constant": ("silent", encode(np.full(8000, 0.6, np.float32))),
    "opposite_phase": ("cancelled_stereo", encode(np.stack([voice(), -voice()], axis=1))),
    "opposite_phase_opus": ("cancelled_stereo", encode(np.stack([voice(), -voice()], axis=1), "opus")),
    **{f"{kind}_without_last_page": ("truncated", without_last_page(kind)) for kind in ("ogg", "opus")},
    **{f"cut_{kind}_{part}": ("truncated", cut(kind, part)) for kind in FORMATS for part in (0.3, 0.7)},
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_named_with_its_fault(case, tmp_path):
    code, content = BAD[case]
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    started = time.perf_counter()
    for source in (path, {"path": str(path), "bytes": content}):
        with pytest.raises(AudioError) as caught:
            read_audio(source)
        assert caught.value.code == code
        assert str(path) in str(caught.value) and code in str(caught.value)
    assert time.perf_counter() - started < 1


def test_bad_places(tmp_path):
    for source, code in [
        (tmp_path / "none.wav", "missing"),
        (tmp_path, "is_directory"),
        ("https://example.org/a.wav", "missing"),
        ({"path": None, "bytes": None}, "missing"),
        ({"array": voice(), "sampling_rate": None}, "no_sampling_rate"),
        ({"array": np.zeros((2, 3, 4)), "sampling_rate": RATE_HZ}, "not_audio"),
        ({"array": np.array(["a"]), "sampling_rate": RATE_HZ}, "not_audio"),
    ]:
        with pytest.raises(AudioError) as caught:
            read_audio(source)
        assert caught.value.code == code


def test_too_long_is_refused_by_the_header(monkeypatch):
    content = encode(voice(3.0), "flac")
    import soundfile

    def never(*_, **__):
        raise AssertionError("decoded a file that is too long")

    monkeypatch.setattr(soundfile.SoundFile, "read", never)
    with pytest.raises(AudioError, match=r"3\.0 s, at most 2 s allowed") as caught:
        read_audio(content, max_duration_s=2)
    assert caught.value.code == "too_long"


def test_a_header_may_declare_any_length():
    content = bytearray(encode(voice(), "flac"))
    content[21] |= 0x0F  # the number of samples in STREAMINFO: 36 bits
    content[22:26] = b"\xff" * 4
    with pytest.raises(AudioError) as caught:
        read_audio(bytes(content))
    assert caught.value.code == "too_long"


def test_header_of_a_pipe_is_accepted():
    # ffmpeg and sox writing WAV to a pipe leave 0xFFFFFFFF as the length of the samples.
    content = bytearray(encode(voice()))
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"
    np.testing.assert_allclose(read_audio(bytes(content)), voice(), atol=1e-3)


def test_repairs_are_noted():
    wave = voice()
    notes = {
        "rescaled": encode(wave * 32768, "float.wav"),
        "dc_offset": encode(wave + 0.4, "float.wav"),
        "clipped": encode(np.clip(wave * 10, -1, 1), "wav"),
    }
    for note, content in notes.items():
        decoded = decode_audio(content)
        assert decoded.notes == (note,)
        if note != "clipped":
            np.testing.assert_allclose(decoded.samples - decoded.samples.mean(), wave - wave.mean(), atol=1e-3)


def test_content_decides_not_the_name(tmp_path):
    for name, kind in [("a.wav", "flac"), ("a.flac", "opus"), ("a.raw", "wav"), ("a.mp3", "wav"), ("noname", "mp3")]:
        path = tmp_path / name
        path.write_bytes(encode(voice(), kind))
        assert correlation(read_audio(path), voice()) > 0.98
    page = tmp_path / "page.gsm"  # a name alone makes libsndfile decode anything as GSM
    page.write_bytes(b"<html>" * 200)
    with pytest.raises(AudioError, match="not_audio"):
        read_audio(page)


def test_silence_on_request():
    silence = encode(np.zeros(8000, np.float32))
    assert not read_audio(silence, allow_silent=True).any()


def test_m4a_needs_pyav(monkeypatch):
    content = b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00" + bytes(64)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match="pip install av") as caught:
        read_audio(content)
    assert caught.value.code == "unsupported_format"


def test_reads_m4a_with_pyav(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is optional: it reads m4a and webm")
    path = tmp_path / "clip.m4a"
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(voice()[None], format="fltp", layout="mono")
        frame.sample_rate = RATE_HZ
        for packet in [*track.encode(frame), *track.encode(None)]:
            container.mux(packet)
    assert correlation(read_audio(path), voice()) > 0.95
    assert audio_info(path).duration_s == pytest.approx(0.6, abs=0.2)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AudioError):
        read_audio(path)


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("aac", "aac"), ("webm", "libopus")])
def test_long_files_of_pyav_are_not_decoded_whole(suffix, codec, tmp_path, monkeypatch):
    av = pytest.importorskip("av", reason="PyAV is optional: it reads m4a and webm")
    path = tmp_path / f"long.{suffix}"
    with av.open(str(path), "w", format="adts" if suffix == "aac" else None) as container:
        track = container.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.tile(voice(1, 48_000), 60)[None], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        for piece in av.AudioResampler(format=track.format.name, frame_size=track.frame_size or 960).resample(frame):
            for packet in track.encode(piece):
                container.mux(packet)
        for packet in track.encode(None):
            container.mux(packet)
    decoded_s = []
    resample = av.AudioResampler.resample

    class Counted:
        def __init__(self, **options):
            self.inner = av_resampler(**options)

        def resample(self, frame):
            decoded_s.append(frame.samples / frame.rate if frame else 0)
            return resample(self.inner, frame)

    av_resampler = av.AudioResampler
    monkeypatch.setattr(av, "AudioResampler", Counted)
    with pytest.raises(AudioError) as caught:
        read_audio(path, max_duration_s=5)
    assert caught.value.code == "too_long" and sum(decoded_s) < 8
    monkeypatch.undo()
    assert len(read_audio(path, max_duration_s=70)) == pytest.approx(60 * 16_000, abs=3_000)


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(AudioError("silent", "a.wav", "silent: x")))
    assert (error.code, error.name, str(error)) == ("silent", "a.wav", "a.wav: silent: x [silent]")


@settings(max_examples=40, deadline=None)
@given(
    rate_hz=st.sampled_from([8_000, 16_000, 24_000, 44_100]),
    num_channels=st.integers(1, 3),
    num_samples=st.integers(2_000, 12_000),
    kind=st.sampled_from(["wav", "flac", "float.wav"]),
    gain=st.floats(0.01, 1.0),
)
def test_any_reading_is_mono_finite_and_of_the_right_length(rate_hz, num_channels, num_samples, kind, gain):
    wave = gain * np.random.default_rng(num_samples).uniform(-1, 1, (num_samples, num_channels)).astype(np.float32)
    samples = read_audio(encode(wave, kind, rate_hz))
    assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all()
    assert abs(len(samples) - num_samples * RATE_HZ / rate_hz) <= 1
    assert audio_info(encode(wave, kind, rate_hz)).num_channels == num_channels


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4000))
def test_flac_keeps_int16_exactly(seed, num_samples):
    pcm = np.random.default_rng(seed).integers(-32768, 32768, num_samples).astype(np.int16)
    pcm[0] = 32767  # never silent
    content = encode_flac({"array": pcm, "sampling_rate": RATE_HZ})
    decoded = decode_audio(content, min_duration_s=0, allow_silent=True)
    if "dc_offset" not in decoded.notes:
        np.testing.assert_array_equal(np.rint(decoded.samples * 32768).astype(np.int64), pcm)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(list(FORMATS)),
    damage=st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=4)), min_size=1, max_size=5),
    keep=st.floats(0.01, 1.0),
)
def test_damaged_files_give_samples_or_an_audio_error(kind, damage, keep):
    content = bytearray(encode(voice(0.3), kind))
    for place, new in damage:
        at = int(place * len(content))
        content[at : at + len(new)] = new
    try:
        samples = read_audio(bytes(content[: max(1, int(keep * len(content)))]), max_duration_s=60)
    except AudioError:
        return
    assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all()
