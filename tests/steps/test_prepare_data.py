"""The split: a hash of the key, or of the row, decides the side, whatever the order and the other rows are."""

import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import Result, Store
from pyspark.sql import DataFrame, SparkSession
from recording import RecordingContext

from ml_pipelines.config.loading import load
from ml_pipelines.errors import BadData
from steps import prepare_data
from steps.prepare_data import assign_test, check_split

Drive = Callable[..., Result]


def on_test_side(
    spark: SparkSession, keys: list[str] | list[int], fraction: float = 0.2, seed: int = 1
) -> list[str] | list[int]:
    """Return the keys that go to the test side, sorted."""
    frame = spark.createDataFrame([(key, 1.0) for key in keys], ["id", "x"])
    return sorted(row.id for row in assign_test(frame, "id", seed, fraction).where("_is_test").collect())


def test_the_side_of_a_row_does_not_depend_on_the_order_of_rows(spark: SparkSession) -> None:
    keys = list(range(500))
    random.Random(7).shuffle(keys)
    assert on_test_side(spark, keys) == on_test_side(spark, list(range(500)))


def test_a_row_stays_on_its_side_when_other_rows_are_added_or_removed(spark: SparkSession) -> None:
    few = on_test_side(spark, list(range(0, 500, 3)))
    many = on_test_side(spark, list(range(800)))
    assert few == [key for key in many if key < 500 and key % 3 == 0]


def test_a_larger_fraction_only_adds_to_the_test_side(spark: SparkSession) -> None:
    assert set(on_test_side(spark, list(range(500)), 0.2)) < set(on_test_side(spark, list(range(500)), 0.4))


def test_another_seed_gives_another_split(spark: SparkSession) -> None:
    assert on_test_side(spark, list(range(100)), seed=1) != on_test_side(spark, list(range(100)), seed=2)


@pytest.mark.parametrize("fraction", [0.005, 0.05, 0.2, 0.5, 0.9])
def test_the_fraction_is_approximated(spark: SparkSession, fraction: float) -> None:
    share = len(on_test_side(spark, list(range(10_000)), fraction)) / 10_000
    assert share == pytest.approx(fraction, abs=4 * (fraction * (1 - fraction) / 10_000) ** 0.5)


@pytest.mark.parametrize(("fraction", "share"), [(0, 0), (1, 1)])
def test_no_row_is_on_the_wrong_side_of_a_fraction_at_its_end(spark: SparkSession, fraction: int, share: int) -> None:
    rows = spark.range(100_000)  # so many rows that each of the hash's 10,000 buckets has some
    assert assign_test(rows, "id", 1, fraction).where("_is_test").count() == share * 100_000


def test_a_text_key_splits_too(spark: SparkSession) -> None:
    keys = [f"müller-{i}" for i in range(2_000)]
    assert len(on_test_side(spark, keys, 0.3)) / 2_000 == pytest.approx(0.3, abs=0.04)


def test_all_rows_of_a_key_are_on_one_side(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(i % 50, float(i)) for i in range(1_000)], ["id", "x"])
    sides = assign_test(frame, "id", 1, 0.3).select("id", "_is_test").distinct().collect()
    assert len(sides) == 50
    assert len({side._is_test for side in sides}) == 2


def test_a_file_with_a_single_key_splits_like_any_other(spark: SparkSession, tmp_path: Path) -> None:
    """Sail treats a column as constant if a file's statistics say so, and it can't hash constants."""
    for key in range(20):
        pl.DataFrame({"id": [key] * 3, "x": [1.0, 2.0, 3.0]}).write_delta(str(tmp_path / "visits"), mode="append")
    frame = spark.read.format("delta").load(str(tmp_path / "visits"))
    test_keys = {row.id for row in assign_test(frame, "id", 1, 0.3).collect() if row._is_test}
    assert sorted(test_keys) == on_test_side(spark, list(range(20)), 0.3)


def test_without_a_key_equal_rows_are_on_one_side(spark: SparkSession) -> None:
    rows = [(float(i % 40), None if i % 2 else "a", i % 2) for i in range(400)]
    sides = assign_test(spark.createDataFrame(rows, "x double, c string, label int"), None, 1, 0.3).distinct()
    assert sides.count() == len(set(rows)) == 40
    assert 0 < sides.where("_is_test").count() < 40


def test_a_side_without_two_rows_of_each_class_is_refused_by_name() -> None:
    enough = {(False, 0): 8, (False, 1): 8, (True, 0): 2, (True, 1): 2}
    rows_of = ("left us = no", "left us = yes").__getitem__
    check_split(enough, rows_of)
    with pytest.raises(BadData, match=r"The test side has 1 rows with left us = yes \(of 9 in all\); at least 2"):
        check_split({**enough, (True, 1): 1}, rows_of)
    with pytest.raises(BadData, match=r"The test side has 0 rows with left us = no \(of 8 in all\)"):
        check_split({key: rows for key, rows in enough.items() if key != (True, 0)}, rows_of)
    with pytest.raises(BadData, match="The training side has 0 rows with left us = yes"):
        check_split({**enough, (False, 1): 0}, rows_of)


# -- what the split depends on


