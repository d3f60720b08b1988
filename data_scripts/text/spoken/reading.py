"""What the rules of the spoken form share: where they stand in a text, and what they answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from data_scripts.text.letters import VIETNAMESE_LETTER_NAMES
from data_scripts.text.spoken.numbers import Numerals

LETTER_NAMES = VIETNAMESE_LETTER_NAMES | {"ă": "á", "â": "ớ", "ê": "ê", "ô": "ô", "ơ": "ơ", "ư": "ư"}
_LEFT = 40  # characters before a place that rules may look at
_WORD = re.compile(r"\w+")

Piece = tuple[str, str | None]  # words, language if it is known


class Reading(NamedTuple):
    """The text from the place to `end` is said as `pieces`."""

    end: int
    pieces: tuple[Piece, ...]


def say(end: int, words: str) -> Reading:
    """A reading in the language of the text around it."""
    return Reading(end, ((words, None),))


class Place:
    """A position in a text where something may have to be read out.

    text, start, end: the rules may consume `text[start:end]`; what is before `start` is context.
    numerals: number words of the dialect. in_capitals: the whole text is in capitals.
    """

    __slots__ = ("_before", "end", "in_capitals", "numerals", "start", "text")

    def __init__(self, text: str, start: int, end: int, numerals: Numerals, in_capitals: bool = False) -> None:
        self.text, self.start, self.end = text, start, end
        self.numerals, self.in_capitals = numerals, in_capitals
        self._before: list[str] | None = None

    @property
    def before(self) -> list[str]:
        """Words before the place, lower-case, the nearest last; numbers count as words."""
        if self._before is None:
            self._before = _WORD.findall(self.text[max(0, self.start - _LEFT) : self.start].lower())
        return self._before

    @property
    def last(self) -> str:
        """The word before the place, lower-case; "" at the beginning."""
        return self.before[-1] if self.before else ""

    @property
    def last_two(self) -> str:
        """The two words before the place, "tỉ số"."""
        return " ".join(self.before[-2:])

    def left(self, length: int) -> str:
        """At most so many characters before the place, lower-case."""
        return self.text[max(0, self.start - length) : self.start].lower()

    @property
    def previous(self) -> str:
        """The character before the place; "" at the beginning."""
        return self.text[self.start - 1 : self.start]

    def match(self, pattern: re.Pattern[str], at: int | None = None) -> re.Match[str] | None:
        """The pattern at the place, or at another position, within reach."""
        return pattern.match(self.text, self.start if at is None else at, self.end)


Rule = Callable[[Place], Reading | None]


def first_reading(rules: tuple[Rule, ...], place: Place) -> Reading | None:
    """The answer of the first rule that has one."""
    for rule in rules:
        reading = rule(place)
        if reading is not None:
            return reading
    return None


def spell(letters: str) -> str:
    """Vietnamese names of letters: "VTV" -> "vê tê vê"."""
    return " ".join([LETTER_NAMES.get(letter, letter) for letter in letters.lower()])


def words_of(text: str) -> frozenset[str]:
    """The words of a text, to look words up in."""
    return frozenset(text.split(" "))


@cache
def table(name: str) -> dict[str, tuple[str, ...]]:
    """A resource: first column -> the others. Lines that start with # are comments."""
    text = (files("data_scripts.text.spoken") / "resources" / name).read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.split("\n") if line and not line.startswith("#")]
    return {row[0]: tuple(row[1:]) for row in rows}
