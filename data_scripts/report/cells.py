"""What a table cell may hold. Everything that came from data is escaped here or by the template, nowhere else."""

import base64
import io
import math
import numbers
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from markupsafe import Markup, escape

from data_scripts.decoding import SAMPLING_RATE_HZ, AudioError, AudioSource, decode_audio, resample

NOTHING = "–"
# Not allowed in HTML, or able to reorder the text around them (U+202A to U+202E, U+2066 to U+2069).
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is to be shown, right-aligned: `Number(0.1234, ".1%")`, `Number(3.2, ".1f", " h")`."""

    value: float | None
    format: str = ",.2f"
    unit: str = ""

    def __str__(self) -> str:
        if self.value is None or not math.isfinite(self.value):
            return NOTHING
        return f"{self.value:{self.format}}{self.unit}"


@dataclass(frozen=True, slots=True)
class Text:
    """A text in a known language, so that a screen reader says it right: `Text(row["text"])` is Vietnamese."""

    text: str
    lang: str = "vi"


class Word(NamedTuple):
    """A word of an alignment: as it should be, put in place of another, left out, or put in."""

    text: str
    kind: Literal["equal", "wrong", "missing", "extra"] = "equal"


@dataclass(frozen=True, slots=True)
class Words:
    """Aligned words, in `<mark>`, `<del>` and `<ins>`, so that colour is never the only sign."""

    words: Iterable[Word | tuple[str, Literal["equal", "wrong", "missing", "extra"]]]
    lang: str = "vi"


@dataclass(frozen=True, slots=True)
class AudioClip:
    """A recording that the reader can play.

    audio: what `data_scripts.audio.read_audio` takes: a path, bytes, `row["audio"]` or samples. label: what a screen
    reader announces. max_duration_s: what is beyond is not embedded, and the cell says so.
    """

    audio: AudioSource | None
    label: str = "recording"
    max_duration_s: float = 30.0


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """Bytes to embed, or a note saying why there are none."""

    data: bytes = b""
    media_type: str = ""
    note: str = ""

    @property
    def data_uri(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"


def printable(value: Any) -> str:
    """A value as text without control characters, which `escape` leaves alone."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def encode_clip(clip: AudioClip) -> EncodedClip:
    """16 kHz mono MP3 of about 3 kB a second, or WAV where libsndfile has no MP3 encoder. Never raises.

    Not Ogg: its streams carry a random number, and the same page would differ at every writing.
    """
    import soundfile

    if clip.audio is None:
        return EncodedClip(note=NOTHING)
    try:
        decoded = decode_audio(clip.audio, min_duration_s=0.0, allow_silent=True)
        rate_hz = decoded.info.sampling_rate_hz
        samples = decoded.samples
        note = ""
        if len(samples) > clip.max_duration_s * rate_hz:
            note = f"the first {clip.max_duration_s:g} of {len(samples) / rate_hz:.0f} s"
            samples = samples[: int(clip.max_duration_s * rate_hz)]
        samples = resample(samples, rate_hz, SAMPLING_RATE_HZ).clip(-1.0, 1.0)
    except (AudioError, OSError, ValueError) as error:
        return EncodedClip(note=f"cannot be played: {error}")
    buffer = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        quality: dict[str, Any] = {"bitrate_mode": "VARIABLE", "compression_level": 0.7}
        soundfile.write(buffer, samples, SAMPLING_RATE_HZ, format="MP3", subtype="MPEG_LAYER_III", **quality)
        return EncodedClip(buffer.getvalue(), "audio/mpeg", note)
    soundfile.write(buffer, samples, SAMPLING_RATE_HZ, format="WAV", subtype="PCM_16")
    return EncodedClip(buffer.getvalue(), "audio/wav", note)


def is_number(cell: Any) -> bool:
    """Whether a cell is right-aligned."""
    return isinstance(cell, Number | numbers.Number) and not isinstance(cell, bool)


def cell_html(cell: Any) -> Markup:
    """The content of a cell that is no `AudioClip`."""
    if cell is None or cell == "":
        return Markup(NOTHING)
    if isinstance(cell, Words):
        return Markup('<span lang="{}">{}</span>').format(cell.lang, Markup(" ").join(map(_word_html, cell.words)))
    if isinstance(cell, Text):
        return (
            Markup('<span lang="{}">{}</span>').format(cell.lang, printable(cell.text))
            if cell.text
            else Markup(NOTHING)
        )
    if isinstance(cell, bool):
        return Markup("yes" if cell else "no")
    if isinstance(cell, numbers.Integral):
        return escape(str(Number(int(cell), ",d")))
    if isinstance(cell, numbers.Real):
        return escape(str(Number(float(cell))))
    return escape(printable(cell))


def _word_html(word: Word | tuple[str, str]) -> Markup:
    text, kind = word
    tag = {"equal": "span", "wrong": "mark", "missing": "del", "extra": "ins"}[kind]
    return Markup("<{0}>{1}</{0}>").format(Markup(tag), printable(text))
