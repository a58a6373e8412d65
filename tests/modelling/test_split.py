"""Tests of the split without Spark: it agrees with the hash of Spark, and its tags hold it."""

import polars as pl
import pytest
from pyspark.sql import SparkSession

from ml_pipelines.modelling.split import Split, digest_of
from steps.prepare_data import assign_test

KEYS = ["", "7", "0017", "17.0", "müller", *("x" * n + str(n) for n in range(1, 70)), *map(str, range(300))]


@pytest.mark.parametrize("seed", [0, 42, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_key_is_on_the_side_on_which_spark_puts_it(spark: SparkSession, seed: int) -> None:
    rows = spark.createDataFrame([(key, i) for i, key in enumerate(KEYS)], "id string, i int")
    expected = {row.i: row._is_test for row in assign_test(rows, "id", seed, 0.37).collect()}
    sides = Split("id", seed, 0.37).is_test(pl.Series(KEYS))
    assert dict(enumerate(sides.tolist())) == expected
    assert 0.25 < sides.mean() < 0.5


def test_a_number_is_on_the_side_of_its_text() -> None:
    split = Split("id", 42, 0.5)
    assert split.is_test(pl.Series(range(200))).tolist() == split.is_test(pl.Series(map(str, range(200)))).tolist()
    assert (
        split.is_test(pl.Series([float(i) for i in range(200)])).tolist()
        == split.is_test(pl.Series(range(200))).tolist()
    )


@pytest.mark.parametrize("split", [Split("id", 42, 0.2), Split("", 7, 0.35, digest_of([("a", "int")]))])
def test_tags_hold_a_split(split: Split) -> None:
    assert Split.from_tags({**split.tags(), "verdict": "passed"}) == split


@pytest.mark.parametrize(
    "tags", [{}, {"split_kind": "own"}, {"split_kind": "key"}, {**Split("id", 1, 0.5).tags(), "split_seed": "x"}]
)
def test_other_tags_hold_none(tags: dict[str, str]) -> None:
    assert Split.from_tags(tags) is None


def test_the_digest_of_columns_depends_on_names_and_types_but_not_on_the_order() -> None:
    columns = [("a", "int"), ("b", "string")]
    assert digest_of(columns) == digest_of(columns[::-1])
    assert len({digest_of(columns), digest_of(columns[:1]), digest_of([("a", "int"), ("b", "int")])}) == 3
