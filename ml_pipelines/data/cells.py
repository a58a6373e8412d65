"""Converts cells of a source into values for a model: clean text, numbers, keys and classes, as Arrow arrays.

Spark's Python workers run these functions, so every engine gives the same values to the last bit. Spark sends this
module to the workers, because a remote worker can lack this package. So the module imports no other module
of ml_pipelines.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

FLOAT32_MAX = 3.4028234663852886e38  # a larger number can't be in a feature: scikit-learn's trees use 32-bit floats
EXACT = 2**53  # above this, a float64 can't hold every whole number
# Characters that `clean` removes around text: blanks of any script, control characters, and characters that no screen
# shows, such as zero-width ones and byte order marks.
# They are written out because every start of driver.py imports this module.
_RANGES = ((0x00, 0x20), (0x7F, 0xA0), (0x2000, 0x200F), (0x2028, 0x2029))
_SINGLE = (0xAD, 0x1680, 0x180E, 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF)
BLANKS = "".join(map(chr, (*(code for first, last in _RANGES for code in range(first, last + 1)), *_SINGLE)))
GROUPS = "[ '\u2019\xa0\u2009\u202f]"  # blanks and apostrophes that separate thousands in some countries
SIGNS = "(?:[$€£¥₹₽₩₺%‰]|USD|EUR|GBP|CHF|JPY|CNY|INR)"
# Numbers in any local spelling: 4,273.73  4.273,73  4 273,73  4273,73  $5  26 %  (17)  17-
MARKED = (
    rf"^[(]?{SIGNS}?\s*[+-]?\s*{SIGNS}?\s*(?:[0-9]{{1,3}}(?:,[0-9]{{3}})+(?:\.[0-9]*)?|[0-9]{{1,3}}(?:\.[0-9]{{3}})+(?:,[0-9]*)?"
    rf"|[0-9]{{1,3}}(?:{GROUPS}[0-9]{{3}})+(?:[.,][0-9]*)?|[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)\s*{SIGNS}?\s*[)-]?$"
)
# Text that often means "missing": only punctuation, or one of these words.
MISSING = "^(?:[!-/:-@\\[-`{-~\u2013\u2014\u2026]+|" r"(?i:n/?a|n\.a\.|#n/?a|nan|null|none|nil|missing|unknown|\\n))$"
INFINITE = r"^[+-]?(?i:inf(?:inity)?)$"
STATISTICS = ("rows", "present", "numbers", "infinite", "beyond", "long", "marked", "missing")


@dataclass(frozen=True)
class Spelling:
    """How a source spells missing values and numbers: the `data.null_values`, and the marks inside a number."""

    null_values: tuple[str, ...] = ()
    decimal: str = "."
    thousands: str | None = None

    @property
    def pattern(self) -> str:
        """A regular expression (RE2) that matches a cell if all of its text is one number."""
        point, digits = f"\\{self.decimal}", "[0-9]+"
        if self.thousands:
            digits = f"(?:[0-9]{{1,3}}(?:{self.group}[0-9]{{3}})+|[0-9]+)"
        return rf"^[+-]?(?:{digits}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?$"

    @property
    def group(self) -> str:
        """A regular expression for the mark between thousands. A blank or an apostrophe has several forms."""
        return GROUPS if self.thousands in (" ", "'") else f"\\{self.thousands}"


_NUMBER = re.compile(Spelling().pattern)  # a number as Python and Spark write it


def clean(cells: pa.Array, spelling: Spelling) -> pa.Array:
    """Return the cells with null for each cell that means "missing": NaN, blank text, or one of the null values.

    The blanks around text are removed. Text gets Unicode's composed form (NFC), so that equal words have equal bytes.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_floating(cells.type):
        unknown = pc.is_nan(cells)
        return pc.if_else(unknown, None, cells) if pc.any(unknown).as_py() else cells
    if not is_text(cells.type):
        return cells
    text = cells if pa.types.is_string(cells.type) else cells.cast(pa.string())
    if not pc.all(pc.string_is_ascii(text)).as_py():
        text = pa.array([c and unicodedata.normalize("NFC", c) for c in text.to_pylist()], pa.string())
    text = pc.utf8_trim(text, BLANKS)
    missing = pc.is_in(text, value_set=pa.array(["", *spelling.null_values], pa.string()))
    return pc.if_else(missing, None, text)


