"""Folders of noise and rooms: what is found, what is drawn, what happens to files that cannot be read."""

import pickle

import numpy as np
import pytest
import soundfile

from data_scripts.augment import NoiseBank, NoiseError, mix_noise, reverberate
from data_scripts.augment import noise as noise_module

RATE_HZ = 16_000


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def hum(frequency_hz: float, duration_s: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(int(duration_s * rate_hz)) / rate_hz)


def peak_hz(audio: np.ndarray) -> float:
    return np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 17)).argmax() * RATE_HZ / (1 << 17)


@pytest.fixture
def folder(tmp_path):
    """Three formats and rates in nested folders, each a hum of its own; a broken file and a text beside them."""
    (tmp_path / "noise" / "street" / "night").mkdir(parents=True)
    soundfile.write(tmp_path / "noise" / "a.wav", hum(300, 1.0), RATE_HZ)
    stereo = np.stack([hum(700, 1.0, 44_100), -hum(700, 1.0, 44_100)], axis=1)
    soundfile.write(tmp_path / "noise" / "street" / "b.flac", stereo, 44_100)
    soundfile.write(tmp_path / "noise" / "street" / "night" / "C.OGG", hum(1500, 1.0, 48_000), 48_000, format="OGG")
    (tmp_path / "noise" / "broken.wav").write_bytes(b"RIFF nothing of the kind")
    (tmp_path / "noise" / "read me.txt").write_text("not audio")
    (tmp_path / "noise" / ".hidden.wav").write_bytes(b"")
    return tmp_path / "noise"


def test_finds_every_format_and_leaves_out_what_is_broken(folder, caplog):
    bank = NoiseBank([folder])
    assert len(bank) == 3 and bank.duration_s == pytest.approx(3.0, abs=0.05)
    assert list(bank.unreadable) == [str(folder / "broken.wav")]
    assert len(caplog.records) == 1 and "1 of 4 files left out" in caplog.text and "broken.wav" in caplog.text
    # Stereo of opposite phase is heard as its first channel, not as silence.
    heard = {round(peak_hz(bank.clip(generator(seed))), -1) for seed in range(40)}
    assert heard == {300, 700, 1500}


