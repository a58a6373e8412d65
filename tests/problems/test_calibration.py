"""Tests of the calibration statistics: definitions, honest tables, scores that are no probabilities, and odd input."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from ml_pipelines.checks.quality_checks import CHECKS
from ml_pipelines.checks.verdicts import Check
from ml_pipelines.problems.calibration import Calibration, calibration

Array = np.ndarray[Any, np.dtype[Any]]
SPREAD = 1.2  # standard deviation of the true log-odds


def sampled(draw: np.random.Generator, rows: int, log_odds: float) -> tuple[Array, Array]:
    """Return a label and its true probabilities, whose log-odds are normal around `log_odds`."""
    chance = expit(log_odds + SPREAD * draw.normal(size=rows))
    return (draw.random(rows) < chance).astype(int), chance


def measured(label: Array, score: Array, bins: int = 10, keys: Array | None = None) -> Calibration:
    return calibration(label, score, bins, 0.95, keys)


def judged(label: Array, score: Array) -> Check:
    """Return the result of the check with the settings of conf/config.yaml."""
    settings = {"ratio": 1.25, "slope": 0.7, "error": 0.25}
    return CHECKS["calibration"](lambda bins: measured(label, score, bins), bins=10, **settings)


def test_the_numbers_match_their_definitions() -> None:
    label, score = sampled(np.random.default_rng(1), 2000, -1)
    result = measured(label, score**2, bins=2)
    assert result.events == label.sum()
    assert result.ratio.value == pytest.approx(label.sum() / (score**2).sum())
    odds = logit(np.maximum(score**2, 0.5 / 2000))  # 2,000 rows can't tell a smaller probability from 0
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(odds[:, None], label)
    assert result.slope.value == pytest.approx(fitted.coef_[0, 0], rel=1e-4)
    upper = score >= np.median(score)
    expected = distance = 0.0
    for rows in (upper, ~upper):
        chance, count = float((score[rows] ** 2).mean()), int(rows.sum())
        distance += abs(label[rows].sum() - count * chance)
        expected += float(stats.binom(count, chance).expect(lambda x, mean=count * chance: abs(x - mean)))
    assert result.error.value == pytest.approx((distance - expected) / label.sum())


def test_both_classes_are_judged_alike() -> None:
    label, score = sampled(np.random.default_rng(1), 500, -2)
    one, other = measured(label, score), measured(1 - label, 1 - score)
    for name in ("ratio", "slope", "error"):
        assert getattr(one, name).low == pytest.approx(getattr(other, name).low)


def test_intervals_of_honest_scores_cover_with_few_events_and_the_check_refuses_none() -> None:
    draw = np.random.default_rng(1)
    tables = [sampled(draw, rows, log_odds) for rows, log_odds in [(50, 0), (400, -3.3)] * 100]
    results = [result for result in (measured(*table) for table in tables) if result.events >= 10]
    assert len(results) > 150
    for name, truth in (("ratio", 1), ("slope", 1), ("error", 0)):
        intervals = [getattr(result, name) for result in results]
        assert np.mean([interval.low <= truth <= interval.high for interval in intervals]) >= 0.93
    assert "failed" not in {judged(*table).verdict for table in tables}  # the bound of 0.15 refused 37 % of 50 rows


@pytest.mark.parametrize("seed", range(5))
def test_scores_that_are_not_probabilities_fail_and_honest_ones_pass(seed: int) -> None:
    label, score = sampled(np.random.default_rng(seed), 6000, -4)  # a rate of 3 %
    assert judged(label, score).verdict in {"passed", "undecided"}
    assert judged(label, np.minimum(5 * score, 1)).verdict == "failed"
    assert judged(label, expit(-4 + 2 * (logit(score) + 4))).verdict == "failed"  # the slope is 0.5
    label, score = sampled(np.random.default_rng(seed), 3000, 0)
    assert judged(label, score).verdict == "passed"
    assert "calibration slope is 0.4" in judged(label, expit(2 * logit(score))).reason


def test_only_the_error_sees_scores_whose_ratio_and_slope_are_about_1() -> None:
    score, chance = (np.tile(values, 1000) for values in ([0.1, 0.3, 0.7, 0.9], [0.25, 0.1, 0.9, 0.75]))
    label = (np.random.default_rng(1).random(4000) < chance).astype(int)
    result = judged(label, score)
    assert result.verdict == "failed" and result.reason.startswith("calibration error beyond chance")


def test_repeated_keys_widen_every_interval() -> None:
    label, score = sampled(np.random.default_rng(1), 1000, -1)
    keys = np.arange(1000)
    alone, repeated = (
        measured(label, score, keys=keys),
        measured(*(np.repeat(x, 4) for x in (label, score)), keys=np.repeat(keys, 4)),
    )
    assert alone == measured(label, score) and repeated.events == alone.events
    for name in ("ratio", "slope"):
        one, other = getattr(alone, name), getattr(repeated, name)
        assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=0.01)
    assert repeated.error.high - repeated.error.low == pytest.approx(alone.error.high - alone.error.low, rel=0.1)


LABEL = np.array([0] * 60 + [1] * 40)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("label", "score", "verdict"),
    [
        (LABEL, LABEL * 1.0, "passed"),  # separates the classes, and certain
        (LABEL, 0.4 + 0.2 * LABEL, "failed"),  # separates the classes, but is far from 0 and 1
        (LABEL, 1.0 - LABEL, "failed"),
        (LABEL, np.zeros(100), "failed"),
        (LABEL, np.ones(100), "failed"),
        (LABEL, np.full(100, 0.4), "undecided"),
        (np.tile(LABEL, 10), np.full(1000, 0.4), "passed"),
        (np.zeros(100, int), np.full(100, 0.4), "undecided"),
        (np.ones(100, int), np.ones(100), "undecided"),
        (LABEL, np.where(np.arange(100) == 3, math.nan, 0.4), "failed"),
        (LABEL, np.where(np.arange(100) == 3, 1.5, 0.4), "failed"),
        (LABEL, np.where(np.arange(100) % 10 == 3, LABEL, 0.4), "undecided"),  # some scores are 0 and 1
    ],
)
def test_each_odd_table_has_a_verdict(label: Array, score: Array, verdict: str) -> None:
    with np.errstate(all="raise", under="ignore"):
        result = judged(label, score)
    assert result.verdict == verdict, result
    assert result.value is None or math.isfinite(result.value)


@pytest.mark.parametrize(
    "score", [np.full(100, 0.4), LABEL * 0.5, LABEL * -0.5 + 0.6, np.where(np.arange(100) == 3, 0.7, 0.2 + 0.5 * LABEL)]
)
def test_scores_that_are_equal_or_separate_the_classes_have_no_slope(score: Array) -> None:
    result = measured(LABEL, score)
    assert math.isnan(result.slope.value) and math.isfinite(result.error.high)
