"""Waveforms to the input of emotion2vec: each utterance normalised over its own samples, then padded."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, BatchFeature, SequenceFeatureExtractor

from .audio_input import AudioInputError, to_mono
from .configuration_emotion2vec import Emotion2VecConfig

NORMALISE_EPS = 1e-5


def normalise_waveforms(waveforms_BN: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Zero mean and unit variance over the true samples of each row; zeros on the padding. Silence stays zero.

    Args:
        waveforms_BN: (B, N) samples.
        attention_mask: (B, N), 1 on true samples; None: all are.
    """
    if attention_mask is None:
        return torch.nn.functional.layer_norm(waveforms_BN, waveforms_BN.shape[-1:], eps=NORMALISE_EPS)
    mask_BN = attention_mask.to(waveforms_BN.dtype)
    count_B1 = mask_BN.sum(1, keepdim=True).clamp(min=1)
    centred_BN = (waveforms_BN - (waveforms_BN * mask_BN).sum(1, keepdim=True) / count_B1) * mask_BN
    variance_B1 = centred_BN.square().sum(1, keepdim=True) / count_B1
    return centred_BN * torch.rsqrt(variance_B1 + NORMALISE_EPS)


class Emotion2VecFeatureExtractor(SequenceFeatureExtractor):
    """Raw waveforms at 16 kHz to `input_values` and `attention_mask`.

    Args:
        do_normalize: whether utterances are normalised as in the published training (`F.layer_norm` over samples).
        shortest_input: samples that the model needs for one frame; shorter utterances are extended with silence after
            they are normalised, and the silence counts as part of them.

    Example:
        >>> Emotion2VecFeatureExtractor()([waveform, shorter], sampling_rate=16_000, padding=True, return_tensors="pt")
        {"input_values": (2, N) float32, "attention_mask": (2, N) int32}
    """

    model_input_names = ["input_values", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16_000,
        padding_value: float = 0.0,
        do_normalize: bool = True,
        shortest_input: int = 400,
        return_attention_mask: bool = True,
        **kwargs: Any,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.do_normalize = do_normalize
        self.shortest_input = shortest_input
        self.return_attention_mask = return_attention_mask

    def __call__(
        self,
        raw_speech: Any,
        *,
        sampling_rate: int | None = None,
        padding: bool | str = "longest",
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        **_: Any,
    ) -> BatchFeature:
        """One waveform (samples,) or several: a list of waveforms, or an array (utterances, samples).

        Members of a list may have channels, (samples, channels) or (channels, samples); they are mixed down. Integers
        are scaled to full scale 1.

        Raises:
            ValueError: samples at another rate, none at all, or ones that are not finite (the utterance is named).
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"audio is at {sampling_rate} Hz but the model hears {self.sampling_rate} Hz; resample it first"
            )
        values = [self._prepare(waveform, index) for index, waveform in enumerate(as_utterances(raw_speech))]
        return self.pad(
            BatchFeature({"input_values": values}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )

    def _prepare(self, waveform: Any, index: int) -> np.ndarray:
        samples = to_mono(waveform, f"audio {index}")
        if samples.size == 0:
            raise AudioInputError(f"audio {index} is empty: it has no samples")
        if not np.isfinite(samples).all():
            bad = int((~np.isfinite(samples)).sum())
            raise AudioInputError(f"audio {index} holds {bad} samples that are NaN or infinite, of {samples.size}")
        if self.do_normalize:
            samples = normalise_waveforms(torch.from_numpy(samples)).numpy()
        return np.pad(samples, (0, max(0, self.shortest_input - samples.size)))


def as_utterances(raw_speech: Any) -> Sequence[Any]:
    """One utterance or several -> several; a list of numbers is one waveform."""
    if isinstance(raw_speech, list | tuple):
        return raw_speech if not raw_speech or not np.isscalar(raw_speech[0]) else [np.asarray(raw_speech)]
    return list(raw_speech) if getattr(raw_speech, "ndim", 1) > 1 else [raw_speech]


AutoFeatureExtractor.register(Emotion2VecConfig, Emotion2VecFeatureExtractor, exist_ok=True)
Emotion2VecFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
