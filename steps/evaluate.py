"""Judge the model on the test table, which it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_pipelines.context import Outputs, StepContext
from steps.modelling import positive_score, score_metrics, split_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import polars as pl
    from matplotlib.figure import Figure


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


def figures(label: pl.Series, score: np.ndarray[Any, Any], threshold: float) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure: ROC, precision-recall, calibration, confusion matrix."""
    from matplotlib.figure import Figure
    from sklearn import metrics
    from sklearn.calibration import CalibrationDisplay

    predicted = score >= threshold
    chance = {"plot_chance_level": True}
    draw: dict[str, tuple[str, Callable[..., Any], np.ndarray[Any, Any], dict[str, Any]]] = {
        "roc": ("ROC curve", metrics.RocCurveDisplay.from_predictions, score, chance),
        "precision_recall": ("Precision and recall", metrics.PrecisionRecallDisplay.from_predictions, score, chance),
        "calibration": (
            "Calibration",
            CalibrationDisplay.from_predictions,
            score,
            {"n_bins": 10, "strategy": "quantile"},
        ),
        "confusion_matrix": (
            f"Scores from {threshold:g} on as class 1",
            metrics.ConfusionMatrixDisplay.from_predictions,
            predicted,
            {"colorbar": False},
        ),
    }
    for name, (title, display, values, options) in draw.items():
        figure = Figure(figsize=(5, 5), layout="constrained")  # no pyplot: it keeps global state
        axes = figure.add_subplot()
        display(label.to_numpy(), values, ax=axes, **options)
        axes.set_title(f"{title}, test table")
        yield name, figure


def run(step: StepContext[Params], *, test_uri: str, train_run_id: str) -> Outputs:
    """Log metrics, figures and predictions, and hand on the AUC."""
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
    for name, figure in figures(label, score, step.params.threshold):
        step.log_figure(figure, f"{name}.png")
    predictions = frame.select(
        *(pl.col(name).alias("key") for name in key),
        label=label,
        score=pl.Series(score),
        predicted=pl.Series(predicted),
    )
    step.log_table(predictions, "predictions.parquet")
    step.summary(f"auc {metrics['test_auc']:.3f}, log loss {metrics['test_log_loss']:.3f}")
    return {"evaluate_run_id": step.run_id, "test_auc": metrics["test_auc"]}
