"""The tracked script: one process with nested MLflow runs and without orchestration. It is the floor of the comparison.

`python floor.py SOURCE FOLDER [--noop]`. projects_ordinary/ runs the same functions as an MLflow project.
"""

import os
import sys
from pathlib import Path
from typing import Any

if "--noop" in sys.argv:
    os.environ["BENCH_NOOP"] = "1"

import mlflow
import work


def prepare_data(source: str, folder: str) -> tuple[str, str]:
    """Write both tables."""
    mlflow.log_params({"seed": work.SEED, "test_fraction": work.FRACTION})
    return work.prepare_data(source, folder)


def train(train_uri: str) -> Any:
    """Fit the model and log it as the pipeline does: skops, signature, example, pinned requirements."""
    mlflow.log_params({"estimator": work.TRAIN["estimator"], **work.TRAIN["options"], "seed": work.SEED})
    model, example, metrics = work.train(train_uri)
    mlflow.log_metrics(metrics)
    if model is not None:
        from importlib.metadata import version

        from mlflow import sklearn

        from ml_pipelines.models.model_files import TRUSTED, model_signature

        needs = ("mlflow", "scikit-learn", "skops", "polars", "pandas")
        sklearn.log_model(
            model,
            name="model",
            serialization_format="skops",
            skops_trusted_types=list(TRUSTED),
            signature=model_signature(example),
            input_example=example.to_pandas(),
            pip_requirements=[f"{name}=={version(name)}" for name in needs],
        )
    return model


def evaluate(model: Any, test_uri: str, folder: str) -> float:
    """Log metrics, figures and predictions, and return the AUC."""
    mlflow.log_params({"threshold": work.THRESHOLD})
    metrics = work.evaluate(model, test_uri, folder)
    mlflow.log_metrics(metrics)
    _log_files(folder)
    return metrics["test_auc"]


def feature_importance(model: Any, train_uri: str, folder: str) -> None:
    """Log the importances as metrics, a table and a figure."""
    mlflow.log_params({**work.IMPORTANCE, "seed": work.SEED})
    mlflow.log_metrics(work.feature_importance(model, train_uri, folder))
    _log_files(folder)


def model_qa(test_auc: float) -> None:
    """Log the QA report."""
    mlflow.log_params({"min_test_auc": work.MIN_AUC})
    mlflow.log_dict(work.model_qa(test_auc), "qa_report.json")


def _log_files(folder: str) -> None:
    if Path(folder).is_dir():
        mlflow.log_artifacts(folder)


def main(source: str, folder: str) -> None:
    """Run the five steps below one parent run."""

    def run(name: str) -> mlflow.ActiveRun:
        return mlflow.start_run(run_name=name, nested=True)

    mlflow.set_experiment("bench")
    with mlflow.start_run(run_name="pipeline_run"):
        with run("01_prepare_data"):
            train_uri, test_uri = prepare_data(source, f"{folder}/delta")
        with run("02_train"):
            model = train(train_uri)
        with run("03_evaluate"):
            auc = evaluate(model, test_uri, f"{folder}/evaluate")
        with run("04_feature_importance"):
            feature_importance(model, train_uri, f"{folder}/importance")
        with run("05_model_qa"):
            model_qa(auc)


if __name__ == "__main__":
    main(*sys.argv[1:3])
