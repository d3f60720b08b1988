"""What a row is. Every reader produces these columns and every consumer may rely on them.

`audio` holds an encoded file (`{"path", "bytes"}`, decoded where it is used), `text` is normalised by
`data_scripts.text.normalize`, `spans` are character offsets into `text` and empty where nobody labelled languages.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from datasets import Features, List, Value

from data_scripts.audio import SAMPLING_RATE_HZ, SoundfileAudio
from data_scripts.readers import closest
from data_scripts.spans import LANGUAGES, Span, SpanError, check_spans, parse_marked_text

__all__ = ["COLUMNS", "DIALECTS", "EMOTIONS", "FEATURES", "LANGUAGES", "TEXT_FEATURES", "Row", "SchemaError", "Span"]

DIALECTS = ("north", "central", "south")
EMOTIONS = (
    "neutral",
    "negative",
    "positive",
    "calm",
    "happy",
    "surprised",
    "sad",
    "angry",
    "fearful",
    "disgust",
)

_METADATA = {
    "text": Value("string"),
    "speaker": Value("string"),
    "dialect": Value("string"),
    "spans": List({"start": Value("int32"), "end": Value("int32"), "lang": Value("string")}),
    "emotion": Value("string"),
    "corpus": Value("string"),
}
FEATURES = Features(
    {
        "id": Value("string"),
        "audio": SoundfileAudio(sampling_rate=SAMPLING_RATE_HZ, decode=False),
        "duration_s": Value("float64"),
        **_METADATA,
    }
)
TEXT_FEATURES = Features({"id": Value("string"), **_METADATA})
COLUMNS = tuple(FEATURES)


class Row(TypedDict):
    """One utterance; a row of text alone lacks `audio` and `duration_s`, which is None only for unreadable files."""

    id: str
    audio: NotRequired[dict[str, Any] | None]
    duration_s: NotRequired[float | None]
    text: str
    speaker: str | None
    dialect: str | None
    spans: list[Span]
    emotion: str | None
    corpus: str


class SchemaError(ValueError):
    """A value that does not fit the schema; the message names the row, the key, what was got and what is allowed."""


def coerce_metadata(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The columns beside `id` and `audio` of a row, checked.

    Args:
        raw: by schema name; `marked_text` (`[en]…[/en]` inside) may stand for `text` and `spans`; `spans` may be a
            JSON string, `duration_s` a numeric one; a missing value is None or an empty string.
        where: names the row in messages, as "metadata.csv:17".

    Raises:
        SchemaError
    """
    text, spans = raw.get("text"), raw.get("spans")
    if raw.get("marked_text") is not None:
        marked = _string(raw["marked_text"], "marked_text", where) or ""
        try:
            text, spans = parse_marked_text(marked)
        except SpanError as error:
            raise SchemaError(f"{where}: marked_text: {error}") from error
    text = _string(text, "text", where) or ""
    try:
        checked = check_spans(text, _spans(spans, where))
    except SpanError as error:
        raise SchemaError(f"{where}: spans: {error}") from error
    row = {
        "text": text,
        "speaker": _string(raw.get("speaker"), "speaker", where, number_allowed=True),
        "dialect": _choice(raw.get("dialect"), "dialect", DIALECTS, where),
        "spans": checked,
        "emotion": _choice(raw.get("emotion"), "emotion", EMOTIONS, where),
        "corpus": _string(raw.get("corpus"), "corpus", where) or "",
    }
    if "duration_s" in raw:
        row["duration_s"] = _duration(raw["duration_s"], where)
    return row


def _string(value: Any, key: str, where: str, *, number_allowed: bool = False) -> str | None:
    if value is None or value == "":
        return None
    if number_allowed and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # speaker numbers
    if not isinstance(value, str):
        raise SchemaError(f"{where}: {key} must be a string, got {type(value).__name__} {value!r}")
    return value


def _choice(value: Any, key: str, allowed: Sequence[str], where: str) -> str | None:
    text = _string(value, key, where)
    if text is None or not text.strip():
        return None
    text = text.strip().lower()
    if text not in allowed:
        hint = closest(text, allowed)
        raise SchemaError(f"{where}: unknown {key} {value!r}; allowed are {', '.join(allowed)} or nothing.{hint}")
    return text


def _duration(value: Any, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        seconds = float(value)
    except (TypeError, ValueError):
        raise SchemaError(f"{where}: duration_s must be a number of seconds, got {value!r}") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise SchemaError(f"{where}: duration_s must be at least 0 and finite, got {value!r}")
    return seconds


def _spans(value: Any, where: str) -> Sequence[Mapping[str, Any]]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise SchemaError(
                f"{where}: spans is not JSON ({error.msg} at character {error.pos}): {value!r}"
            ) from None
    if isinstance(value, Mapping):  # the columnar form some readers give a list of structs
        value = [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise SchemaError(f"{where}: spans must be a list of {{start, end, lang}}, got {value!r}")
    return value
