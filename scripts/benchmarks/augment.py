"""Milliseconds of CPU for each second of audio that an augmentation costs, against torchaudio's functions.

    python scripts/benchmarks/augment.py

Both sides get the same 16 kHz audio (a made-up voice: pulses through resonances, with pauses; 3.6 s, a mean sentence),
the same factors, noise and room, in one thread; rounds alternate, and the ratio is the median of the rounds' ratios.
torchaudio adds noise at a ratio and convolves as we do; its pitch shift is a phase vocoder. For "one factor" and for
the pitch its filters are made once and not timed, though another draw would have to make them again (seconds, and
gigabytes, for two semitones); "a new factor" draws one of two decimals at every call, as augmentation does. Decoded
noise is in memory for both. Masks are over 80-bin log-mel frames.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from data_scripts.augment import change_speed, mask_features, mix_noise, reverberate, shift_pitch
from trainers.arguments import AugmentationArguments

RATE_HZ = 16_000


def made_up_voice(duration_s: float, seed: int = 0) -> np.ndarray:
    """float32 (num_samples,): pulses around 120 Hz through three resonances, paused every second."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    voice = np.diff(np.floor(np.cumsum(120 + 20 * np.sin(5 * time_s)) / RATE_HZ), prepend=0.0)
    for resonance_hz in (600, 1300, 2500):
        ringing = np.exp(-250 * time_s[:800]) * np.cos(2 * np.pi * resonance_hz * time_s[:800])
        voice = np.convolve(voice, ringing)[: len(time_s)]
    voice = voice * (time_s % 1.0 < 0.8) + 0.01 * rng.standard_normal(len(time_s))
    return (0.3 * voice / np.abs(voice).max()).astype(np.float32)


def contests(audio: np.ndarray) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Name -> (ours, torchaudio's)."""
    import torch
    import torchaudio.functional as peer
    from torchaudio.transforms import PitchShift, Speed

    rng = np.random.default_rng(1)
    noise = (0.1 * rng.standard_normal(len(audio))).astype(np.float32)
    room = (rng.standard_normal(8000) * np.exp(-np.arange(8000) / 1000)).astype(np.float32)
    features_TF = rng.standard_normal((len(audio) // 160, 80)).astype(np.float32)
    settings = AugmentationArguments(time_masks=2, frequency_masks=2)
    waveform, noises, rooms, mel = (torch.from_numpy(one)[None] for one in (audio, noise, room, features_TF))
    factors = itertools.cycle([round(0.9 + 0.01 * step, 2) for step in range(21)])
    snr, faster, higher = torch.tensor([10.0]), Speed(RATE_HZ, 1.07), PitchShift(RATE_HZ, 2)

    def their_masks() -> Any:
        masked = mel[None]
        for axis in (2, 2, 3, 3):
            masked = peer.mask_along_axis(masked, 30, 0.0, axis)
        return masked

    return {
        "speed, one factor": (lambda: change_speed(audio, 1.07), lambda: faster(waveform)),
        "speed, a new factor": (
            lambda: change_speed(audio, next(factors)),
            lambda: peer.speed(waveform, RATE_HZ, next(factors)),
        ),
        "pitch +2 semitones": (lambda: shift_pitch(audio, 2.0), lambda: higher(waveform)),
        "noise at 10 dB": (lambda: mix_noise(audio, noise, 10.0), lambda: peer.add_noise(waveform, noises, snr)),
        "room of 0.5 s": (lambda: reverberate(audio, room), lambda: peer.fftconvolve(waveform, rooms)),
        "masks": (
            lambda: mask_features(features_TF, settings, np.random.default_rng(2), frame_s=0.01),
            their_masks,
        ),
    }


def cpu_ms(change: Callable[[], Any], times: int) -> float:
    """CPU milliseconds of one call."""
    start = time.process_time()
    for _ in range(times):
        change()
    return 1000 * (time.process_time() - start) / times


def run(duration_s: float = 3.6, rounds: int = 9) -> list[dict[str, Any]]:
    """One dict per augmentation: name, peer, ours, theirs, unit, ratio (above 1 is cheaper than the peer)."""
    rows = []
    for name, (ours, theirs) in contests(made_up_voice(duration_s)).items():
        warm = (cpu_ms(ours, 1), cpu_ms(theirs, 2))
        # About as long on either side.
        calls = [max(1, min(200, round(200 / max(one, 0.1)))) for one in warm]
        costs = [(cpu_ms(ours, calls[0]), cpu_ms(theirs, calls[1])) for _ in range(rounds)]
        rows.append(
            {
                "name": f"augmentation, {name}",
                "peer": "torchaudio",
                "ours": statistics.median(mine for mine, _ in costs) / duration_s,
                "theirs": statistics.median(other for _, other in costs) / duration_s,
                "unit": "ms/audio s/core",
                "ratio": statistics.median(other / mine for mine, other in costs),
            }
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--duration_s", type=float, default=3.6, help="seconds of audio")
    parser.add_argument("--rounds", type=int, default=9)
    for row in run(**vars(parser.parse_args())):
        print(f"{row['name']:<36} {row['ours']:>8.3f} vs {row['theirs']:>8.3f} {row['unit']}  {row['ratio']:.1f}x")
