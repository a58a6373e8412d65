"""Tests of train: it fits any classifier of scikit-learn behind an encoder for text and missing values."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from chaos.populations import CURVED, draw
from recording import RecordingContext
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import Pipeline

from ml_pipelines.config.loading import load
from ml_pipelines.errors import BadData, ConfigError
from ml_pipelines.modelling.features import score_table
from ml_pipelines.problems import binary
from steps import train
from steps.train import Params, make_model

GRADIENT_BOOSTING = "sklearn.ensemble.HistGradientBoostingClassifier"
LOGISTIC = "sklearn.linear_model.LogisticRegression"
FOREST = "sklearn.ensemble.RandomForestClassifier"

NUMBERS = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0], "flag": [True, False] * 5})
COLOURS = ["red", "red", None, "red", "red", "blue", "blue", "blue", "green", "blue"]
MIXED = NUMBERS.with_columns(colour=pl.Series(COLOURS))
GAPS = MIXED.with_columns(x=pl.Series([None, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, None, 9.0, 10.0]))
LABEL = pl.Series("label", [0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
SMALL_LEAVES = {"min_samples_leaf": 1, "max_iter": 10}


def gradient_boosting(**changed: Any) -> Params:
    return Params(**{"estimator": GRADIENT_BOOSTING, "options": SMALL_LEAVES} | changed)


def logistic(**changed: Any) -> Params:
    return Params(**{"estimator": LOGISTIC, "categories": "one_hot", "missing": "median", "scale": True} | changed)


def fit(features: pl.DataFrame, label: pl.Series, params: Params, seed: int) -> Pipeline:
    """Fit as the step does."""
    model = make_model(features, params, binary, seed)
    train.fit(model["model"], model["encode"].fit_transform(features), label, binary)
    return model


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(gradient_boosting(), id="gradient boosting, ordinal"),
        pytest.param(gradient_boosting(categories="one_hot"), id="gradient boosting, one-hot"),
        pytest.param(logistic(), id="logistic regression, one-hot"),
        pytest.param(logistic(categories="ordinal"), id="logistic regression, ordinal"),
        pytest.param(Params(FOREST, {"n_estimators": 5}), id="forest"),
    ],
)
@pytest.mark.parametrize("features", [NUMBERS, MIXED, MIXED.select("colour")], ids=["numbers", "mixed", "text"])
def test_a_classifier_learns_from_numbers_and_text(params: Params, features: pl.DataFrame) -> None:
    score = score_table(fit(features, LABEL, params, seed=1), features, binary)
    assert score[-1] > 0.5 > score[0]


@pytest.mark.parametrize("colour", ["violet", None], ids=["unseen", "missing"])
@pytest.mark.parametrize(
    "params",
    [
        gradient_boosting(),
        gradient_boosting(categories="one_hot"),
        logistic(missing="keep"),
        logistic(missing="keep", categories="ordinal"),
    ],
    ids=["trees, ordinal", "trees, one-hot", "linear, one-hot", "linear, ordinal"],
)
@pytest.mark.parametrize("trained_on", [MIXED, MIXED.drop_nulls()], ids=["with gaps", "without gaps"])
def test_a_category_that_is_missing_or_unseen_is_scored(
    params: Params, colour: str | None, trained_on: pl.DataFrame
) -> None:
    model = fit(trained_on, LABEL.head(trained_on.height), params, seed=1)
    score = score_table(model, MIXED.with_columns(colour=pl.lit(colour, pl.String)), binary)
    assert ((score >= 0) & (score <= 1)).all()


@pytest.mark.parametrize("categories", ["ordinal", "one_hot"])
def test_the_rarest_values_of_a_text_column_share_one_code(categories: str) -> None:
    texts = pl.DataFrame({"code": [f"c{i}" for i in range(300)]})
    encoded = make_model(texts, gradient_boosting(categories=categories), binary, seed=1)["encode"].fit_transform(texts)
    assert len(np.unique(np.nan_to_num(encoded, nan=-1), axis=0)) == 254 + 1
    assert encoded.shape[1] == (254 + 1 if categories == "one_hot" else 1)


@pytest.mark.parametrize("params", [gradient_boosting(), logistic()], ids=["keep", "median"])
def test_a_missing_number_is_scored(params: Params) -> None:
    model = fit(GAPS, LABEL, params, seed=1)
    score = score_table(model, GAPS.with_columns(x=pl.lit(None, pl.Float64)), binary)
    assert ((score >= 0) & (score <= 1)).all()


def test_missing_numbers_become_the_median_if_the_params_say_so() -> None:
    model = fit(GAPS.select("x"), LABEL, logistic(), seed=1)
    median = GAPS["x"].median()
    scores = score_table(model, pl.DataFrame({"x": [None, median]}, schema={"x": pl.Float64}), binary)
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    "column", [[None, None, *range(8)], [None, None, *map(float, range(8))], [None, None, *[True, False] * 4]]
)
def test_the_error_for_missing_numbers_says_what_to_set(column: list[object]) -> None:
    message = "Feature x: 2 of 10 values are missing, .*LogisticRegression.*Set steps.train.params.missing=median"
    with pytest.raises(BadData, match=message):
        fit(pl.DataFrame({"x": column}), LABEL, logistic(missing="keep"), seed=1)


def test_the_seed_decides_the_predictions() -> None:
    params = Params(FOREST, {"n_estimators": 3, "max_depth": 1})
    scores = [score_table(fit(NUMBERS, LABEL, params, seed), NUMBERS, binary).tolist() for seed in (1, 1, 2)]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize("options", [{"max_iter": -5}, {"learning_rate": "fast"}])
def test_an_option_with_a_wrong_value_is_a_config_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"steps.train.params.options.*{next(iter(options))}"):
        fit(NUMBERS, LABEL, gradient_boosting(options=options), seed=1)


TABLE = MIXED.with_columns(LABEL, id=pl.int_range(pl.len()))


def test_run_returns_the_model_and_logs_its_metrics() -> None:
    step = RecordingContext("train", gradient_boosting(), {"uri": TABLE})
    outputs = train.run(step, train_uri="uri")
    assert outputs == {"train_run_id": step.run_id, "model_uri": "models:/recorded-1"}
    assert step.metrics["train_auc"] == 1.0
    assert step.metrics["train_rows"] == 10
    assert step.metrics["features"] == 3
    assert step.summary_text == "auc 1.000 in training"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"learning_rate": 0.01, "max_leaf_nodes": 8, "early_stopping": False}),  # 0.2 * sqrt(5 / 2000)
        ({"max_iter": 7}, {"learning_rate": 0.1, "max_leaf_nodes": 31, "max_iter": 7}),
    ],
)
def test_without_options_the_step_chooses_them_by_the_rows_of_the_rarer_class(
    options: dict[str, Any], expected: dict[str, Any]
) -> None:
    step = RecordingContext("train", gradient_boosting(options=options), {"uri": TABLE})
    train.run(step, train_uri="uri")
    [(model, _)] = step.models
    assert expected.items() <= model["model"].get_params().items()
    chosen = {name.removeprefix("options."): value for name, value in step.logged_params.items()}
    assert bool(chosen) != bool(options) and chosen.items() <= model["model"].get_params().items()


def test_the_default_model_is_better_than_scikit_learn_s_options_on_a_small_table() -> None:
    known, fresh = draw(CURVED, 1_000, 0.05, seed=1), draw(CURVED, 5_000, 0.05, seed=0)

    def judged(options: dict[str, Any]) -> tuple[float, float]:
        step = RecordingContext("train", Params(GRADIENT_BOOSTING, options), {"uri": known})
        train.run(step, train_uri="uri")
        score = score_table(step.models[0][0], fresh.drop("id", "label"), binary)
        return float(roc_auc_score(fresh["label"], score)), log_loss(fresh["label"], score)

    (area, loss), (other_area, other_loss) = judged({}), judged({"learning_rate": 0.1})
    assert area > other_area and loss < other_loss


def test_run_gives_the_seed_to_the_estimator() -> None:
    step = RecordingContext("train", logistic(), {"uri": TABLE}, config=load("local", ["seed=5"]))
    train.run(step, train_uri="uri")
    assert step.models[0][0]["model"].random_state == 5


def test_the_model_is_fitted_without_the_key_and_the_label() -> None:
    step = RecordingContext("train", gradient_boosting(), {"uri": TABLE})
    train.run(step, train_uri="uri")
    model, example = step.models[0]
    assert list(model.feature_names_in_) == example.columns == ["x", "flag", "colour"]
    assert example.equals(MIXED.head(5))
    assert step.metrics["train_log_loss"] == pytest.approx(log_loss(LABEL, score_table(model, MIXED, binary)))


def test_the_error_for_untrusted_types_contains_the_setting_that_trusts_them() -> None:
    params = Params(FOREST, {"n_estimators": 2})
    with pytest.raises(ConfigError, match="RandomForestClassifier needs") as error:
        train.run(RecordingContext("train", params, {"uri": TABLE}), train_uri="uri")
    override = str(error.value).rpartition("--set '")[2].removesuffix("'.")
    step = RecordingContext("train", params, {"uri": TABLE}, config=load("local", [override]))
    assert train.run(step, train_uri="uri")["model_uri"]
