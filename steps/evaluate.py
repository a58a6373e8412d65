"""Judge the model on the test table, which it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_pipelines.context import Outputs, StepContext
from steps.modelling import positive_score, score_metrics, split_label

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from matplotlib.figure import Figure

POINTS = 200  # of a curve


@dataclass(frozen=True)
class Params:
    """Scores from `threshold` on count as class 1."""

    threshold: float


def class_metrics(label: pl.Series, predicted: np.ndarray[Any, Any], prefix: str) -> dict[str, float]:
    """Return the metrics of predicted classes: accuracy, F1, and the confusion matrix's four counts."""
    from sklearn import metrics

    truth = label.to_numpy()
    tn, fp, fn, tp = (float(count) for count in metrics.confusion_matrix(truth, predicted, labels=[0, 1]).ravel())
    return {
        f"{prefix}_accuracy": float(metrics.accuracy_score(truth, predicted)),
        f"{prefix}_f1": float(metrics.f1_score(truth, predicted, zero_division=0.0)),
        f"{prefix}_true_negatives": tn,
        f"{prefix}_false_positives": fp,
        f"{prefix}_false_negatives": fn,
        f"{prefix}_true_positives": tp,
    }


def curves(label: pl.Series, score: np.ndarray[Any, Any]) -> dict[str, dict[str, list[float]]]:
    """Return the points of four curves, at most some 200 each: chart -> axis -> values, x being the first axis."""
    import numpy as np
    from sklearn.metrics import roc_curve

    truth = label.to_numpy()
    fpr, tpr, cut = roc_curve(truth, score, drop_intermediate=False)  # falling thresholds, the first is infinite
    hits, alarms = tpr * truth.sum(), fpr * (len(truth) - truth.sum())
    precision = np.divide(hits, hits + alarms, out=np.ones_like(hits), where=hits + alarms > 0)
    thin = np.unique(np.searchsorted(fpr + tpr, np.linspace(0, 2 - 1e-9, POINTS)))  # evenly along the ROC curve
    top = 10 ** np.ceil(np.log10(max(cut[1], 1e-6)))  # where positives are rare, all scores are small
    threshold = np.linspace(0, top, POINTS + 1)
    threshold = threshold[threshold <= cut[1]]
    at = np.searchsorted(-cut, -threshold, side="right") - 1  # the last cut that lets a score of `threshold` through
    found = {
        "roc": {"false_positive_rate": fpr[thin], "true_positive_rate": tpr[thin]},
        "precision_recall": {"recall": tpr[thin], "precision": precision[thin]},
        "calibration": calibration(truth, score),
        "threshold": {
            "threshold": threshold,
            "precision": precision[at],
            "recall": tpr[at],
            "f1": 2 * hits[at] / (hits[at] + alarms[at] + truth.sum()),
            "predicted_positive": (hits[at] + alarms[at]) / len(truth),
        },
    }
    return {name: {axis: values.round(6).tolist() for axis, values in chart.items()} for name, chart in found.items()}


def calibration(truth: np.ndarray[Any, Any], score: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return mean score, share of class 1, and rows, of each tenth of the rows by score; equal scores stay together."""
    import numpy as np

    tenth = np.searchsorted(np.quantile(score, np.linspace(0.1, 0.9, 9)), score, side="right")
    rows, positives, sums = np.bincount(tenth), np.bincount(tenth, truth), np.bincount(tenth, score)
    held = rows > 0
    return {"predicted": sums[held] / rows[held], "observed": positives[held] / rows[held], "rows": rows[held]}


def figure(found: dict[str, dict[str, list[float]]], threshold: float) -> Figure:
    """Return the four curves on one sheet, which is drawn in the time that one of four would take."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(10, 9))  # no pyplot: it keeps global state; no layout engine: it draws everything twice
    sheet.subplots_adjust(left=0.06, right=0.98, bottom=0.06, top=0.96, hspace=0.25, wspace=0.15)
    guides = {"roc": "chance", "calibration": "as predicted"}
    for place, (name, points) in enumerate(found.items(), start=1):
        title, (x, *lines) = f"Test table: {name.replace('_', ' ')}", (axis for axis in points if axis != "rows")
        axes = sheet.add_subplot(2, 2, place, title=title, xlabel=x.replace("_", " "), ylim=(-0.02, 1.02))
        for line in lines:
            axes.plot(points[x], points[line], "-o" if name == "calibration" else "-", label=line.replace("_", " "))
        if name in guides:
            axes.axline((0, 0), slope=1, color="grey", linestyle=":", label=guides[name])
        if name == "threshold":
            axes.axvline(threshold, color="grey", linestyle=":", label=f"class 1 from {threshold:g} on")
        axes.legend()
    return sheet


def run(step: StepContext[Params], *, test_uri: str, train_run_id: str) -> Outputs:
    """Log metrics, curves and predictions, and hand on the AUC."""
    import polars as pl

    model = step.load_model(train_run_id)
    names = list(model.feature_names_in_)
    key = [step.key] if step.key in step.table_columns(test_uri) else []
    frame = step.read(test_uri, [*key, *names, step.label])
    features, label = split_label(frame, step.label, names)
    score = positive_score(model, features)
    predicted = (score >= step.params.threshold).astype(int)
    metrics = score_metrics(label, score, "test")
    step.log_metrics({**metrics, **class_metrics(label, predicted, "test"), "test_rows": len(label)})
    found = curves(label, score)
    step.log_json(found, "curves.json")
    step.log_figure(figure(found, step.params.threshold), "curves.png")
    predictions = frame.select(
        *(pl.col(name).alias("key") for name in key),
        label=label,
        score=pl.Series(score),
        predicted=pl.Series(predicted),
    )
    step.log_table(predictions, "predictions.parquet")
    step.summary(f"auc {metrics['test_auc']:.3f}, log loss {metrics['test_log_loss']:.3f}")
    return {"evaluate_run_id": step.run_id, "test_auc": metrics["test_auc"]}
