"""Abbreviations, acronyms and roman numerals."""

from __future__ import annotations

import re
from functools import cache

from data_scripts.text.spoken.numbers import roman_value
from data_scripts.text.spoken.reading import Piece, Place, Reading, say, spell, table, words_of
from data_scripts.text.syllables import is_syllable

UPPER = "A-ZĐÀÁẢÃẠĂẰẮẲẴẶÂẦẤẨẪẬÈÉẺẼẸÊỀẾỂỄỆÌÍỈĨỊÒÓỎÕỌÔỒỐỔỖỘƠỜỚỞỠỢÙÚỦŨỤƯỪỨỬỮỰỲÝỶỸỴ"
_TOKEN = re.compile(r"[^\W\d_]+(?:[&-][^\W\d_]+)*(?![^\W_])")
_ROMAN = re.compile(r"[IVXLCDM]+(?![\w.]\w|\w)")
_ROMAN_AFTER = words_of(
    "kỷ kỉ chương phần khóa khoá quý thứ mục tập kỳ kì hạng cấp loại đoạn đợt quyển hội nhóm vùng khu ii độ lớp "
    "giới bậc lục bảng cột tổ điều khoản bài đời hồi màn số lần giai triều quân kỳ type part chapter vòng dạng pha"
)
_MONARCHS = words_of("vua hoàng đế chúa tước tử giáo sa hậu pharaon")
_DYNASTIC = {1: "đệ nhất", 2: "đệ nhị", 3: "đệ tam", 4: "đệ tứ"}
_YEAR_AFTER = re.compile(r"\s?[/-]\s?(\d{4})(?!\d)")
_ENGLISH_BEFORE_I = words_of(
    "and but when what that than then should could would how why where may must since because"
)
_USUAL_ROMAN = frozenset("IVXL")  # "CD" and "MC" are something else
_SINGLE_ROMAN = frozenset("IVX")
_CELSIUS = {"C": "xê", "F": "ép"}
_VIETNAMESE_ACRONYM = ("vn", "vt", "tt", "ng")
_ONSET = "[bcdfghjklmnpqrstvwxz]?[hlrw]?|s[cklmnpqt]r?|[bcfgp]l"
_CODA = "[bcdfgklmnprstxz]?|[lnrs][dkstp]|ng|mp|[cflstp][hklst]"
_SAYABLE = re.compile(rf"(?:(?:{_ONSET})[aeiouy]{{1,2}}[lmnrs]?)+(?:{_CODA})$")


@cache
def _acronyms() -> dict[str, tuple[Piece, ...]]:
    return {written: ((row[1], None if row[0] == "vi" else "en"),) for written, row in table("acronyms.tsv").items()}


@cache
def abbreviations() -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """(pattern of all abbreviations, written -> (reading, "always" | "name" | "place" | "number"))."""
    rows = {written: (row[0], row[1]) for written, row in table("abbreviations.tsv").items()}
    longest_first = sorted(rows, key=len, reverse=True)
    pattern = "|".join(re.escape(key) if key[-1] in ".:" else re.escape(key) + r"(?!\w)" for key in longest_first)
    return re.compile(pattern, re.I), rows


_NAME_FOLLOWS = re.compile(rf"\s?(?:[{UPPER}]|\d)")
_PLACE_FOLLOWS = re.compile(rf"\s?(?:[{UPPER}][^\W\d_]|\d)")
_PLACE_BEFORE = re.compile(r"(?:[,;(–-]\s?|(?:^|\s)(?:tại|ở|thuộc|trên|của|về|các|đường|số \w{1,6})\s)$")
_NUMBER_FOLLOWS = re.compile(r"\s?\d")


def abbreviation(place: Place) -> Reading | None:
    """TP.HCM, Q.1, P. Bến Nghé, TS. Nam, v.v."""
    pattern, rows = abbreviations()
    match = place.match(pattern)
    if match is None:
        return None
    reading, condition = rows[match.group().lower()]
    if condition == "name" and not place.match(_NAME_FOLLOWS, match.end()):
        return None
    if condition == "place":
        named = place.match(_PLACE_FOLLOWS, match.end())
        digits = named is not None and named.group()[-1].isdecimal()
        if named is None or not (digits or _PLACE_BEFORE.search(place.left(16))):
            return None
    if condition == "number" and not place.match(_NUMBER_FOLLOWS, match.end()):
        return None
    return say(match.end(), reading)


