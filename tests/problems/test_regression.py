"""Tests of a regression's metrics, charts, intervals and comparisons."""

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from ml_pipelines.errors import BadData
from ml_pipelines.problems import regression
from ml_pipelines.problems.regression import (
    check_label,
    compare,
    curves,
    form,
    headline,
    headline_interval,
    intervals,
    loss_gain,
    score_metrics,
    unit,
)

LEAST = 0.9  # the smallest share of intervals of 95 % that may contain the truth in a short simulation


def table(seed: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, good predictions whose errors have the deviation 2, and bad ones with the deviation 5."""
    draw = np.random.default_rng(seed)
    label = 50 + 10 * draw.normal(size=rows)
    return label, label + 2 * draw.normal(size=rows), label + 5 * draw.normal(size=rows)


def test_the_metrics_follow_from_the_errors() -> None:
    label = pl.Series("price", [1.0, 2.0, 4.0, 5.0])
    metrics = score_metrics(label, np.array([1.0, 3.0, 2.0, 5.0]), "test")
    assert metrics == pytest.approx(
        {
            "test_rmse": math.sqrt(5 / 4),
            "test_mae": 3 / 4,
            "test_median_absolute_error": 1 / 2,
            "test_r2": 1 - 5 / 10,
            "test_mape": (1 / 2 + 2 / 4) / 4,
        }
    )


@pytest.mark.parametrize("lowest", [0.0, -1.0])
def test_there_is_no_relative_error_unless_all_labels_are_positive(lowest: float) -> None:
    label, score = np.array([lowest, 1.0, 2.0] * 20), np.ones(60)
    assert "test_mape" not in score_metrics(pl.Series(label), score, "test")
    assert "mape" not in intervals(label, score, score, 0.95)


def test_the_intervals_have_the_values_of_the_metrics_and_contain_them() -> None:
    label, score, _ = table(1)
    metrics = score_metrics(pl.Series(label), score, "test")
    found = intervals(label, score, score, 0.95)
    assert {f"test_{name}": number.value for name, number in found.items()} == pytest.approx(metrics)
    assert all(number.low < number.value < number.high for number in found.values())
    assert found["rmse"] == headline_interval(label, score, 0.95)
    assert headline(label, score) == pytest.approx(metrics["test_rmse"])


def test_the_interval_of_the_rmse_of_normal_errors_is_near_that_of_chi_squared() -> None:
    label, score, _ = table(2)
    found = headline_interval(label, score, 0.95)
    squares = 400 * found.value**2
    ends = [math.sqrt(squares / stats.chi2.ppf(q, 400)) for q in (0.975, 0.025)]
    assert (found.low, found.high) == pytest.approx(ends, rel=0.03)


def test_the_intervals_cover_the_truth() -> None:
    truth = {"rmse": 2.0, "mae": 2 * math.sqrt(2 / math.pi), "median_absolute_error": 2 * stats.norm.ppf(0.75)}
    truth |= {"r2": 1 - 4 / 100}
    hits = dict.fromkeys([*truth, "difference"], 0)
    for seed in range(300):
        label, score, other = table(seed, rows=60)
        found = intervals(label, score, score, 0.95)
        for name, value in truth.items():
            hits[name] += found[name].low <= value <= found[name].high
        difference = compare(label, score, other, 0.95)
        hits["difference"] += difference.low <= 2.0 - 5.0 <= difference.high
    assert min(hits.values()) >= LEAST * 300


def test_rows_of_a_key_that_are_alike_count_once() -> None:
    numbers = table(3)
    alone, alone_gap = intervals(*numbers[:2], numbers[1], 0.95), compare(*numbers, 0.95)
    label, score, other = (np.repeat(part, 3) for part in numbers)
    keys = np.repeat(np.arange(400), 3)
    for name, number in intervals(label, score, score, 0.95, keys).items():
        assert (number.low, number.high) == pytest.approx((alone[name].low, alone[name].high), rel=0.02), name
    gap = compare(label, score, other, 0.95, keys)
    assert (gap.low, gap.high, gap.p_value) == pytest.approx(
        (alone_gap.low, alone_gap.high, alone_gap.p_value), rel=0.02
    )
    assert compare(label, score, other, 0.95).low != pytest.approx(gap.low, rel=0.02)  # without keys, too sure


def test_a_comparison_is_the_difference_and_tests_for_the_worse_model() -> None:
    label, good, bad = table(4)
    difference = compare(label, good, bad, 0.95)
    assert difference.value == pytest.approx(headline(label, good) - headline(label, bad))
    assert difference.low < difference.value < difference.high < 0
    assert difference.p_value > 0.99
    assert compare(label, bad, good, 0.95).p_value < 0.01
    same = compare(label, good, good, 0.95)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    gain = loss_gain(label, good, bad, 0.95)
    assert 0 < gain.low < gain.value == pytest.approx(headline(label, bad) ** 2 - headline(label, good) ** 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [1, 2, 29])
def test_too_few_rows_give_no_interval(rows: int) -> None:
    label, score, other = table(5, rows)
    for number in (*intervals(label, score, score, 0.95).values(), loss_gain(label, score, other, 0.95)):
        assert math.isnan(number.low) and math.isnan(number.high)
    assert math.isnan(compare(label, score, other, 0.95).low)


@pytest.mark.filterwarnings("error")
def test_predictions_without_errors_and_infinite_ones_give_no_interval() -> None:
    label = np.arange(40.0) + 1
    for score in (label, np.where(label == 3, math.inf, label)):
        found = intervals(label, score, score, 0.95)
        assert all(math.isnan(found[name].low) for name in ("rmse", "mae", "r2"))


def test_the_unit_of_margins_is_the_rmse_of_the_baseline() -> None:
    label = np.array([1.0, 3.0])
    assert unit(label, np.full(2, 2.0)) == 1.0
    assert unit(label * 10, np.full(2, 20.0)) == 10.0
    assert unit(label, label) == 1.0


def test_the_charts_show_rows_over_the_whole_range_of_predictions() -> None:
    label, score, _ = table(6, rows=5_000)
    charts = curves(pl.Series(label), score)
    observed, residuals, tenths = charts["observed"], charts["residuals"], charts["tenths"]
    assert len(observed["predicted"]) == len(observed["observed"]) == regression.POINTS
    assert observed["predicted"] == residuals["predicted"] == sorted(observed["predicted"])
    assert (observed["predicted"][0], observed["predicted"][-1]) == pytest.approx((score.min(), score.max()), rel=1e-5)
    gaps = np.array(observed["observed"]) - np.array(observed["predicted"])
    assert residuals["residual"] == pytest.approx(gaps.tolist(), abs=1e-3)
    assert sum(tenths["rows"]) == 5_000
    plot = regression.figure(charts, 0.5)
    assert [axes.get_title() for axes in plot.axes] == ["Test table: observed", "Test table: residuals"]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (["a", "b"], "Label price is of type String; a regression needs numbers."),
        ([1.0, math.inf, math.nan], "Label price: 2 of 3 values are infinite or NaN."),
        ([7.5, 7.5], "Label price has the value 7.5 in all rows, so it can't be predicted."),
    ],
)
def test_a_label_that_is_no_number_is_refused(label: list[object], message: str) -> None:
    with pytest.raises(BadData) as error:
        check_label(pl.Series("price", label))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("value", "text"), [(53.4123, "53.41"), (0.00123456, "0.001235"), (123456.7, "123,457"), (0.0, "0.000")]
)
def test_a_number_has_four_significant_digits_and_no_exponent(value: float, text: str) -> None:
    assert f"{value:{form(value)}}" == text


def test_a_model_that_predicts_the_mean_gains_nothing_over_the_baseline() -> None:
    """The two means are computed in different ways, and differ by rounding."""
    for seed in range(100):
        label = np.random.default_rng(seed).normal(300, 100, 200)
        mean = float(np.random.default_rng(seed).normal(300, 1))
        baseline, score = np.full(200, mean), np.full(200, np.nextafter(mean, 0))
        gain = regression.loss_gain(label, score, baseline, 0.95)
        assert gain.low == gain.value == gain.high == 0


def test_a_model_without_errors_is_clearly_better_than_one_with_errors() -> None:
    label = np.random.default_rng(1).normal(size=200)
    other = label + np.random.default_rng(2).normal(size=200)
    better, worse = regression.compare(label, label, other, 0.95), regression.compare(label, other, label, 0.95)
    assert better.low < better.value < better.high < 0 < worse.low < worse.value < worse.high
    assert worse.p_value < 1e-9 < 0.5 < better.p_value
    alike = regression.compare(label, other * 1.000001, other, 0.95)
    assert worse.high - worse.low == pytest.approx(better.high - better.low) and abs(alike.value) < 1e-3
