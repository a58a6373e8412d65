"""Tests of the intervals and of the test: they match the definitions, a bootstrap, and the truth often enough."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chaos import simulate
from conftest import ROOT
from scipy import stats
from sklearn.metrics import roc_auc_score

from ml_pipelines.problems.intervals import FEWEST_EVENTS, Difference
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


def parts(pairs: Array) -> tuple[float, float]:
    """Return the two parts of DeLong's variance of the mean of the pairs, as the paper defines it."""
    m, n = pairs.shape
    return float(pairs.mean(axis=1).var(ddof=1) / m), float(pairs.mean(axis=0).var(ddof=1) / n)


def newcombe(area: float, m: int, n: int) -> float:
    """Return the variance of an AUC as Newcombe's method 5 has it, in the form of Hanley and McNeil."""
    wrong, right = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
    return (area * (1 - area) + ((m + n) / 2 - 1) * (wrong + right)) / (m * n)


def obuchowski(label: Array, pairs: Array, keys: Array) -> float:
    """Return the variance of the mean of the pairs as the paper defines it, key by key."""
    m, n = pairs.shape
    area, above, below = pairs.mean(), pairs.mean(axis=1), pairs.mean(axis=0)
    of_positives, of_negatives = keys[label == 1], keys[label == 0]
    ours = {key: (above[of_positives == key] - area).sum() for key in set(of_positives)}
    theirs = {key: (below[of_negatives == key] - area).sum() for key in set(of_negatives)}
    count, one, zero = len(set(keys)), len(ours), len(theirs)
    first = one / ((one - 1) * m) * sum(value**2 for value in ours.values())
    second = zero / ((zero - 1) * n) * sum(value**2 for value in theirs.values())
    both = count / (count - 1) * sum(value * theirs.get(key, 0) for key, value in ours.items())
    return float(first / m + second / n + 2 * both / (m * n))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_ends_of_an_interval_match_newcombe_s_definition(seed: int, ties: bool) -> None:
    label, score, _ = rows(seed, ties=ties)
    estimate, m = interval(label, score, 0.95), int(label.sum())
    assert estimate.value == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    n = len(label) - m
    observed = sum(parts(kernel(label, score))) / newcombe(estimate.value, m, n)
    for end in (estimate.low, estimate.high):
        expected = 1.959963984540054 * math.sqrt(newcombe(end, m, n) * max(1, observed))
        assert abs(end - estimate.value) == pytest.approx(expected, abs=1e-9)
    assert estimate.low < estimate.value < estimate.high < 1


@pytest.mark.parametrize("ties", [False, True])
def test_the_paired_test_and_interval_match_the_definition(ties: bool) -> None:
    label, one, two = rows(1, ties=ties)
    difference = compare(label, two, one, 0.9)
    assert difference.value == pytest.approx(roc_auc_score(label, two) - roc_auc_score(label, one), abs=1e-12)
    first, second = parts(kernel(label, two) - kernel(label, one))
    m = int(label.sum())
    freedom = (first + second) ** 2 / (first**2 / (m - 1) + second**2 / (len(label) - m - 1))
    student, error = stats.t(freedom), math.sqrt(first + second)
    assert difference.p_value == pytest.approx(student.cdf(difference.value / error), rel=1e-9)
    mirrored = compare(label, one, two, 0.9)
    assert mirrored.p_value == pytest.approx(1 - difference.p_value)
    assert (mirrored.low, mirrored.high) == pytest.approx((-difference.high, -difference.low))
    # The interval joins those of both areas; here, far from 0 and 1, it is close to that of Student's t.
    reach = student.ppf(0.95) * error
    ends = (difference.value - reach, difference.value + reach)
    assert (difference.low, difference.high) == pytest.approx(ends, abs=0.15 * reach)


# -- keys that repeat


def test_the_paired_interval_adds_up_the_rows_of_a_key() -> None:
    label, one, _ = rows(5)
    draw = np.random.default_rng(5)
    keys = draw.integers(0, 40, len(label)) + 30 * label  # ten keys have rows of both classes
    two = one + draw.normal(size=70)[keys]
    error = math.sqrt(obuchowski(label, kernel(label, one) - kernel(label, two), keys))
    ours, alone = compare(label, one, two, 0.95, keys), compare(label, one, two, 0.95)
    assert stats.norm.ppf(ours.p_value) == pytest.approx(ours.value / error, rel=0.05)
    assert ours.value == alone.value
    assert ours.high - ours.low > 1.3 * (alone.high - alone.low)


