"""The gate's checks: what each lets pass, what it stops, and when it can't say."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from steps.checks import (
    CHECKS,
    Check,
    Rival,
    calibration_error,
    champion,
    drift,
    importance,
    latency,
    min_auc,
    signature,
    single_auc,
    single_column,
    slices_of,
    stability,
    train_test_gap,
    worst_slice,
)
from steps.delong import Difference, Interval


def auc(value: float) -> Interval:
    return Interval(value, value - 0.1, value + 0.1, 0.95)


def rival(p_value: float) -> Rival:
    return Rival("model", 3, "a run", auc(0.9), Difference(-0.01, p_value))


NAN_MAKERS = {
    "min_auc": lambda x: min_auc(auc(x), x, threshold=0.7),
    "train_test_gap": lambda x: train_test_gap(auc(0.8), x, threshold=0.1),
    "calibration": lambda x: CHECKS["calibration"](np.array([0, 1]), np.array([0.5, x]), threshold=1, bins=1),
    "single_column": lambda x: single_column({"a": 0.6, "b": x, "c": 0.7}, threshold=0.999),
    "importance": lambda x: importance({"a": 0.1, "b": x, "c": 0.2}, threshold=0.9, least=0.01),
    "worst_slice": lambda x: worst_slice(auc(x), [{"slice": "a=1", "rows": 9, "auc": 0.8}], threshold=0.1),
    "drift": lambda x: drift([{"column": "a", "psi": x, "p_value": 0.0}], threshold=0.25, p_value=0.01),
    "champion": lambda x: champion(rival(x), level=0.05),
    "stability": lambda x: stability(lambda seed, rows: x + seed, seeds=3, rows=9, threshold=2),
}


@pytest.mark.parametrize("name", NAN_MAKERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_no_check_passes_what_is_no_finite_number(name: str, value: float) -> None:
    if name == "calibration" and math.isinf(value):
        return  # a score is a probability
    found = NAN_MAKERS[name](value)
    assert (found.verdict, found.value) == ("failed", None)


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf])
def test_nothing_passes_a_threshold_that_is_no_number(threshold: float) -> None:
    assert min_auc(auc(0.9), 0.9, threshold=threshold).verdict == "failed"
    assert train_test_gap(auc(0.9), 0.9, threshold=threshold).verdict == "failed"


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.7, "passed"), (math.nextafter(0.7, 1), "passed"), (math.nextafter(0.7, 0), "failed"), (0.0, "failed")],
)
def test_an_auc_passes_from_the_threshold_on(value: float, verdict: str) -> None:
    assert min_auc(auc(value), value, threshold=0.7).verdict == verdict


def test_a_near_miss_is_told_with_digits_that_show_it() -> None:
    reason = min_auc(auc(0.699999), 0.699999, threshold=0.7).reason
    assert reason == "test auc (95% interval 0.6000 to 0.8000) is 0.699999, not at least 0.7"


def test_an_auc_that_is_not_the_predictions_fails() -> None:
    found = min_auc(auc(0.8), 0.9, threshold=0.7)
    assert (found.verdict, found.reason) == ("failed", "test_auc is 0.9, the predictions say 0.8")


def test_a_model_that_learned_by_heart_fails() -> None:
    assert train_test_gap(auc(0.75), 1.0, threshold=0.25).verdict == "passed"
    assert train_test_gap(auc(0.74), 1.0, threshold=0.25).verdict == "failed"
    assert train_test_gap(auc(0.9), 0.8, threshold=0.25).value == pytest.approx(-0.1)


def test_the_calibration_error_is_the_mean_distance_of_score_and_share() -> None:
    label = np.array([0, 0, 1, 1, 1, 0, 1, 1])
    score = np.array([0.1, 0.3, 0.2, 0.4, 1.0, 0.9, 0.8, 0.9])
    # below 0.5: mean score 0.25, share 0.5; from 0.5 on: mean score 0.9, share 0.75
    assert calibration_error(label, score, 2) == pytest.approx(0.5 * 0.25 + 0.5 * 0.15)
    assert CHECKS["calibration"](label, score, threshold=0.2, bins=2).verdict == "passed"
    assert CHECKS["calibration"](label, score, threshold=0.19, bins=2).verdict == "failed"


def test_scores_that_are_probabilities_are_calibrated() -> None:
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
        (pl.select(pl.when(pl.Series(LABEL) == 1).then(0.5)).to_series(), 1, 1),  # whether it is missing says it
        (LABEL.replace_strict({0: "no", 1: "yes"}), 1, 1),
        (pl.select(pl.when(pl.Series(LABEL) == 1).then(pl.lit("x"))).to_series(), 1, 1),
        (pl.Series(range(400)).cast(pl.String), 0.5, 0.5),  # a name of its own in each row says nothing of others
        (pl.Series(np.random.default_rng(1).normal(size=400)), 0.5, 0.6),
        (pl.Series([1.0] * 400), 0.5, 0.5),
    ],
)
def test_a_column_that_gives_the_label_away_has_an_auc_of_1(column: pl.Series, least: float, most: float) -> None:
    assert least <= single_auc(column, LABEL) <= most


def test_the_column_that_gives_the_label_away_is_named() -> None:
    found = single_column({"age": 0.6, "paid_back": 0.9995}, threshold=0.999)
    assert found == Check(0.9995, 0.999, "failed", "auc of paid_back alone is 0.9995, not at most 0.999")


def test_a_model_that_leans_on_one_column_fails() -> None:
    assert importance({"a": 0.3, "b": 0.1, "c": -0.01}, threshold=0.9, least=0.01).value == pytest.approx(0.75)
    assert importance({"a": 0.3, "b": 0.01}, threshold=0.9, least=0.01).verdict == "failed"


def test_importances_that_say_nothing_are_left_out() -> None:
    assert importance({"a": 0.009, "b": 0.0}, threshold=0.9, least=0.01).verdict == "skipped"
    assert importance({"a": 0.3}, threshold=0.9, least=0.01).verdict == "skipped"


def test_slices_are_a_category_s_values_and_a_number_s_quarters() -> None:
    draw = np.random.default_rng(1)
    label, score = draw.integers(0, 2, 400), draw.random(400)
    kinds = pl.Series("kind", ["a", "b", None, "rare"] + ["a", "b", None] * 132)
    found = slices_of(kinds, label, score, 0.95, 100)
    assert [(row["slice"], row["rows"]) for row in found] == [("kind=a", 133), ("kind=b", 133), ("kind=missing", 133)]
    quarters = slices_of(pl.Series("x", draw.normal(size=400)), label, score, 0.95, 100)
    assert [row["rows"] for row in quarters] == [100] * 4
    assert all(row["low"] < row["auc"] < row["high"] for row in quarters)


def test_a_slice_of_one_class_is_left_out() -> None:
    found = slices_of(
        pl.Series("kind", ["a", "a", "b", "b"]), np.array([0, 1, 1, 1]), np.array([0.1, 0.2, 0, 1]), 0.9, 1
    )
    assert [row["slice"] for row in found] == ["kind=a"]


def test_the_worst_slice_is_held_against_the_whole() -> None:
    slices = [{"slice": "k=a", "rows": 900, "auc": 0.9}, {"slice": "k=b", "rows": 1200, "auc": 0.74}]
    found = worst_slice(auc(0.85), slices, threshold=0.1)
    assert found.verdict == "failed"
    assert "k=b (1,200 rows)" in found.reason
    assert worst_slice(auc(0.85), slices[:1], threshold=0.1).verdict == "passed"
    assert worst_slice(auc(0.85), [], threshold=0.1).verdict == "skipped"


def moved(psi: float, p_value: float | None) -> list[dict[str, Any]]:
    return [{"column": "x", "psi": psi, "p_value": p_value}, {"column": "y", "psi": 0.01, "p_value": 0.5}]


@pytest.mark.parametrize(
    ("psi", "p_value", "verdict"),
    [(0.3, 1e-9, "failed"), (0.3, None, "failed"), (0.2, 1e-9, "passed"), (0.3, 0.006, "passed")],
)
def test_a_column_drifts_that_moved_far_and_not_by_chance(psi: float, p_value: float | None, verdict: str) -> None:
    assert drift(moved(psi, p_value), threshold=0.25, p_value=0.01).verdict == verdict


@pytest.mark.parametrize(("p_value", "verdict"), [(0.05, "passed"), (0.0499, "failed")])
def test_a_challenger_fails_only_where_it_is_surely_worse(p_value: float, verdict: str) -> None:
    assert champion(rival(p_value), level=0.05).verdict == verdict


def test_without_a_champion_that_can_be_judged_nothing_is_said() -> None:
    assert champion(None, level=0.05).verdict == "skipped"
    found = champion(Rival("model", 3, "a run", None, None, "its file is gone."), level=0.05)
    assert (found.verdict, found.value) == ("skipped", None)
    assert "version 3, can't be judged on this table: its file is gone." in found.reason


def test_a_model_without_a_signature_fails() -> None:
    assert [signature(found).verdict for found in (True, False)] == ["passed", "failed"]


def test_a_model_that_depends_on_its_seed_fails() -> None:
    asked = []

    def refit(seed: int, rows: int) -> float:
        asked.append((seed, rows))
        return 0.8 + 0.1 * seed

    assert stability(refit, seeds=3, rows=50, threshold=0.05).value == pytest.approx(0.1)
    assert asked == [(0, 50), (1, 50), (2, 50)]
    assert stability(lambda *_: 0.8, seeds=2, rows=50, threshold=0.0).verdict == "passed"


def test_latency_is_the_median_of_real_time() -> None:
    asked: list[int] = []
    found = latency(asked.append, rows=7, repeats=3, threshold=10_000)
    assert (found.verdict, asked) == ("passed", [7, 7, 7])
    assert latency(asked.append, rows=7, repeats=3, threshold=0).verdict == "failed"
