"""Random changes to training audio: speed, pitch, level, noise, rooms, emotion, and masks over its features.

Everything is a function of settings and of (seed, epoch, row), so a run that is resumed, or spread over other
processes, hears the same audio bit for bit. `Augmenter` draws and applies; the functions below do one thing each.
"""

from data_scripts.augment.augmenter import AugmentationSettings, Augmenter, Changes
from data_scripts.augment.emotion import EMOTION_CHANGES, EmotionChange
from data_scripts.augment.noise import NoiseBank, NoiseError
from data_scripts.augment.spectrum import MaskSettings, mask_features
from data_scripts.augment.waveform import (
    change_level,
    change_speed,
    change_tempo,
    coloured_noise,
    mix_noise,
    reverberate,
    shift_pitch,
    warp,
)

__all__ = [
    "EMOTION_CHANGES",
    "AugmentationSettings",
    "Augmenter",
    "Changes",
    "EmotionChange",
    "MaskSettings",
    "NoiseBank",
    "NoiseError",
    "change_level",
    "change_speed",
    "change_tempo",
    "coloured_noise",
    "mask_features",
    "mix_noise",
    "reverberate",
    "shift_pitch",
    "warp",
]
