"""Strings that name rather than count: phone and document numbers, serial numbers, plates, models."""

from __future__ import annotations

import re

from data_scripts.text.spoken.names import acronym
from data_scripts.text.spoken.reading import Piece, Place, Reading, say, spell, table, words_of

_PHONE = re.compile(
    r"\(?\+?(?P<code>84)\)?[\s.-]?\(?\d{2,4}\)?(?:[\s.-]?\d{2,4}){2,3}(?![\d,]|[.]\d)"
    r"|\(?0\d{1,3}\)?[\s.-]?\d{2,8}(?:[\s.-]?\d{2,4}){0,3}(?![\d,]|[.]\d|/)"
    r"|1[89]00[\s.-]?\d{2,4}(?:[\s.-]?\d{2,4}){0,2}(?![\d,]|[.]\d|/)"
)
_ANY_PHONE = re.compile(
    r"\d{2,5}(?:[\s.-]?\d{2,4}){0,4}"
    r"(?![\d,]|[.]\d|/|\s?(?:đ|tr|k|%|giờ|người|khách|chiếc|lần|nghìn|ngàn|triệu|tỷ|tỉ|đồng)(?!\w))"
)
_PHONE_WORDS = words_of("hotline sđt đt tel phone zalo fax gọi")
_PHONE_PHRASES = words_of("dây_nóng tổng_đài số_máy điện_thoại gọi_số gọi_đến gọi_tới")
_NUMBER_OF = re.compile(r"(?:hotline|điện thoại|đt|sđt|dây nóng|tổng đài)(?: số| là|:)+\s$")
_EMERGENCY = re.compile(r"11\d$")
_NOT_DIGIT = re.compile(r"\D")

_DOCUMENT = re.compile(
    r"(\d{1,5})(?:\s?/\s?(?P<year>(?:19|20)\d{2}))?\s?(?P<mark>[/-])\s?"
    r"(?P<parts>(?:[A-ZĐƯ][A-ZĐƯa-z]{0,9}\d{0,3}[-&/]?){1,4})(?<![-&/])(?!\w)"
)
_DOCUMENT_PART = re.compile(r"[A-Za-zĐƯ]+|\d+")
_CODE = re.compile(r"[^\W_]+(?:-[^\W_]+)*(?:[.]\d+)*(?![^\W_])")
_CODE_PART = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)+|\d+")
_ELEMENT = "He|Li|Be|Ne|Na|Mg|Al|Si|Cl|Ar|Ca|Ti|Cr|Mn|Fe|Co|Ni|Cu|Zn|Br|Ag|Sn|Ba|Pt|Au|Hg|Pb|[HBCNOFPSKIU]"
_FORMULA = re.compile(rf"\d?(?:(?:{_ELEMENT})\d{{0,2}}){{2,}}")  # "SiO2", "Al2O3"
_SERIAL = re.compile(r"\d+(?:-\d+){2,}")
_PLATE = re.compile(r"(\d{2})([A-ZĐ]{1,2}\d?)\s?[-. ]\s?(\d{3}[.]?\d{1,2})(?!\w)")
_ROADS = frozenset(("QL", "SN"))


def phone(place: Place) -> Reading | None:
    """0912.345.678, (028) 3822 1234, +84 912 345 678, 1900 1234; after "hotline", "gọi" … any number."""
    match = place.match(_PHONE)
    if match is not None:
        digits = _NOT_DIGIT.sub("", match.group())
        if match["code"]:
            known = len(digits) in (11, 12) and match.group()[0] in "+("
        elif digits[0] == "0":
            known = 9 < len(digits) < 12
        else:
            known = 6 <= len(digits) <= 10
        if known:
            plus = "cộng " if "+" in match.group() else ""
            return say(match.end(), plus + place.numerals.digits(digits))
    asked = place.last in _PHONE_WORDS or "_".join(place.before[-2:]) in _PHONE_PHRASES
    if asked or _NUMBER_OF.search(place.left(24)):
        match = place.match(_ANY_PHONE)
        if match is not None and (_EMERGENCY.match(match.group()) or len(match.group()) > 4):
            return say(match.end(), place.numerals.digits(match.group()))
    return None


