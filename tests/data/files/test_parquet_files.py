"""Parquet files: which types and layouts of folders are read, and as what. Both engines return the same rows."""

import datetime as dt
import decimal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from pyspark.sql import SparkSession
from reading import Reading, Shown, show, show_on_jvm

D = decimal.Decimal
SECOND = 10**9  # in nanoseconds


@dataclass(frozen=True)
class Kind:
    """A column of an Arrow type with two values and a null, and what both engines read."""

    column: pa.Array
    spark: str
    cells: list[str | None]


def _two(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([*values, None], kind)


def _text(*cells: str) -> list[str | None]:
    return [*cells, None]


KINDS = {
    "category": Kind(_two(["b", "a"]).dictionary_encode(), "string", _text("b", "a")),
    "category-of-numbers": Kind(_two([7, 5]).dictionary_encode(), "bigint", _text("7", "5")),
    "large-string": Kind(_two(["a", "b"], pa.large_string()), "string", _text("a", "b")),
    "string-view": Kind(_two(["a", "b"], pa.string_view()), "string", _text("a", "b")),
    "half-float": Kind(_two([0.5, -2], pa.float16()), "float", _text("0.5", "-2.0")),
    "boolean": Kind(_two([True, False]), "boolean", _text("true", "false")),
    "uint8": Kind(_two([0, 255], pa.uint8()), "smallint", _text("0", "255")),
    "uint16": Kind(_two([0, 2**16 - 1], pa.uint16()), "int", _text("0", "65535")),
    "uint32": Kind(_two([0, 2**32 - 1], pa.uint32()), "bigint", _text("0", "4294967295")),
    "uint64": Kind(
        _two([2**63, 2**64 - 1], pa.uint64()), "decimal(20,0)", _text("9223372036854775808", "18446744073709551615")
    ),
    "decimal32": Kind(_two([D("1.10"), D("-2.25")], pa.decimal32(5, 2)), "decimal(5,2)", _text("1.10", "-2.25")),
    "decimal64": Kind(_two([D("1.10"), D("-2.25")], pa.decimal64(9, 2)), "decimal(9,2)", _text("1.10", "-2.25")),
    "decimal128": Kind(_two([D("1.10"), D("-2.25")], pa.decimal128(38, 2)), "decimal(38,2)", _text("1.10", "-2.25")),
    "decimal256": Kind(_two([D("1.10"), D("-2.25")], pa.decimal256(20, 2)), "decimal(20,2)", _text("1.10", "-2.25")),
    "date32": Kind(_two([dt.date(2024, 2, 29), dt.date(1969, 7, 20)]), "date", _text("2024-02-29", "1969-07-20")),
    "date64": Kind(
        _two([dt.date(2024, 2, 29), dt.date(1969, 7, 20)], pa.date64()), "date", _text("2024-02-29", "1969-07-20")
    ),
    "timestamp-ns": Kind(
        _two([1500 * 10**6, SECOND], pa.timestamp("ns")),
        "timestamp_ntz",
        _text("1970-01-01 00:00:01.5", "1970-01-01 00:00:01"),
    ),
    "timestamp-ms": Kind(
        _two([1500, 0], pa.timestamp("ms")), "timestamp_ntz", _text("1970-01-01 00:00:01.5", "1970-01-01 00:00:00")
    ),
    "timestamp-ns-utc": Kind(
        _two([SECOND, 0], pa.timestamp("ns", "UTC")), "timestamp", _text("1970-01-01 00:00:01", "1970-01-01 00:00:00")
    ),
    "timestamp-zone": Kind(
        _two([0, 3600 * 10**6], pa.timestamp("us", "Europe/Berlin")),
        "timestamp",
        _text("1970-01-01 00:00:00", "1970-01-01 01:00:00"),
    ),
    "timestamp-offset": Kind(
        _two([0, 3600 * 10**3], pa.timestamp("ms", "+05:30")),
        "timestamp",
        _text("1970-01-01 00:00:00", "1970-01-01 01:00:00"),
    ),
    "time-ms": Kind(
        _two([dt.time(12, 30), dt.time(0, 0, 1)], pa.time32("ms")), "string", _text("12:30:00.000", "00:00:01.000")
    ),
    "time-ns": Kind(
        _two([60 * SECOND, 1], pa.time64("ns")), "string", _text("00:01:00.000000000", "00:00:00.000000001")
    ),
    "null": Kind(pa.nulls(3), "string", [None, None, None]),
    "binary": Kind(_two([b"a", b"\xff"]), "binary", _text("61", "FF")),
    "fixed-binary": Kind(_two([b"aa", b"bb"], pa.binary(2)), "binary", _text("6161", "6262")),
    "list": Kind(_two([[1, 2], []]), "array<bigint>", _text("[1, 2]", "[]")),
    "large-list": Kind(_two([[1], []], pa.large_list(pa.int64())), "array<bigint>", _text("[1]", "[]")),
    "list-of-categories": Kind(
        pa.array([["a"], ["b"], None], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        "array<string>",
        _text("[a]", "[b]"),
    ),
    "struct": Kind(_two([{"a": 1}, {"a": 2}]), "struct<a:bigint>", _text("{1}", "{2}")),
}
REFUSED = {
    "list-of-two": (_two([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64(), 2)), "Add it to data.drop."),
    "struct-of-categories": (
        pa.array([{"a": "x"}, {"a": "y"}, None], pa.struct([("a", pa.dictionary(pa.int32(), pa.string()))])),
        "Add it to data.drop.",
    ),
    "duration": (_two([1, 2], pa.duration("us")), "Write it as a number, or add it to data.drop."),
    "decimal-of-50-digits": (
        _two([D(1), D(2)], pa.decimal256(50, 0)),
        "which can't be a feature. Add it to data.drop.",
    ),
}


def write(path: Path, columns: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(dict(columns)), path)
    return path


def write_kind(folder: Path, column: pa.Array, name: str = "rows") -> Path:
    return write(folder / f"{name}.parquet", {"id": [0, 1, 2], "c": column, "label": ["x", "y", "x"]})


@pytest.mark.parametrize("name", KINDS)
def test_each_arrow_type_is_read_as_its_plain_type(spark: SparkSession, tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    shown = show(spark, Reading(str(write_kind(tmp_path, kind.column))))
    assert shown.error == ""
    assert shown.types == {"id": "bigint", "c": kind.spark, "label": "string"}
    assert [row[1] for row in shown.rows] == kind.cells


@pytest.mark.parametrize("name", REFUSED)
def test_a_type_that_cannot_be_read_is_refused_by_column_and_file(
    spark: SparkSession, tmp_path: Path, name: str
) -> None:
    column, advice = REFUSED[name]
    path = write_kind(tmp_path, column)
    error = show(spark, Reading(str(path))).error
    assert error.startswith(f"Column c of {path} has type ")
    assert ", which can't be a feature. " in error
    assert advice in error


ODD = {**{name: kind.column for name, kind in KINDS.items()}, **{name: column for name, (column, _) in REFUSED.items()}}


@pytest.mark.parametrize("name", ODD)
def test_the_type_of_a_dropped_column_does_not_matter(spark: SparkSession, tmp_path: Path, name: str) -> None:
    path = write_kind(tmp_path, ODD[name])
    shown = show(spark, Reading(str(path), dropped=("c",)))
    assert set(shown.types) == {"id", "c", "label"}
    rows = [{name: row[list(shown.types).index(name)] for name in ("id", "label")} for row in shown.rows]
    assert rows == [{"id": str(i), "label": label} for i, label in enumerate("xyx")]


def test_files_with_plain_types_are_not_copied(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = {"plain": [1.5], "odd": pa.array(["a"]).dictionary_encode(), "zone": pa.array([0], pa.timestamp("s", "CET"))}
    write(tmp_path / "rows.parquet", odd)
    monkeypatch.setattr(parquet, "ParquetWriter", None)
    assert show(spark, Reading(str(tmp_path / "rows.parquet"), dropped=("odd",))).rows == [
        ["1.5", "1970-01-01 00:00:00", None]
    ]
    with pytest.raises(TypeError):
        show(spark, Reading(str(tmp_path / "rows.parquet")))


def test_a_large_file_is_copied_batch_by_batch_without_losing_rows(spark: SparkSession, tmp_path: Path) -> None:
    count = 150_000
    names = pa.array([f"group {i % 7}" for i in range(count)]).dictionary_encode()
    path = write(tmp_path / "rows.parquet", {"id": range(count), "name": names})
    shown = show(spark, Reading(str(path)))
    assert {row[0]: row[1] for row in shown.rows} == {str(i): f"group {i % 7}" for i in range(count)}


def test_two_columns_of_one_name_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["x", "y", "x"])
    parquet.write_table(twice, tmp_path / "rows.parquet")
    error = show(spark, Reading(str(tmp_path / "rows.parquet"))).error
    assert error == f"{tmp_path / 'rows.parquet'} has two columns named x. Rename one of them."


# -- several files


@dataclass(frozen=True)
class Layout:
    """Files below a folder, and the rows that both engines read: all of them, or the error."""

    files: Mapping[str, Mapping[str, Any]]
    types: dict[str, str]
    rows: list[list[str | None]]
    error: str = ""


def _int32(*values: int) -> pa.Array:
    return pa.array(values, pa.int32())


LAYOUTS = {
    "sub-folders": Layout(
        {"a.parquet": {"id": [1]}, "deep/b.parquet": {"id": [2]}, "deep/er/c.pq": {"id": [3]}},
        {"id": "bigint"},
        [["1"], ["2"], ["3"]],
    ),
    "a-later-column": Layout(
        {"a.parquet": {"id": [1]}, "b.parquet": {"id": [2], "x": [0.5]}},
        {"id": "bigint", "x": "double"},
        [["1", None], ["2", "0.5"]],
    ),
    "other-order": Layout(
        {"a.parquet": {"id": [1], "x": [0.5]}, "b.parquet": {"x": [1.5], "id": [2]}},
        {"id": "bigint", "x": "double"},
        [["1", "0.5"], ["2", "1.5"]],
    ),
    "other-width": Layout(
        {"a.parquet": {"id": _int32(1), "x": pa.array([0.5], pa.float32())}, "b.parquet": {"id": [2**40], "x": [1.5]}},
        {"id": "bigint", "x": "double"},
        [["1", "0.5"], [str(2**40), "1.5"]],
    ),
    "whole-numbers-in-one-file": Layout(
        {"a.parquet": {"id": [1], "x": [3]}, "b.parquet": {"id": [2], "x": [1.5]}},
        {"id": "bigint", "x": "double"},
        [["1", "3.0"], ["2", "1.5"]],
    ),
    "empty-in-one-file": Layout(
        {"a.parquet": {"id": [1], "x": pa.nulls(1)}, "b.parquet": {"id": [2], "x": ["t"]}},
        {"id": "bigint", "x": "string"},
        [["1", None], ["2", "t"]],
    ),
    "category-in-one-file": Layout(
        {"a.parquet": {"id": [1], "x": pa.array(["s"]).dictionary_encode()}, "b.parquet": {"id": [2], "x": ["t"]}},
        {"id": "bigint", "x": "string"},
        [["1", "s"], ["2", "t"]],
    ),
    "text-and-number": Layout(
        {"a.parquet": {"id": [1], "x": ["s"]}, "b.parquet": {"id": [2], "x": [0.5]}},
        {},
        [],
        "Column x has type string in {root}/a.parquet, but double in {root}/b.parquet. Write all files with one type",
    ),
    "beyond-a-double": Layout(
        {"a.parquet": {"id": [1], "x": [2**53 + 1]}, "b.parquet": {"id": [2], "x": [0.5]}},
        {},
        [],
        "Column x of {root}/a.parquet can't be read as double",
    ),
    "partitions": Layout(
        {
            "code=01001/a.parquet": {"id": [1]},
            "code=2/b.parquet": {"id": [2]},
            "code=__HIVE_DEFAULT_PARTITION__/c.parquet": {"id": [3]},
            "code=a%20b%3D%C3%A9/d.parquet": {"id": [4]},
        },
        {"id": "bigint", "code": "string"},
        [["1", "01001"], ["2", "2"], ["3", None], ["4", "a b=é"]],
    ),
    "partitions-of-two-levels": Layout(
        {"code=1/day=01/a.parquet": {"id": [1]}, "code=2/day=__HIVE_DEFAULT_PARTITION__/b.parquet": {"id": [2]}},
        {"id": "bigint", "code": "string", "day": "string"},
        [["1", "1", "01"], ["2", "2", None]],
    ),
    "partitions-with-a-name-in-the-files": Layout(
        {"code=01/a.parquet": {"id": [1], "code": [1]}, "code=02/b.parquet": {"id": [2], "code": [2]}},
        {"id": "bigint", "code": "string"},
        [["1", "01"], ["2", "02"]],
    ),
    "partitions-without-a-value": Layout(
        {"code=/a.parquet": {"id": [1]}, "code=02/b.parquet": {"id": [2]}},
        {"id": "bigint", "code": "string"},
        [["1", None], ["2", "02"]],
    ),
    "partitions-below-a-folder": Layout(
        {"old/code=01/a.parquet": {"id": [1]}, "new/code=02/part/b.parquet": {"id": [2]}},
        {"id": "bigint", "code": "string"},
        [["1", "01"], ["2", "02"]],
    ),
    "partitions-with-odd-types": Layout(
        {
            "code=01/a.parquet": {"id": [1], "x": pa.array(["s"]).dictionary_encode()},
            "code=__HIVE_DEFAULT_PARTITION__/b.parquet": {"id": [2], "y": pa.array([9], pa.uint64())},
        },
        {"id": "bigint", "x": "string", "y": "decimal(20,0)", "code": "string"},
        [["1", "s", None, "01"], ["2", None, "9", None]],
    ),
    "partitions-with-signs": Layout(
        {"code=[1]/a.parquet": {"id": [1]}, "code=#2?/b.parquet": {"id": [2]}},
        {"id": "bigint", "code": "string"},
        [["1", "[1]"], ["2", "#2?"]],
    ),
    "partitions-of-unequal-depth": Layout(
        {"b.parquet": {"id": [2]}, "code=1/a.parquet": {"id": [1]}},
        {},
        [],
        "lie in different kinds of folders: name=value gives no column and code",
    ),
    "a-file-name-with-signs": Layout(
        {"a[1]*.parquet": {"id": [1]}, "b c#%.parquet": {"id": [2]}}, {"id": "bigint"}, [["1"], ["2"]]
    ),
    "odd-column-names": Layout(
        {"a.parquet": {"a b": [1], "c`d": [2], "e.f": pa.array(["x"]).dictionary_encode(), "e": [0.5]}},
        {"a b": "bigint", "c`d": "bigint", "e.f": "string", "e": "double"},
        [["1", "2", "x", "0.5"]],
    ),
}


def write_layout(root: Path, layout: Layout) -> Path:
    for name, columns in layout.files.items():
        write(root / name, columns)
    return root


def check_layout(shown: Shown, layout: Layout, root: Path) -> None:
    assert (shown.types, shown.rows) == (layout.types, layout.rows), shown.error
    assert layout.error.format(root=root) in shown.error


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_files_of_a_folder_are_one_table(spark: SparkSession, tmp_path: Path, name: str) -> None:
    root = write_layout(tmp_path / "rows", LAYOUTS[name])
    check_layout(show(spark, Reading(str(root), {"format": "parquet"})), LAYOUTS[name], root)


COPIED = {"category", "category-of-numbers", "half-float", "decimal32", "decimal64", "decimal256", "date64", "null"}
COPIED |= {"timestamp-ns", "timestamp-ns-utc", "time-ms", "time-ns", "large-list", "list-of-categories"}


@pytest.mark.slow
@pytest.mark.jvm
@pytest.mark.usefixtures("java")
def test_the_jvm_reads_the_same_types_and_the_same_rows(tmp_path: Path) -> None:
    roots = [write_layout(tmp_path / name, layout) for name, layout in LAYOUTS.items()]
    by_engine, by_copy = (
        {name: kind for name, kind in KINDS.items() if (name in COPIED) is copied} for copied in (False, True)
    )
    files = [
        write(tmp_path / f"{i}.parquet", {"id": [0, 1, 2], **{name: kind.column for name, kind in kinds.items()}})
        for i, kinds in enumerate((by_engine, by_copy))
    ]
    odd = write(tmp_path / "odd.parquet", {"id": [0, 1, 2], **ODD})
    refused = write_kind(tmp_path, REFUSED["duration"][0])
    readings = [Reading(str(root), {"format": "parquet"}) for root in roots]
    readings += [*(Reading(str(file)) for file in files), Reading(str(odd), dropped=tuple(ODD)), Reading(str(refused))]
    *layouts, direct, copied, dropped, duration = show_on_jvm(readings)
    for layout, shown, root in zip(LAYOUTS.values(), layouts, roots, strict=True):
        check_layout(shown, layout, root)
    for kinds, shown in ((by_engine, direct), (by_copy, copied)):
        assert shown.types == {"id": "bigint", **{name: kind.spark for name, kind in kinds.items()}}, shown.error
        columns = dict(zip(shown.types, zip(*shown.rows, strict=True), strict=True))
        assert columns == {"id": ("0", "1", "2"), **{name: tuple(kind.cells) for name, kind in kinds.items()}}
    assert [row[list(dropped.types).index("id")] for row in dropped.rows] == ["0", "1", "2"]
    assert "which can't be a feature" in duration.error
