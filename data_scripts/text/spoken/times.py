"""Dates and times of day.

"/", "-" and "." divide dates. A bare "3/4" is a date only in the company of "ngày", "sáng", "lễ" …, or where it can be
no fraction one would say ("20/11"). Months: 4 is "tháng tư". A full date gets its "ngày" if it is not written.
"""

from __future__ import annotations

import re

from data_scripts.text.spoken.numbers import Numerals
from data_scripts.text.spoken.reading import Place, Reading, say, words_of

# Words that a day and month follow.
_DAY_WORDS = words_of("ngày sáng trưa chiều tối đêm khuya hôm mùng mồng mồng rằm lễ kiện dịp tết nghỉ")
_ALREADY_DAY = frozenset(("ngày", "mùng", "mồng", "hôm"))
_WEEKDAYS = frozenset(f"thứ {word}" for word in words_of("hai ba tư năm sáu bảy 2 3 4 5 6 7")) | {"chủ nhật"}
_MONTH_WORDS = frozenset(("tháng",))
# Denominators of fractions that are said as such; 7/10 is ambiguous, and far more often a date.
_COMMON_FRACTION = {(n, d) for d in (2, 3, 4, 5) for n in range(1, d)} | {(1, d) for d in (6, 7, 8, 10)}

_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?![\d-])")
_FULL = re.compile(r"(\d{1,2})\s?([/.-])\s?(\d{1,2})\s?\2\s?(\d{4})(?![\d/]|[.,-]\d)")
_SHORT_YEAR = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{2})(?![\d/]|[.,-]\d)")
_MONTH_YEAR = re.compile(r"(\d{1,2})\s?[/-]\s?((?:1[0-9]|20|21)\d{2})(?![\d/]|[.,-]\d)")
_MONTH_DOT_YEAR = re.compile(r"(\d{1,2})\.((?:19|20)\d{2})(?![\d/]|[.,-]\d)")
_DAY_MONTH = re.compile(r"(\d{1,2})\s?([/.-])\s?(\d{1,2})(?![\d/%]|[^\W\d_]|[.,]\d|-\d{2,})")
_DATE_BEFORE = re.compile(r"\d/\d{1,2}(?:/\d{4})?\s?(?:[-–,]|đến|tới|và|hoặc)\s?$")
_DATE_AFTER = re.compile(r"\s?(?:[-–]|đến|tới)\s?(?:ngày )?\d{1,2}/\d{1,2}(?![\d/])")
_NOT_A_DATE = re.compile(r"\s?(?:tháng|triệu|tỷ|tỉ|nghìn|[KMGT]B|kg|km|cm|mm|m|inch)(?!\w)|\s?%")
_HOUR = re.compile(
    r"(\d{1,2})\s?(?:h|g(?=\d\d)|giờ(?=\d))\s?(?:(\d{1,2})(?:['’′]|\s?phút|ph?)?)?(?:(\d{1,2})s)?(?![\w])", re.I
)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?(?:h)?(?![\w:]|[.,]\d)")
_TITLE = re.compile(r"[”\")]?\s?[-–—(]\s?$")  # "More, More, More" – 4:42
_ENDS = re.compile(r"\)?\s*$")
_HALF_DAY = re.compile(r"\s?(?:([ap])\.?m\b\.?)", re.I)
_RATIO_WORDS = frozenset(("tỉ lệ", "tỷ lệ", "tỉ số", "tỷ số"))


