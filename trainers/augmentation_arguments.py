"""What changes training audio, and which utterances an epoch takes."""

import os
from dataclasses import dataclass, field

from trainers.checks import require, require_fraction, require_non_negative, require_positive


@dataclass
class AugmentationArguments:
    """Random changes to training audio, seeded by (seed, epoch, row); everything at 0, null or [] is off."""

    speed: float = 0.0
    """Largest relative change of speed, pitch moving along: 0.1 plays between 0.9 and 1.1 times as fast."""
    speed_probability: float = 1.0
    """Share of utterances whose speed is changed."""
    pitch_semitones: float = 0.0
    """Largest shift of pitch either way, in semitones, duration unchanged."""
    pitch_probability: float = 1.0
    """Share of utterances whose pitch is shifted."""
    gain_db: float = 0.0
    """Largest change of level, in dB either way."""
    gain_probability: float = 1.0
    """Share of utterances whose level is changed."""
    noise_snr_db: float | None = None
    """Lowest signal-to-noise ratio of added noise, in dB."""
    noise_snr_range_db: float = 30.0
    """The ratio is drawn between noise_snr_db and this much above it, in dB."""
    noise_folders: list[str] = field(default_factory=list)
    """Folders of noise recordings, drawn equally often and searched with their sub-folders; [] makes noise between
    white and pink."""
    noise_probability: float = 1.0
    """Share of utterances that get noise."""
    rir_folders: list[str] = field(default_factory=list)
    """Folders of room impulse responses, searched with their sub-folders; speech is heard in these rooms."""
    rir_probability: float = 1.0
    """Share of utterances that are heard in a room."""
    emotion_strength: float = 0.0
    """Up to 1: how far utterances with an emotion are moved as it moves speech (angry: faster, louder, higher)."""
    emotion_probability: float = 1.0
    """Share of utterances with an emotion that are moved."""
    time_masks: int = 0
    """Stretches of features masked per utterance (SpecAugment)."""
    time_mask_s: float = 0.3
    """Longest masked stretch, in seconds."""
    time_mask_share: float | None = None
    """Most of an utterance that its time masks may hide together; short ones then get fewer masks, not shorter ones
    (0.15 is icefall's). null: all masks, hiding at most half together."""
    frequency_masks: int = 0
    """Bands of mel filters masked per utterance (SpecAugment)."""
    frequency_mask_bins: int = 20
    """Widest masked band, in mel filters."""
    mask_probability: float = 1.0
    """Share of utterances whose features are masked."""

    def __post_init__(self) -> None:
        key = "data.augmentation."
        masks = ["time_masks", "frequency_masks", "time_mask_s", "frequency_mask_bins"]
        require_non_negative(self, key, ["gain_db", "noise_snr_range_db", *masks])
        shares = ["speed", "pitch", "gain", "noise", "rir", "emotion", "mask"]
        require_fraction(self, key, [f"{name}_probability" for name in shares], one_allowed=True)
        share = self.time_mask_share
        share_key = key + "time_mask_share"
        require(share is None or 0 < share <= 1, share_key, f"must be above 0 and at most 1, got {share}")
        for name, highest in (("speed", 0.5), ("pitch_semitones", 6), ("emotion_strength", 1)):
            value = getattr(self, name)
            require(0 <= value <= highest, key + name, f"must be between 0 and {highest}, got {value}")
        snr_db = self.noise_snr_db
        require(snr_db is None or -30 <= snr_db <= 60, key + "noise_snr_db", f"must be -30 to 60 dB, got {snr_db}")
        unused = "needs noise_snr_db, for example --data.augmentation.noise_snr_db 5"
        require(not self.noise_folders or snr_db is not None, key + "noise_folders", unused)
        for name in ("noise_folders", "rir_folders"):
            for folder in getattr(self, name):
                require(os.path.isdir(folder), key + name, f"no such folder: {folder}")

    @property
    def active(self) -> bool:
        """Whether anything changes the audio or its features."""
        masks = self.time_masks > 0 or self.frequency_masks > 0
        levels = self.gain_db > 0 or self.noise_snr_db is not None or bool(self.rir_folders)
        return masks or levels or self.speed > 0 or self.pitch_semitones > 0 or self.emotion_strength > 0

    @property
    def longest_stretch(self) -> float:
        """The largest factor by which an utterance can become longer, at least 1."""
        from data_scripts.augment.emotion import EMOTION_CHANGES

        slowest = min(change.tempo[0] for change in EMOTION_CHANGES.values())
        return 1.0 / ((1.0 - self.speed) * (1.0 - self.emotion_strength * (1.0 - slowest)))


@dataclass
class ShortMediumArguments:
    """Short and medium utterances at a fixed ratio in every epoch; of the plentiful kind each epoch takes others."""

    ratio: float = 0.0
    """Short utterances for each medium one, for example 4; 0 takes every utterance in every epoch."""
    boundary_s: float = 5.0
    """Shorter utterances are short, the others medium."""
    longest_s: float | None = 10.0
    """Utterances of this length and more are neither and are left out; null leaves out none."""

    def __post_init__(self) -> None:
        require_positive(self, "data.short_medium.", ["boundary_s", "longest_s"])
        require_non_negative(self, "data.short_medium.", ["ratio"])
        above = self.longest_s is None or self.longest_s > self.boundary_s
        message = f"must be above data.short_medium.boundary_s ({self.boundary_s}), got {self.longest_s}"
        require(above, "data.short_medium.longest_s", message)
