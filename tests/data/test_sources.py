"""Sources: what each kind of source reads as, and the error for a bad file."""

import csv as csv_writer
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Result, Store
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from reading import Reading, show_on_jvm
from sklearn.datasets import load_breast_cancer

from ml_pipelines.config.schema import FileFormat, Sample, Source, SourceKind
from ml_pipelines.data import sources
from ml_pipelines.errors import BadData
from ml_pipelines.system import paths

Drive = Callable[..., Result]
TWO = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})


def rows(spark: SparkSession, path: Path | str, **fields: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a file source, sorted."""
    source = Source(kind=SourceKind.file, path=str(path), **fields)
    return sorted((tuple(row) for row in sources.read_source(spark, source, seed=1).frame.collect()), key=repr)


def names(spark: SparkSession, path: Path) -> list[str]:
    return sources.read_source(spark, Source(kind=SourceKind.file, path=str(path)), seed=1).frame.columns


def csv(folder: Path, content: str | bytes, name: str = "cells.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# -- synthetic


def test_the_seed_determines_the_synthetic_rows(spark: SparkSession) -> None:
    first, again, other = (sources.synthetic_rows(spark, 50, 3, seed).collect() for seed in (1, 1, 2))
    assert first == again
    assert [row.f0 for row in first] != [row.f0 for row in other]


def test_the_first_synthetic_rows_do_not_depend_on_the_number_of_rows(spark: SparkSession) -> None:
    few, many = (sources.synthetic_rows(spark, n, 3, seed=1).orderBy("id").limit(20).collect() for n in (20, 9_000))
    assert few == many


def test_synthetic_rows_do_not_repeat_beyond_8192_rows(spark: SparkSession) -> None:
    frame = sources.synthetic_rows(spark, 3 * 8192, 2, seed=1)
    assert frame.select("f0", "f1").distinct().count() == 3 * 8192


def test_synthetic_features_have_mean_0_and_deviation_1_and_are_uncorrelated(spark: SparkSession) -> None:
    frame = sources.synthetic_rows(spark, 20_000, 2, seed=1)
    statistics = frame.agg(
        F.avg("f0"), F.stddev("f0"), F.kurtosis("f0"), F.corr("f0", "f1"), F.min("f0"), F.max("f0"), F.avg("label")
    ).collect()[0]
    mean, deviation, excess, correlation, least, most, positives = statistics
    assert mean == pytest.approx(0, abs=0.03)
    assert deviation == pytest.approx(1, abs=0.03)
    assert excess == pytest.approx(-0.2, abs=0.1)  # as a sum of six uniforms has; a normal has 0
    assert correlation == pytest.approx(0, abs=0.03)
    assert (least, most) == (pytest.approx(-3.5, abs=0.75), pytest.approx(3.5, abs=0.75))
    assert 0.3 < positives < 0.7


def test_the_synthetic_label_depends_on_the_features(spark: SparkSession) -> None:
    frame = sources.synthetic_rows(spark, 5_000, 3, seed=1)
    correlations = frame.agg(*(F.abs(F.corr(name, "label")) for name in ("f0", "f1", "f2"))).collect()[0]
    assert max(correlations) > 0.2


# -- sample


def test_the_sample_is_the_breast_cancer_table_with_its_two_classes(spark: SparkSession) -> None:
    frame = sources.read_source(spark, Source(kind=SourceKind.sample), seed=1).frame
    assert {row["label"]: row["count"] for row in frame.groupBy("label").count().collect()} == {
        "benign": 357,
        "malignant": 212,
    }
    bunch = load_breast_cancer()
    assert frame.orderBy("id").select(bunch.feature_names[0]).first()[0] == bunch.data[0, 0]
    assert frame.columns == ["id", *bunch.feature_names, "label"]


@pytest.mark.parametrize(
    ("name", "rows", "features", "labels"),
    [("wine", 178, 13, 3), ("digits", 1_797, 64, 10), ("diabetes", 442, 10, 214)],
)
def test_a_sample_has_a_key_and_a_label(spark: SparkSession, name: str, rows: int, features: int, labels: int) -> None:
    frame = sources.read_source(spark, Source(kind=SourceKind.sample, name=Sample(name)), seed=1).frame
    assert len(frame.columns) == features + 2
    assert (frame.count(), frame.select("id").distinct().count()) == (rows, rows)
    assert frame.select("label").distinct().count() == labels


# -- CSV


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param('a,b\n1,"x, y"\n', [("1", "x, y")], id="separator-in-quotes"),
        pytest.param('a,b\n1,"say ""hi"""\n', [("1", 'say "hi"')], id="doubled-quotes"),
        pytest.param('a,b\n1,"two\nlines"\n', [("1", "two\nlines")], id="newline-in-a-cell"),
        pytest.param('a,b\n1,5" nail\n', [("1", '5" nail')], id="quote-inside-a-bare-cell"),
        pytest.param("a,b\n1,back\\slash\\\n", [("1", "back\\slash\\")], id="backslash-is-a-letter"),
        pytest.param("a,b\n1,naïve ☃ 雪\n", [("1", "naïve ☃ 雪")], id="non-ascii"),
        pytest.param(b"\xef\xbb\xbfa,b\n1,x\n", [("1", "x")], id="byte-order-mark"),
        pytest.param("a,b\r\n1,x\r\n2,y\r\n", [("1", "x"), ("2", "y")], id="windows-lines"),
        pytest.param("\na,b\n1,x\n\n2,y\n\n", [("1", "x"), ("2", "y")], id="blank-lines"),
        pytest.param("a,b\n1,x", [("1", "x")], id="no-newline-at-the-end"),
        pytest.param('a,b\n,x\n1,""\n', [("1", None), (None, "x")], id="empty-cells"),
        pytest.param("a,b\n 1 ,x\n", [(" 1 ", "x")], id="blanks-stay-until-ingestion"),
        pytest.param("a,b\n007,1e5\n", [("007", "1e5")], id="numbers-stay-text-until-ingestion"),
    ],
)
def test_a_csv_reads_as_text_cell_by_cell(
    spark: SparkSession, tmp_path: Path, content: str | bytes, expected: list[tuple[str, str]]
) -> None:
    path = csv(tmp_path, content)
    assert rows(spark, path) == expected
    assert names(spark, path) == ["a", "b"]


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5) | st.text('",\n\r \\;a', max_size=5)


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5))
def test_any_csv_that_a_csv_writer_wrote_reads_back(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.csv"
    with path.open("w", encoding="utf-8", newline="") as lines:
        csv_writer.writer(lines).writerows([("a", "b"), *cells])
    expected = sorted(((a or None, b or None) for a, b in cells), key=repr)
    assert rows(spark, path) == expected


def test_a_newline_in_a_cell_does_not_split_a_row_of_a_large_file(spark: SparkSession, tmp_path: Path) -> None:
    """Sail reads a large file in parts, and starts each part after its first newline."""
    text = "long enough for many megabytes without many rows, " * 40
    path = csv(tmp_path, "a,b\n" + "".join(f'{i},"{text}\n{i}, second line"\n' for i in range(12_000)))
    frame = sources.read_source(spark, Source(kind=SourceKind.file, path=str(path)), seed=1).frame
    assert frame.where("b LIKE 'long enough%second line'").count() == frame.count() == 12_000


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_csv_may_have_another_separator(spark: SparkSession, tmp_path: Path, separator: str) -> None:
    path = csv(tmp_path, f"a{separator}b\n1,5{separator}x\n")
    assert rows(spark, path, separator=separator) == [("1,5", "x")]


def test_a_csv_column_without_a_name_is_named_by_its_position(spark: SparkSession, tmp_path: Path) -> None:
    path = csv(tmp_path, ", a ,,b\n0,1,2,3\n")
    assert names(spark, path) == ["_c0", "a", "_c2", "b"]
    assert rows(spark, path) == [("0", "1", "2", "3")]


def test_a_folder_of_csv_files_is_one_source(spark: SparkSession, tmp_path: Path) -> None:
    csv(tmp_path, "a,b\n1,x\n", "part-0.csv")
    csv(tmp_path, "a,b\n2,y\n", "part-1.csv")
    csv(tmp_path, "", "_SUCCESS")
    csv(tmp_path, b"crc\x00", ".part-0.csv.crc")
    assert rows(spark, tmp_path) == [("1", "x"), ("2", "y")]


# -- Parquet, Delta, tables


def test_parquet_is_read_as_a_file_and_as_a_folder(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for i, name in enumerate(("folder/part-0.parquet", "folder/part-1.parquet")):
        TWO.slice(i, 1).write_parquet(tmp_path / name)
    csv(tmp_path / "folder", b"crc\x00", ".part-0.parquet.crc")
    TWO.write_parquet(tmp_path / "file.parquet")
    assert rows(spark, tmp_path / "file.parquet") == rows(spark, tmp_path / "folder") == [(1, "x"), (2, "y")]


def test_delta_is_read_at_its_newest_version_or_at_a_pinned_one(spark: SparkSession, tmp_path: Path) -> None:
    for frame in (TWO, TWO.head(1)):
        frame.write_delta(str(tmp_path / "table"), mode="overwrite")
    assert rows(spark, tmp_path / "table") == [(1, "x")]
    assert rows(spark, tmp_path / "table", version=0) == [(1, "x"), (2, "y")]


def test_a_catalog_table_is_read_at_its_newest_version_or_at_a_pinned_one(spark: SparkSession, tmp_path: Path) -> None:
    for frame in (TWO, TWO.head(1)):
        frame.write_delta(str(tmp_path / "table"), mode="overwrite")
    spark.sql(f"CREATE TABLE default.of_a_test USING delta LOCATION '{tmp_path / 'table'}'")
    try:
        newest, first = (
            sources.read_source(
                spark, Source(kind=SourceKind.table, table="default.of_a_test", version=version), 1
            ).frame
            for version in (None, 0)
        )
        assert (newest.count(), first.count()) == (1, 2)
    finally:
        spark.sql("DROP TABLE default.of_a_test")


@pytest.mark.parametrize("table", ["of-a-test", "default.of-a-test"])
def test_a_catalog_table_may_have_hyphens_in_its_name(table: str, spark: SparkSession, tmp_path: Path) -> None:
    TWO.write_delta(str(tmp_path / "table"))
    spark.sql(f"CREATE TABLE default.`of-a-test` USING delta LOCATION '{tmp_path / 'table'}'")
    try:
        source = Source(kind=SourceKind.table, table=table)
        assert sources.read_source(spark, source, seed=1).frame.count() == 2
    finally:
        spark.sql("DROP TABLE default.`of-a-test`")


class Recorded:
    """A Spark session that records the table names and SQL statements it gets."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.read = self
        self.schema: list[str] = []
        self.columns: list[str] = []

    def option(self, *_: object) -> "Recorded":
        return self

    def table(self, name: str) -> "Recorded":
        self.received.append(name)
        return self

    def sql(self, statement: str) -> "Recorded":
        self.received.append(statement)
        return self

    def collect(self) -> list[dict[str, int]]:
        return [{"version": 7}]


@pytest.mark.parametrize(
    ("table", "quoted"),
    [("ml-prod.sales-eu.orders", "`ml-prod`.`sales-eu`.`orders`"), ("sales.orders", "`sales`.`orders`"), ("o", "`o`")],
)
def test_the_name_of_a_catalog_table_has_the_same_quotes_for_reading_and_for_its_history(
    table: str, quoted: str
) -> None:
    session: Any = Recorded()
    pinned, unpinned = sources.pin_table_version(session, Source(kind=SourceKind.table, table=table))
    sources.read_source(session, pinned, seed=1)
    assert (pinned.version, unpinned) == (7, "")
    assert session.received == [f"DESCRIBE HISTORY {quoted} LIMIT 1", quoted, quoted]


POLICIES = [
    "ROW_LEVEL_SECURITY_FEATURE_NOT_SUPPORTED.TIME_TRAVEL",
    "COLUMN_MASKS_FEATURE_NOT_SUPPORTED.TIME_TRAVEL",
    "ROW_LEVEL_SECURITY_COLUMN_MASK_FEATURE_NOT_SUPPORTED.TIME_TRAVEL",
    "ROW_LEVEL_SECURITY_COLUMN_MASK_FEATURE_NOT_SUPPORTED.DESCRIBE_HISTORY",
    "FGAC_TIME_TRAVEL_NOT_SUPPORTED.DEDICATED_COMPUTE",
]


class Policed:
    """A session whose catalog tables have a row filter or column mask, as on Databricks: no time travel.

    Everything else goes to the real session. The error conditions are those of Databricks' reference.
    """

    def __init__(self, session: SparkSession, condition: str, travels: bool = False) -> None:
        self._session, self._condition, self._travels = session, condition, travels

    @property
    def read(self) -> Any:
        return self

    @property
    def schema(self) -> Any:
        raise AnalysisException(f"[{self._condition}] It is not supported. SQLSTATE: 0A000")

    def option(self, name: str, value: object) -> "Policed":
        assert name == "versionAsOf"
        return Policed(self._session, self._condition, travels=True)

    def table(self, name: str) -> Any:
        return self if self._travels else self._session.read.table(name)

    def sql(self, statement: str) -> Any:
        if self._condition.endswith("DESCRIBE_HISTORY"):
            return self.schema
        return self._session.createDataFrame([(3,)], "version bigint")


@pytest.fixture
def policed_table(spark: SparkSession, tmp_path: Path) -> Iterator[str]:
    TWO.write_delta(str(tmp_path / "table"))
    spark.sql(f"CREATE TABLE default.with_policy USING delta LOCATION '{tmp_path / 'table'}'")
    yield "default.with_policy"
    spark.sql("DROP TABLE default.with_policy")


@pytest.mark.parametrize("condition", POLICIES)
def test_a_table_with_a_row_filter_or_column_mask_is_read_without_a_version(
    spark: SparkSession, policed_table: str, condition: str
) -> None:
    session: Any = Policed(spark, condition)
    source, unpinned = sources.pin_table_version(session, Source(kind=SourceKind.table, table=policed_table))
    assert source.version is None and "has a row filter or a column mask" in unpinned
    assert sorted(map(tuple, sources.read_source(session, source, seed=1).frame.collect())) == [(1, "x"), (2, "y")]


def test_a_declared_version_of_a_table_with_a_policy_is_refused(spark: SparkSession, policed_table: str) -> None:
    source = Source(kind=SourceKind.table, table=policed_table, version=0)
    with pytest.raises(BadData, match=r"row filter or a column mask, so .* newest\. Remove data\.source\.version\."):
        sources.read_source(Policed(spark, POLICIES[1]), source, seed=1)  # type: ignore[arg-type]


def test_another_failure_of_a_pinned_read_is_no_policy(spark: SparkSession, policed_table: str) -> None:
    session: Any = Policed(spark, "DELTA_TABLE_NOT_FOUND")
    source, unpinned = sources.pin_table_version(session, Source(kind=SourceKind.table, table=policed_table))
    assert source.version is None and unpinned.startswith("has no history that this engine can read: [DELTA_TABLE_N")
    with pytest.raises(BadData, match="DELTA_TABLE_NOT_FOUND"):
        sources.read_source(session, Source(kind=SourceKind.table, table=policed_table, version=0), seed=1)


def test_a_declared_format_overrides_the_suffix(spark: SparkSession, tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b\n1,x\n", "cells.txt")
    assert rows(spark, path, format=FileFormat.csv) == [("1", "x")]


def test_a_relative_path_starts_at_the_project(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    monkeypatch.chdir("/")
    csv(tmp_path, "a,b\n1,x\n", "mine.csv")
    assert rows(spark, "mine.csv") == [("1", "x")]


@pytest.mark.parametrize("name", ["my data (1).csv", "50%.csv", "a#1.csv", "naïve.csv"])
def test_a_file_name_may_have_spaces_and_special_characters(spark: SparkSession, tmp_path: Path, name: str) -> None:
    assert rows(spark, csv(tmp_path, "a,b\n1,x\n", name)) == [("1", "x")]


# -- bad files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("a,b\n1,x\n3\n", "line 3 has 1 cells, but the header has 2: '3'", id="short-line"),
        pytest.param("a,b\n1,x\n3,y,z\n", "line 3 has 3 cells, but the header has 2: '3,y,z'", id="long-line"),
        pytest.param('a,b\n1,"x\ny"\n\n3\n', "line 5 has 1 cells", id="line-counted-as-an-editor-does"),
        pytest.param("a,b\n1,x\n   \n", "line 3 has 1 cells", id="line-of-blanks"),
        pytest.param('a,b\n1,x\n2,"open\n3,z\n', "line 3 has a quote that is never closed", id="open-quote"),
        pytest.param('a,b\n1,"x"y\n', "line 2 is malformed: ',' expected after '\"'", id="text-after-a-quote"),
        pytest.param("a,b,a\n1,2,3\n", "the header has two columns named a. Rename", id="name-twice"),
        pytest.param(
            "a;b\n1;2\n", "has only one column, 'a;b'. Set data.source.separator, perhaps to ';'", id="separator"
        ),
        pytest.param("\n\n", "is empty: all its lines are blank", id="blank-lines-only"),
        pytest.param("", "is empty", id="nothing"),
        pytest.param("a,b\n1,caf\xe9\n".encode("latin-1"), "is not a CSV in UTF-8", id="latin-1"),
        pytest.param("a,b\n1,x\n".encode("utf-16"), "is not a CSV in UTF-8", id="utf-16"),
        pytest.param("a,b\n1,x\n".encode("utf-16-le"), "is not a CSV in UTF-8", id="utf-16-without-mark"),
        pytest.param(bytes(range(256)) * 40, "is not a CSV in UTF-8", id="binary"),
    ],
)
def test_a_bad_csv_is_refused_with_its_name_and_the_reason(
    spark: SparkSession, tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(BadData) as error:
        rows(spark, csv(tmp_path, content))
    assert message in str(error.value)
    assert "cells.csv" in str(error.value)


def test_a_parquet_file_named_csv_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    TWO.write_parquet(tmp_path / "cells.csv")
    with pytest.raises(BadData, match="is not a CSV in UTF-8"):
        rows(spark, tmp_path / "cells.csv")


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"PAR1" + bytes(40) + b"PAR1", b"PAR1"])
def test_a_file_that_is_not_parquet_is_refused_by_name(spark: SparkSession, tmp_path: Path, content: bytes) -> None:
    path = csv(tmp_path, content, "rows.parquet")
    with pytest.raises(BadData, match=r"rows\.parquet is not a Parquet file"):
        rows(spark, path)


def test_a_truncated_parquet_file_in_a_folder_is_refused_by_name(spark: SparkSession, tmp_path: Path) -> None:
    TWO.write_parquet(tmp_path / "part-0.parquet")
    whole = (tmp_path / "part-0.parquet").read_bytes()
    csv(tmp_path, whole[: len(whole) // 2], "part-1.parquet")
    with pytest.raises(BadData, match=r"part-1\.parquet is not a Parquet file"):
        rows(spark, tmp_path)


def test_a_missing_file_is_named_with_a_hint_on_relative_paths(spark: SparkSession) -> None:
    with pytest.raises(BadData, match=r"no/such\.csv does not exist. Correct the path. A relative path starts at"):
        rows(spark, "no/such.csv")


def test_an_empty_folder_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="is empty"):
        rows(spark, tmp_path)
    csv(tmp_path, "", "_SUCCESS")
    with pytest.raises(BadData, match="has no data files"):
        rows(spark, tmp_path)


@pytest.mark.parametrize("name", ["rows.xlsx", "rows"])
def test_an_unknown_suffix_asks_for_the_format(spark: SparkSession, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadData, match=r"Set data\.source\.format to csv, parquet or delta"):
        rows(spark, csv(tmp_path, "a,b\n1,2\n", name))


def test_files_of_a_folder_with_different_headers_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    csv(tmp_path, "a,b\n1,x\n", "part-0.csv")
    csv(tmp_path, "b,a\ny,2\n", "part-1.csv")
    with pytest.raises(BadData, match=r"part-0\.csv and .*part-1\.csv have different headers"):
        rows(spark, tmp_path)


def test_a_csv_partitioned_by_folders_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "year=2024").mkdir()
    csv(tmp_path / "year=2024", "a,b\n1,x\n", "part-0.csv")
    with pytest.raises(BadData, match="has folders like name=value"):
        rows(spark, tmp_path)


@pytest.mark.parametrize("name", ["cells[1].csv", "what?.csv", "all*.csv", "{a}.csv"])
def test_a_name_that_spark_reads_as_a_pattern_is_refused(spark: SparkSession, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadData, match="as a pattern"):
        rows(spark, csv(tmp_path, "a,b\n1,x\n", name))


def test_a_folder_declared_as_delta_but_without_a_log_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    TWO.write_parquet(tmp_path / "part-0.parquet")
    with pytest.raises(BadData, match="is not a Delta table: it has no _delta_log"):
        rows(spark, tmp_path, format=FileFormat.delta)


@pytest.fixture
def partitioned(tmp_path: Path) -> Path:
    """Return a Delta table with two versions, partitioned by b. Its folders have the files of both."""
    for _ in range(2):
        TWO.write_delta(str(tmp_path / "lake" / "table"), mode="overwrite", delta_write_options={"partition_by": ["b"]})
    return tmp_path / "lake" / "table"


@pytest.mark.parametrize("declared", ["auto", "parquet", "csv", "delta"])
@pytest.mark.parametrize("below", [".", "b=x", "b=x/{file}", ".."])
def test_the_files_of_a_delta_table_are_not_read_without_its_log(
    spark: SparkSession, partitioned: Path, declared: str, below: str
) -> None:
    file = next((partitioned / "b=x").glob("*.parquet")).name
    path = (partitioned / below.format(file=file)).resolve()
    if below == "." and declared in ("auto", "delta"):
        assert rows(spark, path, format=FileFormat(declared)) == [(1, "x"), (2, "y")]
        return
    if below == ".." and declared == "delta":
        pytest.skip("a folder without a log, declared as Delta, has a test of its own")
    with pytest.raises(BadData) as error:
        rows(spark, path, format=FileFormat(declared))
    assert f"the Delta table {partitioned}. Its log says which files hold rows. " in str(error.value)
    assert f"Set data.source.path={partitioned} and data.source.format=delta." in str(error.value)


@pytest.mark.parametrize(
    ("log", "kind"), [(".hoodie/hoodie.properties", "Hudi"), ("metadata/v1.metadata.json", "Iceberg")]
)
def test_the_files_of_other_tables_are_not_read_without_their_log(
    spark: SparkSession, tmp_path: Path, log: str, kind: str
) -> None:
    for name in (log, "data/a.parquet"):
        (tmp_path / "table" / name).parent.mkdir(parents=True)
    csv(tmp_path / "table", "{}", log)
    TWO.write_parquet(tmp_path / "table" / "data" / "a.parquet")
    for path in ("table", "table/data", "table/data/a.parquet", "."):
        with pytest.raises(BadData, match=rf"the {kind} table {tmp_path / 'table'}\. .*export it to Parquet or Delta"):
            rows(spark, tmp_path / path, format=FileFormat.parquet)


def test_a_version_whose_files_were_vacuumed_is_named(spark: SparkSession, tmp_path: Path) -> None:
    for frame in (TWO, TWO.head(1)):
        frame.write_delta(str(tmp_path / "table"), mode="overwrite")
    DeltaTable(str(tmp_path / "table")).vacuum(0, enforce_retention_duration=False, dry_run=False)
    assert rows(spark, tmp_path / "table", version=1) == [(1, "x")]
    with pytest.raises(BadData) as error:
        rows(spark, tmp_path / "table", version=0)
    assert f"{tmp_path / 'table'} has lost 1 of the 1 files of version 0, such as part-" in str(error.value)
    assert "Set data.source.version to a later version, or null. The newest version is 3." in str(error.value)


def test_the_driver_refuses_a_vacuumed_version_before_a_run(drive: Drive, store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        TWO.write_delta(str(tmp_path / "table"), mode="overwrite")
    DeltaTable(str(tmp_path / "table")).vacuum(0, enforce_retention_duration=False, dry_run=False)
    settings = f"--set=data.source.kind=file,data.source.path={tmp_path / 'table'},data.source.version=0"
    result = drive("--only=prepare_data", settings, "--set=data.label=a,data.key=b")
    assert result.code == 3, result.text
    assert "has lost 1 of the 1 files of version 0" in result.text
    assert store.runs() == []


def test_a_lost_file_of_the_newest_version_is_named(spark: SparkSession, tmp_path: Path) -> None:
    TWO.write_delta(str(tmp_path / "table"))
    next((tmp_path / "table").glob("*.parquet")).unlink()
    with pytest.raises(BadData, match=r"has lost 1 of the 1 files of version 0, .* Restore them\."):
        rows(spark, tmp_path / "table")


def shallow_clone(table: Path, clone: Path) -> Path:
    """Write a table whose log has the absolute paths of another table's files."""
    (clone / "_delta_log").mkdir(parents=True)
    for log in (table / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            for file in (action[name] for name in ("add", "remove") if name in action):
                file["path"] = f"file://{table}/{file['path']}"
        (clone / "_delta_log" / log.name).write_text("\n".join(map(json.dumps, actions)) + "\n")
    return clone


def test_a_shallow_clone_is_refused_on_sail_with_the_engine_that_reads_it(spark: SparkSession, tmp_path: Path) -> None:
    TWO.write_delta(str(tmp_path / "table"))
    with pytest.raises(BadData, match=r"clone is a shallow clone: .*Sail can't read it\. Set spark\.engine=jvm"):
        rows(spark, shallow_clone(tmp_path / "table", tmp_path / "clone"))


@pytest.mark.slow
@pytest.mark.jvm
@pytest.mark.usefixtures("java")
def test_the_jvm_reads_a_shallow_clone_and_refuses_the_same_tables(tmp_path: Path) -> None:
    for frame in (TWO, TWO.head(1)):
        frame.write_delta(str(tmp_path / "table"), mode="overwrite")
    clone = shallow_clone(tmp_path / "table", tmp_path / "clone")
    vacuumed = shutil.copytree(tmp_path / "table", tmp_path / "vacuumed")
    DeltaTable(str(vacuumed)).vacuum(0, enforce_retention_duration=False, dry_run=False)
    readings = [Reading(str(clone)), Reading(str(vacuumed)), Reading(str(vacuumed), {"version": 0})]
    of_clone, newest, oldest = show_on_jvm(readings)
    assert of_clone.rows == newest.rows == [["1", "x"]]
    assert "has lost 1 of the 1 files of version 0" in oldest.error


def test_a_delta_table_without_a_commit_or_without_the_pinned_version_is_refused(
    spark: SparkSession, tmp_path: Path
) -> None:
    TWO.write_delta(str(tmp_path / "table"))
    with pytest.raises(BadData, match="table at version 7 can't be opened: "):
        rows(spark, tmp_path / "table", version=7)
    next((tmp_path / "table" / "_delta_log").glob("*.json")).unlink()
    with pytest.raises(BadData, match="table can't be opened: "):
        rows(spark, tmp_path / "table")


def test_a_delta_path_that_sail_cannot_open_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    TWO.write_delta(str(tmp_path / "table"))
    (tmp_path / "table").rename(tmp_path / "my table")
    with pytest.raises(BadData, match="Sail can't open a Delta table if its path has ' ': rename it"):
        rows(spark, tmp_path / "my table")


def test_a_missing_catalog_table_is_named(spark: SparkSession) -> None:
    with pytest.raises(BadData, match=r"data\.source\.table: main\.sales\.orders can't be read"):
        sources.read_source(spark, Source(kind=SourceKind.table, table="main.sales.orders"), seed=1)
