"""Waveforms to the batches of the emotion classifiers: padded, and nothing else."""

from typing import Any

from transformers import Wav2Vec2FeatureExtractor

SAMPLING_RATE = 16_000


def build_feature_extractor(sampling_rate: int = SAMPLING_RATE) -> Any:
    """The feature extractor to be saved beside the model: it pads and leaves samples as they are, because every
    encoder normalises in its own way.

    >>> build_feature_extractor()([waveform, shorter], sampling_rate=16_000, padding=True, return_tensors="pt")
    {"input_values": (2, N) float32, "attention_mask": (2, N) int32}
    """
    return Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=sampling_rate,
        padding_value=0.0,
        do_normalize=False,
        return_attention_mask=True,
    )