def in_capitals(text: str) -> bool:
    """Whether a text is all in capitals, Vietnamese words and all."""
    if not text.isupper():
        return False
    words = [word for word in _TOKEN.findall(text) if len(word) > 1]
    return sum(map(is_syllable, words)) > 1


def acronym(written: str) -> tuple[Piece, ...] | None:
    """How a listed acronym is read."""
    return _acronyms().get(written)


def capitals(place: Place) -> Reading | None:
    """UBND, GDP, QĐ-UBND, R&D: listed ones as the list says, others letter by letter unless they can be words."""
    match = place.match(_TOKEN)
    if match is None:
        return None
    written, end = match.group(), match.end()
    if place.in_capitals and is_syllable(written):
        return None
    known = acronym(written)
    if known is not None:
        return Reading(end, known)
    parts = re.split(r"[&-]", written)
    if "&" in written and all(len(part) < 3 for part in parts):
        return Reading(end, ((" and ".join([" ".join(part.lower()) for part in parts]), "en"),))
    readings = [acronym(part) or _unlisted(part) for part in parts]
    if "&" not in written and not any(readings):
        return None
    pieces: list[Piece] = []
    joints = ["", *re.findall(r"[&-]", written)]
    for joint, part, reading in zip(joints, parts, readings, strict=True):
        pieces += [("và", None)] if joint == "&" else []
        pieces += reading or ((part, None),)
    return Reading(end, tuple(pieces))


def _unlisted(word: str) -> tuple[Piece, ...] | None:
    """Letters of a run of capitals that is no word of either language."""
    if not 1 < len(word) < 7 or not word.isupper() or is_syllable(word):
        return None
    low = word.lower()
    if not low.isascii() or low.startswith(_VIETNAMESE_ACRONYM):
        return ((spell(low), None),)
    if len(low) > 3 and _SAYABLE.match(low):
        return None
    return ((" ".join(low), "en"),)


def roman(place: Place) -> Reading | None:
    """thế kỷ XXI, chương IV, quý II, lần thứ I; Elizabeth II "đệ nhị", Louis XIV "thứ mười bốn"."""
    match = place.match(_ROMAN)
    if match is None:
        return None
    written = match.group()
    value = roman_value(written)
    if value is None or not _USUAL_ROMAN.issuperset(written) or (len(written) == 1 and written not in _SINGLE_ROMAN):
        return None
    numerals = place.numerals
    if place.last == "quý" and (year := place.match(_YEAR_AFTER, match.end())):
        return say(year.end(), f"{numerals.integer(value)} năm {numerals.integer(int(year[1]))}")
    if place.last in _ROMAN_AFTER:
        if place.last == "thứ" and value in (1, 4):
            return say(match.end(), "nhất" if value == 1 else "tư")
        return say(match.end(), numerals.integer(value))
    a_ruler = written != "X" and (written != "V" or not _MONARCHS.isdisjoint(place.before[-4:]))
    if a_ruler and _foreign_name_before(place):
        return say(match.end(), _DYNASTIC.get(value) or f"thứ {numerals.integer(value)}")
    if len(written) > 1 and set(written) <= _SINGLE_ROMAN:
        return say(match.end(), numerals.integer(value))
    return None


def _foreign_name_before(place: Place) -> bool:
    """Whether a capitalised word that is not Vietnamese stands right before."""
    name = re.search(rf"([{UPPER}][^\W\d_]{{2,}})\s$", place.text[max(0, place.start - 24) : place.start])
    return (
        name is not None
        and not name[1].isupper()
        and name[1].lower() not in _ENGLISH_BEFORE_I
        and not is_syllable(name[1])
    )


def degree_letter(place: Place) -> Reading | None:
    """The C of "37 độ C"."""
    letter = place.text[place.start]
    following = place.text[place.start + 1 : place.start + 2]
    if place.last == "độ" and letter in _CELSIUS and not following.isalnum():
        return say(place.start + 1, _CELSIUS[letter])
    return None
