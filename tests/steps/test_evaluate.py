"""Tests of evaluate: the metrics of a model on the test table, its figure and its predictions."""

import numpy as np
import polars as pl
import pytest
from recording import RecordingContext

from ml_pipelines.config.loading import load
from ml_pipelines.errors import BadData
from ml_pipelines.problems import binary
from ml_pipelines.problems.binary import curves
from steps import evaluate
from steps.evaluate import Params

TABLE = pl.DataFrame(
    {
        "id": range(10),
        "chance": [0.1, 0.2, 0.3, 0.45, 0.6, 0.5, 0.4, 0.7, 0.8, 0.9],
        "colour": ["red", None] * 5,
        "label": [0, 0, 0, 0, 0, 1, 1, 1, 1, 1],
    }
)


class Echo:
    """A fitted model whose probability of class 1 is its column `chance`."""

    feature_names_in_ = np.array(["chance"])

    def predict_proba(self, features: pl.DataFrame) -> np.ndarray:
        assert features.columns == ["chance"]
        score = features["chance"].to_numpy()
        return np.column_stack([1 - score, score])


def run_evaluate(frame: pl.DataFrame = TABLE, **conf: str) -> RecordingContext:
    config = load("local", [f"{key}={value}" for key, value in conf.items()])
    step = RecordingContext("evaluate", Params(), {"test": frame}, {"train": Echo()}, config=config)
    outputs = evaluate.run(step, test_uri="test", train_run_id="train")
    assert outputs == {"evaluate_run_id": step.run_id, "test_headline": step.metrics["test_auc"]}
    return step


def test_the_figure_holds_the_four_curves_and_the_threshold() -> None:
    plot = binary.figure(curves(TABLE["label"], TABLE["chance"].to_numpy()), 0.4)
    assert [axes.get_title() for axes in plot.axes] == [
        "Test table: roc",
        "Test table: precision recall",
        "Test table: calibration",
        "Test table: threshold",
    ]
    assert "class 1 from 0.4 on" in plot.axes[3].get_legend_handles_labels()[1]


def test_run_logs_every_metric() -> None:
    metrics = run_evaluate().metrics
    names = ["accuracy", "auc", "average_precision", "brier", "f1", "log_loss", "rows"]
    counts = ["false_negatives", "false_positives", "true_negatives", "true_positives"]
    assert sorted(metrics) == sorted(f"test_{name}" for name in [*names, *counts])
    # all pairs are in order but three: 0.5 and 0.4 are below 0.6, and 0.4 is below 0.45
    assert metrics["test_auc"] == pytest.approx(22 / 25)
    assert metrics["test_rows"] == 10


def test_a_score_at_the_threshold_counts_as_class_1() -> None:
    assert run_evaluate().metrics["test_true_positives"] == 4  # the row with 0.5 counts, the row with 0.4 does not


def test_run_logs_the_curves_as_numbers_and_as_a_figure() -> None:
    step = run_evaluate()
    assert sorted(step.figures) == ["curves.png"]
    assert step.json["curves.json"] == curves(TABLE["label"], TABLE["chance"].to_numpy())


def test_predictions_are_a_table_with_the_key_of_each_row() -> None:
    predictions = run_evaluate().tables["predictions.parquet"]
    assert predictions.columns == ["key", "label", "score", "predicted"]
    assert predictions.select("key", "label", "score").rows() == TABLE.select("id", "label", "chance").rows()
    assert predictions["predicted"].to_list() == [0, 0, 0, 0, 1, 1, 0, 1, 1, 1]


def test_predictions_have_no_key_if_the_table_has_no_key() -> None:
    assert run_evaluate(TABLE.drop("id")).tables["predictions.parquet"].columns == ["label", "score", "predicted"]


def test_the_key_may_have_the_name_of_a_predictions_column() -> None:
    predictions = run_evaluate(TABLE.rename({"id": "score"}), **{"data.key": "score"}).tables["predictions.parquet"]
    assert predictions["key"].to_list() == list(range(10))


def test_the_key_may_be_a_feature_of_a_model_that_was_trained_without_a_key() -> None:
    predictions = run_evaluate(TABLE, **{"data.key": "chance"}).tables["predictions.parquet"]
    assert predictions["key"].to_list() == predictions["score"].to_list()


def test_a_table_without_a_column_of_the_model_is_bad_data() -> None:
    with pytest.raises(BadData, match="no column chance"):
        run_evaluate(TABLE.drop("chance"))


def test_a_test_table_of_one_class_is_bad_data() -> None:
    with pytest.raises(BadData, match="needs both 0 and 1"):
        run_evaluate(TABLE.filter(pl.col("label") == 1))


def test_run_reads_the_test_table_once() -> None:
    assert run_evaluate().reads == ["test"]