def document(place: Place) -> Reading | None:
    """12/2024/QĐ-UBND: "mười hai trên hai nghìn không trăm hai mươi tư trên quyết định ủy ban nhân dân"."""
    match = place.match(_DOCUMENT)
    if match is None:
        return None
    if match["year"] is None and (match["mark"] != "/" or ("-" not in match["parts"] and place.last != "số")):
        return None  # a range, or a number and a word
    numerals = place.numerals
    pieces: list[Piece] = [(numerals.integer(int(match[1])), None)]
    if match["year"]:
        pieces.append((f"trên {numerals.integer(int(match['year']))}", None))
    pieces.append(("trên", None))
    for part in _DOCUMENT_PART.findall(match["parts"]):
        if part.isdecimal():
            pieces.append((numerals.plain(part), None))
        else:
            pieces += _document_part(part)
    return Reading(match.end(), tuple(pieces))


def _document_part(part: str) -> tuple[Piece, ...]:
    known = table("documents.tsv").get(part)
    return ((known[0], None),) if known else acronym(part) or ((spell(part), None),)


def serial(place: Place) -> Reading | None:
    """978-604-1-12345-6: group by group, after "ISBN" digit by digit."""
    match = place.match(_SERIAL)
    if match is None:
        return None
    if place.last in ("isbn", "issn"):
        return say(match.end(), place.numerals.digits(match.group()))
    return say(match.end(), " ".join([place.numerals.plain(group) for group in match.group().split("-")]))


def plate(place: Place) -> Reading | None:
    """51F-123.45, 30A 678.90: letters and every digit of the number."""
    match = place.match(_PLATE)
    if match is None:
        return None
    numerals = place.numerals
    letters = " ".join(
        [spell(part) if part.isalpha() else numerals.plain(part) for part in _CODE_PART.findall(match[2])]
    )
    return say(match.end(), f"{numerals.integer(int(match[1]))} {letters} {numerals.digits(match[3])}")


def code(place: Place) -> Reading | None:
    """Letters and digits in one: 4G, F0, H5N1, QL1A, Covid-19, F-16, VN253, iPhone15, 12A1."""
    match = place.match(_CODE)
    if match is None:
        return None
    written = match.group()
    if not any(char.isdecimal() for char in written) or written.replace("-", "").isdecimal():
        return None
    whole = acronym(written)
    if whole is not None:
        return Reading(match.end(), whole)
    if _FORMULA.fullmatch(written):
        said = [
            place.numerals.plain(part) if part.isdecimal() else spell(part) for part in _CODE_PART.findall(written)
        ]
        return say(match.end(), " ".join(said))
    numerals, parts = place.numerals, _CODE_PART.findall(written)
    pieces: list[Piece] = []
    for index, part in enumerate(parts):
        if part[0].isdecimal():
            if "." in part:
                pieces.append((" chấm ".join([numerals.plain(p) for p in part.split(".")]), None))
            elif len(part) > 3 and index > 0 and parts[0].isupper() and len(parts[0]) <= 3:
                pieces.append((numerals.digits(part), None))
            else:
                pieces.append((numerals.plain(part), None))
        else:
            pieces += _letters_of_code(part, len(parts))
    return Reading(match.end(), tuple(pieces))


def _letters_of_code(part: str, num_parts: int) -> tuple[Piece, ...]:
    if part in ("G", "g"):
        return (("gờ", None),)
    known = acronym(part) if len(part) > 1 else None
    if known is not None and (known[0][1] == "en" or part in _ROADS) and num_parts <= 3:
        return known
    if len(part) == 1 or (part.isupper() and len(part) <= 3):
        return ((spell(part), None),)
    return ((part, None),)