def test_folders_are_drawn_equally_often(tmp_path):
    for name, count in (("many", 12), ("one", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            soundfile.write(tmp_path / name / f"{number}.wav", hum(200 if name == "many" else 900, 0.2), RATE_HZ)
    bank = NoiseBank([tmp_path / "many", tmp_path / "one"])
    share = np.mean([peak_hz(bank.clip(generator(seed))) > 500 for seed in range(400)])
    assert 0.4 < share < 0.6


def test_draws_do_not_depend_on_what_was_drawn_before(folder):
    bank, other = NoiseBank([folder]), pickle.loads(pickle.dumps(NoiseBank([folder])))
    forwards = [bank.noise(5000, generator(seed)) for seed in range(10)]
    backwards = [other.noise(5000, generator(seed)) for seed in reversed(range(10))][::-1]
    for one, two in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_small_cache_changes_nothing(folder, monkeypatch):
    large, small = NoiseBank([folder]), NoiseBank([folder])
    clips = [large.clip(generator(seed)) for seed in range(20)]
    monkeypatch.setattr(noise_module, "CACHE_BYTES", 1)
    for seed, clip in enumerate(clips):
        np.testing.assert_array_equal(small.clip(generator(seed)), clip)
    assert len(large._clips) == 3 and len(small._clips) == 1
    assert small._cached_bytes == sum(clip.nbytes for clip in small._clips.values())


def test_short_clips_repeat_without_a_click(tmp_path):
    soundfile.write(tmp_path / "short.wav", hum(250.5, 0.3), RATE_HZ)
    looped = NoiseBank([tmp_path]).noise(RATE_HZ, generator())
    assert len(looped) == RATE_HZ and looped.dtype == np.float32
    steepest = np.abs(np.diff(hum(250.5, 0.3))).max() / 0.3
    assert np.abs(np.diff(looped)).max() < 1.3 * steepest


def test_crops_come_from_everywhere_but_a_pause(tmp_path):
    audio = np.concatenate([np.zeros(8000), hum(400, 0.5), np.zeros(64_000), hum(400, 0.5), np.zeros(8000)])
    soundfile.write(tmp_path / "a.wav", audio, RATE_HZ)
    bank = NoiseBank([tmp_path])
    assert len(bank.clip(generator())) == pytest.approx(80_000, abs=100)
    crops = [bank.noise(4000, generator(seed)) for seed in range(60)]
    assert min(np.sqrt(np.mean(crop**2)) for crop in crops) > 0.005
    assert len({crop.tobytes() for crop in crops}) > 5
    # What the crop is, its level is set by the speech.
    speech = hum(220, 0.25).astype(np.float32)
    added = mix_noise(speech, crops[0], 10.0) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(10.0, abs=0.1)


def test_a_long_recording_is_read_in_pieces(tmp_path, monkeypatch):
    seconds = np.concatenate([hum(300 + 100 * second, 1.0) for second in range(9)])
    soundfile.write(tmp_path / "long.flac", seconds, RATE_HZ)
    monkeypatch.setattr(noise_module, "PIECE_S", 2.0)
    bank = NoiseBank([tmp_path])
    heard = [peak_hz(bank.clip(generator(seed))[:RATE_HZ]) for seed in range(60)]
    assert max(len(clip) for clip in bank._clips.values()) <= 2 * RATE_HZ
    # Pieces start at every second second, up to the last, which is half as long.
    assert {round(frequency, -1) for frequency in heard} == {300, 500, 700, 900, 1100}


def test_a_file_that_breaks_later_gives_way(folder, caplog):
    bank = NoiseBank([folder])
    (folder / "a.wav").unlink()
    silent = NoiseBank([folder])
    soundfile.write(folder / "street" / "b.flac", np.zeros(100), RATE_HZ)
    heard = {round(peak_hz(bank.clip(generator(seed))), -1) for seed in range(40)}
    assert heard == {1500}
    assert len(bank.unreadable) == 3 and caplog.text.count("b.flac: left out") <= 1
    assert {round(peak_hz(silent.clip(generator(seed))), -1) for seed in range(40)} == {1500}
    (folder / "street" / "night" / "C.OGG").unlink()
    with pytest.raises(NoiseError, match="none of the 3 files beside"):
        NoiseBank.clip(pickle.loads(pickle.dumps(_forgotten(bank))), generator())


def _forgotten(bank: NoiseBank) -> NoiseBank:
    bank._clips.clear()
    return bank


@pytest.mark.parametrize("content", ["nothing", "text", "broken"])
def test_folders_without_audio_are_named(tmp_path, content):
    if content == "text":
        (tmp_path / "notes.txt").write_text("no audio")
    if content == "broken":
        (tmp_path / "a.wav").write_bytes(b"no audio")
    with pytest.raises(NoiseError, match=f"rir_folders: no audio in {tmp_path}.*") as error:
        NoiseBank([tmp_path], "rir_folders")
    assert ("unreadable" in str(error.value)) == (content == "broken")
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    with pytest.raises(NoiseError, match="no such folder"):
        NoiseBank([tmp_path / "absent"])
    with pytest.raises(NoiseError, match="names no folder"):
        NoiseBank([])


def test_real_noise_and_rooms(shared_data):
    noises = NoiseBank([shared_data / "noise" / "esc50", shared_data / "noise" / "babble"])
    rooms = NoiseBank([shared_data / "noise" / "rir"], "rir_folders")
    assert len(noises) == 475 and len(rooms) == 24 and not noises.unreadable
    speech = (generator().standard_normal(8000) * np.hanning(8000) * 0.1).astype(np.float32)
    for seed in range(20):
        rng = generator(seed)
        noise, wet = noises.noise(len(speech), rng), reverberate(speech, rooms.clip(rng))
        noisy = mix_noise(wet, noise, 5.0)
        assert np.isfinite(noisy).all() and np.abs(noisy).max() <= 1.0 + 1e-6
        # The tails of rooms reach past the end, but the speech stays where it was.
        lag = np.abs(np.correlate(wet, speech, "same")).argmax() - len(speech) // 2
        assert abs(lag) <= 160
