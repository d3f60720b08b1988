"""Waveforms to log-mel features as Parakeet's, checked and without its unused last frame."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import AutoFeatureExtractor, BatchFeature, ParakeetFeatureExtractor

from .audio_input import AudioInputError, to_mono
from .configuration_fastconformer import FastConformerConfig

# Shorter audio is extended with silence: normalisation over time needs a few frames, and divides by zero with one.
SHORTEST_S = 0.05


class FastConformerFeatureExtractor(ParakeetFeatureExtractor):
    """Log-mel energies every 10 ms, each bin normalised over the utterance; arguments as `ParakeetFeatureExtractor`.

    Features of an utterance do not depend on its batch. Parakeet's own gives one frame more, which its mask always
    hides; it makes NaN of an utterance of one frame.

    Example:
        >>> FastConformerFeatureExtractor()([waveform, shorter], sampling_rate=16_000, return_tensors="pt")
        {"input_features": (2, T, 80) float32, "attention_mask": (2, T) int64}
    """

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        raw_speech: Any,
        *,
        sampling_rate: int | None = None,
        padding: str | None = "longest",
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """One waveform (samples,) or several: a list of waveforms, or an array (utterances, samples).

        Members of a list may have channels; they are mixed down. Integers are scaled to full scale 1.

        Raises:
            ValueError: samples at another rate, none at all, or ones that are not finite (the utterance is named).
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"audio is at {sampling_rate} Hz but the model hears {self.sampling_rate} Hz; resample it first"
            )
        kwargs.pop("return_attention_mask", None)  # it is always there: the model needs it
        batch = super().__call__(
            [self._prepare(waveform, index) for index, waveform in enumerate(as_utterances(raw_speech))],
            sampling_rate=self.sampling_rate,
            padding=padding,
            return_tensors="pt",
            **kwargs,
        )
        return BatchFeature(
            {
                "input_features": batch["input_features"][:, :-1],
                "attention_mask": batch["attention_mask"][:, :-1].long(),
            },
            tensor_type=return_tensors,
        )

    def _prepare(self, waveform: Any, index: int) -> np.ndarray:
        samples = to_mono(waveform, f"audio {index}")
        if samples.size == 0:
            raise AudioInputError(f"audio {index} is empty: it has no samples")
        if not np.isfinite(samples).all():
            bad = int((~np.isfinite(samples)).sum())
            raise AudioInputError(f"audio {index} holds {bad} samples that are NaN or infinite, of {samples.size}")
        return np.pad(samples, (0, max(0, int(SHORTEST_S * self.sampling_rate) - samples.size)))


def as_utterances(raw_speech: Any) -> Sequence[Any]:
    """One utterance or several -> several; a list of numbers is one waveform."""
    if isinstance(raw_speech, list | tuple):
        return raw_speech if not raw_speech or not np.isscalar(raw_speech[0]) else [np.asarray(raw_speech)]
    return list(raw_speech) if getattr(raw_speech, "ndim", 1) > 1 else [raw_speech]


AutoFeatureExtractor.register(FastConformerConfig, FastConformerFeatureExtractor, exist_ok=True)
FastConformerFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
