"""Numbers with what is measured or counted: units, money, percent, magnitudes, powers, "per"."""

from __future__ import annotations

import re
from functools import cache

from data_scripts.text.spoken.numbers import NUMBER
from data_scripts.text.spoken.reading import Place, Reading, say, table, words_of

_NUMBER = re.compile(NUMBER)
_FULL_MAGNITUDE = re.compile(r"\s?(trăm|chục|nghìn|ngàn|vạn|triệu|tỷ|tỉ)(?!\w)(?:\s(triệu|tỷ|tỉ|đồng)(?!\w))?", re.I)
_SHORT_MAGNITUDE = re.compile(r"(k|tr|tỷ|tỉ)(\d)?(?!\w)|\s?(tr)(?=\s?(?:đ|vnđ|vnd|đồng)(?!\w))", re.I)
_UNIT = re.compile(
    r"\s{0,2}([°⁰]\s?[CFK](?!\w)|[º°]|oC(?!\w)|oF(?!\w)|[℃℉%‰₫¢]|[$€£¥₩](?!\s?\d)|['′’]{1,2}|[\"″”]|US\$"
    r"|[^\W\d_]{1,6}(?:[²³]|\^?[23](?!\d))?(?![\w²³]))"
)
_PER = re.compile(r"\s?/\s?([^\W\d_]{1,7}(?:[²³]|\^?[23](?!\d))?)(?![\w²³])")
_METRES_AND = re.compile(r"(\d)m(\d{2}|[14-9])(?!\w)")  # 1m65; 5m2 is an area
_BY_NUMBER = re.compile(r"x\d")
_SLASH_WORD = re.compile(r"/\s?([^\W\d_]+(?:[²³]|\^?[23](?!\d))?)(?![\w²³/])")
_CURRENT = re.compile(r"điện|dòng|sạc|ampe|cầu chì")  # 12A is rather a road or a class
_QUOTES = {'"': '"', "”": "“", "″": "″", "'": "'", "’": "‘", "′": "′"}  # closing mark -> opening mark
_COUNTED_PADDED = re.compile(r"0[1-9]\s[^\W\d_A-ZĐ]{2}")  # "01 vé" in official style
_POWER = re.compile(r"\^\s?([-−–]?)(\d+)|([⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_TO_INTEGER = words_of("ngày tháng giờ phút giây mùng mồng lớp bài chương điều khoản mục phần trang câu")
NAMED_BY_DIGITS = re.compile(
    r"\b(?:tài khoản|stk|cmnd|cccd|chứng minh nhân dân|căn cước công dân|mã số thuế|mst|otp|hộ chiếu|imei|serial)"
    r"[^\d,;.]{0,12}$"
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
# What a rate is per is said with "một", symbols of units with "trên".
_PER_WORDS = words_of(
    "giây phút giờ ngày đêm tuần tháng quý năm người lần lượt hộ chiếc cái con cây bộ vé suất buổi tiết khóa khoá lít "
    "tấn tạ chỉ lượng cổ phiếu lô thùng bao gói hộp chai cân ký kí sào mẫu mét đầu trận tập trang bài"
)
_MONEY_WORDS = words_of("đồng đ usd euro mỹ triệu nghìn ngàn tỷ tỉ xu")
_COUNTED_BEFORE = re.compile(
    r"(?:\d|trăm|chục|nghìn|ngàn|vạn|triệu|tỷ|tỉ|mươi|mười|mấy|vài|mỗi|tỷ lệ|tốc độ|giá|mức|mật độ)\W[^.,;]{0,16}$"
)
_COUNTS = words_of("trăm chục nghìn ngàn vạn triệu tỷ tỉ")


@cache
def units() -> dict[str, tuple[str, str]]:
    """Symbol -> (reading, "number" | "glued" | "alone")."""
    return {symbol: (row[0], row[1]) for symbol, row in table("units.tsv").items()}


def unit_key(written: str) -> str:
    """The symbol as the table has it: "m²" -> "m2", "° C" -> "°C", Greek mu -> micro sign."""
    key = written.replace("²", "2").replace("³", "3").replace("^", "").replace(" ", "").replace("μ", "µ")
    return key.replace("º", "°").replace("⁰", "°") if len(key) > 1 else key


def quantity(place: Place) -> Reading | None:
    """A number as written with its magnitude, unit and "per" part: 1,5 tỷ USD, 60km/h, 50k, 2tr5, 1m65, 10^6, 15%."""
    match = place.match(_NUMBER)
    if match is None or NAMED_BY_DIGITS.search(place.left(40)):
        return None
    numerals = place.numerals
    if (height := place.match(_METRES_AND)) is not None:
        return say(height.end(), f"{numerals.plain(height[1])} mét {numerals.plain(height[2])}")
    written = match.group()
    if (
        written.isdecimal()
        and int(written[0]) == 0
        and (place.last in _TO_INTEGER or (place.last != "số" and place.match(_COUNTED_PADDED)))
    ):
        words = numerals.integer(int(written))
    else:
        words = numerals.number(written)
    end = match.end()
    if power := place.match(_POWER, end):
        words, end = f"{words} mũ {_power(place, power)}", power.end()
    words, end = _with_magnitude(place, words, end)
    unit = _unit(place, end)
    if unit is not None:
        reading, end = unit
        words += f" {reading}"
        words, end = _with_per(place, words, end)
    elif end < place.end and place.text[end - 1].isdecimal() and place.text[end].isalpha():
        if not written.isdecimal() or place.match(_BY_NUMBER, end):
            return say(end, words)
        return None  # digits glued to letters that are no unit: a code
    return say(end, words)


def _power(place: Place, match: re.Match[str]) -> str:
    written = (match[3] or match[1] + match[2]).translate(_SUPERSCRIPTS)
    sign = "âm " if not written[0].isdecimal() else ""
    return sign + place.numerals.plain(written.lstrip("-−–"))


def _with_magnitude(place: Place, words: str, end: int) -> tuple[str, int]:
    """The words with nghìn, triệu, tỷ … after the number."""
    if short := place.match(_SHORT_MAGNITUDE, end):
        letters = (short[1] or short[3]).lower()
        name = {"k": place.numerals.thousand, "tr": "triệu"}.get(letters, "tỷ")
        words = f"{words} {name}"
        if short[2]:
            words += " rưỡi" if short[2] == "5" else f" {place.numerals.plain(short[2])}"
        return words, short.end()
    if full := place.match(_FULL_MAGNITUDE, end):
        return " ".join([words, *full.group().lower().split()]), full.end()
    return words, end


def _unit(place: Place, at: int) -> tuple[str, int] | None:
    """(reading, end) of a unit at a position after a number."""
    match = place.match(_UNIT, at)
    if match is None:
        return None
    entry = units().get(unit_key(match[1]))
    if entry is None or (match[1] == "A" and not _CURRENT.search(place.left(30))):
        return None
    if match[1] in _QUOTES and not _is_measure(place, at, match[1]):
        return None
    glued = match.start(1) == at and place.text[at - 1].isdecimal()
    if entry[1] == "glued" and not glued:
        return None
    return entry[0], match.end()


def _is_measure(place: Place, at: int, mark: str) -> bool:
    """Whether a quotation mark after digits means minutes or inches: no long number, nothing quoted to close."""
    opening = _QUOTES[mark]
    before = place.text[:at]
    closes = before.count(opening) > before.count(mark) if opening != mark else before.count(mark) % 2
    return at - place.start < 4 + ("," in before[place.start :] or "." in before[place.start :]) and not closes


def _with_per(place: Place, words: str, end: int) -> tuple[str, int]:
    """The words with "/h", "/kg", "/người" …"""
    while match := place.match(_PER, end):
        written = match[1]
        unit = units().get(unit_key(written))
        if unit is not None and unit[0] != "đồng":
            words += f" trên {unit[0]}"
        elif written.islower():
            words += f" một {written}"
        else:
            break
        end = match.end()
    return words, end


def bare_unit(place: Place) -> Reading | None:
    """A unit symbol away from digits: "mỗi km", "hai trăm nghìn m2", "triệu USD"."""
    match = place.match(_UNIT)
    if match is None or place.previous.isalnum():
        return None
    entry = units().get(unit_key(match[1]))
    if entry is None or (entry[1] != "alone" and place.last not in _COUNTS):
        return None
    reading = "việt nam đồng" if entry[0] == "đồng" and place.last not in _COUNTS else entry[0]
    words, end = _with_per(place, reading, match.end())
    return say(end, words)


def per(place: Place) -> Reading | None:
    """The slash of "triệu đồng/tháng", "người/km2", "lần/ngày", where something is counted before."""
    match = place.match(_SLASH_WORD)
    if match is None or not place.previous.isalpha() or not _COUNTED_BEFORE.search(place.left(32)):
        return None
    unit = units().get(unit_key(match[1]))
    if unit is not None and unit[1] == "alone":
        return say(match.end(), f"{'một' if place.last in _MONEY_WORDS else 'trên'} {unit[0]}")
    priced = place.last in _MONEY_WORDS and match[1].islower()
    return say(match.end(), f"một {match[1]}") if priced or match[1] in _PER_WORDS else None
