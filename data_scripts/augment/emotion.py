"""Emotion-driven changes: an utterance is moved further the way its emotion moves speech anyway.

The third system of VLSP 2025 (Sec. 3.3) names "speed adjustment for angry speech, volume scaling for intensity, and
pitch shifting for emotional frequency variations", without numbers. The directions here are those on which studies of
vocal emotion agree (Juslin & Laukka, 2003: anger, fear and happiness are faster and higher, sadness slower, lower and
softer; anger and happiness louder); the sizes are small against what one speaker's emotions differ by, so that the
label stays true. Emotions without a direction are changed as often, both ways alike: otherwise a classifier could tell
an emotion by the traces of processing.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Range = tuple[float, float]


class EmotionDraw(NamedTuple):
    """What an emotion does to one utterance."""

    tempo: float
    gain_db: float
    semitones: float


@dataclass(frozen=True)
class EmotionChange:
    """Ranges from which an utterance of one emotion draws its changes, evenly.

    Args:
        tempo: faster by this factor, pitch unchanged.
        gain_db: louder by so much.
        semitones: higher by so much.
    """

    tempo: Range = (1.0, 1.0)
    gain_db: Range = (0.0, 0.0)
    semitones: Range = (0.0, 0.0)

    def draw(self, rng: np.random.Generator, strength: float = 1.0) -> EmotionDraw:
        """The changes of one utterance; `strength` 0.5 goes half the way from none."""
        tempo, gain_db, semitones = (rng.uniform(*limits) for limits in (self.tempo, self.gain_db, self.semitones))
        return EmotionDraw(1.0 + strength * (tempo - 1.0), strength * gain_db, strength * semitones)


EVEN = EmotionChange(tempo=(0.93, 1.07), gain_db=(-3.0, 3.0), semitones=(-1.0, 1.0))

EMOTION_CHANGES: dict[str, EmotionChange] = {
    "angry": EmotionChange(tempo=(1.0, 1.15), gain_db=(0.0, 6.0), semitones=(0.0, 1.5)),
    "happy": EmotionChange(tempo=(1.0, 1.1), gain_db=(0.0, 4.0), semitones=(0.0, 2.0)),
    "surprised": EmotionChange(tempo=(1.0, 1.1), gain_db=(0.0, 4.0), semitones=(0.0, 2.0)),
    "fearful": EmotionChange(tempo=(1.0, 1.1), gain_db=(-3.0, 3.0), semitones=(0.0, 1.5)),
    "sad": EmotionChange(tempo=(0.87, 1.0), gain_db=(-6.0, 0.0), semitones=(-1.5, 0.0)),
    "calm": EmotionChange(tempo=(0.9, 1.03), gain_db=(-4.0, 1.0), semitones=(-1.0, 0.5)),
    "disgust": EVEN,
    "neutral": EVEN,
    # Classes that join emotions of opposite directions: anger and sadness are both negative.
    "negative": EVEN,
    "positive": EVEN,
}
"""By the emotions of `data_scripts.schema`; a row without an emotion is left alone."""
