"""CSV files that are compressed, in another encoding, or written by another program. Both engines read the same."""

import bz2
import csv
import gzip
import io
import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from reading import Reading, Shown, show, show_on_jvm

from ml_pipelines.data.files import csv_files

TEXT = 'id,name\n1,"Zoë, 5"" tall"\n2,x\n'
CELLS: list[list[str | None]] = [["1", 'Zoë, 5" tall'], ["2", "x"]]


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


@dataclass(frozen=True)
class Text:
    """Files with settings, and the rows that both engines read."""

    files: Mapping[str, bytes]
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[list[str | None]] = field(default_factory=lambda: CELLS)


UTF8 = TEXT.encode()
SPARK_QUOTES = rb"""id,name
1,"say \"hi\", she"
2,"a \\ b"
3,C:\temp\new
4,"C:\temp\new, old"
5,"two
lines \"quoted\""
6,""
7,"\\"
8,"\""
"""
TEXTS = {
    "gzip": Text({"rows.csv.gz": gzip.compress(UTF8)}),
    "gzip-in-two-parts": Text({"rows.csv.gz": gzip.compress(UTF8[:20]) + gzip.compress(UTF8[20:])}),
    "gzip-without-the-suffix": Text({"rows.csv": gzip.compress(UTF8)}),
    "zstd": Text({"rows.csv.zst": zstd(UTF8)}),
    "bzip2": Text({"rows.csv.bz2": bz2.compress(UTF8)}),
    "xz": Text({"rows.csv.xz": lzma.compress(UTF8)}),
    "utf-16": Text({"rows.csv": TEXT.encode("utf-16")}, {"encoding": "utf-16"}),
    "utf-16-le-with-a-mark": Text({"rows.csv": TEXT.encode("utf-16")}, {"encoding": "utf-16-le"}),
    "utf-16-be": Text({"rows.csv": TEXT.encode("utf-16-be")}, {"encoding": "utf-16-be"}),
    "unicode-text-of-excel": Text(
        {"rows.csv": "id\tname\r\n1\tZoë\r\n".encode("utf-16")},
        {"encoding": "utf-16", "separator": "\t"},
        [["1", "Zoë"]],
    ),
    "cp1252": Text({"rows.csv": b"id,name\n1,5 \x80\n"}, {"encoding": "cp1252"}, [["1", "5 €"]]),
    "latin-1-in-gzip": Text({"rows.csv.gz": gzip.compress(TEXT.encode("latin-1"))}, {"encoding": "latin-1"}),
    "separator-line-of-excel": Text({"rows.csv": b'sep=;\r\nid;name\r\n1;"a;b"\r\n'}, {}, [["1", "a;b"]]),
    "separator-line-after-a-mark": Text({"rows.csv": b'\xef\xbb\xbf"sep=|"\nid|name\n1|a,b\n'}, {}, [["1", "a,b"]]),
    "separator-outside-ascii": Text({"rows.csv": "id§name\n1§a,b\n".encode()}, {"separator": "§"}, [["1", "a,b"]]),
    "escape-as-spark-writes-it": Text(
        {"rows.csv": SPARK_QUOTES},
        {"escape": "\\"},
        [
            ["1", 'say "hi", she'],
            ["2", "a \\ b"],
            ["3", "C:\\temp\\new"],
            ["4", "C:\\temp\\new, old"],
            ["5", 'two\nlines "quoted"'],
            ["6", None],
            ["7", "\\"],
            ["8", '"'],
        ],
    ),
    "a-folder-with-one-compressed-part": Text(
        {"rows/a.csv": b"id,name\n1,x\n", "rows/b.csv.gz": gzip.compress(b"id,name\n2,y\n"), "rows/_SUCCESS": b""},
        {},
        [["1", "x"], ["2", "y"]],
    ),
    "a-folder-with-odd-names": Text(
        {"rows/a[1].csv": b"id,name\n1,x\n", "rows/deep/b c#.csv": b"id,name\n2,y\n"},
        {"format": "csv"},
        [["1", "x"], ["2", "y"]],
    ),
}


def write(folder: Path, text: Text) -> Path:
    for name, content in text.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / next(iter(text.files)).split("/")[0]


def read(spark: SparkSession, path: Path, **settings: Any) -> Shown:
    return show(spark, Reading(str(path), settings))


def error_of(spark: SparkSession, path: Path, content: bytes, **settings: Any) -> str:
    path.write_bytes(content)
    return read(spark, path, **settings).error


@pytest.mark.parametrize("name", TEXTS)
def test_each_kind_of_csv_reads_cell_by_cell(spark: SparkSession, tmp_path: Path, name: str) -> None:
    shown = read(spark, write(tmp_path, TEXTS[name]), **TEXTS[name].settings)
    assert (shown.types, shown.rows) == ({"id": "string", "name": "string"}, TEXTS[name].rows), shown.error


