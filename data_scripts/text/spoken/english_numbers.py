"""How numbers and signs are said in English, for text inside an "en" span."""

from __future__ import annotations

import re

from data_scripts.text.spoken.reading import Place, Reading, say, table

_ONES_TEXT = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_ONES = _ONES_TEXT.split(" ")
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_SIGNS = {
    "%": "percent", "&": "and", "+": "plus", "=": "equals", "@": "at", "#": "hash", "$": "dollars", "€": "euros",
    "£": "pounds", "°": "degrees", "<": "less than", ">": "greater than", "×": "times", "÷": "divided by",
    "±": "plus or minus", "¥": "yen",
}  # fmt: skip
_SILENT = "®™©"
_MONEY = re.compile(r"([$€£¥])\s?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:\s?(k|m|b|million|billion|thousand)(?!\w))?", re.I)
_MONEY_NAMES = {"$": "dollars", "€": "euros", "£": "pounds", "¥": "yen"}
_MAGNITUDES = {"k": "thousand", "m": "million", "b": "billion"}
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?!\d)")
_ORDINAL = re.compile(r"(\d{1,12})(?:st|nd|rd|th)(?!\w)", re.I)
_DECADE = re.compile(r"(\d{2}|\d{4})'?s(?!\w)")
_NUMBER = re.compile(r"(\d{1,3}(?:,\d{3})+|\d+)((?:\.\d+)*)")
_CAPITALS = re.compile(r"[A-Za-z]*[A-Z][A-Za-z]*(?![^\W\d_])")


def cardinal(value: int) -> str:
    """215 -> "two hundred fifteen"."""
    if value < 20:
        return _ONES[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return _TENS[tens] + (f" {_ONES[ones]}" if ones else "")
    size, name = next((size, name) for size, name in _SCALES if value >= size)
    above, below = divmod(value, size)
    return f"{cardinal(above)} {name}" + (f" {cardinal(below)}" if below else "")


def ordinal(value: int) -> str:
    """21 -> "twenty first"."""
    head, _, last = cardinal(value).rpartition(" ")
    if last in _ORDINALS:
        last = _ORDINALS[last]
    else:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return f"{head} {last}".lstrip()


def _digits(text: str) -> str:
    return " ".join([_ONES[int(char)] for char in text])


def _plain(text: str) -> str:
    """A run of digits: years as years, leading zeros and very long ones digit by digit."""
    if len(text) > 15 or (len(text) > 1 and int(text[0]) == 0):
        return _digits(text)
    value = int(text)
    if len(text) == 4 and 1100 <= value < 2100 and not 2000 <= value < 2010:
        century, rest = divmod(value, 100)
        return f"{cardinal(century)} " + (
            "hundred" if rest == 0 else f"oh {_ONES[rest]}" if rest < 10 else cardinal(rest)
        )
    return cardinal(value)


def english_money(place: Place) -> Reading | None:
    """$5.50, £20k."""
    match = place.match(_MONEY)
    if match is None:
        return None
    words = _integer(match[2])
    if match[3] and (match[4] or len(match[3]) != 3):
        words += f" point {_digits(match[3][1:])}"
    if match[4]:
        words += f" {_MAGNITUDES.get(match[4].lower(), match[4].lower())}"
    singular = match[2] == "1" and not match[3] and not match[4] and match[1] != "¥"
    words += f" {_MONEY_NAMES[match[1]]}"[: -1 if singular else None]
    if match[3] and not match[4] and len(match[3]) == 3 and int(match[3][1:]):
        words += f" {cardinal(int(match[3][1:]))}"
    return say(match.end(), words)


def _integer(text: str) -> str:
    return cardinal(int(text.replace(",", ""))) if len(text) < 20 else _digits(text.replace(",", ""))


def english_number(place: Place) -> Reading | None:
    """15, 2015, 3.5, 9:05, 21st, 1990s, 1,000."""
    if match := place.match(_CLOCK):
        hour, minute = int(match[1]), int(match[2])
        if hour < 25 and minute < 60:
            after = "" if minute == 0 else f" oh {_ONES[minute]}" if minute < 10 else f" {cardinal(minute)}"
            return say(match.end(), cardinal(hour) + (after or (" o'clock" if 0 < hour < 13 else " hundred")))
    if match := place.match(_ORDINAL):
        return say(match.end(), ordinal(int(match[1])))
    if match := place.match(_DECADE):
        head, _, last = _plain(match[1]).rpartition(" ")
        last = last[:-1] + "ies" if last.endswith("y") else last + ("es" if last.endswith("x") else "s")
        return say(match.end(), f"{head} {last}".lstrip())
    match = place.match(_NUMBER)
    if match is None:
        return None
    words = [_integer(match[1]) if "," in match[1] else _plain(match[1])]
    parts = match[2].split(".")[1:]
    words += [f"point {_digits(part) if len(parts) == 1 else _plain(part)}" for part in parts]
    return say(match.end(), " ".join(words))


def english_sign(place: Place) -> Reading | None:
    """% & + …"""
    sign = place.text[place.start]
    if sign in _SILENT:
        return Reading(place.start + 1, ())
    if sign in "-−" and place.text[place.start + 1 : min(place.start + 2, place.end)].isdecimal():
        if not place.previous or place.previous in " (":
            return say(place.start + 1, "minus")
        return say(place.start + 1, "to") if place.previous.isdecimal() else None
    word = _SIGNS.get(sign)
    return None if word is None else say(place.start + 1, word)


def english_capitals(place: Place) -> Reading | None:
    """CEO, IoT: acronyms letter by letter; NASA and words in capitals stay words."""
    match = place.match(_CAPITALS)
    if match is None:
        return None
    written = match.group()
    row = table("acronyms.tsv").get(written)
    if row is not None and row[0] == "en":
        return say(match.end(), row[1])
    if (
        len(written) > 1
        and written.isupper()
        and (row is not None or not re.search("[AEIOUY]", written))
        and len(written) < 7
    ):
        return say(match.end(), " ".join(written.lower()))
    return None
