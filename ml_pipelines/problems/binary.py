"""Two classes: the metrics and curves of a model whose score is the probability of class 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_pipelines.problems import binary_intervals, roc_auc
from ml_pipelines.problems import calibration as calibrations
from ml_pipelines.problems.intervals import FEWEST_EVENTS, Interval, count_events, mean_interval

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Array = np.ndarray[Any, np.dtype[Any]]

POINTS = 200  # number of points of a curve
SCORE_EDGES: Sequence[float] = tuple(i / 10 for i in range(1, 10))
HEADLINE, SCORER = "auc", "roc_auc"
SUMMARY: Sequence[str] = ("auc", "log_loss")
METRICS: Mapping[str, tuple[str, bool]] = {
    "auc": ("AUC", True),
    "average_precision": ("Average precision", True),
    "log_loss": ("Log loss", False),
    "brier": ("Brier score", False),
    "accuracy": ("Accuracy", True),
    "precision": ("Precision", True),
    "recall": ("Recall", True),
    "f1": ("F1", True),
}
COUNTS: Sequence[str] = (
    "true_negatives",
    "false_positives",
    "false_negatives",
    "true_positives",
)  # in a confusion matrix
GUIDES: Mapping[str, str] = {"roc": "chance", "calibration": "as predicted"}
TEMPLATES: Mapping[str, str] = {"counts": "binary_counts.html.j2", "curves": "binary_curves.html.j2"}

headline, headline_interval, compare = roc_auc.area, roc_auc.interval, roc_auc.compare
intervals, calibration = binary_intervals.intervals, calibrations.calibration


def score_metrics(label: pl.Series, score: Array, prefix: str) -> dict[str, float]:
    """Return the metrics that need no threshold: AUC, average precision, log loss, Brier score.

    The metrics' names begin with the prefix: `test_auc` if the prefix is `test`.
    """
    from sklearn import metrics

    truth = label.to_numpy()
    return {
        f"{prefix}_auc": float(metrics.roc_auc_score(truth, score)),
        f"{prefix}_average_precision": float(metrics.average_precision_score(truth, score)),
        f"{prefix}_log_loss": float(metrics.log_loss(truth, score)),
        f"{prefix}_brier": float(metrics.brier_score_loss(truth, score)),
    }


def loss_gain(label: Array, score: Array, other: Array, level: float, keys: Array | None = None) -> Interval:
    """Return by how much the log loss of `score` is below that of `other`, as the mean over the rows.

    The interval is paired: both scores are of the same rows. With fewer than FEWEST_EVENTS events, its ends are NaN.
    `keys` means the same as in `roc_auc.interval`.
    """
    gain = mean_interval(binary_intervals.losses(label, other) - binary_intervals.losses(label, score), level, keys)
    return gain if count_events(label, keys) >= FEWEST_EVENTS else Interval(gain.value, math.nan, math.nan, level)


def loss(label: Array, score: Array) -> float:
    """Return the log loss: the mean over the rows."""
    return float(binary_intervals.losses(label, score).mean())


def class_metrics(label: pl.Series, predicted: Array, prefix: str) -> dict[str, float]:
    """Return the metrics of predicted classes: accuracy, F1, and the four counts of the confusion matrix.

    The metrics' names begin with the prefix: `test_f1` if the prefix is `test`.
    """
    from sklearn import metrics

    truth = label.to_numpy()
    counts = metrics.confusion_matrix(truth, predicted, labels=[0, 1]).ravel()
    return {
        f"{prefix}_accuracy": float(metrics.accuracy_score(truth, predicted)),
        f"{prefix}_f1": float(metrics.f1_score(truth, predicted, zero_division=0.0)),
        **{f"{prefix}_{name}": float(count) for name, count in zip(COUNTS, counts, strict=True)},
    }


def add_derived(values: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics, with precision and recall added. Both follow from the counts of the confusion matrix."""
    values = dict(values)
    for name, others in (("precision", "false_positives"), ("recall", "false_negatives")):
        if total := values.get("true_positives", 0) + values.get(others, 0):
            values[name] = values["true_positives"] / total
    return values


def curves(label: pl.Series, score: Array) -> dict[str, dict[str, list[float]]]:
    """Return four curves of about POINTS points each, as chart -> axis -> values. The first axis is x."""
    import numpy as np
    from sklearn.metrics import roc_curve

    truth = label.to_numpy()
    fpr, tpr, cut = roc_curve(truth, score, drop_intermediate=False)  # `cut`: thresholds, from infinity down
    true_positives, false_positives = tpr * truth.sum(), fpr * (len(truth) - truth.sum())
    positives = true_positives + false_positives
    precision = np.divide(true_positives, positives, out=np.ones_like(positives), where=positives > 0)
    # Choose about POINTS points, at even distances along the ROC curve.
    thin = np.unique(np.searchsorted(fpr + tpr, np.linspace(0, 2 - 1e-9, POINTS)))
    # End of the threshold axis: the power of 10 above the highest score. If class 1 is rare, all scores are small.
    top = 10 ** np.ceil(np.log10(max(cut[1], 1e-6)))
    threshold = np.linspace(0, top, POINTS + 1)
    threshold = threshold[threshold <= cut[1]]
    at = np.searchsorted(-cut, -threshold, side="right") - 1  # index of the lowest cut >= threshold
    charts = {
        "roc": {"false_positive_rate": fpr[thin], "true_positive_rate": tpr[thin]},
        "precision_recall": {"recall": tpr[thin], "precision": precision[thin]},
        "calibration": calibration_curve(truth, score),
        "threshold": {
            "threshold": threshold,
            "precision": precision[at],
            "recall": tpr[at],
            "f1": 2 * true_positives[at] / (positives[at] + truth.sum()),
            "predicted_positive": positives[at] / len(truth),
        },
    }
    return {name: {axis: values.round(6).tolist() for axis, values in chart.items()} for name, chart in charts.items()}


def calibration_curve(truth: Array, score: Array) -> dict[str, Array]:
    """Sort the rows by score, and return the mean score, the share of class 1 and the number of rows of each tenth.

    Rows with the same score are in the same tenth.
    """
    import numpy as np

    tenth = np.searchsorted(np.quantile(score, np.linspace(0.1, 0.9, 9)), score, side="right")
    rows, positives, sums = np.bincount(tenth), np.bincount(tenth, truth), np.bincount(tenth, score)
    filled = rows > 0
    return {
        "predicted": sums[filled] / rows[filled],
        "observed": positives[filled] / rows[filled],
        "rows": rows[filled],
    }
