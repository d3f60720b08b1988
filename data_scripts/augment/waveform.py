"""Changes of one waveform: speed, tempo, pitch, level, noise and reverberation.

Pure functions on float32 (num_samples,) at 16 kHz; whatever is random is an argument. None makes the audio louder than
full scale unless it was.
"""

from functools import lru_cache

import numpy as np
import soxr

from data_scripts.decoding import SAMPLING_RATE_HZ

# WSOLA: windows of 40 ms every 20 ms; a search of 10 ms each way finds the next period of voices down to 50 Hz.
HOP = SAMPLING_RATE_HZ // 50
SEARCH = SAMPLING_RATE_HZ // 100
# Of equally good places the one nearest to where the tempo wants it; also decides in silence.
NEARNESS = 1e-3
TINY = 1e-12


def change_speed(audio: np.ndarray, factor: float) -> np.ndarray:
    """Play `factor` times as fast; pitch moves along, as with a tape.

    Returns:
        (round(num_samples / factor),) float32, at least one sample unless there was none.
    """
    num_samples = max(1, round(len(audio) / factor))
    if num_samples == len(audio) or len(audio) < 2:
        return audio
    # soxr is faster than linear interpolation and 100 dB closer: at 4 kHz the latter leaves a distortion of -14 dB.
    changed = soxr.resample(audio, SAMPLING_RATE_HZ * factor, SAMPLING_RATE_HZ, quality="HQ")
    return _no_louder(_fitted(changed, num_samples), audio)


