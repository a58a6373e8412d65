"""Tests of the quality gate's checks: when each passes, fails or is not compared."""

import math
from typing import Any

import numpy as np
import pytest

from ml_pipelines.checks.drift import Comparison
from ml_pipelines.checks.promotion import Champion
from ml_pipelines.checks.quality_checks import (
    CHECKS,
    Check,
    beats_baseline,
    champion,
    drift,
    importance,
    latency,
    min_auc,
    signature,
    single_column,
    stability,
    train_test_gap,
)
from ml_pipelines.checks.verdicts import Sample
from ml_pipelines.config.schema import Crown
from ml_pipelines.problems import binary
from ml_pipelines.problems.calibration import calibration
from ml_pipelines.problems.intervals import Difference, Interval

SAMPLE = Sample(400, "test rows", None)


def auc(value: float) -> Interval:
    return Interval(value, value - 0.1, value + 0.1, 0.95)


def removal(column: str) -> str:
    return f"set data.drop=[{column}]"


def compared(
    difference: tuple[float, float, float] = (0.0, -0.005, 0.005), loss: tuple[float, float, float] = (0.0, -0.01, 0.01)
) -> Champion:
    """Return a champion whose AUC a model exceeds by `difference` (value, low, high), and whose log loss by `loss`.

    The log loss of the baseline is 0.5, so it may rise by 0.025 if the margin is 0.01.
    """
    value, low, high = difference
    gain = Interval(-loss[0], -loss[2], -loss[1], 0.95)
    return Champion("model", 3, "a run", auc(0.9), Difference(value, 0.5, low, high), gain, 0.5, SAMPLE)


def calibrated(label: np.ndarray[Any, Any], score: np.ndarray[Any, Any]) -> Check:
    settings = {"ratio": 1.25, "slope": 0.7, "error": 0.25, "bins": 10}
    return CHECKS["calibration"](lambda bins: calibration(label, score, bins, 0.95), **settings)


DRIFT = {"threshold": 0.1, "missing": 0.1, "p_value": 0.01}


def drift_row(column: str, psi: float | None, p_value: float | None = 0.0, **changed: Any) -> dict[str, Any]:
    missing = {"missing_reference": 0.0, "missing_current": 0.0, "missing_p_value": None}
    return {"column": column, "kind": "number", "psi": psi, "p_value": p_value, **missing, **changed}


def since_champion(*rows: dict[str, Any], sizes: tuple[int, int] = (8000, 8000), **changed: Any) -> Comparison:
    return Comparison(rows, sizes, **changed)


NAN_MAKERS = {
    "min_auc": lambda x: min_auc(auc(x), x, SAMPLE, threshold=0.7),
    "beats_baseline": lambda x: beats_baseline(auc(x), SAMPLE, binary),
    "train_test_gap": lambda x: train_test_gap(auc(0.8), x, 1.0, binary, threshold=0.1),
    "calibration": lambda x: calibrated(np.array([0, 1] * 20), np.array([0.5] * 39 + [x])),
    "single_column": lambda x: single_column({"a": 0.6, "b": x, "c": 0.7}, removal, binary, threshold=0.999),
    "importance": lambda x: importance({"a": 0.1, "b": x, "c": 0.2}, removal, 1.0, binary, threshold=0.9, least=0.01),
    "drift": lambda x: drift(since_champion(drift_row("a", x)), **DRIFT),
    "champion": lambda x: champion(compared((x, x, x)), Crown.not_worse, margin=0.01),
    "stability": lambda x: stability(lambda seed, rows: x + seed, 1.0, binary, seeds=3, rows=9, threshold=2),
}


@pytest.mark.parametrize("name", NAN_MAKERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_no_check_passes_a_number_that_is_not_finite(name: str, value: float) -> None:
    result = NAN_MAKERS[name](value)
    assert (result.verdict, result.value) == (("warned", 1) if name == "drift" else ("failed", None))
    assert "not a finite number" in result.reason or name in ("min_auc", "drift")


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf])
def test_no_value_passes_a_threshold_that_is_not_finite(threshold: float) -> None:
    assert min_auc(auc(0.9), 0.9, SAMPLE, threshold=threshold).verdict == "failed"
    assert train_test_gap(auc(0.9), 0.9, 1.0, binary, threshold=threshold).verdict == "warned"


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.8, "passed"), (0.79, "undecided"), (0.6, "undecided"), (0.59, "failed")],
)
def test_the_auc_s_interval_is_compared_with_the_threshold(value: float, verdict: str) -> None:
    assert min_auc(auc(value), value, SAMPLE, threshold=0.7).verdict == verdict


