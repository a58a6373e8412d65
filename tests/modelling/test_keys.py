"""Tests of keys: Spark gives equal keys the same text as the functions that convert cells."""

from typing import Any

import polars as pl
from pyspark.sql import SparkSession

from ml_pipelines.data import cells
from ml_pipelines.modelling.features import key_codes
from ml_pipelines.modelling.keys import canonical_key

SPELLINGS = [
    *("17", "17.0", "017", "+17", "1.7e1", "17.", "17.000", "0", "0.0", "00", "+0", "17.5", "17.50", "017.5"),
    *("100000", "1e5", "1E+05", "-3", "-3.0", "-03", "9007199254740993", "09007199254740993"),
    *("abc", "1_000", "0x10", "nan", "+", "1e400", "A17", "17a", "1-2", "1.2.3"),
]


def spark_spellings(spark: SparkSession, keys: list[Any]) -> list[str]:
    frame = spark.createDataFrame(pl.DataFrame({"n": range(len(keys)), "key": keys}).to_arrow())
    rows = frame.select("n", canonical_key(frame, "key").alias("key")).orderBy("n").collect()
    return [row["key"] for row in rows]


def test_spark_gives_a_key_the_same_spelling(spark: SparkSession) -> None:
    assert spark_spellings(spark, SPELLINGS) == [cells.plain_number(text) for text in SPELLINGS]
    assert spark_spellings(spark, [17, -3]) == ["17", "-3"]


def test_equal_keys_have_equal_codes() -> None:
    assert key_codes(pl.Series(["17", "a", "017", "17.0", "b", "a"])).tolist() == [0, 1, 0, 0, 2, 1]
    assert key_codes(pl.Series([5, 3, 5])).tolist() == [0, 1, 0]
