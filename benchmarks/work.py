"""The five steps as plain functions on files, without MLflow. The tracked script and the peers call them.

They call the same pure functions of steps/ as the pipeline does. `python work.py SOURCE FOLDER` is the plain script.
If BENCH_NOOP is set, the functions do nothing.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

NOOP = "BENCH_NOOP" in os.environ
SEED, FRACTION, BUCKETS, LABEL, KEY = 42, 0.2, 10_000, "label", "id"
TRAIN = {"estimator": "sklearn.ensemble.HistGradientBoostingClassifier", "options": {"max_iter": 50}}
IMPORTANCE = {"rows": 20_000, "repeats": 3}
THRESHOLD, MIN_AUC = 0.5, 0.7


def prepare_data(source: str, folder: str) -> tuple[str, str]:
    """Split the rows by a hash of their key, write both parts as Delta tables, and return their paths."""
    if NOOP:
        return "none", "none"
    import polars as pl

    frame = pl.read_parquet(source)
    is_test = frame[KEY].hash(SEED) % BUCKETS < round(FRACTION * BUCKETS)
    train, test = f"{folder}/train", f"{folder}/test"
    frame.filter(~is_test).write_delta(train)
    frame.filter(is_test).write_delta(test)
    return train, test


def _read(uri: str) -> tuple[Any, Any]:
    import polars as pl

    from ml_pipelines.modelling.features import split_label
    from ml_pipelines.problems import binary

    frame = pl.read_delta(uri)
    return split_label(frame, LABEL, [name for name in frame.columns if name not in (LABEL, KEY)], binary)


def train(train_uri: str) -> tuple[Any, Any, dict[str, float]]:
    """Return the model, five rows of its input, and the metrics on the training table."""
    if NOOP:
        return None, None, {}
    from ml_pipelines.modelling.features import score_table
    from ml_pipelines.problems import binary
    from steps import train

    features, label = _read(train_uri)
    model = train.make_model(features, train.Params(**TRAIN), binary, SEED).fit(features, label.to_numpy())
    return model, features.head(5), binary.score_metrics(label, score_table(model, features, binary), "train")


def evaluate(model: Any, test_uri: str, folder: str) -> dict[str, float]:
    """Return the metrics on the test table, and write the figures and predictions to `folder`."""
    if NOOP:
        return {"test_auc": 1.0}
    import polars as pl

    from ml_pipelines.modelling.features import score_table
    from ml_pipelines.problems import binary

    features, label = _read(test_uri)
    score = score_table(model, features, binary)
    predicted = (score >= THRESHOLD).astype(int)
    Path(folder).mkdir(parents=True, exist_ok=True)
    curves = binary.curves(label, score)
    Path(folder, "curves.json").write_text(json.dumps(curves))
    binary.figure(curves, THRESHOLD).savefig(f"{folder}/curves.png", dpi=100)
    pl.DataFrame({"label": label, "score": score, "predicted": predicted}).write_parquet(
        f"{folder}/predictions.parquet"
    )
    return {**binary.score_metrics(label, score, "test"), **binary.class_metrics(label, predicted, "test")}


def feature_importance(model: Any, train_uri: str, folder: str) -> dict[str, float]:
    """Return the importance of each feature, and write the table and the figure to `folder`."""
    if NOOP:
        return {}
    import polars as pl

    from ml_pipelines.problems import binary
    from steps import feature_importance as importance

    features, label = _read(train_uri)
    rows = importance.sample(features.with_columns(label.alias(LABEL)), LABEL, IMPORTANCE["rows"], SEED)
    table = importance.importance(model, rows.drop(LABEL), rows[LABEL], binary, IMPORTANCE["repeats"], SEED)
    Path(folder).mkdir(parents=True, exist_ok=True)
    table.write_json(f"{folder}/feature_importance.json")
    importance.figure(table, binary).savefig(f"{folder}/feature_importance.png", dpi=100)
    return {f"importance.{name}": value for name, value in table.select(pl.col("feature", "importance")).iter_rows()}


def model_qa(test_auc: float) -> dict[str, Any]:
    """Return the check of the AUC."""
    if NOOP:
        return {}
    from dataclasses import asdict

    from ml_pipelines.checks.quality_checks import min_auc
    from ml_pipelines.checks.verdicts import Sample
    from ml_pipelines.problems.intervals import Interval

    return asdict(
        min_auc(Interval(test_auc, test_auc, test_auc, 0.95), test_auc, Sample(1, "test rows", None), threshold=MIN_AUC)
    )


def bare_fit(source: str) -> None:
    """Fit only the estimator, on the first 80% of the rows, to measure the memory that it needs itself."""
    import polars as pl
    from sklearn.ensemble import HistGradientBoostingClassifier

    scan = pl.scan_parquet(source)
    frame = scan.head(int(scan.select(pl.len()).collect().item() * (1 - FRACTION))).collect()
    matrix, label = frame.drop(KEY, LABEL).to_numpy(), frame[LABEL].to_numpy()
    del frame
    HistGradientBoostingClassifier(**TRAIN["options"], random_state=SEED).fit(matrix, label)


if __name__ == "__main__":
    source, folder = sys.argv[1:3]
    if "--bare" in sys.argv:
        bare_fit(source)
        sys.exit()
    train_uri, test_uri = prepare_data(source, folder)
    model, _, _ = train(train_uri)
    auc = evaluate(model, test_uri, f"{folder}/evaluate")["test_auc"]
    feature_importance(model, train_uri, f"{folder}/importance")
    model_qa(auc)
