"""Vietnamese number words: integers, written decimals, digits one by one, roman numerals.

Choices where speakers differ, by dialect: north "nghìn", "linh", "hai mươi tư"; south "ngàn", "lẻ", "hai mươi bốn".
Everywhere: 15 "mười lăm", 21 "hai mươi mốt", 2015 "hai nghìn không trăm mười lăm", 10^9 "một tỷ", 10^18 "một tỷ tỷ".
"""

from __future__ import annotations

import re
from functools import cache

DIGITS = ("không", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín")
DIALECTS = ("north", "south")
MOST_DIGITS = 18  # longer digit strings are said digit by digit: nobody counts them
_BILLION = 10**9

# A number as written: grouped by dots, commas or (no-break) spaces, with or without a decimal part.
NUMBER = (
    r"\d{1,3}(?:\.\d{3})+(?:,\d+)?(?![.,]?\d)|\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![.,]?\d)"
    r"|\d{1,3}(?:[\u00a0\u202f\u2009]\d{3})+(?:,\d+)?(?!\d)|\d{1,3}(?: \d{3})* 000(?!\d)|\d{1,3}(?: \d{3}){2,}(?!\d)"
    r"|\d+(?:[.,]\d+)?"
)
_SPACES = re.compile(r"\s")


class Numerals:
    """Number words of a dialect ("north" or "south"; `ValueError` for another)."""

    def __init__(self, dialect: str = "north") -> None:
        if dialect not in DIALECTS:
            raise ValueError(f"dialect {dialect!r} of numbers: allowed are {', '.join(DIALECTS)}")
        north = dialect == "north"
        self.thousand = "nghìn" if north else "ngàn"
        four = "tư" if north else "bốn"
        linh = "linh" if north else "lẻ"
        self._plain = [_below_thousand(n, linh, four, padded=False) for n in range(1000)]
        self._padded = [_below_thousand(n, linh, four, padded=True) for n in range(1000)]

    def integer(self, value: int) -> str:
        """1_250_000 -> "một triệu hai trăm năm mươi nghìn"; negative numbers start with "âm"."""
        if value < 0:
            return "âm " + self.integer(-value)
        if value < 1000:
            return self._plain[value]
        return " ".join(self._groups(value, padded=False))

    def _groups(self, value: int, padded: bool) -> list[str]:
        """Words of a number above 0; `padded` if words of a higher group came before."""
        billions, rest = divmod(value, _BILLION)
        words = [*self._groups(billions, padded), "tỷ"] if billions else []
        for size, name in ((10**6, "triệu"), (1000, self.thousand), (1, "")):
            group, rest = divmod(rest, size)
            if group:
                table = self._padded if words or padded else self._plain
                words += [table[group], name] if name else [table[group]]
        return words

    def digits(self, text: str) -> str:
        """ "0912" -> "không chín một hai"; what is not a digit is passed over."""
        return " ".join([DIGITS[int(char)] for char in text if "0" <= char <= "9"])

    def plain(self, text: str) -> str:
        """A run of digits: a number, or digit by digit where it starts with 0 or is too long to count."""
        if len(text) > MOST_DIGITS or (text[0] == "0" and len(text) > 1):
            return self.digits(text)
        return self.integer(int(text))

    def number(self, text: str) -> str:
        """A number as written (the pattern `NUMBER`): "1.250.000,5" -> "một triệu … phẩy năm"."""
        whole, point, fraction = split_number(text)
        said = self.plain(whole)
        if not point:
            return said
        if len(fraction) > 2 or fraction[0] == "0":
            return f"{said} {point} {self.digits(fraction)}"
        return f"{said} {point} {self.integer(int(fraction))}"


@cache
def numerals(dialect: str = "north") -> Numerals:
    """The one `Numerals` of a dialect."""
    return Numerals(dialect)


def split_number(text: str) -> tuple[str, str, str]:
    """(digits before, "phẩy" or "chấm" or "", digits after) of a written number.

    A dot before three digits groups thousands ("1.250"), any other dot is read as written ("4.0": "bốn chấm không").
    A comma is the decimal sign, except before several groups and before a group that ends in 0 ("1,250", "10,000"):
    no one writes that last decimal.
    """
    text = _SPACES.sub("", text)
    if text.isdecimal():
        return text, "", ""
    dots, commas = text.count("."), text.count(",")
    if dots and commas:
        last = max(text.rfind("."), text.rfind(","))
        return re.sub("[.,]", "", text[:last]), "phẩy" if text[last] == "," else "chấm", text[last + 1 :]
    if dots + commas > 1:
        return re.sub("[.,]", "", text), "", ""
    whole, fraction = re.split("[.,]", text)
    grouped = len(fraction) == 3 and len(whole) <= 3 and whole[0] != "0"
    if grouped and (dots or fraction[-1] == "0"):
        return whole + fraction, "", ""
    return whole, "phẩy" if commas else "chấm", fraction


def _below_thousand(value: int, linh: str, four: str, padded: bool) -> str:
    """Words of 0..999; padded: with the hundreds even if there are none ("không trăm linh năm")."""
    hundreds, rest = divmod(value, 100)
    tens, units = divmod(rest, 10)
    words = [DIGITS[hundreds], "trăm"] if hundreds or (padded and rest) else []
    if tens == 0:
        if units and words:
            words += [linh, DIGITS[units]]
        elif not words:
            words = [DIGITS[units]]
        return " ".join(words)
    words += ["mười"] if tens == 1 else [DIGITS[tens], "mươi"]
    if units == 5:
        words.append("lăm")
    elif units == 1 and tens > 1:
        words.append("mốt")
    elif units == 4 and tens > 1:
        words.append(four)
    elif units:
        words.append(DIGITS[units])
    return " ".join(words)


_ROMAN = re.compile(r"(?=[IVXLCDM])M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})$")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def roman_value(text: str) -> int | None:
    """Value of a well-formed roman numeral in capitals ("XXI" -> 21), or None ("IIX")."""
    if not _ROMAN.match(text):
        return None
    values = [_ROMAN_VALUES[char] for char in text]
    return sum(-v if v < following else v for v, following in zip(values, [*values[1:], 0], strict=True))
