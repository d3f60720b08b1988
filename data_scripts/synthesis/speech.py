"""Synthetic speakers and the voicing of one labelled sentence.

Each speaker is a regional Vietnamese voice, an English voice, one timbre variant worn by both, and an own rate, pitch
and pitch range. English spans are voiced by the English voice, all else by the Vietnamese one; the pieces are trimmed,
brought to one level, faded and joined, so that a change of language does not announce itself by a change of loudness.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from data_scripts.spans import Span
from data_scripts.synthesis.espeak import Espeak, Utterance
from data_scripts.synthesis.grammar import split_languages

SAMPLING_RATE_HZ = 16_000

VIETNAMESE_VOICES = {"north": "vi", "central": "vi-vn-x-central", "south": "vi-vn-x-south"}
ENGLISH_VOICES = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc", "en-gb-x-gbcwmd")
# Left out: whispering, child-like and unvoiced variants (whisper, caleb, rob, klatt, grandpa …), which lose the tones,
# and near twins of others (aunty, benjamin, klatt4), with which an unseen voice would not be unseen.
TIMBRES = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5"),
    *("Alex", "Andrea", "Annie", "Denis", "Gene", "Jacky", "Lee", "Mario", "Michael", "Mike", "Nguyen"),
    *("adam", "anika", "belinda", "boris", "david", "ed", "edward", "grandma"),
    *("linda", "max", "michel", "norbert", "pablo", "paul", "quincy", "robert", "sandro", "shelby", "steph"),
    *("travis", "victor", "zac", "klatt3"),
)

_SPEECH_LEVEL = 0.1
_PEAK = 0.97
_FADE_S = 0.005
_SILENCE = 1e-3
_TRIM_MARGIN_S = 0.01
_EDGE_S = 0.05


class UnvoicedTextError(ValueError):
    """A sentence of which espeak-ng says nothing audible, in whole or in one of its pieces."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A synthetic voice.

    Attributes:
        id: name written into the rows.
        dialect: "north", "central" or "south".
        vietnamese_voice: espeak-ng voice of Vietnamese words.
        english_voice: espeak-ng voice of English spans.
        timbre: variant worn by both voices.
        rate_wpm: words a minute.
        pitch: 0 to 99.
        pitch_range: 0 to 99.
        gap_s: silence between pieces of different language, in seconds.
        unseen: kept out of training.
    """

    id: str
    dialect: str
    vietnamese_voice: str
    english_voice: str
    timbre: str
    rate_wpm: int
    pitch: int
    pitch_range: int
    gap_s: float
    unseen: bool = False

    def voice(self, lang: str) -> str:
        """espeak-ng voice name for "vi" or "en"."""
        return f"{self.english_voice if lang == 'en' else self.vietnamese_voice}+{self.timbre}"


def make_speakers(seen: int, unseen: int = 0, seed: int = 0) -> tuple[list[Speaker], list[Speaker]]:
    """Seeded speakers for training and others for testing, who share no timbre with them.

    Dialects take turns, so any three speakers in a row cover north, centre and south. The first speakers of a seed do
    not depend on how many are asked for, as long as `unseen` stays the same.

    Args:
        seen: number of speakers for training.
        unseen: number of speakers kept for testing; at most half of the 47 timbres are set aside for them.
        seed: choice of everything.

    Raises:
        ValueError: a negative number.
    """
    if seen < 0 or unseen < 0:
        raise ValueError(f"numbers of speakers must not be negative, got seen={seen}, unseen={unseen}")
    timbres = list(TIMBRES)
    Random(f"timbres-{seed}").shuffle(timbres)
    reserved = min(unseen, len(timbres) // 2)
    return (
        [_make_speaker(k, seed, timbres[reserved:], False) for k in range(seen)],
        [_make_speaker(k, seed, timbres[:reserved], True) for k in range(unseen)],
    )


def _make_speaker(k: int, seed: int, timbres: list[str], unseen: bool) -> Speaker:
    name = f"{'unseen' if unseen else 'seen'}-{seed}-{k:04d}"
    rng = Random(name)
    dialect = list(VIETNAMESE_VOICES)[k % len(VIETNAMESE_VOICES)]
    return Speaker(
        id=name,
        dialect=dialect,
        vietnamese_voice=VIETNAMESE_VOICES[dialect],
        english_voice=rng.choice(ENGLISH_VOICES),
        timbre=timbres[k % len(timbres)],
        rate_wpm=rng.randint(135, 205),
        pitch=rng.randint(25, 75),
        pitch_range=rng.randint(35, 75),
        gap_s=round(rng.uniform(0.0, 0.06), 3),
        unseen=unseen,
    )


def voice_sentence(espeak: Espeak, text: str, spans: Iterable[Span], speaker: Speaker, key: str = "") -> np.ndarray:
    """Speak one labelled sentence; the same arguments give the same bytes on one platform.

    Args:
        espeak: the open engine.
        text: normalised sentence.
        spans: its English spans; what they leave is Vietnamese.
        speaker: the voice.
        key: seeds small changes of rate and pitch around the speaker's own; "" makes none.

    Returns:
        float32, shape (n,), 16 kHz, peak below 1, 50 ms of silence at both ends.

    Raises:
        UnvoicedTextError: a piece of the text gives no sound.
        EspeakCrashError: espeak-ng crashed on it.
        SpanError: spans that do not fit the text.
    """
    import soxr

    rng = Random(key)
    rate = speaker.rate_wpm + (rng.randint(-12, 12) if key else 0)
    pitch = speaker.pitch + (rng.randint(-5, 5) if key else 0)
    said = list(split_languages(text, spans))
    spoken = espeak.speak(
        *(Utterance(piece, speaker.voice(lang), rate, pitch, speaker.pitch_range) for lang, piece in said)
    )
    pieces = []
    for (lang, piece), samples in zip(said, spoken, strict=True):
        samples = _trim(samples, espeak.sampling_rate_hz)
        if samples.size == 0:
            raise UnvoicedTextError(f"espeak-ng says nothing for {piece!r} ({lang}) in {text!r}")
        pieces.append(_fade(_level(samples), espeak.sampling_rate_hz))
    if not pieces:
        raise UnvoicedTextError(f"there is nothing to say in {text!r}")
    samples = _join(pieces, espeak.sampling_rate_hz, speaker.gap_s)
    samples = soxr.resample(samples, espeak.sampling_rate_hz, SAMPLING_RATE_HZ, quality="HQ").astype(np.float32)
    return samples * min(1.0, _PEAK / float(np.abs(samples).max()))


def _trim(samples: np.ndarray, sampling_rate_hz: int) -> np.ndarray:
    audible = np.flatnonzero(np.abs(samples) > _SILENCE)
    if audible.size == 0:
        return samples[:0]
    margin = int(_TRIM_MARGIN_S * sampling_rate_hz)
    return samples[max(0, audible[0] - margin) : audible[-1] + margin]


def _level(samples: np.ndarray) -> np.ndarray:
    return samples * (_SPEECH_LEVEL / float(np.sqrt(np.mean(samples**2))))


def _fade(samples: np.ndarray, sampling_rate_hz: int) -> np.ndarray:
    width = min(samples.size // 4, int(_FADE_S * sampling_rate_hz))
    ramp = np.linspace(0.0, 1.0, width, dtype=np.float32)
    samples = samples.copy()
    samples[:width] *= ramp
    samples[samples.size - width :] *= ramp[::-1]
    return samples


def _join(pieces: list[np.ndarray], sampling_rate_hz: int, gap_s: float) -> np.ndarray:
    gap = np.zeros(int(gap_s * sampling_rate_hz), np.float32)
    edge = np.zeros(int(_EDGE_S * sampling_rate_hz), np.float32)
    parts: list[Any] = [edge]
    for k, piece in enumerate(pieces):
        parts += [gap, piece] if k else [piece]
    return np.concatenate([*parts, edge])
