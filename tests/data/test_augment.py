"""Each change does what its numbers say, by measures that share nothing with the code that makes it."""

import numpy as np
import pytest

from data_scripts.augment import (
    change_level,
    change_speed,
    change_tempo,
    coloured_noise,
    mask_features,
    mix_noise,
    reverberate,
    shift_pitch,
    warp,
)
from data_scripts.augment.waveform import fast_fft_size
from trainers.arguments import AugmentationArguments

RATE_HZ = 16_000


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sine(frequency_hz: float, duration_s: float = 2.0, level: float = 0.5) -> np.ndarray:
    time = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * frequency_hz * time)).astype(np.float32)


def peak_hz(audio: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 19))
    return spectrum.argmax() * RATE_HZ / (1 << 19)


def distortion_db(audio: np.ndarray, frequency_hz: float) -> float:
    """Power of everything that is not the sine, relative to it."""
    inner = audio[2000:-2000]
    angle = 2 * np.pi * frequency_hz * np.arange(len(inner)) / RATE_HZ
    basis = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    fitted = basis @ np.linalg.lstsq(basis, inner, rcond=None)[0]
    return 10 * np.log10(np.mean((inner - fitted) ** 2) / np.mean(fitted**2))


def power_db(audio: np.ndarray) -> float:
    return 10 * np.log10(np.mean(np.square(audio, dtype=np.float64)))


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.037, 1.25])
@pytest.mark.parametrize("frequency_hz", [220, 4000])
def test_speed_changes_length_and_pitch(factor, frequency_hz):
    audio = sine(frequency_hz)
    out = change_speed(audio, factor)
    assert len(out) == round(len(audio) / factor) and out.dtype == np.float32
    assert peak_hz(out) == pytest.approx(frequency_hz * factor, rel=1e-3)
    # linear interpolation leaves -14 dB at 4 kHz
    assert distortion_db(out, frequency_hz * factor) < -80


def test_nothing_folds_back_when_played_faster():
    assert power_db(change_speed(sine(7800), 1.25)[1000:-1000]) < power_db(sine(7800)) - 60


@pytest.mark.parametrize("semitones", [-6, -2, -0.5, 0.5, 2, 6])
@pytest.mark.parametrize("frequency_hz", [80, 150, 300, 1000])
def test_pitch_moves_and_duration_stays(semitones, frequency_hz):
    audio = sine(frequency_hz)
    out = shift_pitch(audio, semitones)
    asked_hz = frequency_hz * 2 ** (semitones / 12)
    assert peak_hz(out) == pytest.approx(asked_hz, rel=2e-3)
    assert len(out) == len(audio) and out.dtype == np.float32
    assert distortion_db(out, peak_hz(out)) < -20
    assert power_db(out[2000:-2000]) == pytest.approx(power_db(audio), abs=0.3)


def test_pitch_of_a_voice_with_a_tone_contour():
    # A falling "huyền": pulses from 140 to 110 Hz through two resonances; the shift must not flatten the fall.
    time = np.arange(RATE_HZ) / RATE_HZ
    phase = np.cumsum(140 - 30 * time) / RATE_HZ
    pulses = np.diff(np.floor(phase), prepend=0.0)
    voice = pulses
    for resonance_hz in (700, 1200):
        ringing = np.exp(-200 * time[:1600]) * np.cos(2 * np.pi * resonance_hz * time[:1600])
        voice = np.convolve(voice, ringing)[:RATE_HZ]
    voice = (0.5 * voice / np.abs(voice).max()).astype(np.float32)
    for semitones in (-3.0, 3.0):
        shifted = shift_pitch(voice, semitones)
        for at_s in (0.2, 0.5, 0.8):
            asked_hz = (140 - 30 * at_s) * 2 ** (semitones / 12)
            assert pitch_hz(shifted, at_s) == pytest.approx(asked_hz, rel=0.02)


