"""Two classes: the metrics and curves of a model whose score is the probability of class 1."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_pipelines.errors import BadData
from ml_pipelines.problems import binary_figure, binary_intervals, roc_auc
from ml_pipelines.problems.calibration import tenths
from ml_pipelines.problems.intervals import FEWEST_EVENTS, Interval, count_events, mean_interval
from ml_pipelines.problems.single_column import single_auc
from ml_pipelines.text import listed, shown

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
LOSS, SINGLE = "log loss", "auc"
ESTIMATOR = "sklearn.ensemble.HistGradientBoostingClassifier"
ESTIMATOR_TYPE = "classifier"
HAS_CLASSES = True
OFF: Collection[str] = ()
IDENTITY: Sequence[str] = ("label_name", "label_0", "label_1")
FEWEST, EVIDENCE = FEWEST_EVENTS, "events"
TEMPLATES: Mapping[str, str] = {"counts": "binary_counts.html.j2", "curves": "binary_curves.html.j2"}

headline, headline_interval, compare = roc_auc.area, roc_auc.interval, roc_auc.compare
intervals, figure = binary_intervals.intervals, binary_figure.figure
evidence, single_column, bias = count_events, single_auc, binary_intervals.log_odds


def check_label(label: pl.Series) -> pl.Series:
    """Return the label as integers.

    Raises:
        BadData: the values of the label are not exactly 0 and 1.
    """
    if str(label.dtype) == "String":
        raise BadData(f"Label {label.name} is of type String; it needs the numbers 0 and 1.")
    classes = sorted(label.unique().to_list())
    if classes != [0, 1]:
        raise BadData(
            f"Label {label.name} has the values {listed(classes, most=5)}; it needs both 0 and 1, and no other value."
        )
    return label.cast(int)


def score_of(model: Any, features: Any) -> Array:
    """Return the model's probability of class 1 for each row, shape (rows,)."""
    scores: Array = model.predict_proba(features)[:, 1].astype(float)
    return scores


def predict(score: Array, threshold: float) -> Array:
    """Return the predicted class of each row: a score of at least `threshold` is class 1."""
    classes: Array = (score >= threshold).astype(int)
    return classes


def form(value: float) -> str:
    """Return the format of a metric."""
    return ".3f"


def unit(label: Array, baseline: Array) -> float:
    """Return the unit of margins: an AUC has no unit."""
    return 1.0


def evidence_by_group(groups: Array, label: Array, size: int) -> Array:
    """Return the rows of the rarer class in each group. `groups` has each row's group, 0 to `size` - 1."""
    import numpy as np

    counts, positives = np.bincount(groups, minlength=size), np.bincount(groups, label, size)
    events: Array = np.minimum(positives, counts - positives).astype(int)
    return events


def scarcity(label: Array) -> str | None:
    """Return in words which class has too few rows for an interval; None if both have enough."""
    for class_ in (0, 1):
        if (count := int((label == class_).sum())) < FEWEST_EVENTS:
            return f"{count} of the test rows of class {class_}; at least {FEWEST_EVENTS} are needed"
    return None


def label_change(before: Sequence[str], now: Sequence[str]) -> str:
    """Return in words how the label differs between two models, given the values of their tags IDENTITY."""
    was, here = (f"{shown(name)} = {shown(one)} (0: {shown(zero)})" for name, zero, one in (before, now))
    return f"its class 1 is {was}, but here it is {here}. Set data.positive and data.label back"


def weight(label: Array) -> float:
    """Return the number of pairs of one row of class 0 and one of class 1: an AUC is a share of such pairs."""
    positives = float(label.sum())
    return positives * (len(label) - positives)


def slice_counts(label: Array, predicted: Array) -> dict[str, int]:
    """Return the numbers of rows of class 1, of false negatives and of false positives."""
    return {
        "positives": int(label.sum()),
        "false_negatives": int(((label == 1) & (predicted == 0)).sum()),
        "false_positives": int(((label == 0) & (predicted == 1)).sum()),
    }


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
        "calibration": tenths(truth, score),
        "threshold": {
            "threshold": threshold,
            "precision": precision[at],
            "recall": tpr[at],
            "f1": 2 * true_positives[at] / (positives[at] + truth.sum()),
            "predicted_positive": positives[at] / len(truth),
        },
    }
    return {name: {axis: values.round(6).tolist() for axis, values in chart.items()} for name, chart in charts.items()}