def sides_of(source: DataFrame, *settings: str) -> set[int]:
    """Return which rows of the source, by their number `n`, prepare_data puts on the test side."""
    step = RecordingContext("prepare_data", prepare_data.Params(), source=source, config=load("local", settings))
    prepare_data.run(step)
    return {row.n for row in step.written["test_uri"].collect()}


def numbered(spark: SparkSession, columns: str = "n, n % 7 AS x, n % 2 AS label") -> DataFrame:
    return spark.range(300).withColumnRenamed("id", "n").selectExpr("n AS id", *columns.split(", "))


def test_the_split_has_a_seed_of_its_own(spark: SparkSession) -> None:
    first = sides_of(numbered(spark))
    assert sides_of(numbered(spark), "seed=7") == first
    assert sides_of(numbered(spark), "data.split_seed=7") != first


def test_without_a_key_neither_the_label_nor_the_order_of_columns_nor_made_features_decide(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sides_of(numbered(spark), "data.key=null")
    assert 20 < len(first) < 100
    assert sides_of(numbered(spark, "n, n % 7 AS x, 1 - n % 2 AS label"), "data.key=null") == first
    assert sides_of(numbered(spark, "n % 2 AS label, n % 7 AS x, n"), "data.key=null") == first
    assert sides_of(numbered(spark, "n, n % 6 AS x, n % 2 AS label"), "data.key=null") != first
    monkeypatch.setattr(prepare_data, "add_features", lambda frame: frame.selectExpr("*", "x * 2 AS y").drop("x"))
    assert sides_of(numbered(spark), "data.key=null") == first


def test_without_a_key_add_features_must_keep_the_side(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_data, "add_features", lambda frame: frame.select("id", "n", "x", "label"))
    assert sides_of(numbered(spark))
    with pytest.raises(BadData, match="add_features loses the column _is_test"):
        sides_of(numbered(spark), "data.key=null")


# -- through driver.py


def sides(drive: Drive, store: Store, source: Path, *options: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the training and the test table that prepare_data writes from a CSV."""
    result = drive("--only=prepare_data", f"--set=data.source.kind=file,data.source.path={source}", *options)
    assert result.code == 0, result.text
    tags = store.child("prepare_data").data.tags
    train, test = (pl.read_delta(tags[f"output.{name}_uri"]) for name in ("train", "test"))
    return train, test


def visits(rows: int) -> pl.DataFrame:
    """Return rows of 60 patients, several rows each."""
    return pl.DataFrame(
        {
            "patient": [f"p{i % 60}" for i in range(rows)],
            "x": [i / 7 for i in range(rows)],
            "label": [("no", "yes")[i % 7 % 2] for i in range(rows)],
        }
    )


def test_each_row_is_in_one_table_and_no_key_is_in_both(drive: Drive, store: Store, tmp_path: Path) -> None:
    visits(300).write_csv(tmp_path / "visits.csv")
    train, test = sides(drive, store, tmp_path / "visits.csv", "--set=data.key=patient,data.test_fraction=0.3")
    assert not set(train["patient"]) & set(test["patient"])
    assert sorted(pl.concat([train, test])["x"]) == pytest.approx(sorted(visits(300)["x"]))
    assert train.columns == test.columns == ["patient", "x", "label"]


def test_reordering_and_adding_rows_moves_no_key_to_the_other_side(drive: Drive, store: Store, tmp_path: Path) -> None:
    visits(300).write_csv(tmp_path / "visits.csv")
    visits(340).sample(fraction=1, shuffle=True, seed=3).write_csv(tmp_path / "later.csv")
    key = "--set=data.key=patient"
    _, first = sides(drive, store, tmp_path / "visits.csv", key)
    _, later = sides(drive, store, tmp_path / "later.csv", key)
    assert set(first["patient"]) == set(later["patient"])
    assert set(first.rows()) < set(later.rows())


def test_without_a_key_no_row_is_in_both_tables(drive: Drive, store: Store, tmp_path: Path) -> None:
    pl.concat([visits(120), visits(120)]).write_csv(tmp_path / "visits.csv")
    train, test = sides(drive, store, tmp_path / "visits.csv", "--set=data.key=null,data.drop=[patient]")
    assert train.height + test.height == 240
    assert not set(train.rows()) & set(test.rows())


def test_a_key_is_on_one_side_in_all_its_spellings(spark: SparkSession) -> None:
    keys = [spelling for n in range(200) for spelling in (f"{n}", f"{n}.0", f"0{n}", f"{n}.")]
    frame = assign_test(spark.createDataFrame([(key, 1.0) for key in keys], "id string, x double"), "id", 1, 0.3)
    sides = {row.id: row._is_test for row in frame.collect()}
    numbers = spark.createDataFrame([(n,) for n in range(200)], "id bigint")
    expected = {row.id: row._is_test for row in assign_test(numbers, "id", 1, 0.3).collect()}
    assert sides == {key: expected[int(float(key))] for key in keys}
    assert len(set(expected.values())) == 2


@pytest.mark.parametrize("name", ["_is_test", "_IS_TEST"])
def test_a_column_of_add_features_with_the_name_of_the_split_is_refused(spark: SparkSession, name: str) -> None:
    frame = spark.createDataFrame([(i, i % 2) for i in range(40)], f"id int, {name} int")
    with pytest.raises(BadData, match=f"add_features returns a column {name}, but this name is reserved"):
        assign_test(frame, "id", 1, 0.5)