def pitch_hz(audio: np.ndarray, at_s: float) -> float:
    """By autocorrelation of 60 ms, 75 to 300 Hz."""
    part = audio[int((at_s - 0.03) * RATE_HZ) : int((at_s + 0.03) * RATE_HZ)].astype(np.float64)
    likeness = np.correlate(part, part, "full")[len(part) - 1 :]
    likeness = likeness / np.arange(len(part), 0, -1)
    lags = np.arange(RATE_HZ // 300, RATE_HZ // 75)
    return RATE_HZ / lags[likeness[lags].argmax()]


@pytest.mark.parametrize("factor", [0.8, 0.95, 1.1, 1.3])
def test_tempo_moves_events_and_keeps_pitch(factor):
    audio = sine(200, 3.0)
    bursts = np.zeros_like(audio)
    for start_s in (0.5, 1.5, 2.5):
        first = int(start_s * RATE_HZ)
        bursts[first : first + 3200] = audio[first : first + 3200]
    out = change_tempo(bursts, round(len(bursts) / factor))
    assert len(out) == round(len(bursts) / factor)
    loud = np.abs(out) > 0.1
    starts = [index / RATE_HZ for index in np.flatnonzero(loud) if not loud[max(0, index - 800) : index].any()]
    assert starts == pytest.approx([start_s / factor for start_s in (0.5, 1.5, 2.5)], abs=0.025)
    assert peak_hz(change_tempo(audio, round(len(audio) / factor))) == pytest.approx(200, rel=2e-3)


@pytest.mark.parametrize("num_samples", [0, 1, 2, 5000])
def test_tempo_reaches_any_length(num_samples):
    out = change_tempo(sine(200, 0.1), num_samples)
    assert len(out) == num_samples and out.dtype == np.float32 and np.isfinite(out).all()


def test_speed_tempo_and_pitch_in_one_pass():
    audio = sine(300)
    out = warp(audio, speed=1.1, tempo=0.9, semitones=2.0)
    assert len(out) == round(len(audio) / 0.99)
    assert peak_hz(out) == pytest.approx(300 * 1.1 * 2 ** (2 / 12), rel=2e-3)
    np.testing.assert_array_equal(warp(audio), audio)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 10.0, 30.0])
def test_noise_has_the_asked_level(snr_db):
    audio, noise = sine(220, level=0.1), coloured_noise(32_000, generator())
    added = mix_noise(audio, noise, snr_db)
    # The sum may have been made softer as a whole: find by how much from what is common to both.
    basis = np.stack([audio, noise], axis=1).astype(np.float64)
    of_speech, of_noise = np.linalg.lstsq(basis, added.astype(np.float64), rcond=None)[0]
    got = power_db(of_speech * audio) - power_db(of_noise * noise)
    assert got == pytest.approx(snr_db, abs=0.1)
    assert np.abs(added).max() <= 1.0 + 1e-6


def test_coloured_noise_is_between_white_and_pink():
    slopes = []
    for seed in range(20):
        noise = coloured_noise(60_001, generator(seed))
        assert len(noise) == 60_001 and noise.dtype == np.float32
        power = np.abs(np.fft.rfft(noise)) ** 2
        low, high = power[100:200].mean(), power[10_000:20_000].mean()
        slopes.append(np.log2(low / high) / np.log2(100))
    assert -0.05 < min(slopes) < 0.3 and 0.7 < max(slopes) < 1.05


def test_level_and_its_limit():
    assert power_db(change_level(sine(200, level=0.1), 6.0)) == pytest.approx(power_db(sine(200, level=0.1)) + 6.0)
    assert np.abs(change_level(sine(200, level=0.9), 20.0)).max() == pytest.approx(1.0)
    beyond = 2 * sine(200, level=0.9)
    np.testing.assert_array_equal(change_level(beyond, 6.0), beyond)


def room(decay_s: float, delay: int = 0) -> np.ndarray:
    """Direct sound after `delay` samples, then noise that has fallen by 60 dB after `decay_s`."""
    time = np.arange(int(1.2 * decay_s * RATE_HZ)) / RATE_HZ
    tail = 0.05 * generator(1).standard_normal(len(time)) * 10 ** (-3 * time / decay_s)
    tail[0] = 1.0
    return np.concatenate([np.zeros(delay), tail]).astype(np.float32)