def change_tempo(audio: np.ndarray, num_samples: int) -> np.ndarray:
    """Stretch or shorten to `num_samples`, pitch unchanged.

    WSOLA (Verhelst & Roelands, 1993): windows are taken from where the new tempo wants them, moved to where they best
    continue the waveform before them.
    """
    length = len(audio)
    if num_samples == length:
        return audio
    if min(length, num_samples) < 2:
        return _fitted(audio, num_samples)
    num_hops = -(-num_samples // HOP) + 1
    # Room for searches before the start and after the end.
    padded = np.zeros(length + 4 * HOP + 4 * SEARCH, dtype=np.float32)
    padded[HOP + SEARCH : HOP + SEARCH + length] = audio
    power = np.concatenate([[0.0], np.cumsum(np.square(padded, dtype=np.float64))])
    window = np.hanning(2 * HOP + 1)[:-1].astype(np.float32)
    away = NEARNESS * np.abs(np.arange(-SEARCH, SEARCH + 1)) / SEARCH
    out = np.zeros((num_hops + 1) * HOP, dtype=np.float32)
    # The first window is centred on the first sample, so that the part before it is silence.
    wanted = np.rint(np.arange(num_hops) * HOP * (length / num_samples)).astype(np.int64) + SEARCH
    place = SEARCH
    out[: 2 * HOP] += window * padded[place : place + 2 * HOP]
    for hop, target in enumerate(np.minimum(wanted, len(padded) - 2 * HOP - SEARCH - 1).tolist()[1:], start=1):
        follows = padded[place + HOP : place + 2 * HOP]
        first, last = target - SEARCH, target + SEARCH + 1
        likeness = np.correlate(padded[first : last - 1 + HOP], follows)
        energy = power[first + HOP : last + HOP] - power[first:last]
        likeness = likeness / np.sqrt(np.maximum(energy * float(follows @ follows), TINY))
        place = first + int(np.argmax(likeness - away))
        out[hop * HOP : (hop + 2) * HOP] += window * padded[place : place + 2 * HOP]
    return _fitted(out[HOP:], num_samples)


def warp(audio: np.ndarray, speed: float = 1.0, tempo: float = 1.0, semitones: float = 0.0) -> np.ndarray:
    """Speed, tempo and pitch in one pass.

    Args:
        audio: (num_samples,) float32.
        speed: faster by this factor, pitch moving along.
        tempo: faster by this factor, pitch unchanged.
        semitones: pitch moved by so much, duration unchanged.

    Returns:
        (round(num_samples / speed / tempo),) float32.
    """
    if tempo == 1.0 and semitones == 0.0:
        return change_speed(audio, speed)
    num_samples = max(1, round(len(audio) / (speed * tempo))) if len(audio) else 0
    # Thousandths (one cent) cost soxr two thirds of what an odd ratio does; the duration is set afterwards.
    return change_tempo(change_speed(audio, round(speed * 2.0 ** (semitones / 12.0), 3)), num_samples)


def shift_pitch(audio: np.ndarray, semitones: float) -> np.ndarray:
    """Pitch (and formants) moved by `semitones`, duration unchanged; tones keep their shape, which is relative."""
    return warp(audio, semitones=semitones)


def change_level(audio: np.ndarray, gain_db: float) -> np.ndarray:
    """Louder or softer; a gain that would clip stops at full scale, as clipping is another distortion than level."""
    gain = 10.0 ** (gain_db / 20.0)
    if gain > 1.0:
        gain = max(1.0, min(gain, 1.0 / max(_peak(audio), TINY)))
    return audio * np.float32(gain)


def mix_noise(audio: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise of the same length at a ratio of powers over the whole utterance; silent audio or noise adds nothing.

    Where the sum would clip, all of it is made softer: the ratio stays.
    """
    level, noise_level = _rms(audio), _rms(noise)
    if level <= TINY or noise_level <= TINY:
        return audio
    noisy = audio + noise * np.float32(level / (10.0 ** (snr_db / 20.0) * noise_level))
    return _no_louder(noisy, audio)


def coloured_noise(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of a random colour between white and pink: its amplitude falls with frequency to the power of 0 to 0.5."""
    slope = rng.uniform(0.0, 0.5)
    size = fast_fft_size(num_samples)
    white = rng.standard_normal(size, dtype=np.float32)
    weights = np.maximum(np.arange(size // 2 + 1, dtype=np.float32), 1.0) ** np.float32(-slope)
    return np.fft.irfft(np.fft.rfft(white) * weights, n=size)[:num_samples].astype(np.float32)


def reverberate(audio: np.ndarray, impulse_response: np.ndarray) -> np.ndarray:
    """The audio as heard in a room: as long and as loud as before, and not later.

    Args:
        audio: (num_samples,) float32.
        impulse_response: (n,) float32 at 16 kHz; its largest sample is taken for the direct sound, which arrives
            without delay, so that labels stay where they were. The tail after the end of the audio is cut off.
    """
    level = _rms(audio)
    if not len(impulse_response) or level <= TINY:
        return audio
    direct = int(np.argmax(np.abs(impulse_response)))
    impulse_response = impulse_response[: direct + len(audio)]
    size = fast_fft_size(len(audio) + len(impulse_response) - 1)
    spectrum = np.fft.rfft(audio, size) * np.fft.rfft(impulse_response, size)
    wet = np.fft.irfft(spectrum, size)[direct : direct + len(audio)]
    wet_level = _rms(wet)
    if wet_level <= TINY:
        return audio
    return _no_louder((wet * (level / wet_level)).astype(np.float32), audio)


@lru_cache(maxsize=4096)
def fast_fft_size(num_samples: int) -> int:
    """The smallest size of at least `num_samples` without prime factors above 5: FFTs of other sizes can be slow."""
    num_samples = max(2, num_samples)
    sizes = []
    for odd in (3**threes * 5**fives for threes in range(14) for fives in range(10)):
        sizes.append(odd << (-(-num_samples // odd) - 1).bit_length())
    return min(sizes)


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.dot(audio, audio) / len(audio))) if len(audio) else 0.0


def _peak(audio: np.ndarray) -> float:
    return max(float(audio.max()), -float(audio.min())) if len(audio) else 0.0


def _no_louder(changed: np.ndarray, before: np.ndarray) -> np.ndarray:
    """`changed`, made softer if it is beyond full scale and beyond what it was made from."""
    limit, peak = max(1.0, _peak(before)), _peak(changed)
    return changed * np.float32(limit / peak) if peak > limit else changed


def _fitted(audio: np.ndarray, num_samples: int) -> np.ndarray:
    """The first `num_samples`, with zeros where there are fewer (a filter's last sample or two)."""
    audio = audio[:num_samples].astype(np.float32, copy=False)
    return audio if len(audio) == num_samples else np.pad(audio, (0, num_samples - len(audio)))
