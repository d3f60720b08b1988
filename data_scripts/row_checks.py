"""What becomes of one row: kept, mended or dropped, and why.

Cost on one core for each hour of 16 kHz speech in clips of 3 s, text and hashing included: 1.4 s for FLAC, 8.5 s for
Opus, nearly all of it decoding.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple

from data_scripts.audio import MIN_DURATION_S, SAMPLING_RATE_HZ, AudioError, DecodedAudio, decode_audio, source_name
from data_scripts.decoding import EXTENSIONS
from data_scripts.text.normalize import PROBLEM_CODES, normalize_with_spans, text_problems, text_repairs

HASH_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Limits:
    """What a row must satisfy.

    Args:
        min_duration_s, max_duration_s: outside of them a recording is dropped (codes too_short, too_long).
        duration_tolerance_s: how far a recording may be from the duration that its manifest states.
        keep_text_problems: problems of the text that are no reason to drop a row: any of digits, symbols, emoji,
            other_script, mojibake.
        spoken_form: write numbers, dates, units and abbreviations as they are read before anything else, so that such
            a row is kept (code spoken_form).
        max_drop_fraction: stop if more than this part of the rows is dropped.
        need_text: a row without text is dropped.
    """

    min_duration_s: float = MIN_DURATION_S
    max_duration_s: float = 30.0
    duration_tolerance_s: float = 0.5
    keep_text_problems: tuple[str, ...] = ()
    max_drop_fraction: float | None = None
    need_text: bool = True
    spoken_form: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_duration_s < self.max_duration_s:
            raise ValueError(f"0 <= min_duration_s < max_duration_s, got {self.min_duration_s}, {self.max_duration_s}")
        if self.max_drop_fraction is not None and not 0 <= self.max_drop_fraction <= 1:
            raise ValueError(f"max_drop_fraction is between 0 and 1, got {self.max_drop_fraction}")
        for code in self.keep_text_problems:
            if code not in PROBLEM_CODES or code == "empty":
                allowed = ", ".join(code for code in PROBLEM_CODES if code != "empty")
                raise ValueError(f"keep_text_problems: {code!r} is none of {allowed}")


class Outcome(NamedTuple):
    """What checking one row gave. `code` is None for a row that is kept; `notes` are (code, detail) of repairs."""

    code: str | None
    detail: str
    file: str
    notes: tuple[tuple[str, str], ...]
    text: str
    spans: list[Any]
    duration_s: float | None
    digest: str | None


def check_row(row: Mapping[str, Any], limits: Limits, need_audio: bool) -> Outcome:
    """Check one row by itself (repeats are the caller's to find). Text comes first: it is cheaper."""
    audio = row.get("audio")
    file = source_name(audio) if audio else ""
    raw, spans = row.get("text") or "", row.get("spans") or []
    notes = [(f"text_{code}", "") for code in text_repairs(raw)]
    if limits.spoken_form:
        from data_scripts.text.spoken import spoken_form  # its tables are loaded where they are used

        written = raw
        raw, spans = spoken_form(written, spans)
        if raw != written:
            notes.append(("spoken_form", f"{written[:60]!r} → {raw[:60]!r}"))
    text, spans = normalize_with_spans(raw, spans)
    if text != raw and not notes:
        notes.append(("text_normalised", f"{raw[:60]!r} → {text[:60]!r}"))
    result = Outcome(None, "", file, tuple(notes), text, spans, row.get("duration_s"), None)
    if not text and limits.need_text:
        return result._replace(code="no_text", detail=f"text is {raw[:60]!r}" if raw else "")
    problems = [code for code in text_problems(raw) if code != "empty" and code not in limits.keep_text_problems]
    if problems:
        return result._replace(code=f"text_{problems[0]}", detail=raw[:200])
    if not need_audio:
        return result
    if not audio:
        return result._replace(code="missing", detail="the row names no audio")
    try:
        decoded, digest = _decode(audio, limits)
    except AudioError as error:
        return result._replace(code=error.code, detail=error.detail)
    decoded_s, stated_s = decoded.info.duration_s, row.get("duration_s")
    if stated_s is not None and abs(decoded_s - stated_s) > limits.duration_tolerance_s:
        code = "truncated" if decoded_s < stated_s else "duration_mismatch"
        return result._replace(code=code, detail=f"{decoded_s:.2f} s of audio, {stated_s:.2f} s stated")
    notes += _audio_notes(decoded, audio)
    return result._replace(notes=tuple(notes), duration_s=decoded_s, digest=digest)


def _decode(audio: Mapping[str, Any], limits: Limits) -> tuple[DecodedAudio, str | None]:
    """The samples and a digest of the file; None for a file too big to hold beside its samples."""
    audio = with_content(audio)
    content = audio.get("bytes")
    digest = None if content is None else hashlib.blake2b(content, digest_size=12).hexdigest()
    decoded = decode_audio(audio, min_duration_s=limits.min_duration_s, max_duration_s=limits.max_duration_s)
    return decoded, digest


def with_content(audio: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same with the bytes of its file, unless that cannot be read (decoding says why) or is too big to hold."""
    path = audio.get("path")
    if audio.get("bytes") is None and path and os.path.isfile(path) and os.path.getsize(path) <= HASH_LIMIT_BYTES:
        try:
            with open(path, "rb") as file:
                return {"path": path, "bytes": file.read()}
        except OSError:
            pass
    return audio


def _audio_notes(decoded: DecodedAudio, audio: Mapping[str, Any]) -> list[tuple[str, str]]:
    info = decoded.info
    details = {"downmixed": f"{info.num_channels} channels"}
    notes = [(code, details.get(code, "")) for code in decoded.notes]
    if info.sampling_rate_hz != SAMPLING_RATE_HZ:
        notes.append(("resampled", f"{info.sampling_rate_hz} Hz"))
    suffix = PurePath(audio.get("path") or "").suffix.lower()
    if suffix and suffix not in EXTENSIONS.get(info.container, {suffix}):
        notes.append(("wrong_extension", f"is {info.container}"))
    return notes
