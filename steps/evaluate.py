"""Evaluate the model on the test table, which training did not use."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ml_pipelines.authoring.context import Outputs, StepContext
from ml_pipelines.modelling import score_bins
from ml_pipelines.modelling.features import score_table, split_label
from ml_pipelines.modelling.score_bins import ScoreBins
from ml_pipelines.problems.problem import problem_of, text_of


@dataclass(frozen=True)
class Params:
    """No params: the threshold is a part of the model (`steps.train.params.threshold`)."""


def run(step: StepContext[Params], *, test_uri: str, train_run_id: str) -> Outputs:
    """Log metrics, curves and predictions; return the headline metric."""
    import polars as pl

    model = step.load_model(train_run_id)
    names = list(model.feature_names_in_)
    key = [step.key_column] if step.key_column in step.table_columns(test_uri) else []
    frame = step.read(test_uri, [*key, *names, step.label])
    problem = problem_of(step.origin(test_uri).problem)
    features, label = split_label(frame, step.label, names, problem)
    score = score_table(model, features, problem)
    threshold = step.load_threshold(train_run_id)
    predicted = problem.predict(score, threshold)
    metrics = problem.score_metrics(label, score, "test")
    step.log_metrics({**metrics, **problem.class_metrics(label, predicted, "test"), "test_rows": len(label)})
    step.log_json(asdict(ScoreBins.of(score, predicted if problem.HAS_CLASSES else None)), score_bins.FILE)
    charts = problem.curves(label, score)
    step.log_json(charts, "curves.json")
    step.log_figure(problem.figure(charts, threshold), "curves.png")
    predictions = frame.select(
        *(pl.col(name).alias("key") for name in key),
        label=label,
        score=pl.Series(score),
        predicted=pl.Series(predicted),
    )
    step.log_table(predictions, "predictions.parquet")
    step.summary(", ".join(text_of(problem, name, metrics[f"test_{name}"]) for name in problem.SUMMARY))
    return {"evaluate_run_id": step.run_id, "test_headline": metrics[f"test_{problem.HEADLINE}"]}
