"""evaluate: the metrics of a model on rows that it hasn't seen, its figures and its predictions."""

import numpy as np
import polars as pl
import pytest
from recording import RecordingContext

from ml_pipelines.config import load
from ml_pipelines.errors import BadData
from steps import evaluate
from steps.evaluate import Params, class_metrics, figures

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


def evaluated(frame: pl.DataFrame = TABLE, **conf: str) -> RecordingContext:
    config = load("local", [f"{key}={value}" for key, value in conf.items()])
    step = RecordingContext("evaluate", Params(threshold=0.5), {"test": frame}, {"train": Echo()}, config=config)
    outputs = evaluate.run(step, test_uri="test", train_run_id="train")
    assert outputs == {"evaluate_run_id": step.run_id, "test_auc": step.metrics["test_auc"]}
    return step


def test_class_metrics_are_those_counted_by_hand() -> None:
    found = class_metrics(pl.Series([0, 0, 0, 1, 1, 1]), np.array([0, 1, 1, 0, 1, 1]), "test")
    assert found == pytest.approx(
        {
            "test_accuracy": 3 / 6,
            "test_f1": 2 * 2 / (2 * 2 + 2 + 1),
            "test_true_negatives": 1,
            "test_false_positives": 2,
            "test_false_negatives": 1,
            "test_true_positives": 2,
        }
    )


def test_a_model_that_never_says_1_has_an_f1_of_0() -> None:
    assert class_metrics(pl.Series([0, 1]), np.array([0, 0]), "test")["test_f1"] == 0.0


def test_there_are_four_figures_each_with_a_title() -> None:
    drawn = dict(figures(TABLE["label"], TABLE["chance"].to_numpy(), 0.5))
    assert sorted(drawn) == ["calibration", "confusion_matrix", "precision_recall", "roc"]
    assert drawn["roc"].axes[0].get_title() == "ROC curve, test table"


def test_run_logs_every_metric_of_the_contract() -> None:
    found = evaluated().metrics
    names = ["accuracy", "auc", "average_precision", "brier", "f1", "log_loss", "rows"]
    counts = ["false_negatives", "false_positives", "true_negatives", "true_positives"]
    assert sorted(found) == sorted(f"test_{name}" for name in [*names, *counts])
    assert found["test_auc"] == pytest.approx(22 / 25)  # pairs in order: all but 0.5 and 0.4 under 0.6, 0.4 under 0.45
    assert found["test_rows"] == 10


def test_a_score_at_the_threshold_counts_as_class_1() -> None:
    assert evaluated().metrics["test_true_positives"] == 4  # 0.5 is one of them, 0.4 is none


def test_run_logs_the_figures_as_png() -> None:
    assert sorted(evaluated().figures) == ["calibration.png", "confusion_matrix.png", "precision_recall.png", "roc.png"]


def test_predictions_are_a_table_with_the_key_of_each_row() -> None:
    predictions = evaluated().tables["predictions.parquet"]
    assert predictions.columns == ["key", "label", "score", "predicted"]
    assert predictions.select("key", "label", "score").rows() == TABLE.select("id", "label", "chance").rows()
    assert predictions["predicted"].to_list() == [0, 0, 0, 0, 1, 1, 0, 1, 1, 1]


def test_predictions_have_no_key_where_the_table_has_none() -> None:
    assert evaluated(TABLE.drop("id")).tables["predictions.parquet"].columns == ["label", "score", "predicted"]


def test_a_key_may_be_called_like_a_column_of_the_predictions() -> None:
    predictions = evaluated(TABLE.rename({"id": "score"}), **{"data.key": "score"}).tables["predictions.parquet"]
    assert predictions["key"].to_list() == list(range(10))


def test_a_key_may_be_a_feature_of_a_model_that_was_trained_without_one() -> None:
    predictions = evaluated(TABLE, **{"data.key": "chance"}).tables["predictions.parquet"]
    assert predictions["key"].to_list() == predictions["score"].to_list()


def test_a_column_that_the_model_needs_and_the_table_lacks_is_bad_data() -> None:
    with pytest.raises(BadData, match="no column chance"):
        evaluated(TABLE.drop("chance"))


def test_a_test_table_of_one_class_is_bad_data() -> None:
    with pytest.raises(BadData, match="both 0 and 1 are needed"):
        evaluated(TABLE.filter(pl.col("label") == 1))


def test_run_reads_the_test_table_once() -> None:
    assert evaluated().reads == ["test"]
