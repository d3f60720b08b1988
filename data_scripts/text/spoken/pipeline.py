"""Written text to spoken text, with the language spans moved along.

Two regular expressions look for what may have to be read; at each such place the rules for its kind (digit, sign,
word) are asked in order, and the first that answers wins. A rule sees what is left of its place, so "2-1" after
"tỉ số" is two numbers and "10-15" before "người" a range. Text inside an "en" span is read in English.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from data_scripts.spans import Span
from data_scripts.text.normalize import AnySpan, as_spans, text_problems
from data_scripts.text.spoken import addresses, codes, english_numbers, figures, names, quantities, signs, times
from data_scripts.text.spoken.names import UPPER
from data_scripts.text.spoken.numbers import Numerals, numerals
from data_scripts.text.spoken.reading import Place, Rule, first_reading

SPOKEN_FORM_VERSION = "1.0"

_MOST_PASSES = 4  # what is read may complete something else to read; nearly always one pass does all
_SIGNS = r"%‰&@+=<>×÷±°º№§©®™$€£¥₫₩¢~≈≤≥≠√∞⋅½⅓⅔¼¾⅕⅛℃℉#⁰¹²³⁴-⁹"
_BARE_UNITS = [symbol for symbol, row in quantities.units().items() if row[1] == "alone" and symbol[0].isalpha()]
_BARE_UNITS += [symbol.replace("2", "²").replace("3", "³") for symbol in _BARE_UNITS if symbol[-1] in "23"]
_UNIT_WORDS = "|".join(map(re.escape, sorted(_BARE_UNITS, key=len, reverse=True)))
# A text without any of these is returned as it is.
_ANYTHING = re.compile(
    rf"[\d{_SIGNS}]|[{UPPER}][{UPPER}]|(?<![^\W_])[IVXCF](?![^\W_])|[^\W\d_A-Z][A-ZĐ]|://|[^\W\d_]\.[^\W\d_]"
    rf"|(?<![^\W_])(?:[A-ZĐa-z][a-z]{{0,2}}\.|(?:{_UNIT_WORDS})(?![^\W_])|vv\.|vd[:.]|[Tt]p )"
)
_SIGN_PLACES = (
    rf"[{_SIGNS}]",
    rf"[{signs.DASHES}](?=\s?[\d$€£+(IVX])",
    r"(?<=\d)\s?[x*](?=\s?\d)",  # 1920x1080
    r"/(?=\s?\w)",
    r"\((?=(?:0\d{1,3}|\+84)\)[\s.-]?\d)",  # (024) 3825 1234
)
_WORD_PLACES = (
    rf"[{UPPER}][{UPPER}&]",  # UBND, R&D
    r"[^\W\d_]{1,14}-?\d",  # F0, Covid-19
    rf"[^\W\d_]*[^\W\d_{UPPER}][A-ZĐ]",  # ThS, iOS
    r"[IVXCF](?![^\W_])",  # numerals, degrees
    r"[^\W\d_]{1,5}\.",  # TS., Q.
    r"vd:|[Tt]p |[ACS]\$",
    rf"(?:{_UNIT_WORDS})(?![^\W_])",
)
_CANDIDATE = re.compile(
    rf"(?P<digit>\d)|(?P<sign>{'|'.join(_SIGN_PLACES)})|(?<![^\W_])(?P<word>{'|'.join(_WORD_PLACES)})"
)
_ADDRESS_HINT = re.compile(r"@\w|://|[a-zA-Z0-9]\.[a-zA-Z]{2}")
_CANDIDATE_OR_ADDRESS = re.compile(
    r"(?P<address>(?<![\w@.])(?:https?://|www\.|[\w.+-]+@\w|[A-Za-z][\w-]*\.[A-Za-z]))|" + _CANDIDATE.pattern
)
_ENGLISH_CANDIDATE = re.compile(rf"(?P<digit>\d)|(?P<sign>[{_SIGNS}−-])|(?<![^\W_])(?P<word>[A-Za-z]*[A-Z])")

_RULES: dict[str | None, tuple[Rule, ...]] = {
    "digit": (
        codes.plate, codes.phone, times.full_date, codes.document, codes.serial,
        times.month_and_year, times.day_and_month,
        times.time_of_day, figures.ordinal, figures.english_ordinal,
        figures.version, figures.score, figures.fraction,
        quantities.quantity, codes.code, figures.plain_number,
    ),
    "sign": (
        codes.phone, signs.currency_first, signs.vulgar_fraction, signs.superscript, signs.dash,
        signs.plus_or_minus, signs.times, signs.about,
        addresses.hashtag, signs.number_sign, quantities.bare_unit, signs.operator, quantities.per, signs.slash,
        signs.word_sign,
    ),
    "word": (
        names.abbreviation, signs.currency_first, names.roman, names.degree_letter, quantities.bare_unit, codes.code,
        names.capitals,
    ),
}  # fmt: skip
_ENGLISH_RULES: dict[str | None, tuple[Rule, ...]] = {
    "digit": (english_numbers.english_number,),
    "sign": (english_numbers.english_money, english_numbers.english_sign),
    "word": (english_numbers.english_capitals,),
}

_Edit = tuple[int, int, tuple[tuple[str, str | None], ...]]  # start, end, what is said instead
_Segment = tuple[str, str | None]  # text, its language if it is labelled


def spoken_form(text: str, spans: Iterable[AnySpan] = (), dialect: str = "north") -> tuple[str, list[Span]]:
    """(text as it is said, spans over it); words that need no reading keep their form.

    `"Giá 3km là 1,5 tỷ"` -> `"Giá ba ki lô mét là một phẩy năm tỷ"`. Never fails on any text; saying it twice changes
    nothing more.

    Args:
        text: written text, in any Unicode form.
        spans: (start, end, lang) tuples or the row schema's dicts. Inside an "en" span numbers, signs and acronyms
            are read in English; English that the reading itself brings in ("GDP" -> "g d p") gets a span.
        dialect: "north" (nghìn, linh, hai mươi tư) or "south" (ngàn, lẻ, hai mươi bốn).

    Raises:
        SpanError: spans that do not fit the text. ValueError: another dialect.
    """
    labels = as_spans(text, spans) if spans else []
    numbers = numerals(dialect)
    for _ in range(_MOST_PASSES):
        if not _ANYTHING.search(text):
            break
        segments = _segments(text, labels)
        if not unicodedata.is_normalized("NFC", text):
            segments = [(unicodedata.normalize("NFC", part), lang) for part, lang in segments]
        whole = "".join([part for part, _ in segments])
        capitals = names.in_capitals(whole)
        edits: list[list[_Edit]] = []
        start = 0
        for part, lang in segments:
            edits.append(_scan(whole, start, start + len(part), lang, numbers, capitals))
            start += len(part)
        if not any(edits):
            break
        text, labels = _apply(whole, segments, edits, lower=capitals)
    return text, labels


def _segments(text: str, labels: Sequence[Span]) -> list[_Segment]:
    """The text cut at the edges of spans."""
    segments: list[_Segment] = []
    last = 0
    for span in labels:
        segments += [(text[last : span["start"]], None), (text[span["start"] : span["end"]], span["lang"])]
        last = span["end"]
    return [*segments, (text[last:], None)]


def _scan(text: str, start: int, end: int, lang: str | None, numbers: Numerals, capitals: bool) -> list[_Edit]:
    """What to say instead of pieces of `text[start:end]`, from left to right."""
    edits: list[_Edit] = []
    candidate, rules = (_ENGLISH_CANDIDATE, _ENGLISH_RULES) if lang == "en" else (_CANDIDATE, _RULES)
    if lang != "en" and _ADDRESS_HINT.search(text, start, end):
        candidate = _CANDIDATE_OR_ADDRESS
    at = start
    while (match := candidate.search(text, at, end)) is not None:
        at, kind = match.start(), match.lastgroup
        place = Place(text, at, end, numbers, capitals)
        reading = None
        if kind == "address":
            reading = addresses.address(place)
            kind = "digit" if text[at].isdecimal() else "word"
        reading = reading or first_reading(rules[kind], place)
        if reading is None:
            at += 1
        else:
            edits.append((at, reading.end, reading.pieces))
            at = reading.end
    return edits


def _apply(
    text: str, segments: Sequence[_Segment], edits: Sequence[Sequence[_Edit]], lower: bool
) -> tuple[str, list[Span]]:
    """The text with every edit made, and the spans of its segments and of the languages that edits bring in."""
    out = _Output(lower)
    start = 0
    for number, ((part, lang), changes) in enumerate(zip(segments, edits, strict=True)):
        label = None if lang is None else (lang, number)
        last, end = start, start + len(part)
        for place, stop, pieces in changes:
            out.keep(text[last:place], label)
            for words, language in pieces:
                # English inside an English span is part of that span.
                out.say(words, label if language in (None, lang) else (language, -out.length - 1))
            last = stop
            if pieces and last < end and text[last].isalnum():
                out.keep(" ", None)
        out.keep(text[last:end], label)
        start = end
    return out.text, out.spans()


class _Output:
    """Spoken text under construction, with the label of each stretch of it."""

    def __init__(self, lower: bool) -> None:
        self._lower = lower  # a text in capitals: what is left of it must not be taken for acronyms later
        self._parts: list[str] = []
        self._stretches: list[tuple[int, int, tuple[str, int]]] = []
        self._last = ""
        self.length = 0

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def keep(self, text: str, label: tuple[str, int] | None) -> None:
        """Append text as it is."""
        if not text:
            return
        text = text.lower() if self._lower else text
        if label is not None:
            self._stretches.append((self.length, self.length + len(text), label))
        self._parts.append(text)
        self.length += len(text)
        self._last = text[-1]

    def say(self, words: str, label: tuple[str, int] | None) -> None:
        """Append words, apart from a word before."""
        if self._last.isalnum():
            self.keep(" ", None)
        self.keep(words, label)

    def spans(self) -> list[Span]:
        """A span for each label, over the words from its first stretch to its last; cut where another lies within."""
        spans: list[Span] = []
        label_of_last = None
        text = self.text
        for start, end, label in self._stretches:
            piece = text[start:end]
            start, end = start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())
            if start >= end:
                continue
            if label == label_of_last:
                spans[-1]["end"] = end
            else:
                spans.append({"start": start, "end": end, "lang": label[0]})
            label_of_last = label
        return spans


_UNREAD = re.compile(r"[\d" + _SIGNS + "]+")


def unspoken(text: str) -> list[str]:
    """Digits, signs, emoji and letters of other scripts that `spoken_form` leaves, in order, each once."""
    said, _ = spoken_form(text)
    if said.isascii() and not _UNREAD.search(said):
        return []
    found: dict[str, None] = {}
    run = ""
    for char in [*said, " "]:
        if _is_unread(char):
            run += char
        elif run:
            found[run] = None
            run = ""
    return list(found)


@lru_cache(maxsize=8192)
def _is_unread(char: str) -> bool:
    problems = text_problems(char)
    return bool(problems) and problems != ["empty"]
