"""E-mail addresses, URLs, domains and hashtags, as they are dictated: "a còng", "chấm", "gạch ngang".

The scheme ("https://") is not read. Words stay words; letters that make no word are named one by one.
"""

from __future__ import annotations

import re

from data_scripts.text.spoken.reading import Place, Reading, say, spell

_ADDRESS = re.compile(
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*|https?://[^\s<>\"]+|www\.[^\s<>\"]+|[A-Za-z][\w-]*(?:\.[\w-]+)+(?:/[^\s<>\",;]*)?"
)
_DOMAIN = re.compile(
    r"(?:[\w-]+\.)+(?:com|net|org|edu|gov|info|biz|vn|io|ai|co|me|tv|us|uk|jp|cn|kr|fr|de|eu|asia|dev|app|xyz|online"
    r"|shop)(?:[/:?#]\S*)?$",
    re.I,
)
_ADDRESS_PART = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
_ADDRESS_SIGNS = {
    "@": "a còng", ".": "chấm", "-": "gạch ngang", "_": "gạch dưới", "/": "gạch chéo", ":": "hai chấm", "+": "cộng",
    "?": "hỏi chấm", "=": "bằng", "&": "và", "#": "thăng", "%": "phần trăm", "~": "ngã",
}  # fmt: skip
_ADDRESS_WORDS = {
    "vn": "vê nờ",
    "www": "vê kép vê kép vê kép",
    "tv": "ti vi",
    "io": "i o",
    "ai": "a i",
    "co": "co",
    "edu": "edu",
    "us": "u ét",
    "uk": "u ca",
    "jp": "gi pê",
}
_HASHTAG = re.compile(r"#([^\W\d_][\w]*)")
_CAMEL = re.compile(r"[A-ZĐ]?[^\W\d_A-ZĐ]+|[A-ZĐ]+(?![a-z])|\d+|[A-ZĐ]")


def address(place: Place) -> Reading | None:
    """E-mail, URL or domain: nam.tran@gmail.com -> "nam chấm tran a còng gmail chấm com"."""
    match = place.match(_ADDRESS)
    if match is None:
        return None
    written = match.group().rstrip(".,;:!?)'\"-")
    end = match.start() + len(written)
    marked = "@" in written or "://" in written or written.lower().startswith("www.")
    if not marked and not _DOMAIN.match(written):
        return None
    written = re.sub(r"^https?://", "", written).rstrip("/")
    words = []
    for part in _ADDRESS_PART.findall(written):
        if part.isdecimal():
            words.append(place.numerals.plain(part) if len(part) == 2 else place.numerals.digits(part))
        elif part in _ADDRESS_SIGNS:
            words.append(_ADDRESS_SIGNS[part])
        elif part[0].isalpha():
            words.append(_address_word(part.lower()))
    return say(end, " ".join(words)) if words else None


def _address_word(word: str) -> str:
    known = _ADDRESS_WORDS.get(word)
    if known is not None:
        return known
    return spell(word) if len(word) == 1 or (not re.search("[aeiouyà-ỹ]", word) and len(word) <= 5) else word


def hashtag(place: Place) -> Reading | None:
    """#HaNoi -> "hashtag ha noi" (hashtag in English); #1 is "số một"."""
    match = place.match(_HASHTAG)
    if match is None:
        return None
    words = [word.lower() for word in _CAMEL.findall(match[1])]
    words = [place.numerals.plain(word) if word.isdecimal() else word for word in words]
    return Reading(match.end(), (("hashtag", "en"), (" ".join(words), None)))
