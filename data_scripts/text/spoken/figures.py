"""Numbers that are not counted off: scores, fractions, ordinals, versions; and digits that no other rule takes."""

from __future__ import annotations

import re

from data_scripts.text.spoken import english_numbers
from data_scripts.text.spoken.numbers import NUMBER
from data_scripts.text.spoken.quantities import NAMED_BY_DIGITS
from data_scripts.text.spoken.reading import Place, Reading, say, words_of

_NUMBER = re.compile(NUMBER)
_DIGITS = re.compile(r"\d+")
_GROUPED = re.compile(r"\d{1,3}(?:[., ]\d{3})+")
_VERSION = re.compile(r"\d+(?:\.\d+){2,}(?![\w])")
_SCORE = re.compile(r"(\d{1,3})\s?[-–—:]\s?(\d{1,3})(?![\d%/]|[.,:-]\d)")
# "tỉ số", "thắng đối thủ", or sets before: "6-4, 6-3"; "dẫn đến 2-3" counts.
_SCORE_BEFORE = re.compile(
    r"(?:t[ỉỷ] số|kết quả|chung cuộc|thắng|thua|hòa|hoà|dẫn|hạ|bại|gỡ|cách biệt)"
    r"(?: (?!từ|đến|tới|khoảng|hơn|gần)\w+){0,2}\s(?:\d{1,2}\s?[-–]\s?\d{1,2}(?:,| và|;)\s)*$"
)
_EQUALS = re.compile(r"\s?=")
_SLASHED = re.compile(r"(\d{1,6})\s?/\s?(\d{1,6})(?![\d/]|[^\W\d_]|[.,]\d)")
_BYTES = re.compile(r"\s?[MGT]B(?!\w)")
_MONTH_FOLLOWS = re.compile(r"\s?tháng(?!\w)")
_HOUSE_WORDS = words_of("số nhà ngõ hẻm ngách kiệt đường phố lô thửa")
_ENGLISH_ORDINAL = re.compile(r"(\d{1,3})(st|nd|rd|th)(?!\w)")


def version(place: Place) -> Reading | None:
    """2.5.1: three or more parts that are no thousands."""
    match = place.match(_VERSION)
    if match is None or _GROUPED.fullmatch(match.group()):
        return None
    return say(match.end(), " chấm ".join([place.numerals.plain(part) for part in match.group().split(".")]))


def score(place: Place) -> Reading | None:
    """tỉ số 2-1, thắng 3-0: the two numbers alone. A higher number before a lower one is no range either."""
    match = place.match(_SCORE)
    if match is None or place.match(_EQUALS, match.end()):
        return None
    first, second = match[1], match[2]
    expected = _SCORE_BEFORE.search(place.left(60)) is not None
    if ":" in match.group():
        if place.last == "lệ":
            return say(match.end(), f"{place.numerals.plain(first)} trên {place.numerals.plain(second)}")
        if not expected:
            return None
    elif not expected and int(first) < int(second):
        return None
    return say(match.end(), f"{place.numerals.plain(first)} {place.numerals.plain(second)}")


def fraction(place: Place) -> Reading | None:
    """3/4 "ba phần tư"; 24/7, nhà số 12/5, 120/100: "trên"."""
    match = place.match(_SLASHED)
    if match is None:
        return None
    first, second = int(match[1]), int(match[2])
    numerals = place.numerals
    if (
        place.last in _HOUSE_WORDS
        or place.match(_BYTES, match.end())
        or not 0 < first < second <= 100
        or match[1][0] == "0"
        or (first, second) == (24, 7)
    ):
        return say(match.end(), f"{numerals.plain(match[1])} trên {numerals.plain(match[2])}")
    if place.match(_MONTH_FOLLOWS, match.end()):
        return say(match.end(), f"{numerals.integer(first)} hoặc {numerals.integer(second)}")
    below = "tư" if second == 4 else numerals.integer(second)
    return say(match.end(), f"{numerals.integer(first)} phần {below}")


def ordinal(place: Place) -> Reading | None:
    """thứ 1 "nhất", thứ 4 "tư", lần thứ 4; tháng 4 "tư"."""
    if place.last not in ("thứ", "tháng"):
        return None
    match = place.match(_NUMBER)
    if match is None:
        return None
    written = match.group().lstrip("0")
    if written == "4":
        return say(match.end(), "tư")
    return say(match.end(), "nhất") if written == "1" and place.last == "thứ" else None


def english_ordinal(place: Place) -> Reading | None:
    """1st, 2nd, 21st: in English."""
    match = place.match(_ENGLISH_ORDINAL)
    return None if match is None else Reading(match.end(), ((english_numbers.ordinal(int(match[1])), "en"),))


def plain_number(place: Place) -> Reading | None:
    """Digits that no other rule takes."""
    match = place.match(_DIGITS)
    assert match is not None
    if NAMED_BY_DIGITS.search(place.left(40)):
        return say(match.end(), place.numerals.digits(match.group()))
    return say(match.end(), place.numerals.plain(match.group()))
