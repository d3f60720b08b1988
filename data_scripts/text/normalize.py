"""One written form per word: what labels, hypotheses and metrics are compared in.

`normalize_text` lower-cases, composes (NFC), repairs letters (ð for đ, full-width forms, ligatures), drops zero-width
and control characters, turns punctuation into spaces, and spells each Vietnamese syllable in one way: tone mark in the
new style ("hoà" for "hòa"), i or y by majority ("lý" for "lí", "sĩ" for "sỹ"). English contractions keep their
apostrophe ("don't"). It is idempotent. Digits and symbols that are read aloud ("5%") are left in or dropped without
being spelled out: `text_problems` names the rows where that matters, so that they are dropped or expanded first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from data_scripts.spans import Span, check_spans
from data_scripts.text.syllables import NotASyllable, parse_syllable

NORMALIZER_VERSION = "1.0"

AnySpan = tuple[int, int, str] | Mapping[str, Any]  # characters [start, end) in a language
_SPAN_KEYS = ("start", "end", "lang")

# Far commoner as English words than as the Vietnamese syllables the i/y rule would respell them as ("mi", "bi", "y").
_NEVER_RESPELLED = frozenset({"my", "by", "i"})
_LETTER_REPAIRS = {"ð": "đ", "Ð": "đ", "Đ": "đ", "\u0340": "\u0300", "\u0341": "\u0301", "’": "'", "‘": "'", "ʼ": "'"}
# Full-width and ligature letters, and the mathematical alphabets that social media use for bold text.
_COMPATIBILITY = re.compile("[\ufb00-\ufb06\uff01-\uff5e\U0001d400-\U0001d7ff]")
_CONTRACTION = re.compile(r"(?<=[a-z])'(?=(?:s|t|re|ve|ll|d|m|em|clock)(?![^\W_]))")
_APOSTROPHE_KEPT = "\ue000"  # private use: stands for a contraction's apostrophe while punctuation is dropped


def normalize_text(text: str) -> str:
    """The text in its one written form; `""` when nothing readable is left. Idempotent.

    `"Hòa  đi\\u200b MEETING, lí do?"` -> `"hoà đi meeting lý do"` (Hoà goes to a meeting; the reason?).
    """
    return normalize_with_spans(text, ())[0]


def normalize_with_spans(text: str, spans: Sequence[AnySpan]) -> tuple[str, list[Span]]:
    """(normalised text, spans over it). Words inside an "en" span are cleaned but never respelled as Vietnamese.

    A span's new edges are those of the words it touches, so a label on part of a word covers the word; a span left
    with no words is dropped. Raises `SpanError` for a span outside the text, empty, overlapping or of another
    language.
    """
    labels = as_spans(text, spans)
    chars, origins = _clean(text)
    words: list[str] = []
    word_labels: list[int | None] = []
    for match in re.finditer(r"\S+", chars):
        label = _label_of(origins[match.start() : match.end()], labels)
        language = None if label is None else labels[label]["lang"]
        words.append(match.group() if language == "en" else _canonical_word(match.group()))
        word_labels.append(label)
    return " ".join(words), _respan(words, word_labels, labels)


def _respan(words: Sequence[str], word_labels: Sequence[int | None], labels: Sequence[Span]) -> list[Span]:
    """Spans over the joined words, one for each label that still has words."""
    spans: dict[int, Span] = {}
    offset = 0
    for word, label in zip(words, word_labels, strict=True):
        if label is not None:
            span = spans.setdefault(label, {"start": offset, "end": offset, "lang": labels[label]["lang"]})
            span["end"] = offset + len(word)
        offset += len(word) + 1
    return [spans[label] for label in sorted(spans)]


def as_spans(text: str, spans: Iterable[AnySpan]) -> list[Span]:
    """Spans given as dicts or as (start, end, lang) tuples, sorted and checked against the text (`SpanError`)."""
    return check_spans(text, [dict(zip(_SPAN_KEYS, s, strict=False)) if isinstance(s, tuple) else s for s in spans])


def _label_of(origins: Sequence[int], labels: Sequence[Span]) -> int | None:
    """Index of the first label that covers any of the source offsets."""
    first, last = origins[0], origins[-1]
    for index, span in enumerate(labels):
        if span["start"] <= last and first < span["end"]:
            return index
    return None


def _clean(text: str) -> tuple[str, list[int]]:
    """(text with everything but respelling done, offset in `text` of each of its characters)."""
    if text.isascii():
        lowered, origins = text.lower(), list(range(len(text)))
    else:
        lowered, origins = _compose(text)
    marked = _CONTRACTION.sub(_APOSTROPHE_KEPT, lowered)
    kept = [(_char_class(char), origin) for char, origin in zip(marked, origins, strict=True)]
    return "".join(char for char, _ in kept), [origin for char, origin in kept for _ in char]


def _compose(text: str) -> tuple[str, list[int]]:
    """Lower-case NFC, one base letter with its marks at a time so that offsets survive."""
    pieces: list[str] = []
    origins: list[int] = []
    visible = [(char, i) for i, char in enumerate(text) if not _is_invisible(char)]
    start = 0
    while start < len(visible):
        end = start + 1
        while end < len(visible) and _joins_before(visible[end][0]):
            end += 1
        piece = "".join(_LETTER_REPAIRS.get(char, char) for char, _ in visible[start:end])
        piece = _COMPATIBILITY.sub(lambda match: unicodedata.normalize("NFKC", match.group()), piece)
        # Twice, because lower-casing can decompose (İ) and composing can meet a repaired mark.
        piece = unicodedata.normalize("NFC", unicodedata.normalize("NFC", piece).lower())
        pieces.append(piece)
        origins.extend([visible[start][1]] * len(piece))
        start = end
    return "".join(pieces), origins


@lru_cache(maxsize=8192)
def _joins_before(char: str) -> bool:
    """Whether composing may merge the character into the one before: marks, and Hangul vowels and finals."""
    return unicodedata.category(char)[0] == "M" or "\u1160" <= char <= "\u11ff"


@lru_cache(maxsize=8192)
def _is_invisible(char: str) -> bool:
    """Zero-width, soft hyphen, byte-order mark, direction marks, variation selectors, controls that are not spaces."""
    return (unicodedata.category(char) in ("Cf", "Cc", "Cs", "Co", "Cn") and not char.isspace()) or (
        "\ufe00" <= char <= "\ufe0f"
    )


@lru_cache(maxsize=8192)
def _char_class(char: str) -> str:
    """What a character becomes: itself for letters, marks and digits, nothing if invisible, else a space."""
    if char == _APOSTROPHE_KEPT:
        return "'"
    if _is_invisible(char):
        return ""
    # º and ª count as letters to Unicode; here they are degrees and ordinals.
    return char if unicodedata.category(char)[0] in "LMN" and char not in "ºª" else " "


@lru_cache(maxsize=65536)
def _canonical_word(word: str) -> str:
    """The one spelling of a Vietnamese syllable; any other word unchanged."""
    if word in _NEVER_RESPELLED:
        return word
    try:
        return parse_syllable(word).spell()
    except NotASyllable:
        return word


# Problems that normalisation cannot mend: the words said are not on the page. A row with any of them is dropped.
PROBLEM_CODES = {
    "empty": "no letters or digits",
    "digits": "digits: written out as said first ('15' may be mười lăm or một năm)",
    "symbols": "signs that are read aloud (%, &, @, +, =, $, €, °, ...)",
    "emoji": "emoji or pictographs",
    "other_script": "letters of another script (Han, Cyrillic look-alikes, ...)",
    "mojibake": "text decoded with the wrong encoding",
}
# What `normalize_text` mends by itself: worth counting, no reason to drop.
REPAIR_CODES = {
    "nfd": "not composed (NFC)",
    "zero_width": "zero-width or other invisible characters",
    "control": "control characters",
    "space": "no-break or other unusual spaces",
    "letters": "look-alike letters: ð for đ, full-width forms, ligatures",
}
_SPOKEN_SIGNS = re.compile(r"[%‰&@+=<>×÷±°ºª№§©®™]")
_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u23e9-\u23fa\u231a\u231b\ufe0f\u20e3]")
# UTF-8 read as Latin-1 or cp1252: "Tiáº¿ng Viá»‡t".
_MOJIBAKE = re.compile("\ufffd|Ã[\u0080-\u00bf]|Ä[‘\u0090\u0091]|á[º»]|Æ[°¡]|â€")


def text_problems(text: str) -> list[str]:
    """Codes (keys of `PROBLEM_CODES`) of what keeps the raw text from being a label; `[]` when it is fit."""
    found = set()
    composed = unicodedata.normalize("NFC", text)
    if not composed.isascii():
        for char in set(composed):
            found.update(_char_problems(char))
        if _MOJIBAKE.search(composed):
            found.add("mojibake")
    if any(char.isdigit() or char.isnumeric() for char in composed):
        found.add("digits")
    if _SPOKEN_SIGNS.search(composed) or "$" in composed:
        found.add("symbols")
    if not normalize_text(text):
        found.add("empty")
    return [code for code in PROBLEM_CODES if code in found]


@lru_cache(maxsize=8192)
def _char_problems(char: str) -> tuple[str, ...]:
    if _EMOJI.match(char):
        return ("emoji",)
    category = unicodedata.category(char)
    if category == "Sc" or char in "ºª":
        return ("symbols",)
    repaired = _compose(char)[0]
    if (
        category[0] == "L"
        and repaired
        and not all("LATIN" in unicodedata.name(c, "") for c in repaired if c.isalpha())
    ):
        return ("other_script",)
    return ()


def text_repairs(text: str) -> list[str]:
    """Codes (keys of `REPAIR_CODES`) of what `normalize_text` mends in the text; informational."""
    found = set()
    if unicodedata.normalize("NFC", text) != text:
        found.add("nfd")
    for char in set(text):
        if _is_invisible(char):
            found.add("control" if unicodedata.category(char) == "Cc" else "zero_width")
        elif char.isspace() and char not in " \t\n\r":
            found.add("space")
        elif char in "ðÐ" or _COMPATIBILITY.match(char):
            found.add("letters")
    return [code for code in REPAIR_CODES if code in found]