def is_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is text."""
    return str(kind) in ("string", "large_string", "string_view")


def numbers(cells: pa.Array, spelling: Spelling) -> pa.Array:
    """Return clean cells as float64, or float32 if they are float32. A cell that is not a number becomes null.

    Text and decimals are rounded to the nearest float64. Text such as `1e400` and `Infinity` becomes infinite.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = cells.type
    if pa.types.is_float32(kind):
        return cells
    if pa.types.is_boolean(kind):
        return cells.cast(pa.int8()).cast(pa.float64())
    if pa.types.is_decimal(kind):
        return _parsed(cells.cast(pa.string()))
    if pa.types.is_integer(kind):
        return cells.cast(pa.float64(), safe=False)
    if pa.types.is_floating(kind):
        return cells.cast(pa.float64())
    if not is_text(kind):
        return pa.nulls(len(cells), pa.float64())
    text = pc.if_else(pc.match_substring_regex(cells, spelling.pattern), cells, None)
    if spelling.thousands:
        text = pc.replace_substring_regex(text, spelling.group, "")
    if spelling.decimal != ".":
        text = pc.replace_substring(text, spelling.decimal, ".")
    number = _parsed(text)
    if text.null_count == cells.null_count:
        return number
    infinite = pc.if_else(pc.starts_with(cells, "-"), float("-inf"), float("inf"))
    return pc.if_else(pc.fill_null(pc.match_substring_regex(cells, INFINITE), False), infinite, number)


