"""Tests of DeLong's variance and test: they match the definition by brute force, and a bootstrap."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ml_pipelines.problems.roc_auc import area, compare, interval

Array = np.ndarray[Any, np.dtype[Any]]


def rows(seed: int, count: int = 300, ties: bool = False) -> tuple[Array, Array, Array]:
    """Return a label and two correlated scores for it."""
    draw = np.random.default_rng(seed)
    label = (draw.random(count) < 0.3).astype(int)
    one = draw.normal(size=count) + label
    two = one + draw.normal(size=count) * 0.7
    return (label, one.round(1), two.round(1)) if ties else (label, one, two)


def kernel(label: Array, score: Array) -> Array:
    """Return 1, 0 or a half (tie) for each pair of a row of class 1 and a row of class 0: 1 if it is in order."""
    positive, negative = score[label == 1][:, None], score[label == 0][None]
    return (positive > negative) + 0.5 * (positive == negative)


def variance(pairs: Array) -> float:
    """Return DeLong's variance of the mean of the pairs, as the paper defines it."""
    m, n = pairs.shape
    return float(pairs.mean(axis=1).var(ddof=1) / m + pairs.mean(axis=0).var(ddof=1) / n)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_area_and_interval_match_the_definition(seed: int, ties: bool) -> None:
    label, score, _ = rows(seed, ties=ties)
    estimate = interval(label, score, 0.95)
    assert estimate.value == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    reach = 1.959963984540054 * math.sqrt(variance(kernel(label, score)))
    assert (estimate.low, estimate.high) == pytest.approx(
        (estimate.value - reach, min(1, estimate.value + reach)), abs=1e-12
    )


@pytest.mark.parametrize("ties", [False, True])
def test_the_paired_test_matches_the_definition(ties: bool) -> None:
    label, one, two = rows(1, ties=ties)
    difference = compare(label, two, one)
    assert difference.value == pytest.approx(roc_auc_score(label, two) - roc_auc_score(label, one), abs=1e-12)
    z = difference.value / math.sqrt(variance(kernel(label, two) - kernel(label, one)))
    assert difference.p_value == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2)), rel=1e-9)
    assert compare(label, one, two).p_value == pytest.approx(1 - difference.p_value)


def test_the_interval_is_close_to_the_bootstrap_s() -> None:
    label, score, _ = rows(2, 400)
    draw = np.random.default_rng(0)
    samples = (draw.integers(0, len(label), len(label)) for _ in range(2000))
    low, high = np.quantile([area(label[rows], score[rows]) for rows in samples], [0.025, 0.975])
    estimate = interval(label, score, 0.95)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.01)


def test_the_p_value_of_a_difference_is_close_to_the_bootstrap_s() -> None:
    label, one, two = rows(3, 400)
    draw = np.random.default_rng(0)
    samples = [draw.integers(0, len(label), len(label)) for _ in range(1000)]
    differences = np.array([area(label[i], two[i]) - area(label[i], one[i]) for i in samples])
    z = compare(label, two, one).value / differences.std(ddof=1)
    assert compare(label, two, one).p_value == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2)), abs=0.01)


def test_scores_with_the_same_order_do_not_differ() -> None:
    label, one, _ = rows(4)
    assert compare(label, one, one) == compare(label, np.exp(one), one)
    assert (compare(label, one, one).value, compare(label, one, one).p_value) == (0.0, 1.0)


def test_a_perfect_score_has_an_interval_without_width() -> None:
    label = np.array([0, 0, 1, 1])
    score = np.array([0.1, 0.2, 0.8, 0.9])
    assert interval(label, score, 0.9) == interval(label, 10 * score, 0.9)
    assert (interval(label, score, 0.9).low, area(label, -score)) == (1.0, 0.0)
    assert compare(label, -score, score).p_value == 0.0


@pytest.mark.parametrize(
    ("label", "score"), [([1, 1], [0.1, 0.2]), ([], []), ([0, 1, 1], [0.1, math.nan, 0.3]), ([0, 1], [0, math.inf])]
)
def test_an_undefined_area_is_nan(label: list[int], score: list[float]) -> None:
    estimate = interval(np.array(label), np.array(score), 0.95)
    assert all(math.isnan(end) for end in (estimate.value, estimate.low, estimate.high))
    assert math.isnan(compare(np.array(label), np.array(score), np.array(score)).value)


def test_a_class_with_one_row_has_an_area_but_no_interval() -> None:
    estimate = interval(np.array([0, 0, 1]), np.array([0.1, 0.5, 0.4]), 0.95)
    assert estimate.value == 0.5
    assert math.isnan(estimate.low) and math.isnan(estimate.high)