@pytest.mark.slow
@pytest.mark.jvm
@pytest.mark.usefixtures("java")
def test_the_jvm_reads_the_same_cells(tmp_path: Path) -> None:
    readings = [Reading(str(write(tmp_path / name, text)), text.settings) for name, text in TEXTS.items()]
    for (name, text), shown in zip(TEXTS.items(), show_on_jvm(readings), strict=True):
        assert [[cell or None for cell in row] for row in shown.rows] == text.rows, f"{name} {shown.error}"


def test_blanks_of_any_kind_around_a_header_do_not_count(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\ufeff id\xa0,\u200bname\t\n1,x\n", encoding="utf-8")
    assert list(show(spark, Reading(str(path))).types) == ["id", "name"]


def test_an_ordinary_csv_is_not_copied(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_new_file", None)
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + UTF8)
    assert read(spark, tmp_path / "rows.csv").rows == CELLS
    (tmp_path / "rows.csv").write_bytes(gzip.compress(UTF8))
    with pytest.raises(TypeError):
        read(spark, tmp_path / "rows.csv")


# -- the escape of Spark


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.lists(st.text('a",\\\n;', max_size=6), min_size=2, max_size=2), min_size=1, max_size=4))
def test_cells_that_are_quoted_as_spark_quotes_them_read_back(rows: list[list[str]]) -> None:
    def quoted(cell: str) -> str:
        return '"' + cell.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = io.StringIO("".join(",".join(map(quoted, row)) + "\n" for row in rows), newline="")
    assert list(csv.reader(csv_files.rfc_quotes(iter(lines), ",", "\\"), strict=True)) == rows


@pytest.mark.parametrize(
    "line",
    [b'1,"say \\"hi\\", she"', b'1,"a \\", b"', b'1,"x\\""'],
)
def test_a_backslash_before_a_quote_is_named_with_its_setting(spark: SparkSession, tmp_path: Path, line: bytes) -> None:
    error = error_of(spark, tmp_path / "rows.csv", b"id,name\n" + line + b"\n")
    assert error.startswith(f"{tmp_path / 'rows.csv'}: line 2 ")
    assert error.endswith(
        "It has a backslash before a quote, as Spark writes it. Set data.source.escape to a backslash."
    )


# -- errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            "id,name\n1,caf\xe9 au lait\n".encode("latin-1"),
            "Set data.source.encoding, perhaps to cp1252: then the text there is '1,café au lait'.",
            id="latin-1",
        ),
        pytest.param(TEXT.encode("utf-16"), "It is in UTF-16, as Excel's", id="utf-16"),
        pytest.param("id,name\n1,x\n".encode("utf-16-le"), "perhaps to utf-16-le.", id="utf-16-without-a-mark"),
        pytest.param("id,name\n1,x\n".encode("utf-16-be"), "perhaps to utf-16-be.", id="utf-16-be"),
        pytest.param(bytes(range(128, 256)) * 9, "Save it as CSV in UTF-8.", id="binary"),
        pytest.param(gzip.compress(UTF8)[:-9], "rows.csv is damaged: ", id="gzip-cut"),
        pytest.param(gzip.compress(UTF8)[:-8] + bytes(8), "rows.csv is damaged: ", id="gzip-with-a-wrong-checksum"),
        pytest.param(bz2.compress(UTF8)[:-9], "rows.csv is damaged: ", id="bzip2-cut"),
        pytest.param(zstd(UTF8)[:-9], "rows.csv is damaged: ", id="zstd-cut"),
        pytest.param(lzma.compress(UTF8)[:-9], "rows.csv is damaged: ", id="xz-cut"),
        pytest.param(b"PK\x03\x04" + bytes(99), "is a zip archive or an Excel workbook", id="zip"),
        pytest.param(gzip.compress(b""), "is empty: all its lines are blank", id="nothing-in-gzip"),
        pytest.param(b"sep=;\nid;name\n1;2;3\n", "line 3 has 3 cells, but the header has 2", id="line-after-sep"),
        pytest.param(b"a" * 9 * 2**20, "the header has more than 8 MB", id="header-without-end"),
        pytest.param(b'id,"' + b"a\n" * 5 * 2**20, "the header has more than 8 MB", id="quote-in-the-header"),
    ],
)
def test_a_csv_that_cannot_be_read_says_what_to_do(
    spark: SparkSession, tmp_path: Path, content: bytes, message: str
) -> None:
    error = error_of(spark, tmp_path / "rows.csv", content)
    assert message in error
    assert str(tmp_path / "rows.csv") in error


def test_the_wrong_encoding_is_named(spark: SparkSession, tmp_path: Path) -> None:
    assert "is not a CSV in ascii" in error_of(spark, tmp_path / "rows.csv", UTF8, encoding="ascii")
    error = error_of(spark, tmp_path / "rows.csv", b"\xef\xbb\xbf" + UTF8, encoding="cp1252")
    assert error == f"{tmp_path / 'rows.csv'} is in UTF-8. Remove data.source.encoding."


def test_an_encoding_is_not_ignored_where_the_engine_reads_the_file(spark: SparkSession) -> None:
    assert "need a file on this machine" in show(spark, Reading("s3://box/rows.csv", {"encoding": "cp1252"})).error
