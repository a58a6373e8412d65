"""Tests of cells: text is cleaned, numbers are exact in every spelling, and equal keys and labels have one spelling."""

import datetime as dt
import math
import string
import unicodedata
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from ml_pipelines.data import cells
from ml_pipelines.data.cells import Spelling

PLAIN = Spelling(("NA",))


def cleaned(*values: str, spelling: Spelling = PLAIN) -> list[str | None]:
    return cells.clean(pa.array(values), spelling).to_pylist()


def as_numbers(values: list[Any], kind: pa.DataType | None = None, **spelling: Any) -> list[float | None]:
    spelled = Spelling(**spelling)
    return cells.numbers(cells.clean(pa.array(values, kind), spelled), spelled).to_pylist()


# -- clean text


@pytest.mark.parametrize(
    "blank",
    ["\xa0", "\t", "\u200b", "\ufeff", "\r", "\n", "\u3000", "\u202f", "\u2060", "\x00", "\x1f", " \u200b\xa0 "],
)
def test_a_blank_around_text_is_removed_whatever_its_kind(blank: str) -> None:
    assert cleaned(f"{blank}yes", f"yes{blank}", blank, f"{blank}NA{blank}") == ["yes", "yes", None, None]


def test_every_blank_and_control_character_of_unicode_is_removed() -> None:
    chars = [chr(code) for code in range(0x110000)]
    assert {c for c in chars if c.isspace() or unicodedata.category(c) == "Cc"} <= set(cells.BLANKS)
    assert [c for c in cells.BLANKS if c.isalnum() or c in string.punctuation] == []


def test_a_character_inside_a_word_stays() -> None:
    assert cleaned("no\xa0one", "wo\u200brd") == ["no\xa0one", "wo\u200brd"]


def test_composed_and_decomposed_text_become_equal() -> None:
    assert cleaned("caf\u00e9", "cafe\u0301", "\u1100\u1161") == ["caf\u00e9", "caf\u00e9", "\uac00"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_every_type_of_text_is_cleaned(kind: pa.DataType) -> None:
    assert cells.clean(pa.array([" a", "NA", None], kind), PLAIN).to_pylist() == ["a", None, None]


def test_nan_is_missing() -> None:
    assert cells.clean(pa.array([1.0, math.nan, None]), PLAIN).to_pylist() == [1.0, None, None]


# -- numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (text, float(text))
        for text in ("1", "-3", "+4", "1e5", "1E-5", ".5", "5.", "-0", "007", "0.1", "9007199254740993")
    ]
    + [("1e400", math.inf), ("-1e400", -math.inf), ("inf", math.inf), ("-Infinity", -math.inf)]
    + [(text, None) for text in ("1d", "0x10", "1_000", "1,5", "--1", "1e", "\u0663", "e5", ".", "", "1 000")],
)
def test_text_becomes_the_nearest_number(text: str, number: float | None) -> None:
    assert as_numbers([text]) == [number]


@pytest.mark.parametrize(
    ("decimal", "thousands", "text", "number"),
    [
        (".", ",", "4,273.73", 4273.73),
        (".", ",", "-1,234,567", -1234567.0),
        (".", ",", "4273.73", 4273.73),
        (".", ",", "42,73", None),
        (",", None, "4273,73", 4273.73),
        (",", None, "4273.73", None),
        (",", ".", "4.273,73", 4273.73),
        (",", ".", "1.234", 1234.0),
        (",", " ", "4 273,73", 4273.73),
        (",", " ", "4\u202f273,73", 4273.73),
        (",", " ", "4\xa0273", 4273.0),
        (".", "'", "4'273.73", 4273.73),
        (".", "'", "4\u2019273.73", 4273.73),
        (",", ".", "1,5e3", 1500.0),
    ],
)
def test_a_configured_spelling_is_read(decimal: str, thousands: str | None, text: str, number: float | None) -> None:
    assert as_numbers([text], decimal=decimal, thousands=thousands) == [number]


