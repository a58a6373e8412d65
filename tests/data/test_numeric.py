"""Tests of sources of numbers: Spark's own functions give the same rows as the functions for all sources."""

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyspark.sql import SparkSession

from ml_pipelines.config.schema import Data, MissingLabel, Prefix, Source, SourceKind, Treatment
from ml_pipelines.data import numeric, sources
from ml_pipelines.data.ingest import Ingested, ingest
from ml_pipelines.data.sources import Raw

INFINITY, NAN = float("inf"), float("nan")
ROWS = pl.DataFrame(
    {
        "id": [1, 2, 3, 2**60 + 1],
        "a double": [0.1, -0.0, NAN, None],
        "single": pl.Series([0.1, -0.0, NAN, 3e38], dtype=pl.Float32),
        "long": [2**53 - 1, -(2**53) + 1, 0, None],
        "short": pl.Series([1, -2, 3, None], dtype=pl.Int16),
        "flag": [True, False, None, True],
        "label": [0, 1, 1, 0],
        "text": ["a", "b", "c", "d"],
    }
)
DATA = Data(
    source=Source(),
    label="label",
    key="id",
    drop=["text"],
    delta_prefix=Prefix("local", "databricks"),
    volume_name="volume",
    test_fraction=0.2,
)


def ingested(spark: SparkSession, frame: pl.DataFrame, folder: Path, name: str, **data: Any) -> Ingested:
    """Ingest a frame from a local Parquet file. Converted rows are staged in `folder`/`name`, if at all."""
    folder.mkdir(exist_ok=True)
    frame.write_parquet(folder / f"{name}.parquet")
    raw = sources.read_source(spark, Source(kind=SourceKind.file, path=str(folder / f"{name}.parquet")), 0)
    return ingest(raw, dataclasses.replace(DATA, **data), str(folder / name))


def content(result: Ingested, columns: list[str]) -> list[str]:
    return sorted(repr(tuple(row)) for row in result.frame.select(*columns).collect())


@pytest.mark.parametrize(
    "label",
    [
        pytest.param([0, 1, 1, 0], id="integer"),
        pytest.param([-7, 3, 3, -7], id="negative"),
        pytest.param([False, True, True, False], id="boolean"),
        pytest.param([0.0, 1.0, 1.0, -0.0], id="double"),
        pytest.param(pl.Series([0.1, 0.2, 0.2, 0.1], dtype=pl.Float32), id="float"),
    ],
)
def test_numbers_become_the_same_rows_with_and_without_text_beside_them(
    spark: SparkSession, tmp_path: Path, label: Any
) -> None:
    frame = ROWS.with_columns(label=pl.Series(label))
    numbers = ingested(spark, frame, tmp_path, "numbers")
    mixed = ingested(spark, frame.with_columns(word=pl.Series(["a", "b", "a", "b"])), tmp_path, "mixed")
    assert not Path(tmp_path, "numbers").exists()  # only rows that Python functions convert are staged
    assert Path(tmp_path, "mixed").exists()
    columns = numbers.frame.columns
    assert numbers.frame.dtypes == [(name, kind) for name, kind in mixed.frame.dtypes if name in columns]
    assert content(numbers, columns) == content(mixed, columns)
    assert numbers.label == mixed.label
    assert numbers.warnings == mixed.warnings


@pytest.mark.parametrize(
    ("column", "cells"), [("a double", [1e39, 0, 0, 0]), ("a double", [INFINITY, 0, 0, 0]), ("long", [2**53, 0, 0, 0])]
)
def test_numbers_that_a_person_must_look_at_are_left_to_the_other_functions(
    spark: SparkSession, column: str, cells: list[float]
) -> None:
    frame = spark.createDataFrame(ROWS.with_columns(pl.Series(column, cells)).drop("text").to_arrow())
    names = {name: name for name in frame.columns}
    assert numeric.profile(frame, names, dict(frame.dtypes), DATA) is None


@pytest.mark.parametrize(
    ("dtypes", "data", "expected"),
    [
        ({}, {}, True),
        ({"x": "string"}, {}, False),
        ({"x": "decimal(10,2)"}, {}, False),
        ({"x": "date"}, {}, False),
        ({"text": "string"}, {}, True),  # in data.drop
        ({"id": "double"}, {}, False),
        ({"id": "double"}, {"key": None}, True),
        ({}, {"columns": {"f": Treatment.category}}, False),
        ({}, {"missing_label": MissingLabel.drop}, False),
        ({f"f{i}": "double" for i in range(numeric.MOST_COLUMNS)}, {}, False),
    ],
)
def test_a_source_is_numeric_if_every_needed_column_becomes_a_number(
    dtypes: dict[str, str], data: dict[str, Any], expected: bool
) -> None:
    dtypes = {"id": "bigint", "f": "double", "label": "int", **dtypes}
    assert numeric.is_numeric(dtypes, dataclasses.replace(DATA, **data)) is expected


def test_other_sources_of_numbers_are_staged_once(spark: SparkSession, tmp_path: Path) -> None:
    raw = Raw(spark.createDataFrame(ROWS.to_arrow()))
    staged = ingest(raw, DATA, str(tmp_path / "staged"))
    assert Path(tmp_path, "staged").exists()
    assert content(staged, staged.frame.columns) == content(
        ingested(spark, ROWS, tmp_path, "file"), staged.frame.columns
    )


@pytest.mark.parametrize(("dropped", "expected"), [(["text"], False), ([], True)])
def test_python_functions_are_expected_if_a_source_may_have_text(
    tmp_path: Path, dropped: list[str], expected: bool
) -> None:
    file = tmp_path / "rows.parquet"
    ROWS.write_parquet(file)
    assert sources.may_have_text(Source(kind=SourceKind.file, path=str(file)), dropped) is expected
    for path in (tmp_path, tmp_path / "none.csv"):
        assert sources.may_have_text(Source(kind=SourceKind.file, path=str(path)), dropped)
    assert sources.may_have_text(Source(kind=SourceKind.sample), dropped)
    assert not sources.may_have_text(Source(kind=SourceKind.synthetic), dropped)
