"""Tests of how a check judges an interval against a bound."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ml_pipelines.checks.verdicts import (
    FAILED,
    NOT_COMPARED,
    PASSED,
    REFUSED,
    UNDECIDED,
    WARNED,
    Check,
    Sample,
    gate_verdict,
    not_above,
    not_below,
)
from ml_pipelines.problems.intervals import Interval, mean_interval


def rows(count: int) -> Sample:
    return Sample(count, "test rows", None)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.7, 0.9, PASSED), (0.69, 0.9, UNDECIDED), (0.5, 0.7, UNDECIDED), (0.5, 0.69, FAILED)]
)
def test_the_interval_decides_and_not_the_value(low: float, high: float, verdict: str) -> None:
    value = (low + high) / 2 + 0.001
    assert not_below("auc", Interval(value, low, high, 0.95), 0.7, rows(100)).verdict == verdict
    assert not_above("loss", Interval(-value, -high, -low, 0.95), -0.7, rows(100)).verdict == verdict


def test_an_undecided_check_says_how_many_rows_would_do() -> None:
    """The value is 0.05 above the bound; the interval reaches 0.1 below the value. Four times the rows halve it."""
    assert not_below("auc", Interval(0.75, 0.65, 0.85, 0.95), 0.7, rows(120)).reason == (
        "auc is 0.75 (95% interval 0.65 to 0.85), too little evidence for 0.7; about 480 test rows would be enough"
    )


def test_without_an_interval_nothing_is_decided() -> None:
    result = not_below("auc", Interval(0.9, math.nan, math.nan, 0.95), 0.7, rows(9))
    assert (result.verdict, result.reason) == (
        UNDECIDED,
        "auc is 0.9 (too few events for an interval), too little evidence for 0.7",
    )


def test_a_value_that_is_not_a_number_fails() -> None:
    assert not_below("auc", Interval(math.nan, math.nan, math.nan, 0.95), 0.7, rows(9)).verdict == FAILED


@pytest.mark.parametrize(
    ("verdicts", "unproven", "verdict"),
    [
        ([PASSED, NOT_COMPARED, WARNED], False, PASSED),
        ([PASSED, UNDECIDED], False, PASSED),  # an undecided check that is not decisive
        ([PASSED, UNDECIDED], True, UNDECIDED),
        ([FAILED, UNDECIDED], True, REFUSED),
    ],
)
def test_the_gate_refuses_what_failed_and_passes_only_what_is_proven(
    verdicts: list[str], unproven: bool, verdict: str
) -> None:
    results = {str(i): Check(None, None, word, "") for i, word in enumerate(verdicts)}
    assert gate_verdict(results, results if unproven else {}, "fail") == verdict
    assert gate_verdict(results, results if unproven else {}, "warn") == verdict.replace(REFUSED, WARNED)


def test_the_interval_of_a_mean_covers_it_and_widens_where_keys_repeat() -> None:
    draw = np.random.default_rng(1)
    covered = {"keys": 0, "rows": 0}
    for _ in range(400):
        keys = np.repeat(np.arange(40), 5)
        values = draw.normal(size=40)[keys] + draw.normal(size=200)
        for name, known in (("keys", keys), ("rows", None)):
            interval = mean_interval(values, 0.95, known)
            covered[name] += interval.low <= 0 <= interval.high
    assert 370 <= covered["keys"] <= 390
    assert covered["rows"] < 330
