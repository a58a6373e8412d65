"""The pipelines on a label that is a number: training, a worse challenger, the report, scoring, and wrong settings."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import Result, Store, drive_in, new_store, use

from ml_pipelines.tracking import lineage

SAMPLE = "--set=data.source.kind=sample,data.source.name=diabetes,steps.feature_importance.params.repeats=1"
QUICK = "--set=steps.train.params.options.max_iter=40,steps.model_qa.params.checks.train_test_gap.threshold=1"
SLICES = "--set=steps.model_qa.params.slices=[bmi],steps.model_qa.params.slice_rows=30"

pytestmark = pytest.mark.slow


def run(store: Store, *arguments: str) -> Result:
    return drive_in(store, SAMPLE, QUICK, *arguments, small=False)


@pytest.fixture(scope="module")
def trained(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with a champion that predicts the label of the sample `diabetes`."""
    store = new_store(migrated, tmp_path_factory.mktemp("regression"))
    with pytest.MonkeyPatch.context() as patch:
        use(store, patch)
        result = run(store)
    assert result.code == 0, result.text
    assert "340 train, 102 test rows · predicts the number label (data.problem: label has more than 20 values)" in (
        result.out
    )
    assert "champion is version 1 (rmse " in result.out
    return store


@pytest.fixture
def champion(trained: Store, store: Store) -> Store:
    """Give the test its own store with the champion."""
    trained.copy_to(store)
    return store


def test_the_runs_and_the_version_have_the_metrics_of_a_regression(trained: Store) -> None:
    evaluated, parent = trained.child("evaluate").data.metrics, trained.parent().data.metrics
    assert parent["test_rmse"] == evaluated["test_rmse"] < 77
    assert not [name for name in {**evaluated, **parent} if "auc" in name or "log_loss" in name]
    [version] = trained.client.search_model_versions("name = 'local_pipeline_experiment'")
    assert float(version.tags["test_rmse"]) == evaluated["test_rmse"]
    assert (version.tags["problem"], "test_auc" in version.tags) == ("regression", False)
    assert trained.child("train").data.params["estimator"] == "sklearn.ensemble.HistGradientBoostingRegressor"


def test_the_report_shows_the_predictions_and_never_an_auc(trained: Store) -> None:
    page = trained.artifact(trained.parent(), "report.html").read_text()
    for text in ("RMSE", "Predictions on the test table", "Residuals against predicted", "Rise of RMSE"):
        assert text in page
    assert "Predicted number" in page
    assert "AUC" not in page and "class 1" not in page and "Log loss" not in page


def test_a_challenger_with_a_larger_error_is_refused(champion: Store) -> None:
    worse = run(champion, "--set=steps.train.params.options.max_iter=1", SLICES)
    assert worse.code == 5, worse.text
    assert "champion: rmse +" in worse.out and "clearly worse" in worse.out
    page = champion.artifact(champion.parent(), "report.html").read_text()
    assert "difference in RMSE" in page and "Slices of the test table" in page and "AUC" not in page


def test_the_scores_of_a_batch_are_the_predictions_of_evaluate(champion: Store) -> None:
    batch = "--set=score.source.kind=sample,score.source.name=diabetes"
    result = run(champion, "--pipeline=score", batch)
    assert result.code == 0, result.text
    table = pl.read_delta(lineage.outputs(champion.child("score"))["scored_uri"])
    assert "prediction" not in table.columns
    evaluated = pl.read_parquet(champion.artifact(champion.child("evaluate"), "predictions.parquet"))
    both = evaluated.join(table, left_on="key", right_on="id", suffix="_new")
    assert both.height == 102 and both["score"].equals(both["score_new"])
    assert f"442 rows, {table['score'].mean():.4g} predicted on average" in result.out
    [parent] = champion.runs("tags.`mlflow.runName` = 'scoring_run'")
    assert parent.data.metrics["predicted_mean"] == pytest.approx(table["score"].mean())
    page = champion.artifact(parent, "scoring.html").read_text()
    assert "Scores of the batch" in page and "Threshold" not in page


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        (
            "steps.train.params.estimator=sklearn.linear_model.LogisticRegression",
            2,
            "scikit-learn has no regressor sklearn.linear_model.LogisticRegression",
        ),
        ("data.problem=binary", 3, "or data.problem=regression for a number."),
        ("data.positive=90", 3, "or data.problem=regression for a number."),
    ],
)
def test_wrong_settings_are_one_line(drive: Callable[..., Result], setting: str, code: int, message: str) -> None:
    result = drive(SAMPLE, f"--set={setting}", small=False)
    assert result.code == code and message in result.out