@pytest.mark.parametrize(
    ("value", "ending"),
    [
        (0.883124, "0.883 (95% interval 0.783 to 0.983), not below 0.7"),
        (0.512345, "0.512 (95% interval 0.412 to 0.612), below 0.7"),
        (0.699999, "0.699999 (95% interval 0.6 to 0.8), too little evidence for 0.7"),
    ],
)
def test_a_reason_has_three_digits_or_more_near_the_threshold(value: float, ending: str) -> None:
    assert min_auc(auc(value), value, SAMPLE, threshold=0.7).reason.startswith(f"test auc is {ending}")


def test_an_auc_without_an_interval_is_undecided_and_says_how_many_rows_would_give_one() -> None:
    few = Interval(0.9, math.nan, math.nan, 0.95)
    result = min_auc(few, 0.9, Sample(400, "test rows", 1000), threshold=0.7)
    assert (result.verdict, result.reason) == (
        "undecided",
        "test auc is 0.9 (too few events for an interval), too little evidence for 0.7; about 1,000 test rows would be "
        "enough",
    )


def test_an_auc_that_differs_from_the_predictions_fails() -> None:
    result = min_auc(auc(0.8), 0.9, SAMPLE, threshold=0.7)
    assert (result.verdict, result.reason) == (
        "failed",
        "evaluate returned the auc 0.9, but the auc of its predictions is 0.8",
    )


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.11, "passed"), (0.09, "undecided"), (-0.09, "undecided"), (-0.11, "failed")]
)
def test_a_model_must_clearly_beat_the_baseline(value: float, verdict: str) -> None:
    assert beats_baseline(auc(value), SAMPLE, binary).verdict == verdict
    assert beats_baseline(Interval(0, 0, 0, 0.95), SAMPLE, binary).verdict == "failed"


def test_an_overfitted_model_gives_a_warning() -> None:
    assert train_test_gap(auc(0.75), 1.0, 1.0, binary, threshold=0.25).verdict == "passed"
    assert train_test_gap(auc(0.74), 1.0, 1.0, binary, threshold=0.25).verdict == "warned"
    assert train_test_gap(auc(0.9), 0.8, 1.0, binary, threshold=0.25).value == pytest.approx(-0.1)


def test_calibration_fails_only_if_an_interval_is_outside_of_its_range() -> None:
    label, score = np.array([0, 0, 0, 1] * 100), np.full(400, 0.25)
    assert calibrated(label, score).verdict == "passed"
    result = calibrated(label, score / 2)
    assert (result.value, result.threshold, result.verdict) == (pytest.approx(2), 1.25, "failed")
    assert result.reason.startswith("ratio of observed to expected rows of the rarer class is 2 (95% interval ")
    assert "; calibration error beyond chance" in result.reason  # both are outside of their ranges
    undecided = calibrated(label[:100], score[:100])
    assert undecided.verdict == "undecided" and "test rows of the rarer class would be enough" in undecided.reason


def test_calibration_says_how_many_events_it_needs() -> None:
    for label in (np.array([0] * 50 + [1] * 9), np.zeros(59, int)):
        result = calibrated(label, np.full(59, 0.9))
        assert (result.value, result.verdict) == (None, "undecided")
        assert result.reason == (
            f"{label.sum()} test rows of the rarer class are too few for an interval; about 78 test rows of the rarer "
            "class would be enough"
        )


def test_the_reason_names_the_column_that_reveals_the_label() -> None:
    result = single_column({"age": 0.6, "paid_back": 0.9995}, removal, binary, threshold=0.999)
    reason = "auc of paid_back alone is 0.9995, above the threshold of 0.999"
    advice = "If the column gives the label away, set data.drop=[paid_back]."
    assert result == Check(0.9995, 0.999, "failed", reason, advice)


def test_a_model_that_depends_on_one_column_fails() -> None:
    assert importance(
        {"a": 0.3, "b": 0.1, "c": -0.01}, removal, 1.0, binary, threshold=0.9, least=0.01
    ).value == pytest.approx(0.75)
    assert importance({"a": 0.3, "b": 0.01}, removal, 1.0, binary, threshold=0.9, least=0.01).verdict == "failed"


