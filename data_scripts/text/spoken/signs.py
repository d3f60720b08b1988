"""Signs that are said: minus, ranges, plus, equals, and, per cent, currency before a number."""

from __future__ import annotations

import re
import unicodedata

from data_scripts.text.spoken.numbers import NUMBER
from data_scripts.text.spoken.quantities import units
from data_scripts.text.spoken.reading import Place, Reading, say

DASHES = "-–—−"
_CURRENCY = re.compile(
    r"((?:US|HK|NT|A|C|S)\$|\$US|[$€£¥₩₫]|USD|VND|VNĐ|EUR|GBP|JPY)\s?(" + NUMBER + r")(?:(k|K|tr|M|B)(?!\w))?"
)
_MAGNITUDES = re.compile(r"\s?(trăm|nghìn|ngàn|triệu|tỷ|tỉ|million|billion)(?!\w)(?:\s(tỷ|tỉ|triệu)(?!\w))?", re.I)
_MAGNITUDE_NAMES = {"million": "triệu", "billion": "tỷ", "k": "nghìn", "tr": "triệu", "m": "triệu", "b": "tỷ"}
_NAMED_CURRENCY = re.compile(r"\s?(?:đô la|đôla|đô-la|usd|mỹ kim|euro|bảng|yên)", re.I)
_RANGE = re.compile(rf"\s?[{DASHES}]\s?(?=[\d+$€£−-]|[IVX]+\b)")
_QUANTITY_END = re.compile(r"(?:\d|[%‰°€£$₫]|\d\s?(?:[^\W\d_]{1,4}[23²³]?)|(?<![^\W\d_])[IVX]+)['’′\"”]?$")
_EQUATION = re.compile(r"\s?[\d.,]+\s?=")
_MINUS = re.compile(rf"[{DASHES}](?=\d)")
_FRACTIONS = {"½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅛": (1, 8)}
_OPERATORS = {
    "+": "cộng", "=": "bằng", "×": "nhân", "÷": "chia", "<": "nhỏ hơn", ">": "lớn hơn", "≤": "nhỏ hơn hoặc bằng",
    "≥": "lớn hơn hoặc bằng", "±": "cộng trừ", "≈": "xấp xỉ", "≠": "khác", "√": "căn", "∞": "vô cùng", "⋅": "nhân",
}  # fmt: skip
_WORDS = {"&": "và", "%": "phần trăm", "‰": "phần nghìn", "№": "số", "§": "mục", "°": "độ", "@": "a còng"}
_SILENT = "®™©"
_BEFORE_NUMBER = re.compile(r"\s?[\d(+−–√$-]")
_OPERAND = re.compile(r"(?:(?:^|\W)\w|[\d)²³%])\s?$")
_PLUS_MINUS = re.compile(r"\+\s?/\s?[-−–]")
_TIMES = re.compile(r"\s?([x*])\s?(?=\d)")
_SUPERSCRIPT = re.compile("⁻?[⁰¹²³⁴-⁹]+")
_FACTOR = re.compile(r"(?:(?<![^\W_])[^\W_]{1,2}|\))$")
_ARROW = re.compile(r"=+>|>>")


def currency_first(place: Place) -> Reading | None:
    """$5, €1,5 tỷ, USD 1,5 tỷ, $20k, US$ 3 million."""
    match = place.match(_CURRENCY)
    if match is None:
        return None
    words, end = place.numerals.number(match[2]), match.end()
    if match[3]:
        name = _MAGNITUDE_NAMES[match[3].lower()]
        words += f" {place.numerals.thousand if name == 'nghìn' else name}"
    elif magnitude := place.match(_MAGNITUDES, end):
        names = magnitude.group().lower().split()
        words = " ".join([words, *[_MAGNITUDE_NAMES.get(name, name) for name in names]])
        end = magnitude.end()
    if place.match(_NAMED_CURRENCY, end):
        return say(end, words)
    return say(end, f"{words} {units()[match[1].replace('$US', 'US$')][0]}")


