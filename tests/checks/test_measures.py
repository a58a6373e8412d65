"""Tests of the numbers that quality checks compare: calibration error, the AUC of one column, the AUC of slices."""

import numpy as np
import polars as pl
import pytest

from ml_pipelines.checks.measures import calibration_error, single_auc, slices_of


def test_the_calibration_error_is_the_mean_distance_of_score_and_share() -> None:
    label = np.array([0, 0, 1, 1, 1, 0, 1, 1])
    score = np.array([0.1, 0.3, 0.2, 0.4, 1.0, 0.9, 0.8, 0.9])
    # below 0.5: mean score 0.25, share 0.5; from 0.5 on: mean score 0.9, share 0.75
    assert calibration_error(label, score, 2) == pytest.approx(0.5 * 0.25 + 0.5 * 0.15)


def test_a_score_of_1_is_in_the_last_bin() -> None:
    label, score = np.array([0, 1, 1, 1]), np.array([1.0, 0.7, 0.6, 0.7])  # all from 0.5 on: mean score and share 0.75
    assert calibration_error(label, score, 2) == pytest.approx(0)


def test_true_probabilities_are_calibrated() -> None:
    draw = np.random.default_rng(1)
    score = draw.random(50_000)
    label = (draw.random(50_000) < score).astype(int)
    assert calibration_error(label, score, 10) < 0.01
    assert calibration_error(label, score**3, 10) > 0.1


LABEL = pl.Series("label", [0, 1] * 200)


@pytest.mark.parametrize(
    ("column", "least", "most"),
    [
        (LABEL * 10.0, 1, 1),
        (LABEL * -10, 1, 1),
        (LABEL.cast(pl.Boolean), 1, 1),
        (pl.select(pl.when(pl.Series(LABEL) == 1).then(0.5)).to_series(), 1, 1),  # gaps reveal the label
        (LABEL.replace_strict({0: "no", 1: "yes"}), 1, 1),
        (pl.select(pl.when(pl.Series(LABEL) == 1).then(pl.lit("x"))).to_series(), 1, 1),
        (pl.Series(range(400)).cast(pl.String), 0.5, 0.5),  # a different text in each row says nothing about other rows
        (pl.Series(np.random.default_rng(1).normal(size=400)), 0.5, 0.6),
        (pl.Series([1.0] * 400), 0.5, 0.5),
    ],
)
def test_only_a_column_that_reveals_the_label_has_an_auc_of_1(column: pl.Series, least: float, most: float) -> None:
    assert least <= single_auc(column, LABEL) <= most


def test_slices_are_the_values_of_a_category_or_the_quarters_of_a_number() -> None:
    draw = np.random.default_rng(1)
    label, score = draw.integers(0, 2, 400), draw.random(400)
    kinds = pl.Series("kind", ["a", "b", None, "rare"] + ["a", "b", None] * 132)
    slices = slices_of(kinds, label, score, 0.95, 100)
    assert [(row["slice"], row["rows"]) for row in slices] == [("kind=a", 133), ("kind=b", 133), ("kind=missing", 133)]
    quarters = slices_of(pl.Series("x", draw.normal(size=400)), label, score, 0.95, 100)
    assert [row["rows"] for row in quarters] == [100] * 4
    assert all(row["low"] < row["auc"] < row["high"] for row in quarters)


def test_a_slice_of_one_class_is_left_out() -> None:
    slices = slices_of(
        pl.Series("kind", ["a", "a", "b", "b"]), np.array([0, 1, 1, 1]), np.array([0.1, 0.2, 0, 1]), 0.9, 1
    )
    assert [row["slice"] for row in slices] == ["kind=a"]
