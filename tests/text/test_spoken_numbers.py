"""Vietnamese number words: read back by a parser of their own, ordered as their numbers, right where it is subtle."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_scripts.text.spoken.english_numbers import cardinal, ordinal
from data_scripts.text.spoken.numbers import Numerals, numerals, roman_value, split_number
from data_scripts.text.syllables import is_syllable

NORTH, SOUTH = numerals("north"), numerals("south")
_UNITS = {
    "không": 0, "một": 1, "mốt": 1, "hai": 2, "ba": 3, "bốn": 4, "tư": 4, "năm": 5, "lăm": 5, "sáu": 6, "bảy": 7,
    "tám": 8, "chín": 9,
}  # fmt: skip


def value_of(words: str) -> int:
    """The number that Vietnamese words say, by splitting at the highest power; knows nothing of the writer."""
    tokens = words.split()
    for name, size in (("tỷ", 10**9), ("triệu", 10**6), ("nghìn", 1000), ("ngàn", 1000), ("trăm", 100)):
        if name in tokens:
            place = len(tokens) - 1 - tokens[::-1].index(name)
            return value_of(" ".join(tokens[:place])) * size + value_of(" ".join(tokens[place + 1 :]))
    if "mươi" in tokens:
        place = tokens.index("mươi")
        return _UNITS[tokens[place - 1]] * 10 + value_of(" ".join(tokens[place + 1 :]))
    if tokens and tokens[0] == "mười":
        return 10 + value_of(" ".join(tokens[1:]))
    if tokens and tokens[0] in ("linh", "lẻ"):
        return _UNITS[tokens[1]]
    assert len(tokens) < 2, words
    return _UNITS[tokens[0]] if tokens else 0


_ANY_SIZE = st.integers(0, 60).flatmap(lambda bits: st.integers(0, 2**bits))


@settings(max_examples=300, deadline=None)
@given(_ANY_SIZE)
def test_words_are_read_back_as_the_number(value: int) -> None:
    for dialect in (NORTH, SOUTH):
        words = dialect.integer(value)
        assert value_of(words) == value
        assert all(is_syllable(word) for word in words.split())


def test_all_small_numbers_are_distinct_and_read_back() -> None:
    words = [NORTH.integer(value) for value in range(20_000)]
    assert len(set(words)) == len(words)
    assert [value_of(text) for text in words] == list(range(20_000))


@settings(max_examples=300, deadline=None)
@given(_ANY_SIZE, _ANY_SIZE)
def test_another_number_has_other_words(first: int, second: int) -> None:
    assert (NORTH.integer(first) == NORTH.integer(second)) == (first == second)
    assert (value_of(NORTH.integer(first)) < value_of(NORTH.integer(second))) == (first < second)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10**18 - 1), st.sampled_from((".", ",", "\u00a0")))
def test_grouping_does_not_change_a_number_of_many_groups(value: int, mark: str) -> None:
    written = f"{value:,}".replace(",", mark)
    if written.count(mark) > 1:
        assert NORTH.number(written) == NORTH.integer(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "không"), (4, "bốn"), (5, "năm"), (10, "mười"), (11, "mười một"), (14, "mười bốn"), (15, "mười lăm"),
        (20, "hai mươi"), (21, "hai mươi mốt"), (24, "hai mươi tư"), (25, "hai mươi lăm"), (31, "ba mươi mốt"),
        (44, "bốn mươi tư"), (55, "năm mươi lăm"), (101, "một trăm linh một"), (104, "một trăm linh bốn"),
        (105, "một trăm linh năm"), (110, "một trăm mười"), (115, "một trăm mười lăm"),
        (1005, "một nghìn không trăm linh năm"), (2015, "hai nghìn không trăm mười lăm"),
        (10_000, "mười nghìn"), (100_000, "một trăm nghìn"), (1_000_001, "một triệu không trăm linh một"),
        (1_050_000, "một triệu không trăm năm mươi nghìn"), (10**9, "một tỷ"), (10**12, "một nghìn tỷ"),
        (10**18, "một tỷ tỷ"), (-7, "âm bảy"),
        (1_234_567_891, "một tỷ hai trăm ba mươi tư triệu năm trăm sáu mươi bảy nghìn tám trăm chín mươi mốt"),
    ],
)  # fmt: skip
def test_number_words(value: int, words: str) -> None:
    assert NORTH.integer(value) == words


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("1250", ("1250", "", "")), ("1.250", ("1250", "", "")), ("1.250.000", ("1250000", "", "")),
        ("1,250,000", ("1250000", "", "")), ("10,000", ("10000", "", "")), ("1,250", ("1250", "", "")),
        ("1,255", ("1", "phẩy", "255")), ("0,125", ("0", "phẩy", "125")), ("0.125", ("0", "chấm", "125")),
        ("15,5", ("15", "phẩy", "5")), ("15.5", ("15", "chấm", "5")), ("1.250,5", ("1250", "phẩy", "5")),
        ("1,250.5", ("1250", "chấm", "5")), ("1 250 000", ("1250000", "", "")),
    ],
)  # fmt: skip
def test_written_numbers(written: str, parts: tuple[str, str, str]) -> None:
    assert split_number(written) == parts


def test_decimals_and_long_strings() -> None:
    assert NORTH.number("3,14159") == "ba phẩy một bốn một năm chín"
    assert NORTH.number("2,05") == "hai phẩy không năm"
    assert NORTH.plain("1" * 19) == " ".join(["một"] * 19)
    assert NORTH.plain("0123") == "không một hai ba"
    assert SOUTH.integer(1104) == "một ngàn một trăm lẻ bốn"


def test_roman_numerals_read_back() -> None:
    tens = ["", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC"]
    ones = ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"]
    for value in range(1, 100):
        assert roman_value(tens[value // 10] + ones[value % 10]) == value
    assert roman_value("MCMXLV") == 1945
    assert [roman_value(text) for text in ("IIII", "IIX", "VX", "", "ABC")] == [None] * 5


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(ValueError, match="north, south"):
        Numerals("west")


def test_english_numbers() -> None:
    assert cardinal(0) == "zero"
    assert cardinal(1_250_021) == "one million two hundred fifty thousand twenty one"
    assert [ordinal(value) for value in (1, 2, 3, 5, 12, 20, 21, 100)] == [
        "first", "second", "third", "fifth", "twelfth", "twentieth", "twenty first", "one hundredth",
    ]  # fmt: skip