def vulgar_fraction(place: Place) -> Reading | None:
    """½: "một phần hai"."""
    parts = _FRACTIONS.get(place.text[place.start])
    if parts is None:
        return None
    above, below = parts
    numerals = place.numerals
    said = f"{numerals.integer(above)} phần {'tư' if below == 4 else numerals.integer(below)}"
    return say(place.start + 1, f"và {said}" if place.previous.isdecimal() else said)


def dash(place: Place) -> Reading | None:
    """Between numbers "đến"; before a number alone "âm"; elsewhere punctuation."""
    if place.text[place.start] not in DASHES:
        return None
    left = place.text[max(0, place.start - 12) : place.start].rstrip(" ")
    match = place.match(_RANGE) if _QUANTITY_END.search(left) else None
    if match is not None and not (place.previous == " " and match.group() == "−"):
        return say(match.end(), "trừ" if place.match(_EQUATION, match.end()) else "đến")
    if (match := place.match(_MINUS)) and (not place.previous or place.previous in ' \t\n\u00a0([{/=<>,;:"“~±×÷'):
        return say(match.end(), "âm")
    return None


def plus_or_minus(place: Place) -> Reading | None:
    """+/- before a number."""
    match = place.match(_PLUS_MINUS)
    return None if match is None else say(match.end(), "cộng trừ")


def superscript(place: Place) -> Reading | None:
    """x² "x mũ hai"; after a word it is the mark of a footnote, which is not read."""
    match = place.match(_SUPERSCRIPT)
    if match is None:
        return None
    if not _FACTOR.search(place.left(4)):
        return Reading(match.end(), ())
    digits = unicodedata.normalize("NFKC", match.group()).lstrip("−")
    minus = "âm " if match.group()[0] == "⁻" else ""
    return say(match.end(), f"mũ {minus}{place.numerals.plain(digits)}") if digits.isdecimal() else None


def operator(place: Place) -> Reading | None:
    """+ = × < >: next to a number, or between single letters as in "a + b = c"."""
    sign = place.text[place.start]
    if place.match(_ARROW) or (sign == ">" and place.previous in DASHES + "=>"):
        return Reading(place.start + 1, ())
    word = _OPERATORS.get(sign)
    if word is None:
        return None
    if sign in "<>" and not place.match(_BEFORE_NUMBER, place.start + 1) and not _OPERAND.search(place.left(3)):
        return None  # a tag or a quotation
    if sign in "+=" and not place.match(_BEFORE_NUMBER, place.start + 1) and not place.before:
        return Reading(place.start + 1, ()) if sign == "+" else None  # a bullet
    return say(place.start + 1, word)


def times(place: Place) -> Reading | None:
    """The x or * of 1920x1200 and 2 * 3."""
    if not re.search(r"\d\s?$", place.text[max(0, place.start - 2) : place.start]):
        return None
    match = place.match(_TIMES)
    return None if match is None else say(match.end(), "nhân")


def about(place: Place) -> Reading | None:
    """~ before a number: "khoảng"."""
    if place.text[place.start] == "~" and re.match(r"\s?\d", place.text[place.start + 1 : place.end]):
        return say(place.start + 1, "khoảng")
    return None


def number_sign(place: Place) -> Reading | None:
    """#1: "số một"."""
    if place.text[place.start] == "#" and place.text[place.start + 1 : min(place.start + 2, place.end)].isdecimal():
        return say(place.start + 1, "số")
    return None


def slash(place: Place) -> Reading | None:
    """/ between digits."""
    following = place.text[place.start + 1 : min(place.start + 2, place.end)]
    if place.text[place.start] == "/" and place.previous.isdecimal() and following.isdecimal():
        return say(place.start + 1, "trên")
    return None


def word_sign(place: Place) -> Reading | None:
    """& "và", and signs of units away from numbers; ® and ™ are silent."""
    sign = place.text[place.start]
    if sign in _SILENT:
        return Reading(place.start + 1, ())
    word = _WORDS.get(sign) or units().get(sign, ("",))[0]
    return say(place.start + 1, word) if word else None