def test_importance_is_not_compared_if_all_are_tiny_or_only_one_exists() -> None:
    assert importance({"a": 0.009, "b": 0.0}, removal, 1.0, binary, threshold=0.9, least=0.01).verdict == "not compared"
    assert importance({"a": 0.3}, removal, 1.0, binary, threshold=0.9, least=0.01).verdict == "not compared"


@pytest.mark.parametrize(
    ("row", "move"),
    [
        (drift_row("x", 0.3), "x (psi 0.3)"),
        (drift_row("x", 0.1), ""),
        (drift_row("x", 0.3, 0.02), ""),
        (drift_row("x", None, None), ""),
        (
            drift_row("x", 0.3, missing_current=0.6, missing_p_value=1e-9),
            "x (psi 0.3, missing 0 to 0.6)",
        ),
        (drift_row("x", 0.0, 1.0, missing_current=0.6, missing_p_value=0.02), ""),
        (drift_row("x", 0.0, 1.0, missing_reference=0.1, missing_p_value=0.0), ""),
        (drift_row("x", None, None, kind="changed"), "x (a number in only one table)"),
    ],
)
def test_drift_warns_only_if_a_column_moved_clearly_and_far(row: dict[str, Any], move: str) -> None:
    result = drift(since_champion(drift_row("y", 0.01, 1.0), row), **DRIFT)
    assert (result.verdict, result.value) == (("warned", 1) if move else ("passed", 0))
    what = f"{1 if move else 0} of 2 columns moved since the champion's training table"
    assert result.reason == what + (f": {move}" if move else "")


def test_drift_names_the_columns_that_moved_most_and_those_of_one_table() -> None:
    rows = [drift_row(f"c{i}", 0.2 + i / 100) for i in range(7)]
    reason = drift(since_champion(*rows, only_before=["old"], only_now=["new", "newer"]), **DRIFT).reason
    assert reason.startswith("7 of 7 columns moved since the champion's training table: c6 (psi 0.26), c5 (psi 0.25), ")
    assert reason.endswith(" and 2 more; only in the champion's table: old; only in this table: new, newer")


def test_drift_is_undecided_with_too_few_rows() -> None:
    rows = [drift_row(f"c{i}", 0.0, 1.0) for i in range(30)]
    result = drift(since_champion(*rows, sizes=(200, 100)), **DRIFT)
    assert result.verdict == "undecided"
    assert result.reason.endswith(
        "but too few rows to see a population stability index of 0.1; about 440 rows in each table would be enough"
    )
    assert drift(since_champion(*rows, sizes=(450, 450)), **DRIFT).verdict == "passed"


def test_drift_is_not_compared_without_a_champion() -> None:
    result = drift(Comparison(problem="the model has no champion yet", only_now=["x"]), **DRIFT)
    assert (result.verdict, result.value) == ("not compared", None)
    assert result.reason == "not compared: the model has no champion yet; only in this table: x"


NOT_WORSE, BETTER = Crown.not_worse, Crown.better


@pytest.mark.parametrize(
    ("difference", "not_worse", "better"),
    [
        ((0.02, 0.001, 0.04), "passed", "passed"),
        ((0.005, -0.009, 0.02), "passed", "undecided"),
        ((0.0, -0.009, 0.009), "passed", "undecided"),
        ((0.005, -0.02, 0.03), "undecided", "undecided"),  # perhaps worse by more than the margin
        ((-0.001, -0.004, 0.002), "undecided", "undecided"),  # within the margin, but lower
        ((-0.02, -0.04, -0.001), "failed", "failed"),
        ((0.02, math.nan, math.nan), "undecided", "undecided"),
    ],
)
def test_the_interval_of_the_difference_decides_who_is_champion(
    difference: tuple[float, float, float], not_worse: str, better: str
) -> None:
    verdicts = [champion(compared(difference), crown, margin=0.01).verdict for crown in (NOT_WORSE, BETTER)]
    assert verdicts == [not_worse, better]


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [
        ((0.01, 0.001, 0.02), "passed"),  # clearly higher, but by little
        ((0.01, -0.01, 0.03), "undecided"),
        ((0.03, 0.01, 0.05), "undecided"),
        ((0.05, 0.03, 0.07), "failed"),
        ((0.0, math.nan, math.nan), "undecided"),
    ],
)
@pytest.mark.parametrize("crown", Crown)
def test_a_model_with_a_higher_log_loss_does_not_replace_the_champion(
    loss: tuple[float, float, float], verdict: str, crown: Crown
) -> None:
    assert champion(compared((0.02, 0.001, 0.04), loss), crown, margin=0.01).verdict == verdict


