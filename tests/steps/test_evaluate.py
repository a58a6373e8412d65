"""evaluate: the metrics of a model on rows that it hasn't seen, its figures and its predictions."""

import numpy as np
import polars as pl
import pytest
from recording import RecordingContext
from sklearn.metrics import roc_auc_score

from ml_pipelines.config import load
from ml_pipelines.errors import BadData
from steps import evaluate
from steps.evaluate import POINTS, Params, class_metrics, curves, figure

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


def many(rows: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels, and the scores of a model that is right more often than not."""
    draw = np.random.default_rng(0)
    label = draw.integers(0, 2, rows)
    return label, np.clip(0.3 * label + 0.7 * draw.random(rows), 0, 1)


def test_curves_are_those_counted_by_hand() -> None:
    found = curves(pl.Series([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.9]))
    assert list(zip(*found["roc"].values(), strict=True)) == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert found["precision_recall"]["precision"] == pytest.approx([1, 1, 1 / 2, 2 / 3, 1 / 2], abs=1e-6)
    at = found["threshold"]["threshold"].index(0.4)  # from the score 0.4 on, three are predicted positive
    chosen = {axis: values[at] for axis, values in found["threshold"].items() if axis != "threshold"}
    assert chosen == pytest.approx(
        {"precision": 2 / 3, "recall": 1, "f1": 4 / 5, "predicted_positive": 3 / 4}, abs=1e-6
    )
    assert found["threshold"]["threshold"][-1] == 0.9  # above it nothing is predicted positive: no precision


def test_calibration_counts_every_row_and_keeps_equal_scores_together() -> None:
    found = curves(pl.Series([0, 0, 1, 1] * 10), np.array([0.2, 0.2, 0.2, 0.8] * 10))["calibration"]
    assert found["rows"] == [30, 10]
    assert found["predicted"] == pytest.approx([0.2, 0.8])
    assert found["observed"] == pytest.approx([1 / 3, 1], abs=1e-6)


def test_many_rows_become_few_points_from_end_to_end() -> None:
    label, score = many()
    found = curves(pl.Series(label), score)
    assert POINTS / 2 < len(found["roc"]["true_positive_rate"]) <= POINTS
    assert max(len(axis) for chart in found.values() for axis in chart.values()) <= POINTS + 1
    assert [(axis[0], axis[-1]) for axis in found["roc"].values()] == [(0, 1), (0, 1)]
    x, y = (np.array(axis) for axis in found["roc"].values())
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(label, score), abs=1e-3)


@pytest.mark.parametrize("scale", [0.003, 1.0])
def test_small_scores_have_thresholds_too(scale: float) -> None:
    label, score = many()
    found = curves(pl.Series(label), scale * score)["threshold"]["threshold"]
    assert len(found) > 50 and found[0] == 0 and found[-1] <= scale


def test_a_model_with_one_score_for_all_has_curves() -> None:
    for score in (0.0, 0.3, 1.0):
        found = curves(pl.Series([0, 1, 0, 1]), np.full(4, score))
        assert found["roc"] == {"false_positive_rate": [0, 1], "true_positive_rate": [0, 1]}
        assert found["calibration"] == {"predicted": [score], "observed": [0.5], "rows": [4]}


def test_the_figure_holds_the_four_curves_and_the_threshold() -> None:
    drawn = figure(curves(TABLE["label"], TABLE["chance"].to_numpy()), 0.4)
    assert [axes.get_title() for axes in drawn.axes] == [
        "Test table: roc",
        "Test table: precision recall",
        "Test table: calibration",
        "Test table: threshold",
    ]
    assert "class 1 from 0.4 on" in drawn.axes[3].get_legend_handles_labels()[1]


def test_run_logs_every_metric_of_the_contract() -> None:
    found = evaluated().metrics
    names = ["accuracy", "auc", "average_precision", "brier", "f1", "log_loss", "rows"]
    counts = ["false_negatives", "false_positives", "true_negatives", "true_positives"]
    assert sorted(found) == sorted(f"test_{name}" for name in [*names, *counts])
    assert found["test_auc"] == pytest.approx(22 / 25)  # pairs in order: all but 0.5 and 0.4 under 0.6, 0.4 under 0.45
    assert found["test_rows"] == 10


def test_a_score_at_the_threshold_counts_as_class_1() -> None:
    assert evaluated().metrics["test_true_positives"] == 4  # 0.5 is one of them, 0.4 is none


def test_run_logs_the_curves_as_numbers_and_as_a_figure() -> None:
    step = evaluated()
    assert sorted(step.figures) == ["curves.png"]
    assert step.json["curves.json"] == curves(TABLE["label"], TABLE["chance"].to_numpy())


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
