"""Masks over features (SpecAugment; Park et al., 2019, without time warping)."""

from typing import Protocol

import numpy as np


class MaskSettings(Protocol):
    """What the masks are drawn from; `AugmentationArguments` of a training config is one."""

    time_masks: int
    time_mask_s: float
    time_mask_share: float | None
    frequency_masks: int
    frequency_mask_bins: int


def mask_features(
    features_TF: np.ndarray,
    settings: MaskSettings,
    rng: np.random.Generator,
    *,
    frame_s: float,
    frame_stack: int = 1,
) -> np.ndarray:
    """Stretches of time and bands of frequency set to the utterance's mean.

    Args:
        features_TF: (num_frames, num_features) log-mel features of the true frames.
        settings: `time_masks` stretches of up to `time_mask_s` seconds, together at most half of the utterance, and
            `frequency_masks` bands of up to `frequency_mask_bins` mel filters. With `time_mask_share`, at most that
            share of the utterance in as few stretches as can hide it, as in icefall's recipes.
        rng: decides everything; time and frequency draw from generators of their own.
        frame_s: seconds from one frame to the next.
        frame_stack: mel frames side by side in each frame (Wav2Vec2-BERT has 2); a band covers its filters in all.

    Returns:
        A new array of the same shape and type.
    """
    masked_TF = np.array(features_TF)
    num_frames, num_features = masked_TF.shape
    for_time, for_frequency = rng.spawn(2)
    if not num_frames:
        return masked_TF
    mean = masked_TF.mean(dtype=np.float64)
    num_bins = num_features // frame_stack
    masked_TSF = masked_TF.reshape(num_frames, frame_stack, num_bins)
    for _ in range(settings.frequency_masks):
        width = int(for_frequency.integers(0, min(settings.frequency_mask_bins, num_bins) + 1))
        start = int(for_frequency.integers(0, num_bins - width + 1))
        masked_TSF[:, :, start : start + width] = mean
    longest, num_masks = round(settings.time_mask_s / frame_s), settings.time_masks
    if num_masks and longest and settings.time_mask_share is not None:
        most = int(settings.time_mask_share * num_frames)
        num_masks = min(num_masks, -(-most // longest))
        longest = min(longest, most // max(1, num_masks))
    elif num_masks:
        longest = min(longest, num_frames // (2 * num_masks))
    for _ in range(num_masks):
        width = int(for_time.integers(0, longest + 1))
        start = int(for_time.integers(0, num_frames - width + 1))
        masked_TSF[start : start + width] = mean
    return masked_TF
