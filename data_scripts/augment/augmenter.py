"""One utterance's random changes: drawn from settings and (seed, epoch, row), then applied."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data_scripts.augment.emotion import EMOTION_CHANGES, EmotionChange, EmotionDraw
from data_scripts.augment.noise import NoiseBank
from data_scripts.augment.spectrum import MaskSettings, mask_features
from data_scripts.augment.waveform import change_level, coloured_noise, mix_noise, reverberate, warp

# Each has a generator of its own, numbered by its place here: turning one on or off, or adding one at the end, leaves
# the draws of the others as they were.
STREAMS = ("speed", "pitch", "emotion", "reverberation", "room", "noise", "noise_samples", "gain", "masks")


class AugmentationSettings(MaskSettings, Protocol):
    """What is drawn how often, as `AugmentationArguments` of a training config documents it."""

    speed: float
    speed_probability: float
    pitch_semitones: float
    pitch_probability: float
    rir_folders: list[str]
    rir_probability: float
    noise_snr_db: float | None
    noise_snr_range_db: float
    noise_folders: list[str]
    noise_probability: float
    gain_db: float
    gain_probability: float
    emotion_strength: float
    emotion_probability: float
    mask_probability: float


@dataclass(frozen=True)
class Changes:
    """What happens to one utterance; the defaults leave it alone."""

    speed: float = 1.0
    """Faster by this factor, pitch moving along."""
    semitones: float = 0.0
    """Higher by so much, duration unchanged."""
    gain_db: float = 0.0
    """Louder by so much."""
    snr_db: float | None = None
    """Signal-to-noise ratio of added noise."""
    reverberated: bool = False
    """Whether it is heard in a room."""
    emotion: EmotionDraw | None = None
    """What its emotion adds to tempo, level and pitch."""


class Augmenter:
    """Changes audio and features as `settings` say, the same way for the same (seed, epoch, row).

    Args:
        settings: what is drawn how often.
        emotions: what `settings.emotion_strength` scales, by emotion.

    Raises:
        NoiseError: a folder of noise or rooms without readable audio.
    """

    def __init__(
        self, settings: AugmentationSettings, emotions: Mapping[str, EmotionChange] = EMOTION_CHANGES
    ) -> None:
        self.settings = settings
        self.emotions = dict(emotions)
        wants_noise = settings.noise_snr_db is not None and settings.noise_folders
        self.noises = NoiseBank(settings.noise_folders, "noise_folders") if wants_noise else None
        self.rooms = NoiseBank(settings.rir_folders, "rir_folders") if settings.rir_folders else None

    def changes(self, key: Sequence[int], emotion: str | None = None) -> Changes:
        """What happens to a row in an epoch; decodes nothing.

        Args:
            key: (seed, epoch, number of the row), none below 0.
            emotion: of the row.
        """
        settings, drawn = self.settings, {}
        if settings.speed > 0 and (rng := _drawn(key, "speed", settings.speed_probability)):
            # Thousandths, which are cheaper to resample by.
            drawn["speed"] = round(1.0 + settings.speed * rng.uniform(-1.0, 1.0), 3)
        if settings.pitch_semitones > 0 and (rng := _drawn(key, "pitch", settings.pitch_probability)):
            drawn["semitones"] = settings.pitch_semitones * rng.uniform(-1.0, 1.0)
        if settings.gain_db > 0 and (rng := _drawn(key, "gain", settings.gain_probability)):
            drawn["gain_db"] = settings.gain_db * rng.uniform(-1.0, 1.0)
        if settings.noise_snr_db is not None and (rng := _drawn(key, "noise", settings.noise_probability)):
            drawn["snr_db"] = settings.noise_snr_db + settings.noise_snr_range_db * rng.uniform()
        if self.rooms is not None and _drawn(key, "reverberation", settings.rir_probability):
            drawn["reverberated"] = True
        change = self.emotions.get(emotion) if emotion is not None and settings.emotion_strength > 0 else None
        if change is not None and (rng := _drawn(key, "emotion", settings.emotion_probability)):
            drawn["emotion"] = change.draw(rng, settings.emotion_strength)
        return Changes(**drawn)

    def waveform(
        self, audio: np.ndarray, key: Sequence[int], emotion: str | None = None, max_samples: int | None = None
    ) -> np.ndarray:
        """The audio of a row in an epoch: speaker first, then room, noise and level.

        Args:
            audio: (num_samples,) float32, 16 kHz.
            key: (seed, epoch, number of the row).
            emotion: of the row.
            max_samples: what slowing down would make longer than this keeps its speed, and its other changes.

        Returns:
            float32, a new array, never beyond [-1, 1] unless `audio` is.
        """
        audio = np.array(audio, dtype=np.float32)
        drawn = self.changes(key, emotion)
        moved = drawn.emotion or EmotionDraw(tempo=1.0, gain_db=0.0, semitones=0.0)
        speed, tempo = drawn.speed, moved.tempo
        if max_samples is not None and round(len(audio) / (speed * tempo)) > max_samples:
            speed, tempo = 1.0, 1.0
        audio = warp(audio, speed, tempo, drawn.semitones + moved.semitones)
        if drawn.reverberated and self.rooms is not None:
            audio = reverberate(audio, self.rooms.clip(_stream(key, "room")))
        if drawn.snr_db is not None and len(audio):
            rng = _stream(key, "noise_samples")
            noise = coloured_noise(len(audio), rng) if self.noises is None else self.noises.noise(len(audio), rng)
            audio = mix_noise(audio, noise, drawn.snr_db)
        return change_level(audio, drawn.gain_db + moved.gain_db)

    def features(
        self, features_TF: np.ndarray, key: Sequence[int], *, frame_s: float, frame_stack: int = 1
    ) -> np.ndarray:
        """The features of a row in an epoch, masked; arguments as in `mask_features`."""
        rng = _drawn(key, "masks", self.settings.mask_probability)
        if rng is None:
            return features_TF
        return mask_features(features_TF, self.settings, rng, frame_s=frame_s, frame_stack=frame_stack)

    def count(self, rows: Iterable[tuple[Sequence[int], str | None]]) -> Counter[str]:
        """How many of the rows, (key, emotion) each, get which change: "speed", "emotion: angry" and so on."""
        counts: Counter[str] = Counter()
        for key, emotion in rows:
            drawn = self.changes(key, emotion)
            counts["rows"] += 1
            counts["speed"] += drawn.speed != 1.0
            counts["pitch"] += drawn.semitones != 0.0
            counts["gain"] += drawn.gain_db != 0.0
            counts["noise"] += drawn.snr_db is not None
            counts["reverberation"] += drawn.reverberated
            counts[f"emotion: {emotion}"] += drawn.emotion is not None
        return +counts


def _stream(key: Sequence[int], name: str) -> np.random.Generator:
    """The generator of one kind of change."""
    return np.random.default_rng(np.random.SeedSequence(list(key), spawn_key=(STREAMS.index(name),)))


def _drawn(key: Sequence[int], name: str, probability: float) -> np.random.Generator | None:
    """The generator of one kind of change, or None where its turn does not come."""
    rng = _stream(key, name)
    return rng if rng.random() < probability else None
