"""Kaldi's log-mel filter bank as icefall uses it: waveforms -> (B, T, F) features at 100 frames per second.

Equal to `torchaudio.compliance.kaldi.fbank(dither=0, snip_edges=False, high_freq=-400)`, without rebuilding window and
filters for every utterance.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, BatchFeature, SequenceFeatureExtractor

from .audio_input import to_mono
from .configuration_zipformer import ZipformerConfig

# What the filter bank gives for digital silence: float32's epsilon, as in Kaldi.
ENERGY_FLOOR = torch.finfo(torch.float32).eps
# Shorter audio is extended with silence to the frames that the convolutions of the model need.
FEWEST_FRAMES = 9
PREEMPHASIS = 0.97


def mel(frequency_hz: float | torch.Tensor) -> torch.Tensor:
    """Kaldi's mel scale."""
    return 1127.0 * torch.log1p(torch.as_tensor(frequency_hz, dtype=torch.float32) / 700.0)


@functools.lru_cache(maxsize=4)
def _filters(bins: int, fft_size: int, rate: int, low_hz: float, high_hz: float) -> torch.Tensor:
    """(fft_size / 2 + 1, bins) triangles, equally wide on the mel scale; `high_hz` <= 0: below the Nyquist rate."""
    low, high = mel(low_hz), mel(high_hz if high_hz > 0 else rate / 2 + high_hz)
    width = (high - low) / (bins + 1)
    left = low + torch.arange(bins) * width
    frequency = mel(torch.arange(fft_size // 2) * (rate / fft_size)).unsqueeze(1)
    triangles = torch.minimum((frequency - left) / width, (left + 2 * width - frequency) / width).clamp(min=0)
    return torch.cat([triangles, torch.zeros(1, bins)])


@functools.lru_cache(maxsize=4)
def _window(size: int) -> torch.Tensor:
    """Povey's window: a Hann window that does not quite reach zero."""
    return torch.hann_window(size, periodic=False).pow(0.85)


class ZipformerFeatureExtractor(SequenceFeatureExtractor):
    """Log-mel filter bank of mono waveforms in [-1, 1].

    Args:
        feature_size: mel bins.
        sampling_rate: in Hz.
        padding_value: of padded frames, log(1e-10).
        frame_length_s, frame_shift_s: window and its step.
        low_frequency_hz, high_frequency_hz: range of the filters; the second, if not positive, below the Nyquist rate.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16_000,
        padding_value: float = math.log(1e-10),
        frame_length_s: float = 0.025,
        frame_shift_s: float = 0.01,
        low_frequency_hz: float = 20.0,
        high_frequency_hz: float = -400.0,
        return_attention_mask: bool = True,
        **kwargs: Any,
    ):
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        self.frame_length_s, self.frame_shift_s = frame_length_s, frame_shift_s
        self.low_frequency_hz, self.high_frequency_hz = low_frequency_hz, high_frequency_hz

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        padding: bool | str = "longest",
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """One waveform or several -> `{"input_features": (B, T, F), "attention_mask": (B, T)}`.

        Audio shorter than `FEWEST_FRAMES` frames (90 ms) is extended with silence. Other arguments as in
        `SequenceFeatureExtractor.pad`.

        Raises:
            ValueError: another sampling rate; audio that is empty, not mono or not finite.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"audio is at {sampling_rate} Hz but the model hears {self.sampling_rate} Hz; resample it first"
            )
        features = [self.filter_bank(samples).numpy() for samples in self._waveforms(raw_speech)]
        return self.pad(
            BatchFeature({"input_features": features}), padding=padding, return_tensors=return_tensors, **kwargs
        )

    def filter_bank(self, samples: np.ndarray) -> torch.Tensor:
        """(samples,) float32 -> (T, F)."""
        size, shift = round(self.frame_length_s * self.sampling_rate), round(self.frame_shift_s * self.sampling_rate)
        fft_size = 1 << (size - 1).bit_length()
        waveform = torch.from_numpy(np.pad(samples, (0, max(0, FEWEST_FRAMES * shift - len(samples)))))
        # Both ends are mirrored, so that frame t is centred on (t + 1/2) shifts.
        frames, edge = (len(waveform) + shift // 2) // shift, size // 2 - shift // 2
        mirrored = waveform.flip(0)
        windows = torch.cat([mirrored[-edge:], waveform, mirrored[: size + shift]]).unfold(0, size, shift)[:frames]
        windows = windows - windows.mean(1, keepdim=True)
        before = torch.cat([windows[:, :1], windows[:, :-1]], dim=1)
        windows = (windows - PREEMPHASIS * before) * _window(size)
        power = torch.fft.rfft(windows, n=fft_size).abs().square()
        filters = _filters(
            self.feature_size, fft_size, self.sampling_rate, self.low_frequency_hz, self.high_frequency_hz
        )
        return (power @ filters).clamp(min=ENERGY_FLOOR).log()

    @staticmethod
    def _waveforms(raw_speech: Any) -> Sequence[np.ndarray]:
        if isinstance(raw_speech, np.ndarray | torch.Tensor):
            many = list(raw_speech) if raw_speech.ndim == 2 else [raw_speech]
        else:
            many = list(raw_speech)
            if many and np.isscalar(many[0]):
                many = [np.asarray(many)]
        waveforms = []
        for index, waveform in enumerate(many):
            samples = np.asarray(waveform)
            if samples.ndim != 1:
                raise ValueError(f"audio {index} has shape {samples.shape}; it must be mono, (samples,)")
            if samples.size == 0:
                raise ValueError(f"audio {index} is empty: it has no samples")
            if samples.dtype.kind in "iu":
                samples = to_mono(samples, f"audio {index}")
            samples = samples.astype(np.float32, copy=False)
            if not np.isfinite(samples).all():
                bad = int((~np.isfinite(samples)).sum())
                raise ValueError(f"audio {index} holds {bad} samples that are NaN or infinite")
            waveforms.append(samples)
        return waveforms


AutoFeatureExtractor.register(ZipformerConfig, ZipformerFeatureExtractor, exist_ok=True)
ZipformerFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