def _is_day(day: int, month: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= (29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31)


def _month(numerals: Numerals, month: int) -> str:
    return "tháng tư" if month == 4 else f"tháng {numerals.integer(month)}"


def _date(numerals: Numerals, day: int, month: int, year: int | None = None) -> str:
    words = f"{numerals.integer(day)} {_month(numerals, month)}"
    return words if year is None else f"{words} năm {numerals.integer(year)}"


def full_date(place: Place) -> Reading | None:
    """2024-09-02, 02/09/1945, 2-9-1945, 2.9.1945, 2/9/45."""
    numerals = place.numerals
    if match := place.match(_ISO):
        year, month, day = (int(group) for group in match.groups())
    elif match := place.match(_FULL):
        day, month, year = int(match[1]), int(match[3]), int(match[4])
    elif (match := place.match(_SHORT_YEAR)) and place.last != "số":
        day, month, year = (int(group) for group in match.groups())
        year += 1900 if year > 50 else 2000
    else:
        return None
    if not _is_day(day, month):
        return None
    said = _date(numerals, day, month, year)
    return say(match.end(), said if place.last in _ALREADY_DAY else f"ngày {said}")


def month_and_year(place: Place) -> Reading | None:
    """tháng 9/2020, 12/2024, 9-2020: a month and a year, or after "quý" a quarter and a year."""
    after_month = place.last in _MONTH_WORDS
    match = place.match(_MONTH_YEAR)
    if match is None and after_month:
        match = place.match(_MONTH_DOT_YEAR)
    if match is None:
        return None
    month, year = int(match[1]), place.numerals.integer(int(match[2]))
    if place.last == "quý" and 1 <= month <= 4:
        return say(match.end(), f"{place.numerals.integer(month)} năm {year}")
    if not 1 <= month <= 12 or place.last in ("số", "ngày"):
        return None
    said = f"{_month(place.numerals, month)} năm {year}"
    return say(match.end(), said.removeprefix("tháng ") if after_month else said)


def day_and_month(place: Place) -> Reading | None:
    """ngày 2/9, sáng 2-9, 20/11, lễ 30.4; "3/4" alone is left to the fractions."""
    match = place.match(_DAY_MONTH)
    if match is None:
        return None
    day, mark, month = int(match[1]), match[2], int(match[3])
    if not _is_day(day, month) or place.match(_NOT_A_DATE, match.end()):
        return None
    expected = (
        place.last in _DAY_WORDS
        or place.last_two in _WEEKDAYS
        or (place.last.isdecimal() and "ngày" in place.before[-5:-1])
        or (mark == "/" and (_DATE_BEFORE.search(place.left(16)) or place.match(_DATE_AFTER, match.end())))
        or (place.last in ("và", "đến", "tới", "từ") and "ngày" in place.before[-4:-1])
    )
    if not expected:
        if mark != "/" or place.previous in ("/", "^") or place.last == "số":
            return None
        if (day, month) in _COMMON_FRACTION or (day, month) == (24, 7):
            return None
    return say(match.end(), _date(place.numerals, day, month))


def time_of_day(place: Place) -> Reading | None:
    """14h30, 9h, 14h30', 7g15, 9:05, 23:59:59, 8:00 pm."""
    match = place.match(_HOUR)
    if match is None:
        match = place.match(_CLOCK)
        if match is None or place.last_two in _RATIO_WORDS:
            return None
    hour, minute, second = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    if match.re is _CLOCK and not match[3] and place.match(_ENDS, match.end()) and _TITLE.search(place.left(4)):
        return say(match.end(), f"{place.numerals.integer(hour)} phút {place.numerals.integer(minute)} giây")
    if minute > 59 or second > 59 or (match.re is _CLOCK and hour > 24):
        return None
    words = [f"{place.numerals.integer(hour)} giờ"]
    if minute or second:
        words.append(f"{place.numerals.integer(minute)} phút")
    if second:
        words.append(f"{place.numerals.integer(second)} giây")
    end = match.end()
    if (half := place.match(_HALF_DAY, end)) and 1 <= hour <= 12:
        words.append(_part_of_day(hour, half[1].lower()))
        end = half.end()
    return say(end, " ".join(words))


def _part_of_day(hour: int, half: str) -> str:
    if half == "a":
        return "đêm" if hour == 12 else "sáng"
    return "trưa" if hour == 12 else "chiều" if hour < 6 else "tối"
