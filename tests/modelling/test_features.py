"""Tests of the checks on a table before a model is fitted to it or scores it."""

import math

import numpy as np
import polars as pl
import pytest

from ml_pipelines.errors import BadData
from ml_pipelines.modelling.features import score_table, split_label
from ml_pipelines.problems import binary
from steps.train import Params, make_model

INF = math.inf


def table(**columns: object) -> pl.DataFrame:
    return pl.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "label": [0, 1, 0, 1]} | columns)


def test_split_label_separates_the_label_from_the_named_features() -> None:
    features, label = split_label(table(y=["a", "b", None, "a"]), "label", ["y", "x"], binary)
    assert features.columns == ["y", "x"]
    assert label.to_list() == [0, 1, 0, 1]


@pytest.mark.parametrize("label", [[False, True, False, True], [0.0, 1.0, 0.0, 1.0]])
def test_a_label_of_bools_or_floats_becomes_0_and_1(label: list[object]) -> None:
    _, classes = split_label(table(label=label), "label", ["x"], binary)
    assert classes.dtype == pl.Int64
    assert classes.to_list() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, 1, None, 1], "Label label: 1 of 4 rows have no value"),
        ([1, 1, 1, 1], "has the values 1; it needs both 0 and 1"),
        ([0, 1, 2, 1], "has the values 0, 1, 2; it needs both 0 and 1"),
        ([0.0, 1.0, math.nan, 1.0], "both 0 and 1"),
        (["0", "1", "0", "1"], "is of type String"),
    ],
)
def test_a_label_that_is_not_0_and_1_is_bad_data(label: list[object], message: str) -> None:
    with pytest.raises(BadData, match=message):
        split_label(table(label=label), "label", ["x"], binary)


def test_a_table_without_rows_is_bad_data() -> None:
    with pytest.raises(BadData, match="0 rows"):
        split_label(table().head(0), "label", ["x"], binary)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            [1.0, INF, 3.0, -INF],
            r"Feature x: 2 of 4 values are infinite, NaN or beyond the range of a 32-bit float. The first is inf\.",
        ),
        ([1.0, 2.0, 3.0, 1e39], r"Feature x: 1 of 4 .* The first is 1e\+?39\."),
        ([1.0, math.nan, 3.0, 4.0], r"Feature x: 1 of 4 .* The first is (NaN|nan)\."),
        ([None, None, None, None], "Feature x is empty in all 4 rows"),
        (pl.Series(["2026-01-01"] * 4).str.to_date(), "Feature x is of type Date"),
        (pl.Series([[1], [2], [3], [4]]), "Feature x is of type List"),
        (pl.Series([1, 2, 3, 4], dtype=pl.Decimal(10, 2)), "Feature x is of type Decimal"),
    ],
)
def test_a_feature_that_no_estimator_accepts_is_bad_data(column: object, message: str) -> None:
    with pytest.raises(BadData, match=message):
        split_label(table(x=column), "label", ["x"], binary)


def test_a_missing_number_and_the_largest_32_bit_float_are_accepted() -> None:
    split_label(table(x=[None, -3.4028234663852886e38, 0.0, 3.4028234663852886e38]), "label", ["x"], binary)


def test_the_score_is_the_probability_of_class_1() -> None:
    class Echo:
        def predict_proba(self, features: pl.DataFrame) -> np.ndarray:
            chance = features["x"].to_numpy()
            return np.column_stack([1 - chance, chance])

    assert score_table(Echo(), pl.DataFrame({"x": [0.25, 0.75]}), binary).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"x": ["1", "2"]}, "Column x is text, but the model learned it as a number"),
        ({"where": [1, 2]}, "Column where is a number, but the model learned it as text"),
    ],
)
def test_a_column_with_another_type_than_in_training_is_bad_data(column: dict[str, list[object]], message: str) -> None:
    train = pl.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "where": ["a", "b", "a", "b"]})
    params = Params(estimator="sklearn.ensemble.HistGradientBoostingClassifier")
    model = make_model(train, params, binary, seed=1).fit(train, pl.Series([0, 1, 0, 1]))
    assert score_table(model, train.head(2).with_columns(x=pl.Series([1, 2])), binary).shape == (2,)
    with pytest.raises(BadData, match=message):
        score_table(model, train.head(2).with_columns(**{name: pl.Series(v) for name, v in column.items()}), binary)