def _parsed(text: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.utf8_ltrim(text, "+")
    try:
        return text.cast(pa.float64())
    except pa.ArrowInvalid:  # Arrow refuses numbers beyond float64, such as 1e400; Python makes them infinite
        return pa.array([None if cell is None else float(cell) for cell in text.to_pylist()], pa.float64())


def texts(cells: pa.Array) -> pa.Array:
    """Return clean cells as text: numbers in their shortest form, times in ISO 8601 with a blank instead of the T.

    A whole float has no decimal point: 17.0 becomes `17`. A time with a zone is in UTC and ends in `+00:00`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = cells.type
    if is_text(kind):
        return cells
    if pa.types.is_floating(kind):
        whole = pc.and_(pc.equal(cells, pc.floor(cells)), pc.less(pc.abs(cells), float(EXACT)))
        integers = pc.if_else(whole, cells, None).cast(pa.int64()).cast(pa.string())
        return pc.if_else(whole, integers, cells.cast(pa.string()))
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        zone = "+00:00" if getattr(kind, "tz", None) else ""
        text = pc.replace_substring_regex(cells.cast(pa.string()), "Z$", "")
        text = pc.replace_substring_regex(text, r"\.0+$|(\.[0-9]*[1-9])0+$", r"\1")
        return pc.binary_join_element_wise(text, zone, "")
    return cells.cast(pa.string())


def canonical(cells: pa.Array) -> pa.Array:
    """Return clean cells as text in which equal numbers have one spelling: 17, 17.0, 017 and 1.7e1 become `17`."""
    import pyarrow as pa

    encoded = cells.dictionary_encode()
    plain = pa.array(map(plain_number, texts(encoded.dictionary).to_pylist()), pa.string())
    return plain.take(encoded.indices)


def plain_number(text: str) -> str:
    """Return a number without exponent and needless zeros: `1.70e1` gives `17`. Other text is returned unchanged."""
    if not _NUMBER.fullmatch(text):
        return text
    number = Decimal(text)
    if not number:
        return "0"
    if abs(number.adjusted()) > 40:
        return text
    plain = f"{number:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def of_labelled_rows(
    batches: Iterable[pa.RecordBatch],
    run: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    label: int,
    spelling: Spelling,
) -> Iterator[pa.RecordBatch]:
    """Yield what `run` yields for the rows that have a label.

    Args:
        batches: rows of the source.
        run: `profile`, `convert` or `bad_cells` with its other arguments.
        label: the position of the label's column.
        spelling: how the source spells missing values.
    """
    yield from run(batch.filter(clean(batch.column(label), spelling).is_valid()) for batch in batches)


def profile(
    batches: Iterable[pa.RecordBatch], label: int | None, spelling: Spelling, most: int
) -> Iterator[pa.RecordBatch]:
    """Yield the statistics of each column, in long form: one row for each column, and one for each value of the label.

    Args:
        batches: rows of the source.
        label: the position of the label's column; None: no values are counted.
        spelling: how the source spells numbers and missing values.
        most: count at most this many values of the label.

    Returns:
        Columns `position`, `value` (a value of the label, as `canonical` spells it; null in the row for a column), and
        `STATISTICS`. These are the counts of all cells, and of cells with a value, with a number, with an infinite
        number, with a number beyond float32, with a whole number that float64 rounds, with a number in a local
        spelling (`MARKED`), and with text that often means "missing".
    """
    import pyarrow as pa

    totals: dict[int, Counter[str]] = {}
    values: Counter[str] = Counter()
    for batch in batches:
        columns = [clean(column, spelling) for column in batch.columns]
        for position, column in enumerate(columns):
            totals.setdefault(position, Counter()).update(_statistics(column, spelling))
        if label is None:
            continue
        counted = columns[label].drop_null().value_counts()
        for value, count in zip(canonical(counted.field(0)).to_pylist(), counted.field(1).to_pylist(), strict=True):
            if value in values or len(values) < most:
                values[value] += count
    rows: list[tuple[int | str | None, ...]]
    rows = [(position, None, *(total[name] for name in STATISTICS)) for position, total in totals.items()]
    rows += [(label, value, count, *[0] * (len(STATISTICS) - 1)) for value, count in values.items()]
    kinds = [pa.int64(), pa.string(), *[pa.int64()] * len(STATISTICS)]
    names = ["position", "value", *STATISTICS]
    arrays = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]
    yield pa.RecordBatch.from_arrays(arrays, names)


def _statistics(cells: pa.Array, spelling: Spelling) -> dict[str, int]:
    import pyarrow as pa
    import pyarrow.compute as pc

    def count(condition: pa.Array) -> int:
        return int(pc.sum(condition).as_py() or 0)

    number = numbers(cells, spelling)
    statistics = {
        "rows": len(cells),
        "present": len(cells) - cells.null_count,
        "numbers": len(cells) - number.null_count,
    }
    ends = pc.min_max(number)
    if max(-(ends["min"].as_py() or 0), ends["max"].as_py() or 0) >= EXACT:
        size = pc.abs(number)
        statistics["infinite"] = count(pc.is_inf(size))
        statistics["beyond"] = count(pc.greater(size, FLOAT32_MAX)) - statistics["infinite"]
        if not pa.types.is_floating(cells.type):
            digits = pc.match_substring_regex(texts(cells), r"^[+-]?[0-9]{16,}$")
            statistics["long"] = count(pc.and_(digits, pc.greater_equal(size, float(EXACT))))
    if is_text(cells.type) and statistics["numbers"] < statistics["present"]:
        other = cells.filter(pc.is_null(number))
        statistics["marked"] = count(pc.match_substring_regex(other, MARKED))
        statistics["missing"] = count(pc.match_substring_regex(other, MISSING))
    return statistics


def convert(
    batches: Iterable[pa.RecordBatch],
    columns: Sequence[tuple[str, int, str]],
    spelling: Spelling,
    classes: Mapping[str, int],
) -> Iterator[pa.RecordBatch]:
    """Yield the rows with their columns converted.

    Args:
        batches: rows of the source.
        columns: the new name, the position in the source and the new type of each column: `double`, `float`, `bigint`
            or `string`; `int` for the class of a label, or `canonical` for its text.
        spelling: how the source spells numbers and missing values.
        classes: value of the label, as `canonical` spells it -> 0 or 1.
    """
    import pyarrow as pa

    for batch in batches:
        arrays = []
        for _, position, kind in columns:
            cells = clean(batch.column(position), spelling)
            if kind == "int":
                encoded = cells.dictionary_encode()
                values = canonical(encoded.dictionary).to_pylist()
                codes = pa.array([classes[value] for value in values], pa.int32())
                arrays.append(codes.take(encoded.indices))
            elif kind == "string":
                arrays.append(texts(cells))
            elif kind == "canonical":
                arrays.append(canonical(cells))
            elif kind == "bigint":
                arrays.append(cells.cast(pa.int64()))
            else:
                arrays.append(numbers(cells, spelling))
        yield pa.RecordBatch.from_arrays(arrays, [name for name, _, _ in columns])


def bad_cells(
    batches: Iterable[pa.RecordBatch], position: int, problem: str, spelling: Spelling
) -> Iterator[pa.RecordBatch]:
    """Yield the cells of a column that have a problem, as the column `cell` of text.

    Args:
        batches: rows of the source.
        position: the position of the column.
        problem: `infinite`, `beyond` (float32), `marked` or `missing` (text that matches MARKED or MISSING), or `text`
            for any cell that is not a number.
        spelling: how the source spells numbers and missing values.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in batches:
        cells = clean(batch.column(position), spelling)
        number = numbers(cells, spelling)
        if problem in ("infinite", "beyond"):
            size = pc.abs(number)
            chosen = pc.is_inf(size) if problem == "infinite" else pc.greater(size, FLOAT32_MAX)
        else:
            chosen = pc.and_(pc.is_null(number), pc.is_valid(cells))
            if pattern := {"marked": MARKED, "missing": MISSING}.get(problem):
                chosen = pc.and_(chosen, pc.match_substring_regex(cells, pattern))
        yield pa.RecordBatch.from_arrays([texts(cells.filter(chosen))], ["cell"])
