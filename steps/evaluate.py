"""Evaluate the model on the test table, which training did not use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ml_pipelines.authoring.context import Outputs, StepContext
from ml_pipelines.modelling import score_bins
from ml_pipelines.modelling.features import positive_score, split_label
from ml_pipelines.modelling.score_bins import ScoreBins
from ml_pipelines.problems.problem import problem_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Params:
    """No params: the threshold is a part of the model (`steps.train.params.threshold`)."""


def figure(charts: dict[str, dict[str, list[float]]], threshold: float) -> Figure:
    """Return one figure with the four curves: four figures would take four times as long to draw."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(10, 9))  # not pyplot, which keeps global state; no layout engine, which draws twice
    sheet.subplots_adjust(left=0.06, right=0.98, bottom=0.06, top=0.96, hspace=0.25, wspace=0.15)
    guides = problem_of().GUIDES
    for place, (name, points) in enumerate(charts.items(), start=1):
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
    """Log metrics, curves and predictions; return the AUC."""
    import polars as pl

    model = step.load_model(train_run_id)
    names = list(model.feature_names_in_)
    key = [step.key_column] if step.key_column in step.table_columns(test_uri) else []
    frame = step.read(test_uri, [*key, *names, step.label])
    features, label = split_label(frame, step.label, names)
    score = positive_score(model, features)
    threshold = step.load_threshold(train_run_id)
    predicted = (score >= threshold).astype(int)
    problem = problem_of()
    metrics = problem.score_metrics(label, score, "test")
    step.log_metrics({**metrics, **problem.class_metrics(label, predicted, "test"), "test_rows": len(label)})
    step.log_json(asdict(ScoreBins.of(score, predicted)), score_bins.FILE)
    charts = problem.curves(label, score)
    step.log_json(charts, "curves.json")
    step.log_figure(figure(charts, threshold), "curves.png")
    predictions = frame.select(
        *(pl.col(name).alias("key") for name in key),
        label=label,
        score=pl.Series(score),
        predicted=pl.Series(predicted),
    )
    step.log_table(predictions, "predictions.parquet")
    step.summary(", ".join(f"{name.replace('_', ' ')} {metrics[f'test_{name}']:.3f}" for name in problem.SUMMARY))
    return {"evaluate_run_id": step.run_id, "test_auc": metrics[f"test_{problem.HEADLINE}"]}
