"""Tests of how well one column alone predicts the label."""

import math

import numpy as np
import polars as pl
import pytest

from ml_pipelines.problems.single_column import single_auc, single_r2

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
        (pl.Series([math.nan] * 400), 0.5, 0.5),
        (pl.Series([None] * 400, dtype=pl.Float64), 0.5, 0.5),
        (pl.Series([None] * 400, dtype=pl.String), 0.5, 0.5),
        (pl.Series([2, 1, 2, 3] * 100), 1, 1),  # not monotone: class 1 is 1 or 3
        (pl.Series([2, None, 2, 3] * 100), 1, 1),
        (pl.Series([0.0, 1.0, 0.0, -1.0] * 100) + pl.Series(np.linspace(0, 0.5, 400)), 1, 1),  # bins of many values
    ],
)
def test_only_a_column_that_reveals_the_label_has_an_auc_of_1(column: pl.Series, least: float, most: float) -> None:
    assert least <= single_auc(column, LABEL) <= most


def test_a_column_of_noise_does_not_reveal_the_label_of_a_small_table() -> None:
    draw = np.random.default_rng(1)
    label = pl.Series([1] * 5 + [0] * 45)
    numbers = [single_auc(pl.Series(draw.normal(size=50)), label) for _ in range(300)]
    assert max(numbers) < 0.99
    assert single_auc(pl.Series(draw.integers(0, 3, 50)), pl.Series([1] + [0] * 49)) < 0.99  # one row of class 1


NUMBER = pl.Series("label", np.random.default_rng(2).normal(size=400))


@pytest.mark.parametrize(
    ("column", "least", "most"),
    [
        (NUMBER * 10.0 + 3, 1, 1),
        (NUMBER * -10, 1, 1),
        (NUMBER.exp(), 0.9999, 1),  # the ranks agree
        (NUMBER.round(0).cast(pl.String), 0.8, 0.99),
        (pl.Series(range(400)).cast(pl.String), 0, 0),  # a different text in each row says nothing about other rows
        (pl.Series(np.random.default_rng(1).normal(size=400)), 0, 0.05),
        (pl.Series([1.0] * 400), 0, 0),
        (pl.Series([None] * 400, dtype=pl.Float64), 0, 0),
        (pl.Series([None] * 400, dtype=pl.String), 0, 0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_only_a_column_that_reveals_a_number_explains_all_of_its_variance(
    column: pl.Series, least: float, most: float
) -> None:
    assert least - 1e-9 <= single_r2(column, NUMBER) <= most + 1e-9


def test_a_relation_that_is_not_monotone_is_found_by_bins() -> None:
    assert single_r2(NUMBER, NUMBER**2) > 0.8
