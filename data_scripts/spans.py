"""Language spans: which characters of a text are Vietnamese and which English."""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np

LANGUAGES = ("vi", "en")
_TAG = re.compile(r"\[(/?)([A-Za-z]{2,3})\]")


class Span(TypedDict):
    """Characters `text[start:end]` are in `lang`."""

    start: int
    end: int
    lang: str


class SpanError(ValueError):
    """Spans that do not fit their text, or tags that do not pair."""


def parse_marked_text(text: str) -> tuple[str, list[Span]]:
    """Take `[en]…[/en]` and `[vi]…[/vi]` out of a text.

    >>> parse_marked_text("mai có [en]meeting[/en] lúc ba giờ")  # "there is a meeting at three tomorrow"
    ('mai có meeting lúc ba giờ', [{'start': 7, 'end': 14, 'lang': 'en'}])

    Raises:
        SpanError: a tag of an unknown language, nested, unclosed or never opened; the message gives its position.
    """
    pieces: list[str] = []
    spans: list[Span] = []
    length, last, opened = 0, 0, None
    for tag in _TAG.finditer(text):
        piece = text[last : tag.start()]
        pieces.append(piece)
        length, last = length + len(piece), tag.end()
        closing, lang = bool(tag[1]), tag[2]
        where = f"{tag[0]} at character {tag.start()} of {text!r}"
        if lang not in LANGUAGES:
            raise SpanError(f"{where}: unknown language, allowed are {', '.join(LANGUAGES)}")
        if not closing:
            if opened:
                raise SpanError(f"{where}: [{opened[0]}] is still open; spans do not nest")
            opened = lang, length
        elif not opened or opened[0] != lang:
            raise SpanError(f"{where}: closes nothing")
        else:
            if length > opened[1]:
                spans.append({"start": opened[1], "end": length, "lang": lang})
            opened = None
    if opened:
        raise SpanError(f"[{opened[0]}] is never closed in {text!r}")
    return "".join(pieces) + text[last:], spans


def mark_text(text: str, spans: Iterable[Mapping[str, Any]]) -> str:
    """The inverse of `parse_marked_text`.

    >>> mark_text("mai có meeting", [{"start": 7, "end": 14, "lang": "en"}])
    'mai có [en]meeting[/en]'
    """
    pieces, last = [], 0
    for span in check_spans(text, spans):
        pieces += [text[last : span["start"]], f"[{span['lang']}]{text[span['start'] : span['end']]}[/{span['lang']}]"]
        last = span["end"]
    return "".join(pieces) + text[last:]


def check_spans(text: str, spans: Iterable[Mapping[str, Any]]) -> list[Span]:
    """Spans sorted by start, as plain dicts.

    Raises:
        SpanError: a missing key, a position that is no whole number, outside of the text, empty, overlapping, or an
            unknown language.
    """
    checked: list[Span] = []
    for span in spans:
        if not isinstance(span, Mapping) or not {"start", "end", "lang"} <= set(span):
            raise SpanError(f"a span needs start, end and lang, got {span!r}")
        start, end, lang = span["start"], span["end"], span["lang"]
        if any(isinstance(value, bool) or not isinstance(value, int) for value in (start, end)):
            raise SpanError(f"start and end of a span are whole numbers, got {span!r}")
        if not 0 <= start < end <= len(text):
            raise SpanError(f"span {start}..{end} does not fit a text of {len(text)} characters")
        if lang not in LANGUAGES:
            raise SpanError(f"unknown language {lang!r} of a span, allowed are {', '.join(LANGUAGES)}")
        checked.append({"start": start, "end": end, "lang": lang})
    checked.sort(key=lambda span: span["start"])
    for before, after in pairwise(checked):
        if after["start"] < before["end"]:
            raise SpanError(f"spans {before['start']}..{before['end']} and {after['start']}..{after['end']} overlap")
    return checked


def shuffle_words(text: str, spans: Iterable[Mapping[str, Any]], rng: np.random.Generator) -> tuple[str, list[Span]]:
    """The words of a text in random order, each with its language.

    >>> shuffle_words("mai có meeting", [{"start": 7, "end": 14, "lang": "en"}], np.random.default_rng(1))
    ('meeting mai có', [{'start': 0, 'end': 7, 'lang': 'en'}])

    Args:
        text: words between single spaces.
        spans: languages of its characters; a word has that of the span it starts in.
        rng: decides the order.
    """
    languages = {at: span["lang"] for span in spans for at in range(span["start"], span["end"])}
    words, position = [], 0
    for word in text.split(" "):
        words.append((word, languages.get(position)))
        position += len(word) + 1
    shuffled, moved, position = [words[index] for index in rng.permutation(len(words))], [], 0
    for word, lang in shuffled:
        if lang is not None:
            moved.append(Span(start=position, end=position + len(word), lang=lang))
        position += len(word) + 1
    return " ".join(word for word, _ in shuffled), moved