def test_rows_that_are_repeated_under_their_key_change_nothing() -> None:
    label, one, two = rows(6)
    keys = np.tile(np.arange(len(label)), 3)
    repeated = [np.tile(values, 3) for values in (label, one, two)]
    assert compare(*repeated, 0.95, keys) == _nearly(compare(label, one, two, 0.95))  # type: ignore[arg-type]
    assert interval(*repeated[:2], 0.95, keys) == _nearly(interval(label, one, 0.95))  # type: ignore[arg-type]
    naive = interval(*repeated[:2], 0.95)  # type: ignore[arg-type]
    assert naive.high - naive.low < 0.6 * (interval(label, one, 0.95).high - interval(label, one, 0.95).low)


def _nearly(estimate: Any) -> Any:
    return type(estimate)(*(pytest.approx(number, abs=1e-9) for number in dataclasses.astuple(estimate)))


def test_events_are_counted_by_key() -> None:
    label, score, other = rows(7)
    keys = np.where(label == 1, np.cumsum(label) % (FEWEST_EVENTS - 1), np.arange(len(label)) + 100)
    assert math.isnan(interval(label, score, 0.95, keys).low)
    difference = compare(label, score, other, 0.95, keys)
    assert math.isnan(difference.low) and 0 < difference.p_value < 1
    assert math.isnan(compare(label, score, other, 0.95, np.where(label == 1, 0, keys)).p_value)


# -- coverage


@pytest.mark.parametrize(
    ("case", "area"),
    [(simulate.Case(200, 10, 1), 0.95), (simulate.Case(1000, 50, 1), 0.99), (simulate.Case(500, 50, 5), 0.8)],
)
def test_an_interval_of_95_percent_covers_the_truth_often_enough(case: simulate.Case, area: float) -> None:
    assert min(simulate.coverage(case, area, tables=400, seed=1)) >= simulate.LEAST


def test_the_page_has_the_whole_simulation_and_no_interval_covers_too_little(tmp_path: Path) -> None:
    page = (ROOT / "docs/qa.md").read_text()
    rows = [line for line in page.partition(simulate.BEGIN)[2].partition(simulate.END)[0].splitlines() if line][2:]
    assert [line.split(" | ")[:3] for line in rows] == [
        [f"| {case.rows:,}", str(case.positives), str(case.rows_a_key)] for case in simulate.CASES
    ]
    assert simulate.lowest_in(page) >= simulate.LEAST
    copy = tmp_path / "qa.md"
    copy.write_text(page)
    text, lowest = simulate.table(5, simulate.CASES[:1], say=lambda line: None)
    simulate.write(copy, text)
    assert simulate.lowest_in(copy.read_text()) == lowest
    assert copy.read_text().partition(simulate.END)[2] == page.partition(simulate.END)[2]


# -- bootstrap, and scores at the bounds


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
    z = compare(label, two, one, 0.95).value / differences.std(ddof=1)
    assert compare(label, two, one, 0.95).p_value == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2)), abs=0.01)


def test_scores_with_the_same_order_do_not_differ() -> None:
    label, one, _ = rows(4)
    assert compare(label, one, one, 0.95) == compare(label, np.exp(one), one, 0.95) == Difference(0.0, 1.0, 0.0, 0.0)


def test_a_perfect_score_has_an_interval_below_1() -> None:
    label = np.repeat([0, 1], [40, 10])
    score = np.arange(50) / 100
    perfect, worst = interval(label, score, 0.95), interval(label, -score, 0.95)
    assert (perfect.value, perfect.high, worst.value, worst.low) == (1.0, 1.0, 0.0, 0.0)
    assert 0.8 < perfect.low < 0.95
    assert worst.high == pytest.approx(1 - perfect.low)
    assert interval(label, 10 * score, 0.95) == perfect
    assert compare(label, -score, score, 0.95).p_value == 0.0


@pytest.mark.parametrize(
    ("label", "score"), [([1, 1], [0.1, 0.2]), ([], []), ([0, 1, 1], [0.1, math.nan, 0.3]), ([0, 1], [0, math.inf])]
)
def test_an_undefined_area_is_nan(label: list[int], score: list[float]) -> None:
    estimate = interval(np.array(label), np.array(score), 0.95)
    assert all(math.isnan(end) for end in (estimate.value, estimate.low, estimate.high))
    assert math.isnan(compare(np.array(label), np.array(score), np.array(score), 0.95).value)


def test_a_class_with_one_row_has_an_area_but_no_interval() -> None:
    estimate = interval(np.array([0, 0, 1]), np.array([0.1, 0.5, 0.4]), 0.95)
    assert estimate.value == 0.5
    assert math.isnan(estimate.low) and math.isnan(estimate.high)
