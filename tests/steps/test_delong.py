"""DeLong's variance and test, against the definition by brute force, and against a bootstrap."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from steps.delong import area, compare, interval

Array = np.ndarray[Any, np.dtype[Any]]


def rows(seed: int, count: int = 300, ties: bool = False) -> tuple[Array, Array, Array]:
    """Return a label and two scores of it that have much in common."""
    draw = np.random.default_rng(seed)
    label = (draw.random(count) < 0.3).astype(int)
    one = draw.normal(size=count) + label
    two = one + draw.normal(size=count) * 0.7
    return (label, one.round(1), two.round(1)) if ties else (label, one, two)


def kernel(label: Array, score: Array) -> Array:
    """Return for each pair of a row of class 1 and one of class 0 whether it is in order: 1, 0, or a half."""
    positive, negative = score[label == 1][:, None], score[label == 0][None]
    return (positive > negative) + 0.5 * (positive == negative)


def variance(pairs: Array) -> float:
    """Return DeLong's variance of the mean of the pairs, as the paper defines it."""
    m, n = pairs.shape
    return float(pairs.mean(axis=1).var(ddof=1) / m + pairs.mean(axis=0).var(ddof=1) / n)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_area_and_interval_are_those_of_the_definition(seed: int, ties: bool) -> None:
    label, score, _ = rows(seed, ties=ties)
    found = interval(label, score, 0.95)
    assert found.value == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    reach = 1.959963984540054 * math.sqrt(variance(kernel(label, score)))
    assert (found.low, found.high) == pytest.approx((found.value - reach, min(1, found.value + reach)), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_the_paired_test_is_that_of_the_definition(ties: bool) -> None:
    label, one, two = rows(1, ties=ties)
    found = compare(label, two, one)
    assert found.value == pytest.approx(roc_auc_score(label, two) - roc_auc_score(label, one), abs=1e-12)
    z = found.value / math.sqrt(variance(kernel(label, two) - kernel(label, one)))
    assert found.p_value == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2)), rel=1e-9)
    assert compare(label, one, two).p_value == pytest.approx(1 - found.p_value)


def test_the_interval_is_about_the_bootstrap_s() -> None:
    label, score, _ = rows(2, 400)
    draw = np.random.default_rng(0)
    picked = (draw.integers(0, len(label), len(label)) for _ in range(2000))
    low, high = np.quantile([area(label[rows], score[rows]) for rows in picked], [0.025, 0.975])
    found = interval(label, score, 0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_a_difference_that_the_bootstrap_sees_is_seen_and_no_other() -> None:
    label, one, two = rows(3, 400)
    draw = np.random.default_rng(0)
    picked = [draw.integers(0, len(label), len(label)) for _ in range(1000)]
    differences = np.array([area(label[i], two[i]) - area(label[i], one[i]) for i in picked])
    z = compare(label, two, one).value / differences.std(ddof=1)
    assert compare(label, two, one).p_value == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2)), abs=0.01)


def test_equal_scores_are_as_good_without_any_variance() -> None:
    label, one, _ = rows(4)
    assert compare(label, one, one) == compare(label, np.exp(one), one)
    assert (compare(label, one, one).value, compare(label, one, one).p_value) == (0.0, 1.0)


def test_a_perfect_score_leaves_no_doubt() -> None:
    label = np.array([0, 0, 1, 1])
    score = np.array([0.1, 0.2, 0.8, 0.9])
    assert interval(label, score, 0.9) == interval(label, 10 * score, 0.9)
    assert (interval(label, score, 0.9).low, area(label, -score)) == (1.0, 0.0)
    assert compare(label, -score, score).p_value == 0.0


@pytest.mark.parametrize(
    ("label", "score"), [([1, 1], [0.1, 0.2]), ([], []), ([0, 1, 1], [0.1, math.nan, 0.3]), ([0, 1], [0, math.inf])]
)
def test_what_has_no_area_is_nan_and_not_a_number_by_chance(label: list[int], score: list[float]) -> None:
    found = interval(np.array(label), np.array(score), 0.95)
    assert all(math.isnan(end) for end in (found.value, found.low, found.high))
    assert math.isnan(compare(np.array(label), np.array(score), np.array(score)).value)


def test_one_row_of_a_class_has_an_area_but_no_interval() -> None:
    found = interval(np.array([0, 0, 1]), np.array([0.1, 0.5, 0.4]), 0.95)
    assert found.value == 0.5
    assert math.isnan(found.low) and math.isnan(found.high)
