"""Tests of slices: what they are compared with, which can't be judged, and how often the check is wrong by chance."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from ml_pipelines.checks.quality_checks import worst_slice
from ml_pipelines.checks.slices import Predictions, Slice, adjusted, measure
from ml_pipelines.checks.verdicts import Check
from ml_pipelines.config.loading import load
from ml_pipelines.problems.intervals import Interval
from ml_pipelines.problems.roc_auc import area, compare, interval

LIMITS = load("local").steps["model_qa"].params.checks["worst_slice"]
DOCS = (Path(__file__).parents[2] / "docs/qa.md").read_text()
Array = np.ndarray[Any, Any]
Table = tuple[pl.Series, Array, Array]  # column, label, score


def predictions(label: Array, score: Array, **others: Any) -> Predictions:
    return Predictions(label, score, (score >= 0.5).astype(int), **others)


def slices_of(column: Any, label: Array, score: Array, least: int = 100, **others: Any) -> list[Slice]:
    slices = measure([pl.Series("kind", column)], predictions(label, score, **others), 0.95, least)
    json.dumps([slice_.to_json() for slice_ in slices], allow_nan=False)  # the step logs them as JSON
    return slices


def calibrated(seed: int, rows: int, spread: float = 1.35, middle: float = 0.0) -> tuple[Array, Array]:
    """Return labels and scores, which are the true probabilities. A spread of 1.35 is an AUC of 0.8."""
    draw = np.random.default_rng(seed)
    score = expit(middle + spread * draw.normal(size=rows))
    return (draw.random(rows) < score).astype(int), score


LABEL, SCORE = calibrated(1, 1200, middle=-0.3)
KINDS = np.array(["a", "b", "c"] * 400)


def test_slices_are_the_values_of_a_category_or_the_quarters_of_a_number() -> None:
    kinds = ["missing", None, "b", "missing"] * 300
    assert [(s.name, s.rows) for s in slices_of(kinds, LABEL, SCORE)] == [
        ("kind=b", 300),
        ("kind=missing", 600),
        ("kind is missing", 300),  # a category named "missing" is another slice
    ]
    quarters = slices_of(np.random.default_rng(1).normal(size=1200), LABEL, SCORE)
    assert [s.rows for s in quarters] == [300] * 4
    assert [s.name for s in slices_of(np.arange(1200) % 2, LABEL, SCORE)] == ["kind=0", "kind=1"]


def test_a_slice_has_its_auc_and_its_errors() -> None:
    rows = KINDS == "b"
    [b] = [s for s in slices_of(KINDS, LABEL, SCORE) if s.name == "kind=b"]
    assert b.headline == interval(LABEL[rows], SCORE[rows], 0.95)
    assert b.counts["positives"] == LABEL[rows].sum()
    assert b.counts["false_negatives"] == (LABEL[rows] > (SCORE[rows] >= 0.5)).sum()
    assert b.counts["false_positives"] == (LABEL[rows] < (SCORE[rows] >= 0.5)).sum()


def test_the_auc_is_compared_with_that_within_the_other_slices() -> None:
    level = 1 - 0.05 / 6  # three slices, AUC and calibration
    slices = slices_of(KINDS, LABEL, SCORE)
    aucs, pairs = {}, {}
    for kind in "abc":
        label = LABEL[kind == KINDS]
        aucs[kind], pairs[kind] = area(label, SCORE[kind == KINDS]), label.sum() * (1 - label).sum()
    difference = slices[0].difference
    assert difference and slices[0].against == "the column's other slices"
    mean = (aucs["b"] * pairs["b"] + aucs["c"] * pairs["c"]) / (pairs["b"] + pairs["c"])
    assert (difference.value, difference.level) == (pytest.approx(aucs["a"] - mean), pytest.approx(level))
    assert difference.low < difference.value < difference.high


def test_the_auc_is_compared_with_the_champions_on_the_rows_that_it_has_not_seen() -> None:
    champion = np.where(np.arange(1200) % 5 < 3, np.clip(SCORE + 0.1 * np.sin(np.arange(1200)), 0, 1), np.nan)
    slices = slices_of(KINDS, LABEL, SCORE, champion=champion, version="version 3")
    rows = (KINDS == "a") & np.isfinite(champion)
    expected = compare(LABEL[rows], SCORE[rows], champion[rows], 1 - 0.05 / 6)
    assert slices[0].against == "version 3"
    assert slices[0].difference == Interval(expected.value, expected.low, expected.high, 1 - 0.05 / 6)
    quarters = slices_of(SCORE, LABEL, SCORE, champion=champion, version="version 3")
    assert all(s.difference for s in quarters)
    unseen = np.where(KINDS == "a", np.nan, champion)
    assert slices_of(KINDS, LABEL, SCORE, champion=unseen)[0].against == "the column's other slices"


def test_the_calibration_is_compared_with_all_other_rows() -> None:
    rows = KINDS == "a"
    [a, *_] = slices_of(KINDS, LABEL, np.where(rows, SCORE / 2, SCORE))
    inside, outside = odds(LABEL[rows]) / odds(SCORE[rows] / 2), odds(LABEL[~rows]) / odds(SCORE[~rows])
    assert a.factor and a.factor.value == pytest.approx(inside / outside)
    assert a.factor.low < a.factor.value < a.factor.high
    [turned, *_] = slices_of(KINDS, 1 - LABEL, 1 - np.where(rows, SCORE / 2, SCORE))
    assert turned.factor and turned.factor.value == pytest.approx(outside / inside)  # both classes count alike


def odds(values: Array) -> float:
    return float(values.mean() / (1 - values.mean()))


def test_quarters_of_a_number_are_judged_by_calibration_only() -> None:
    assert all(s.factor and not s.difference for s in slices_of(SCORE, LABEL, SCORE))


def test_slices_without_enough_rows_or_events_are_listed_with_what_they_need() -> None:
    kinds = np.repeat(["a", "few rows", "few events"], [800, 90, 310])
    label = np.where((kinds == "few events") & (np.arange(1200) > 893), 0, LABEL)
    a, *unjudged = slices_of(kinds, label, SCORE)
    assert a.problem == ""
    assert [(s.name, s.problem) for s in unjudged] == [
        ("kind=few events", "3 events, 10 are needed; about 1,100 rows of this slice would be enough"),
        ("kind=few rows", "90 rows; about 100 rows of this slice would be enough"),
    ]
    result = worst_slice([a, *unjudged], **LIMITS)
    assert result.reason.endswith(
        f"too few rows to judge kind=few events ({unjudged[0].problem}), kind=few rows (90 rows; "
        "about 100 rows of this slice would be enough)"
    )
    assert worst_slice(unjudged, **LIMITS).verdict == "undecided"


def test_a_text_that_differs_in_each_row_lists_few_slices() -> None:
    slices = slices_of([f"id {i}" for i in range(1200)], LABEL, SCORE)
    assert (len(slices), slices[-1].name, slices[-1].rows) == (21, "1,180 other values of kind", 1180)
    assert worst_slice(slices, **LIMITS).verdict == "undecided"


def test_keys_that_repeat_are_one_sample() -> None:
    apart, together = (slices_of(KINDS, LABEL, SCORE, keys=keys)[0] for keys in (None, np.arange(1200) // 6))
    assert apart.factor and together.factor and apart.factor.high != together.factor.high
    few = slices_of(KINDS, LABEL, SCORE, keys=np.arange(1200) // 200)
    assert "6 events, 10 are needed" in few[0].problem


@pytest.mark.parametrize(
    ("column", "problem"),
    [(["a"] * 1200, "the other rows have too few events to compare it with"), ([None] * 1200, "the other rows")],
)
def test_a_column_with_one_slice_is_not_judged(column: list[Any], problem: str) -> None:
    [only] = slices_of(column, LABEL, SCORE)
    assert only.problem.startswith(problem)


def test_intervals_are_adjusted_for_the_number_of_comparisons() -> None:
    def comparison(value: float) -> Callable[[float], Interval]:
        return lambda level: Interval(value, value - (level - 0.9), value + (level - 0.9), level)

    intervals = adjusted({"a": comparison(9), "b": comparison(0), "c": comparison(0.08)}, 0.95)
    levels = {name: interval.level for name, interval in intervals.items()}
    assert levels == pytest.approx({"a": 1 - 0.05 / 3, "b": 0.95, "c": 1 - 0.05 / 2})


def made(**fields: Any) -> Slice:
    return Slice("k=a", 400, headline=Interval(0.7, 0.6, 0.8, 0.95), against="version 3", **fields)


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        ((-0.15, -0.2, -0.05), "failed"),
        ((-0.1, -0.2, -0.05), "undecided"),  # clear, but not larger than the threshold
        ((-0.15, -0.3, 0.01), "undecided"),  # large, but not clear
        ((-0.05, -0.1, 0.01), "passed"),
        ((0.3, 0.2, 0.4), "passed"),
        ((math.nan,) * 3, "failed"),
        ((-0.05, math.nan, math.nan), "undecided"),
    ],
)
def test_a_slice_fails_only_if_its_auc_is_clearly_and_much_lower(difference: Any, verdict: str) -> None:
    result = worst_slice([made(difference=Interval(*difference, 0.99))], threshold=0.1, ratio=1.5)
    assert (result.verdict, result.value) == (verdict, 1 if verdict == "failed" else 0)
    assert bool(result.advice) == (verdict == "failed")


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        ((1.6, 1.2, 2.0), "failed"),
        ((0.6, 0.4, 0.8), "failed"),
        ((1.6, 0.9, 2.6), "undecided"),
        ((1.1, 0.6, 1.4), "undecided"),
        ((1.1, 0.8, 1.4), "passed"),
        ((math.nan,) * 3, "failed"),
    ],
)
def test_a_slice_fails_only_if_its_calibration_is_clearly_and_much_off(factor: Any, verdict: str) -> None:
    assert worst_slice([made(factor=Interval(*factor, 0.99))], threshold=0.1, ratio=1.5).verdict == verdict


def test_the_reason_names_the_slices_that_are_worse() -> None:
    result = worst_slice([made(difference=Interval(-0.15, -0.2, -0.05, 0.99))] * 7, threshold=0.1, ratio=1.5)
    assert result.reason.startswith(
        "clearly worse: k=a (400 rows): auc 0.700 is 0.150 below that of version 3 (adjusted interval 0.050 to 0.200), "
    )
    assert result.reason.endswith(" and 2 more")
    undecided = worst_slice([made(difference=Interval(-0.05, -0.15, 0.05, 0.99))], threshold=0.1, ratio=1.5)
    assert undecided.reason.endswith("; about 1,600 rows of this slice would be enough")
    assert worst_slice([], threshold=0.1, ratio=1.5).verdict == "not compared"


# -- simulations with fixed seeds; docs/qa.md states their bounds


def simulated(make: Callable[[int], Table], tries: int) -> dict[str, float]:
    """Return the share of tries with each verdict of the check, by its default settings."""
    results: Counter[str] = Counter()
    for seed in range(tries):
        column, label, score = make(seed)
        check: Check = worst_slice(measure([column], predictions(label, score), 0.95, 100), **LIMITS)
        results[check.verdict] += 1
    return {verdict: 100 * count / tries for verdict, count in results.items()}


def ten_slices(seed: int) -> Table:
    return pl.Series("k", [f"v{i % 10}" for i in range(1000)]), *calibrated(seed, 1000)


def quarters_of_a_predictive_number(seed: int) -> Table:
    draw = np.random.default_rng(seed)
    number = draw.normal(size=2000)
    score = expit(1.5 * number + 0.7 * draw.normal(size=2000))
    return pl.Series("x", number), (draw.random(2000) < score).astype(int), score


def halved(seed: int) -> Table:
    label, score = calibrated(seed, 2000, middle=-1)
    return pl.Series("k", ["a"] * 200 + ["b"] * 1800), label, np.where(np.arange(2000) < 200, score / 2, score)


def lower_auc(seed: int) -> Table:
    draw = np.random.default_rng(seed)
    label, is_worse = draw.integers(0, 2, 2000), np.arange(2000) < 400
    gap = np.where(is_worse, 0.545, 1.19)  # of the means of both classes: AUC 0.65, AUC 0.8
    score = expit(gap * (draw.normal(size=2000) + gap * label - gap / 2))
    return pl.Series("k", np.where(is_worse, "a", "b")), label, score


def stated(text: str) -> float:
    """Return the number that docs/qa.md has in the place of the * of this text."""
    [number] = re.findall(re.escape(text).replace(r"\*", r"([\d.]+)"), DOCS)
    return float(number)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (ten_slices, "ten slices of 100 rows without a difference (AUC 0.8) in at most *%"),
        (quarters_of_a_predictive_number, "the quarters of a predictive number in at most *%"),
    ],
)
def test_equal_slices_are_rarely_refused(make: Callable[[int], Table], text: str) -> None:
    assert simulated(make, 40).get("failed", 0) <= stated(text)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (halved, "200 rows whose probabilities are halved in at least *%"),
        (lower_auc, "400 rows with an AUC that is 0.15 lower in at least *%"),
    ],
)
def test_worse_slices_are_found(make: Callable[[int], Table], text: str) -> None:
    assert simulated(make, 60).get("failed", 0) >= stated(text)
