"""What is checked before any fit, and the metrics, against values computed by hand."""

import math

import numpy as np
import polars as pl
import pytest

from ml_pipelines.errors import BadData
from steps.modelling import positive_score, score_metrics, split_label
from steps.train import Params, make_model

INF = math.inf


def table(**columns: object) -> pl.DataFrame:
    return pl.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "label": [0, 1, 0, 1]} | columns)


def test_the_label_is_parted_from_the_named_features() -> None:
    features, label = split_label(table(y=["a", "b", None, "a"]), "label", ["y", "x"])
    assert features.columns == ["y", "x"]
    assert label.to_list() == [0, 1, 0, 1]


@pytest.mark.parametrize("label", [[False, True, False, True], [0.0, 1.0, 0.0, 1.0]])
def test_a_label_of_bools_or_floats_becomes_0_and_1(label: list[object]) -> None:
    _, found = split_label(table(label=label), "label", ["x"])
    assert found.dtype == pl.Int64
    assert found.to_list() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, 1, None, 1], "Label label: 1 of 4 rows have none"),
        ([1, 1, 1, 1], "has the values 1; both 0 and 1"),
        ([0, 1, 2, 1], "has the values 0, 1, 2; both 0 and 1"),
        ([0.0, 1.0, math.nan, 1.0], "both 0 and 1"),
        (["0", "1", "0", "1"], "is of type String"),
    ],
)
def test_a_label_that_is_not_0_and_1_is_bad_data(label: list[object], message: str) -> None:
    with pytest.raises(BadData, match=message):
        split_label(table(label=label), "label", ["x"])


def test_a_table_without_rows_is_bad_data() -> None:
    with pytest.raises(BadData, match="0 rows"):
        split_label(table().head(0), "label", ["x"])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1.0, INF, 3.0, -INF], r"Feature x: 2 of 4 values are infinite, NaN or beyond a 32-bit float \(inf\)"),
        ([1.0, 2.0, 3.0, 1e39], r"Feature x: 1 of 4 .*\(1e\+?39\)"),
        ([1.0, math.nan, 3.0, 4.0], r"Feature x: 1 of 4 .*\(NaN|nan\)"),
        ([None, None, None, None], "Feature x is empty in all 4 rows"),
        (pl.Series(["2026-01-01"] * 4).str.to_date(), "Feature x is of type Date"),
        (pl.Series([[1], [2], [3], [4]]), "Feature x is of type List"),
        (pl.Series([1, 2, 3, 4], dtype=pl.Decimal(10, 2)), "Feature x is of type Decimal"),
    ],
)
def test_a_feature_that_no_estimator_takes_is_bad_data(column: object, message: str) -> None:
    with pytest.raises(BadData, match=message):
        split_label(table(x=column), "label", ["x"])


def test_a_missing_number_and_the_largest_32_bit_float_are_no_bad_data() -> None:
    split_label(table(x=[None, -3.4028234663852886e38, 0.0, 3.4028234663852886e38]), "label", ["x"])


def test_score_metrics_are_those_computed_by_hand() -> None:
    # Of the four pairs (positive, negative) three are in order. At recall 1/2 precision is 1, at recall 1 it is 2/3.
    found = score_metrics(pl.Series([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]), "test")
    assert found == pytest.approx(
        {
            "test_auc": 3 / 4,
            "test_average_precision": 1 / 2 * 1 + 1 / 2 * 2 / 3,
            "test_log_loss": -(math.log(0.9) + math.log(0.6) + math.log(0.35) + math.log(0.8)) / 4,
            "test_brier": (0.1**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4,
        }
    )


def test_the_score_is_the_probability_of_class_1() -> None:
    class Knowing:
        def predict_proba(self, features: pl.DataFrame) -> np.ndarray:
            chance = features["x"].to_numpy()
            return np.column_stack([1 - chance, chance])

    assert positive_score(Knowing(), pl.DataFrame({"x": [0.25, 0.75]})).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"x": ["1", "2"]}, "Column x is text, and the model learned it as a number"),
        ({"where": [1, 2]}, "Column where is a number, and the model learned it as text"),
    ],
)
def test_a_column_of_another_type_than_was_learned_is_bad_data(column: dict[str, list[object]], message: str) -> None:
    learned = pl.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "where": ["a", "b", "a", "b"]})
    params = Params(estimator="sklearn.ensemble.HistGradientBoostingClassifier")
    model = make_model(learned, params, seed=1).fit(learned, pl.Series([0, 1, 0, 1]))
    assert positive_score(model, learned.head(2).with_columns(x=pl.Series([1, 2]))).shape == (2,)
    with pytest.raises(BadData, match=message):
        positive_score(model, learned.head(2).with_columns(**{name: pl.Series(v) for name, v in column.items()}))
