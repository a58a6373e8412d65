"""Tests of the steps if the label is a number."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from recording import IDENTITY, RecordingContext

from ml_pipelines.config.loading import load
from ml_pipelines.errors import BadData, ConfigError
from ml_pipelines.models.registry import Version
from steps import evaluate, feature_importance, model_qa, train

ROWS = 400
OLD = Version("model", 3, "old", 0, {"train_uri": "older", "problem": "regression", **IDENTITY})


class Echo:
    """A fitted model whose prediction is one of its columns."""

    feature_names_in_ = ("size", "noisy", "town")

    def __init__(self, column: str = "size") -> None:
        self.column = column

    def predict(self, features: pl.DataFrame) -> Any:
        return features[self.column].to_numpy()


class Recording(RecordingContext):
    problem = "regression"


def table(seed: int) -> pl.DataFrame:
    """Return rows whose label is the column `size` and an error with the deviation 5. `noisy` errs more."""
    draw = np.random.default_rng(seed)
    size = 100 + 20 * draw.normal(size=ROWS)
    numbers = {"size": size, "noisy": size + 10 * draw.normal(size=ROWS), "town": draw.choice(["a", "b"], ROWS)}
    return pl.DataFrame({"id": range(ROWS), **numbers, "label": size + 5 * draw.normal(size=ROWS)})


TRAIN, TEST = table(1), table(2)
RMSE = float(((TEST["label"] - TEST["size"]) ** 2).mean() ** 0.5)
IMPORTANCE = pl.DataFrame({"feature": ["size", "noisy", "town"], "importance": [9.0, 4.0, 0.0], "std": [0.0] * 3})


def gate(
    *changes: str, score: str = "size", test: pl.DataFrame = TEST, champion: Version | None = None, old: str = "noisy"
) -> tuple[RecordingContext, dict[str, Any]]:
    """Run the gate on a model whose predictions are the column `score`, and return its context and report."""
    config = load("local", [f"steps.model_qa.params.{change}" for change in changes])
    frames = {"train": TRAIN, "older": table(3), "test": test, "i/feature_importance.json": IMPORTANCE}
    frames["e/predictions.parquet"] = test.select("label", score=score, predicted=score)
    step = Recording(
        "model_qa",
        config.steps["model_qa"].params,
        frames,
        {"t": Echo(score), "old": Echo(old)},
        metrics={"t": {"train_rmse": 4.0}},
        champion=champion,
        config=config,
    )
    inputs = {"train_uri": "train", "test_uri": "test", "train_run_id": "t", "evaluate_run_id": "e"}
    model_qa.run(step, **inputs, feature_importance_run_id="i", test_headline=RMSE)  # type: ignore[arg-type]
    return step, step.json["qa_report.json"]


def checks(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["check"]: check for check in report["checks"]}


def test_a_good_model_passes_the_checks_that_have_a_meaning_for_numbers() -> None:
    step, report = gate()
    assert report["verdict"] == "passed"
    assert not {"min_auc", "calibration"} & set(checks(report))
    assert "mean squared error of the baseline minus that of the model" in checks(report)["beats_baseline"]["reason"]
    assert (report["problem"], report["rmse"]["value"]) == ("regression", pytest.approx(RMSE))
    assert report["rmse"]["low"] < RMSE < report["rmse"]["high"]
    assert step.registered[0]["metric"] == ("rmse", pytest.approx(RMSE))
    assert "auc" not in str(report).lower().replace("because", "")


def test_a_model_without_knowledge_does_not_beat_the_mean() -> None:
    far = TEST.with_columns(size=pl.col("size").shuffle(seed=1))
    step, report = gate(test=far)
    assert checks(report)["beats_baseline"]["verdict"] == "failed"
    assert step.refusal and "mean squared error" in step.refusal


def test_the_gap_and_the_importance_are_shares_of_the_baseline_s_error() -> None:
    _, report = gate()
    baseline = float(((TEST["label"] - TRAIN["label"].mean()) ** 2).mean() ** 0.5)
    gap = checks(report)["train_test_gap"]
    assert (gap["verdict"], gap["value"]) == ("passed", pytest.approx((RMSE - 4) / baseline))
    assert checks(report)["importance"]["value"] == pytest.approx(9 / 13)
    _, report = gate("checks.importance.least=0.9")
    reason = checks(report)["importance"]["reason"]
    assert reason.startswith(f"shuffling any column raises the rmse by less than {0.9 * baseline:.3g}")


def test_a_smaller_error_replaces_the_champion() -> None:
    step, report = gate(champion=OLD)
    check, champion = checks(report)["champion"], report["champion"]
    assert check["verdict"] == "passed" and check["value"] > 0
    assert champion["difference"] == pytest.approx(RMSE - champion["rmse"]) and champion["difference_high"] < 0
    assert f"rmse {champion['difference']:.2f}, 95% interval -" in str(step.summary_text)
    assert step.registered[0]["may_replace"](Version("model", 4, "t", 0, {}), OLD)
    assert step.registered[0]["headline_of"](OLD) == pytest.approx(champion["rmse"])


def test_a_larger_error_is_refused() -> None:
    step, report = gate(score="noisy", champion=OLD, old="size")
    check = checks(report)["champion"]
    assert check["verdict"] == "failed" and check["value"] < 0
    assert step.refusal and "rmse +" in step.refusal and "clearly worse" in step.refusal


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"problem": "binary"}, "its kind of problem is binary, but here it is regression"),
        ({"label_name": "rent"}, "its label is rent, but here it is label. Set data.label back"),
    ],
)
def test_a_champion_of_another_label_is_not_compared(changed: dict[str, str], reason: str) -> None:
    _, report = gate(champion=OLD._replace(tags={**OLD.tags, **changed}))
    assert checks(report)["champion"]["verdict"] == "not compared"
    assert reason in checks(report)["champion"]["reason"]


def test_a_slice_with_larger_errors_fails() -> None:
    worse = TEST.with_columns(size=pl.when(pl.col("town") == "a").then(pl.col("size") + 12).otherwise(pl.col("size")))
    _, report = gate("slices=[town]", test=worse)
    check = checks(report)["worst_slice"]
    assert check["verdict"] == "failed"
    assert "town=a" in check["reason"] and "above that of the column's other slices" in check["reason"]
    rows = {row["name"]: row for row in report["slices"]}
    assert rows["town=a"]["rmse"]["value"] > rows["town=b"]["rmse"]["value"]
    assert "positives" not in rows["town=a"]


def test_few_rows_are_undecided() -> None:
    _, report = gate(test=TEST.head(20))
    check = checks(report)["beats_baseline"]
    assert check["verdict"] == "undecided"
    assert "too few rows for an interval" in check["reason"] and "about 30 test rows" in check["reason"]


def fitted(estimator: str | None = None) -> RecordingContext:
    config = load("local", ["steps.train.params.options.max_iter=20"])
    params = train.Params(estimator, {"max_iter": 20} if estimator is None else {})
    step = Recording("train", params, {"train": TRAIN}, config=config)
    train.run(step, train_uri="train")
    return step


def test_train_fits_a_regressor_and_evaluate_logs_its_metrics() -> None:
    step = fitted()
    assert step.logged_params["estimator"] == "sklearn.ensemble.HistGradientBoostingRegressor"
    assert step.summary_text == f"rmse {step.metrics['train_rmse']:.3f} in training"
    evaluated = Recording("evaluate", evaluate.Params(), {"test": TEST}, {"t": step.models[0][0]})
    outputs = evaluate.run(evaluated, test_uri="test", train_run_id="t")
    assert outputs["test_headline"] == evaluated.metrics["test_rmse"] < 20
    names = ["mae", "mape", "median_absolute_error", "r2", "rmse", "rows"]
    assert sorted(evaluated.metrics) == [f"test_{name}" for name in names]
    assert evaluated.summary_text and evaluated.summary_text.startswith("rmse ")
    assert sorted(evaluated.json["curves.json"]) == ["observed", "residuals", "tenths"]
    assert evaluated.tables["predictions.parquet"]["score"].dtype == pl.Float64


def test_the_importance_is_the_rise_of_the_rmse() -> None:
    model = fitted("sklearn.linear_model.LinearRegression").models[0][0]
    params = feature_importance.Params(rows=300, repeats=2)
    step = Recording("feature_importance", params, {"train": TRAIN}, {"t": model})
    feature_importance.run(step, train_uri="train", train_run_id="t")
    table = step.tables["feature_importance.json"]
    assert table["feature"][0] == "size" and 5 < table["importance"][0] < 50
    assert step.figures["feature_importance.png"].axes[0].get_xlabel() == "rise of RMSE when shuffled"


def test_wrong_estimators_and_labels_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"scikit-learn has no regressor sklearn.linear_model.LogisticRegression"):
        fitted("sklearn.linear_model.LogisticRegression")
    step = Recording("train", train.Params(), {"train": TRAIN.with_columns(label=pl.lit(1.0))})
    with pytest.raises(BadData, match=r"Label label has the value 1 in all rows, so it can't be predicted\."):
        train.run(step, train_uri="train")