@pytest.mark.parametrize("decay_s", [0.2, 0.5])
def test_reverberation_decays_as_the_room_does(decay_s):
    rng = generator(2)
    audio = np.zeros(2 * RATE_HZ, dtype=np.float32)
    audio[: RATE_HZ // 2] = 0.2 * rng.standard_normal(RATE_HZ // 2)
    wet = reverberate(audio, room(decay_s))
    assert power_db(wet) == pytest.approx(power_db(audio), abs=0.01)
    # From 10 ms after the sound stopped, in steps of 10 ms: a line in dB (RT60).
    after = wet[RATE_HZ // 2 + 160 : RATE_HZ // 2 + int(0.6 * decay_s * RATE_HZ)]
    levels_db = [power_db(after[i : i + 160]) for i in range(0, len(after) - 160, 160)]
    fall_db_per_s = -np.polyfit(np.arange(len(levels_db)) * 0.01, levels_db, 1)[0]
    assert 60 / fall_db_per_s == pytest.approx(decay_s, rel=0.15)


@pytest.mark.parametrize("delay", [0, 37, 800])
def test_reverberation_does_not_delay(delay):
    audio = np.zeros(8000, dtype=np.float32)
    audio[3000] = 0.5
    wet = reverberate(audio, room(0.3, delay))
    assert len(wet) == len(audio) and np.abs(wet).argmax() == 3000


def test_reverberation_equals_direct_convolution():
    audio, response = generator(3).standard_normal((2, 700)).astype(np.float32)
    direct = np.abs(response).argmax()
    wanted = np.convolve(audio, response)[direct : direct + 700]
    got = reverberate(audio, response)
    np.testing.assert_allclose(got / np.abs(got).max(), wanted / np.abs(wanted).max(), atol=1e-5)


def test_fft_sizes_are_small_and_smooth():
    for num_samples in (1, 97, 4097, 79_999, 480_001):
        size = fast_fft_size(num_samples)
        assert num_samples <= size <= max(2, 1.1 * num_samples)
        for prime in (2, 3, 5):
            while size % prime == 0:
                size //= prime
        assert size == 1


CHANGES = {
    "speed": lambda audio: change_speed(audio, 1.1),
    "slower": lambda audio: change_speed(audio, 0.9),
    "pitch": lambda audio: shift_pitch(audio, 3.0),
    "tempo": lambda audio: change_tempo(audio, round(1.1 * len(audio))),
    "level": lambda audio: change_level(audio, 6.0),
    "noise": lambda audio: mix_noise(audio, coloured_noise(len(audio), generator()), 0.0),
    "room": lambda audio: reverberate(audio, room(0.2)),
    "silent room": lambda audio: reverberate(audio, np.zeros(100, np.float32)),
    "empty room": lambda audio: reverberate(audio, np.zeros(0, np.float32)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("audio", [np.zeros(0), np.zeros(1), np.ones(1), np.ones(2), np.zeros(800), np.ones(97)])
def test_short_and_silent_audio_survives(change, audio):
    audio = audio.astype(np.float32)
    before = audio.copy()
    out = change(audio)
    assert out.dtype == np.float32 and out.ndim == 1
    assert np.isfinite(out).all() and np.abs(out).max(initial=0.0) <= 1.0 + 1e-6
    assert bool(len(out)) == bool(len(audio))
    np.testing.assert_array_equal(audio, before)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_full_scale_is_never_exceeded(change):
    square = np.sign(sine(150, 0.5)).astype(np.float32)
    assert np.abs(change(square)).max() <= 1.0 + 1e-6


def masks(**changes):
    return AugmentationArguments(**changes)


def test_masks_are_bounded_and_filled_with_the_mean():
    features = generator(1).standard_normal((200, 80)).astype(np.float32)
    settings = masks(time_masks=2, time_mask_s=0.3, frequency_masks=2, frequency_mask_bins=10)
    masked = [mask_features(features, settings, generator(seed), frame_s=0.01) for seed in range(50)]
    for out in masked:
        assert out.shape == features.shape and out.dtype == features.dtype
        changed = out != features
        assert changed.all(axis=1).sum() <= 60
        assert changed.all(axis=0).sum() <= 20
        np.testing.assert_allclose(out[changed], features.mean(), atol=1e-5)
    assert max((out != features).mean() for out in masked) > 0.1


def test_time_masks_leave_half_of_a_short_utterance():
    features = np.arange(20.0)[:, None] * np.ones((1, 8))
    settings = masks(time_masks=5, time_mask_s=3.0)
    for seed in range(50):
        changed = (mask_features(features, settings, generator(seed), frame_s=0.01) != features).all(axis=1)
        assert changed.sum() <= 10
    assert mask_features(features[:0], settings, generator(), frame_s=0.01).shape == (0, 8)


@pytest.mark.parametrize("frame_s", [0.01, 0.02, 0.04])
def test_time_masks_are_as_long_as_asked_whatever_the_frame(frame_s):
    features = generator(1).standard_normal((500, 8))
    settings = masks(time_masks=1, time_mask_s=0.4)
    widths = [
        (mask_features(features, settings, generator(seed), frame_s=frame_s) != features).all(axis=1).sum()
        for seed in range(200)
    ]
    assert max(widths) * frame_s == pytest.approx(0.4, abs=0.02)


def test_bands_cover_every_stacked_frame():
    stacked = generator(1).standard_normal((50, 3 * 80))
    settings = masks(frequency_masks=1, frequency_mask_bins=20)
    for seed in range(30):
        changed = (mask_features(stacked, settings, generator(seed), frame_s=0.03, frame_stack=3) != stacked).any(0)
        first, second, third = changed.reshape(3, 80)
        assert (first == second).all() and (second == third).all() and first.sum() <= 20


def test_time_and_frequency_do_not_disturb_each_other():
    features = generator(1).standard_normal((300, 40))
    bands, both = masks(frequency_masks=2), masks(frequency_masks=2, time_masks=2)
    for seed in range(10):
        one, two = (mask_features(features, settings, generator(seed), frame_s=0.01) for settings in (bands, both))
        assert ((two != features).all(axis=0) == (one != features).all(axis=0)).all()