@pytest.mark.parametrize(
    ("judged", "crown", "rows"),
    [
        (compared((0.005, -0.0249, 0.035)), NOT_WORSE, 1_600),  # from 0.03 below the value to 0.015 below it
        (compared((0.005, -0.005, 0.015)), BETTER, 1_600),
        (compared((-0.005, -0.015, 0.005)), NOT_WORSE, 1_600),
        (compared((0.02, 0.001, 0.04), (0.005, -0.035, 0.045)), NOT_WORSE, 1_600),
    ],
)
def test_an_undecided_comparison_says_how_many_rows_would_decide(judged: Champion, crown: Crown, rows: int) -> None:
    assert champion(judged, crown, margin=0.01).reason.endswith(f"; about {rows:,} test rows would be enough")


def test_the_champion_check_is_not_compared_without_a_usable_champion() -> None:
    assert champion(None, NOT_WORSE, margin=0.01).verdict == "not compared"
    assert champion(Champion("model", 3, "a run", is_this=True), BETTER, margin=0.01).verdict == "not compared"
    result = champion(Champion("model", 3, "a run", problem="its file is gone."), NOT_WORSE, margin=0.01)
    assert (result.verdict, result.value) == ("not compared", None)
    assert result.reason == (
        "not compared with the champion, version 3: its file is gone. Only a person can make this model champion "
        "(ml-pipelines promote)."
    )


def test_the_reason_shows_the_differences_with_their_intervals() -> None:
    reason = champion(compared((-0.01, -0.03, 0.01), (0.05, 0.03, 0.07)), NOT_WORSE, margin=0.01).reason
    assert reason.startswith("auc -0.010, 95% interval -0.030 to +0.010, against the champion, version 3 (auc 0.900): ")
    assert reason.endswith("; log loss +0.050, 95% interval +0.030 to +0.070: clearly higher by more than 0.025")


def test_only_a_failed_check_gives_advice_and_each_failure_has_some() -> None:
    checks = [
        *(min_auc(auc(value), value, SAMPLE, threshold=0.7) for value in (0.9, 0.5)),
        *(beats_baseline(Interval(x, x - 0.1, x + 0.1, 0.95), SAMPLE, binary) for x in (0.2, -0.2)),
        *(calibrated(np.array([0, 0, 0, 1] * 100), np.full(400, x)) for x in (0.25, 0.9)),
        *(single_column({"a": x}, removal, binary, threshold=0.9) for x in (0.6, 0.95)),
        *(importance({"a": 1.0, "b": x}, removal, 1.0, binary, threshold=0.9, least=0.01) for x in (1.0, 0.0)),
        *(drift(since_champion(drift_row("a", x)), **DRIFT) for x in (0.1, 0.4)),
        *(champion(compared((x, x, x)), NOT_WORSE, margin=0.01) for x in (0.5, -0.5)),
        *(stability(lambda seed, _, x=x: x * seed, 1.0, binary, seeds=2, rows=2, threshold=0.1) for x in (0.0, 1.0)),
        *(latency(lambda _: None, rows=1, repeats=1, threshold=x) for x in (10_000.0, -1.0)),
    ]
    verdicts = ["passed", "failed"] * 5 + ["passed", "warned"] + ["passed", "failed"] * 3
    assert [check.verdict for check in checks] == verdicts
    assert [bool(check.advice) for check in checks] == [False, True] * 9


def test_a_model_without_a_signature_fails() -> None:
    assert [signature(has_signature).verdict for has_signature in (True, False)] == ["passed", "failed"]


def test_a_model_that_depends_on_its_seed_fails() -> None:
    calls = []

    def refit(seed: int, rows: int) -> float:
        calls.append((seed, rows))
        return 0.8 + 0.1 * seed

    assert stability(refit, 1.0, binary, seeds=3, rows=50, threshold=0.05).value == pytest.approx(0.1)
    assert calls == [(0, 50), (1, 50), (2, 50)]
    assert stability(lambda *_: 0.8, 1.0, binary, seeds=2, rows=50, threshold=0.0).verdict == "passed"


def test_latency_measures_the_time_of_repeated_predictions() -> None:
    row_counts: list[int] = []
    result = latency(row_counts.append, rows=7, repeats=3, threshold=10_000)
    assert (result.verdict, row_counts) == ("passed", [7, 7, 7])
    assert latency(row_counts.append, rows=7, repeats=3, threshold=0).verdict == "failed"
