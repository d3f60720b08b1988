"""Random changes to training audio: speed, level, noise, and masks over its features.

Pure functions of their arguments: the caller seeds the generator by (seed, epoch, row), so a run that is resumed or
spread over other processes hears the same audio. `settings` is any object with the fields named in each function.
"""

from typing import Protocol

import numpy as np

SNR_SPAN_DB = 30.0
FRAME_S = 0.01


class WaveformSettings(Protocol):
    """What `augment_waveform` reads."""

    speed: float
    gain_db: float
    noise_snr_db: float | None


class MaskSettings(Protocol):
    """What `mask_features` reads."""

    time_masks: int
    time_mask_s: float
    frequency_masks: int
    frequency_mask_bins: int


def augment_waveform(audio: np.ndarray, settings: WaveformSettings, rng: np.random.Generator) -> np.ndarray:
    """Speed, then noise, then level.

    Args:
        audio: (num_samples,) float32, 16 kHz.
        settings: `speed`: largest relative change, 0.1 gives 0.9 to 1.1 times; `noise_snr_db`: lowest signal-to-noise
            ratio of added noise, drawn up to 30 dB above it, or None; `gain_db`: largest change of level either way.
        rng: decides everything.

    Returns:
        (num_samples / speed,) float32, a new array, never beyond [-1, 1] unless the input is.
    """
    audio = np.asarray(audio, dtype=np.float32)
    if settings.speed > 0:
        audio = change_speed(audio, 1.0 + settings.speed * rng.uniform(-1.0, 1.0))
    if settings.noise_snr_db is not None:
        audio = add_noise(audio, settings.noise_snr_db + SNR_SPAN_DB * rng.uniform(), rng)
    if settings.gain_db > 0:
        gain = 10.0 ** (settings.gain_db * rng.uniform(-1.0, 1.0) / 20.0)
        # Clipping is another distortion than level: stop at full scale.
        gain = min(gain, 1.0 / max(float(np.abs(audio).max(initial=0.0)), 1e-9)) if gain > 1.0 else gain
        audio = audio * np.float32(gain)
    return np.array(audio, dtype=np.float32)


def change_speed(audio: np.ndarray, factor: float) -> np.ndarray:
    """Play `factor` times as fast; pitch moves along, as with a tape.

    Linear interpolation: at factors near 1 its error is far below that of the recordings, and it costs a tenth of a
    proper resampler.
    """
    num_samples = max(1, round(len(audio) / factor))
    if num_samples == len(audio) or len(audio) < 2:
        return audio
    at = np.linspace(0.0, len(audio) - 1.0, num_samples)
    return np.interp(at, np.arange(len(audio)), audio).astype(np.float32)


def add_noise(audio: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise of a random colour, between white and pink, at a ratio in dB; silence is left alone."""
    level = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
    if level <= 0.0:
        return audio
    white = rng.standard_normal(len(audio))
    slope = rng.uniform(0.0, 0.5)
    # Amplitude falls with frequency ** slope; 0.5 is pink noise.
    weights = np.maximum(np.arange(len(audio) // 2 + 1), 1.0) ** -slope
    noise = np.fft.irfft(np.fft.rfft(white) * weights, n=len(audio)) if len(audio) > 1 else white
    scale = level / (10.0 ** (snr_db / 20.0) * max(float(np.sqrt(np.mean(noise**2))), 1e-12))
    noisy = audio + scale * noise
    peak = float(np.abs(noisy).max())
    return (noisy / peak if peak > 1.0 and np.abs(audio).max() <= 1.0 else noisy).astype(np.float32)


def mask_features(features_TF: np.ndarray, settings: MaskSettings, rng: np.random.Generator) -> np.ndarray:
    """SpecAugment (Park et al., 2019) without warping: bands and stretches set to the utterance's mean.

    Args:
        features_TF: (num_frames, num_bins) log-mel features of the true frames, 10 ms apart.
        settings: `time_masks` stretches of up to `time_mask_s` seconds, together at most half of the utterance, and
            `frequency_masks` bands of up to `frequency_mask_bins` bins.
        rng: decides everything.

    Returns:
        A new array of the same shape and type.
    """
    masked_TF = np.array(features_TF)
    num_frames, num_bins = masked_TF.shape
    if not num_frames:
        return masked_TF
    mean = masked_TF.mean(dtype=np.float64)
    for _ in range(settings.frequency_masks):
        width = int(rng.integers(0, min(settings.frequency_mask_bins, num_bins) + 1))
        start = int(rng.integers(0, num_bins - width + 1))
        masked_TF[:, start : start + width] = mean
    longest = round(settings.time_mask_s / FRAME_S)
    if settings.time_masks:
        longest = min(longest, num_frames // (2 * settings.time_masks))
    for _ in range(settings.time_masks):
        width = int(rng.integers(0, longest + 1))
        start = int(rng.integers(0, num_frames - width + 1))
        masked_TF[start : start + width] = mean
    return masked_TF
