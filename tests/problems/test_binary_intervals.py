"""Tests of the intervals of all metrics: they match their definitions, cover the truth, and know repeated keys."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from chaos import simulate_metrics
from chaos.simulate import LEAST, Case, lowest_in
from conftest import ROOT
from scipy import stats
from scipy.special import expit, logit
from sklearn import metrics

from ml_pipelines.problems.binary import METRICS, class_metrics, score_metrics
from ml_pipelines.problems.binary_intervals import intervals
from ml_pipelines.problems.intervals import Interval

Array = np.ndarray[Any, np.dtype[Any]]


def table(draw: np.random.Generator, rows: int) -> tuple[Array, Array, Array]:
    """Return a label, scores that are its true probabilities, and predicted classes. A third of the rows is class 1."""
    score = expit(1.5 * draw.normal(size=rows) - 1)
    return (draw.random(rows) < score).astype(int), score, (score >= 0.4).astype(int)


def test_every_metric_has_its_value_inside_of_an_interval() -> None:
    label, score, predicted = table(np.random.default_rng(1), 400)
    found = intervals(label, score.round(1) * 0.9 + 0.05, predicted, 0.95)
    expected = score_metrics(pl.Series(label), score.round(1) * 0.9 + 0.05, "test")
    expected |= class_metrics(pl.Series(label), predicted, "test")
    expected["test_precision"] = float(metrics.precision_score(label, predicted))
    expected["test_recall"] = float(metrics.recall_score(label, predicted))
    assert list(found) == list(METRICS)
    assert {f"test_{name}": number.value for name, number in found.items()} == pytest.approx(
        {name: expected[name] for name in (f"test_{name}" for name in METRICS)}
    )
    assert all(number.low < number.value < number.high for number in found.values())


def test_the_interval_of_average_precision_is_the_infinitesimal_jackknife() -> None:
    label, score, predicted = table(np.random.default_rng(2), 200)
    score = score.round(2)
    found = intervals(label, score, predicted, 0.9)["average_precision"]
    weights = np.ones((200, 200)) + 1e-6 * np.eye(200)  # one row counts a little more
    moved = np.array([metrics.average_precision_score(label, score, sample_weight=weight) for weight in weights])
    changes = (moved - metrics.average_precision_score(label, score)) / 1e-6
    error = math.sqrt(changes @ changes * 200 / 199) / (found.value * (1 - found.value))
    freedom = min(label.sum() - 1, (changes @ changes) ** 2 / (changes**4).sum())
    reach = stats.t(freedom).ppf(0.95) * error
    ends = (expit(logit(found.value) - reach), expit(logit(found.value) + reach))
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-4)


def test_shares_have_wilson_s_interval_and_f1_that_of_its_share() -> None:
    label, score, predicted = table(np.random.default_rng(3), 300)
    found = intervals(label, score, predicted, 0.95)
    hits, either = int((label & predicted).sum()), int((label | predicted).sum())
    wilson = stats.binomtest(hits, either).proportion_ci(method="wilson")
    ends = [2 * end / (1 + end) for end in (wilson.low, wilson.high)]
    assert [found["f1"].low, found["f1"].high] == pytest.approx(ends)
    wilson = stats.binomtest(hits, int(predicted.sum())).proportion_ci(method="wilson")
    assert (found["precision"].low, found["precision"].high) == pytest.approx((wilson.low, wilson.high))


def test_the_intervals_cover_the_truth() -> None:
    assert min(simulate_metrics.coverage(Case(100, 40, 1), 0.8, tables=300, seed=1)) >= LEAST


def test_the_page_has_the_whole_simulation_and_no_interval_covers_too_little() -> None:
    page = (ROOT / "docs/qa.md").read_text()
    part = page.partition(simulate_metrics.BEGIN)[2].partition(simulate_metrics.END)[0]
    assert [line.split(" | ")[:3] for line in part.split("\n") if line][2:] == [
        [f"| {case.rows:,}", str(case.positives), str(case.rows_a_key)] for case in simulate_metrics.CASES
    ]
    assert lowest_in(page, simulate_metrics.BEGIN, simulate_metrics.END) >= LEAST


def test_rows_of_a_key_that_are_alike_count_once() -> None:
    label, score, predicted = table(np.random.default_rng(5), 400)
    alone = intervals(label, score, predicted, 0.95, np.arange(400))
    keys = np.repeat(np.arange(400), 3)
    repeated = intervals(*(np.repeat(numbers, 3) for numbers in (label, score, predicted)), 0.95, keys)
    for name, number in repeated.items():
        assert (number.low, number.high) == pytest.approx((alone[name].low, alone[name].high), abs=0.01), name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("positives", [0, 9, 60])
def test_too_few_events_and_odd_scores_give_no_interval(positives: int) -> None:
    label = (np.arange(60) < positives).astype(int)
    for score in (np.full(60, 0.3), label * 1.0, np.where(np.arange(60) == 1, math.nan, 0.3)):
        for found in intervals(label, score, (score >= 0.5).astype(int), 0.95).values():
            assert math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.filterwarnings("error")
def test_a_model_without_mistakes_has_intervals() -> None:
    label = np.array([0] * 60 + [1] * 40)
    found = intervals(label, label * 1.0, label, 0.95)
    for name in ("average_precision", "accuracy", "precision", "recall", "f1"):
        assert 0.85 < found[name].low < found[name].value == found[name].high == 1, name
    assert found["brier"].value == 0 and math.isnan(found["brier"].high)
    nothing = intervals(label, label * 0.2, label * 0, 0.95)
    assert "precision" not in nothing and isinstance(nothing["f1"], Interval)
    assert nothing["f1"].value == nothing["f1"].low == 0 < nothing["f1"].high
