"""Tests of binary classification: metrics and curves match hand calculations, and many rows give few points."""

import math

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from ml_pipelines.problems.binary import METRICS, POINTS, class_metrics, curves, score_metrics


def test_every_metric_has_a_display_name() -> None:
    label, score = pl.Series([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.9])
    names = {**score_metrics(label, score, "test"), **class_metrics(label, score >= 0.5, "test")}
    counts = {f"test_{side}_{kind}" for side in ("true", "false") for kind in ("positives", "negatives")}
    assert set(names) - counts == {f"test_{name}" for name in METRICS} - {"test_precision", "test_recall"}


def test_score_metrics_match_a_hand_calculation() -> None:
    # Of the four pairs (positive, negative) three are in order. At recall 1/2 precision is 1, at recall 1 it is 2/3.
    metrics = score_metrics(pl.Series([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]), "test")
    assert metrics == pytest.approx(
        {
            "test_auc": 3 / 4,
            "test_average_precision": 1 / 2 * 1 + 1 / 2 * 2 / 3,
            "test_log_loss": -(math.log(0.9) + math.log(0.6) + math.log(0.35) + math.log(0.8)) / 4,
            "test_brier": (0.1**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4,
        }
    )


def test_scores_that_differ_in_their_last_digit_have_an_order() -> None:
    higher = np.nextafter(0.5, 1)
    metrics = score_metrics(pl.Series([0, 1, 0, 1]), np.array([0.5, higher, 0.5, higher]), "test")
    assert (metrics["test_auc"], metrics["test_average_precision"]) == (1, 1)


def test_class_metrics_match_a_hand_calculation() -> None:
    metrics = class_metrics(pl.Series([0, 0, 0, 1, 1, 1]), np.array([0, 1, 1, 0, 1, 1]), "test")
    assert metrics == pytest.approx(
        {
            "test_accuracy": 3 / 6,
            "test_f1": 2 * 2 / (2 * 2 + 2 + 1),
            "test_true_negatives": 1,
            "test_false_positives": 2,
            "test_false_negatives": 1,
            "test_true_positives": 2,
        }
    )


def test_a_model_that_never_predicts_1_has_an_f1_of_0() -> None:
    assert class_metrics(pl.Series([0, 1]), np.array([0, 0]), "test")["test_f1"] == 0.0


def labels_and_scores(rows: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels, and the scores of a model that is right more often than not."""
    draw = np.random.default_rng(0)
    label = draw.integers(0, 2, rows)
    return label, np.clip(0.3 * label + 0.7 * draw.random(rows), 0, 1)


def test_curves_match_a_hand_calculation() -> None:
    charts = curves(pl.Series([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.9]))
    assert list(zip(*charts["roc"].values(), strict=True)) == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert charts["precision_recall"]["precision"] == pytest.approx([1, 1, 1 / 2, 2 / 3, 1 / 2], abs=1e-6)
    index = charts["threshold"]["threshold"].index(0.4)  # from the score 0.4 on, three are predicted positive
    point = {axis: values[index] for axis, values in charts["threshold"].items() if axis != "threshold"}
    assert point == pytest.approx({"precision": 2 / 3, "recall": 1, "f1": 4 / 5, "predicted_positive": 3 / 4}, abs=1e-6)
    assert charts["threshold"]["threshold"][-1] == 0.9  # above it nothing is predicted positive: no precision


def test_calibration_counts_every_row_and_keeps_equal_scores_together() -> None:
    calibration = curves(pl.Series([0, 0, 1, 1] * 10), np.array([0.2, 0.2, 0.2, 0.8] * 10))["calibration"]
    assert calibration["rows"] == [30, 10]
    assert calibration["predicted"] == pytest.approx([0.2, 0.8])
    assert calibration["observed"] == pytest.approx([1 / 3, 1], abs=1e-6)


def test_curves_of_many_rows_have_few_points_and_keep_both_ends() -> None:
    label, score = labels_and_scores()
    charts = curves(pl.Series(label), score)
    assert POINTS / 2 < len(charts["roc"]["true_positive_rate"]) <= POINTS
    assert max(len(axis) for chart in charts.values() for axis in chart.values()) <= POINTS + 1
    assert [(axis[0], axis[-1]) for axis in charts["roc"].values()] == [(0, 1), (0, 1)]
    x, y = (np.array(axis) for axis in charts["roc"].values())
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(label, score), abs=1e-3)


@pytest.mark.parametrize("scale", [0.003, 1.0])
def test_small_scores_have_thresholds_too(scale: float) -> None:
    label, score = labels_and_scores()
    thresholds = curves(pl.Series(label), scale * score)["threshold"]["threshold"]
    assert len(thresholds) > 50 and thresholds[0] == 0 and thresholds[-1] <= scale


def test_a_model_with_the_same_score_for_all_rows_has_curves() -> None:
    for score in (0.0, 0.3, 1.0):
        charts = curves(pl.Series([0, 1, 0, 1]), np.full(4, score))
        assert charts["roc"] == {"false_positive_rate": [0, 1], "true_positive_rate": [0, 1]}
        assert charts["calibration"] == {"predicted": [score], "observed": [0.5], "rows": [4]}
