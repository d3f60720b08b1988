"""Augmentation is a pure function of audio, settings and generator, and does what its numbers say."""

import numpy as np
import pytest

from data_scripts.augment import add_noise, augment_waveform, change_speed, mask_features
from trainers.arguments import AugmentationArguments


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_nothing_is_changed_by_default(tone):
    out = augment_waveform(tone, AugmentationArguments(), generator())
    np.testing.assert_array_equal(out, tone)
    assert out is not tone and out.dtype == np.float32


def test_same_generator_same_audio_and_input_untouched(tone):
    settings = AugmentationArguments(speed=0.1, gain_db=6, noise_snr_db=10)
    before = tone.copy()
    first, again = (augment_waveform(tone, settings, generator(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(tone, before)
    other = augment_waveform(tone, settings, generator(4))
    assert len(other) != len(first) or not np.array_equal(other, first)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.25])
def test_speed_changes_length_and_pitch(tone, factor):
    out = change_speed(tone, factor)
    assert len(out) == round(len(tone) / factor)
    peak_hz = np.abs(np.fft.rfft(out)).argmax() * 16_000 / len(out)
    assert peak_hz == pytest.approx(220 * factor, abs=2)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_noise_has_the_asked_level(tone, snr_db):
    noise = add_noise(tone, snr_db, generator()) - tone
    got = 10 * np.log10(np.mean(tone**2) / np.mean(noise**2))
    assert got == pytest.approx(snr_db, abs=0.1)


def test_gain_never_clips(tone):
    loud = tone / np.abs(tone).max()
    for seed in range(20):
        out = augment_waveform(loud, AugmentationArguments(gain_db=20, noise_snr_db=0), generator(seed))
        assert np.abs(out).max() <= 1.0 + 1e-6


@pytest.mark.parametrize("audio", [np.zeros(0), np.zeros(1), np.ones(1), np.zeros(800)], ids=len)
def test_short_and_silent_audio_survives(audio):
    out = augment_waveform(audio, AugmentationArguments(speed=0.1, gain_db=6, noise_snr_db=5), generator())
    assert np.isfinite(out).all()


def test_masks_are_bounded_and_filled_with_the_mean():
    features = generator(1).standard_normal((200, 80)).astype(np.float32)
    settings = AugmentationArguments(time_masks=2, time_mask_s=0.3, frequency_masks=2, frequency_mask_bins=10)
    masked = [mask_features(features, settings, generator(seed)) for seed in range(50)]
    for out in masked:
        assert out.shape == features.shape and out.dtype == features.dtype
        changed = out != features
        assert changed.all(axis=1).sum() <= 60
        assert changed.all(axis=0).sum() <= 20
        np.testing.assert_allclose(out[changed], features.mean(), atol=1e-5)
    assert max((out != features).mean() for out in masked) > 0.1


def test_time_masks_leave_half_of_a_short_utterance():
    features = np.arange(20.0)[:, None] * np.ones((1, 8))
    settings = AugmentationArguments(time_masks=5, time_mask_s=3.0)
    for seed in range(50):
        changed = (mask_features(features, settings, generator(seed)) != features).all(axis=1)
        assert changed.sum() <= 10
    assert mask_features(features[:0], settings, generator()).shape == (0, 8)