@pytest.mark.parametrize(
    "text", ["0.1234567890123456789012345", "123456789012345678901234567890.12345678", "9007199254740993"]
)
def test_a_decimal_is_rounded_to_the_nearest_float(text: str) -> None:
    exact = Decimal(text)
    assert as_numbers([exact]) == [float(exact)]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([True, False, None], pa.bool_(), [1.0, 0.0, None]),
        ([1, None], pa.int8(), [1.0, None]),
        ([2**63 + 5], pa.uint64(), [float(2**63 + 5)]),
        ([0.5], pa.float16(), [0.5]),
        ([dt.date(2024, 1, 1)], pa.date32(), [None]),
    ],
)
def test_other_types_become_numbers_or_null(values: list[Any], kind: pa.DataType, expected: list[Any]) -> None:
    assert as_numbers(values, kind) == expected


def test_a_32_bit_float_stays_one() -> None:
    assert cells.numbers(pa.array([0.1], pa.float32()), PLAIN).type == pa.float32()


# -- text of other types


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (17.0, pa.float64(), "17"),
        (-0.0, pa.float64(), "0"),
        (17.5, pa.float64(), "17.5"),
        (0.1, pa.float32(), "0.1"),
        (2.0**53 - 1, pa.float64(), "9007199254740991"),
        (2.0**53, pa.float64(), "9.007199254740992e+15"),  # no longer exact
        (2**63 + 5, pa.uint64(), "9223372036854775813"),
        (True, pa.bool_(), "true"),
        (Decimal("1.50"), pa.decimal128(5, 2), "1.50"),
        (dt.date(2024, 2, 29), pa.date32(), "2024-02-29"),
        (dt.datetime(2024, 2, 29, 12, 30), pa.timestamp("us"), "2024-02-29 12:30:00"),
        (dt.datetime(2024, 2, 29, 12, 30, 0, 500), pa.timestamp("us"), "2024-02-29 12:30:00.0005"),
        (dt.datetime(2024, 2, 29, 12, 30), pa.timestamp("us", "UTC"), "2024-02-29 12:30:00+00:00"),
    ],
)
def test_every_type_has_one_text(value: Any, kind: pa.DataType, text: str) -> None:
    assert cells.texts(pa.array([value], kind)).to_pylist() == [text]


def test_the_hour_that_occurs_twice_in_autumn_stays_two_hours() -> None:
    instants = [dt.datetime(2024, 10, 27, hour, 30, tzinfo=dt.UTC) for hour in (0, 1)]  # both are 02:30 in Berlin
    texts = cells.texts(pa.array(instants, pa.timestamp("us", "Europe/Berlin"))).to_pylist()
    assert len(set(texts)) == 2


# -- one spelling of equal numbers

EQUAL = [
    ("17", ["17", "17.0", "017", "+17", "1.7e1", "17.", "17.000"]),
    ("0", ["0", "0.0", "00", "+0"]),
    ("17.5", ["17.5", "17.50", "017.5"]),
    ("10", ["10", "10.0", "010.", "1e1"]),
    ("100000", ["100000", "1e5", "1E+05"]),
    ("-3", ["-3", "-3.0", "-03"]),
    ("9007199254740993", ["9007199254740993", "09007199254740993"]),
]
UNEQUAL = ["abc", "1_000", "0x10", "nan", "+", "1e400", "A17", "17a", "1-2", "1.2.3"]


@pytest.mark.parametrize(("plain", "spellings"), EQUAL, ids=lambda case: case if isinstance(case, str) else "")
def test_equal_numbers_have_one_spelling(plain: str, spellings: list[str]) -> None:
    assert {cells.plain_number(text) for text in spellings} == {plain}


def test_text_that_is_not_a_number_keeps_its_spelling() -> None:
    assert [cells.plain_number(text) for text in UNEQUAL] == UNEQUAL
