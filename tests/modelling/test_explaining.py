"""Reasons for a score: they agree with SHAP itself, sum to the score, and name the columns of the table."""

from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("shap")

import shap

from ml_pipelines.modelling import explaining
from ml_pipelines.modelling.estimators import BOOSTING
from ml_pipelines.problems import binary, regression
from steps.train import Params, make_model


def rows(count: int = 300) -> tuple[pl.DataFrame, np.ndarray]:
    """Return features and a label: it depends on `x` and `kind`, not on `noise`."""
    draw = np.random.default_rng(1)
    kind = [("car", "house", "toy", None)[i] for i in draw.integers(0, 4, count)]
    x = [None if i % 17 == 0 else float(value) for i, value in enumerate(draw.normal(size=count))]
    frame = pl.DataFrame({"noise": draw.normal(size=count), "kind": kind, "x": x})
    risk = frame["x"].fill_null(0).to_numpy() + 2 * (frame["kind"] == "toy").fill_null(value=False).to_numpy()
    return frame, (risk + draw.normal(size=count) / 2 > 0.5).astype(int)


MODELS = {
    "boosting": Params(BOOSTING, {"max_iter": 20}),
    "forest": Params("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 5}, "one_hot", "median"),
    "gradient boosting": Params(
        "sklearn.ensemble.GradientBoostingClassifier", {"n_estimators": 9}, "one_hot", "median"
    ),
    "xgboost": Params("xgboost.XGBClassifier", {"n_estimators": 9}, "native"),
    "lightgbm": Params("lightgbm.LGBMClassifier", {"n_estimators": 9}, "native"),
    "catboost": Params("catboost.CatBoostClassifier", {"iterations": 9}, "native"),
}


def fitted(params: Params) -> Any:
    library = params.estimator.split(".")[0]
    pytest.importorskip(library)
    frame, label = rows()
    return make_model(frame, params, binary, 0).fit(frame, label)


def values_of(model: Any, frame: pl.DataFrame) -> np.ndarray:
    return explaining.shap_values(explaining.make_explainer(model), model, frame)


LIBRARIES = ("xgboost", "lightgbm", "catboost")  # slow to import


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LIBRARIES else []) for name in MODELS]
)
def test_the_values_of_a_row_and_a_constant_sum_to_its_score(name: str) -> None:
    model, (frame, _) = fitted(MODELS[name]), rows()
    score = model.predict_proba(frame)[:, 1].astype(float)
    is_forest = explaining.make_explainer(model).model.tree_output == "probability"
    assert is_forest == (name == "forest")
    wanted = score if is_forest else np.log(score / (1 - score))
    constant = wanted - values_of(model, frame).sum(axis=1)
    assert np.ptp(constant) < (1e-4 if name == "xgboost" else 1e-9)  # XGBoost computes with 32-bit floats


REGRESSORS = {
    "boosting": Params("sklearn.ensemble.HistGradientBoostingRegressor", {"max_iter": 20}),
    "forest": Params("sklearn.ensemble.RandomForestRegressor", {"n_estimators": 5}, "one_hot", "median"),
    "xgboost": Params("xgboost.XGBRegressor", {"n_estimators": 9}, "native"),
    "lightgbm": Params("lightgbm.LGBMRegressor", {"n_estimators": 9}, "native"),
    "catboost": Params("catboost.CatBoostRegressor", {"iterations": 9}, "native"),
}


@pytest.mark.parametrize("size", [1e-2, 1e5])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LIBRARIES else []) for name in REGRESSORS]
)
def test_a_predicted_number_of_any_size_has_reasons(name: str, size: float) -> None:
    pytest.importorskip(REGRESSORS[name].estimator.split(".")[0])
    frame, label = rows()
    number = size * (label + frame["x"].fill_null(0).to_numpy())
    model = make_model(frame, REGRESSORS[name], regression, 0).fit(frame, number)
    score = regression.score_of(model, frame)
    found = explaining.reasons(model, frame, score, 3).to_pylist()
    sums = np.array([sum(reason["value"] for reason in row) for row in found])
    assert np.ptp(score - sums) < 1e-3 * np.ptp(score) and np.ptp(sums) > 0
    wrong = score + np.where(np.arange(len(score)) < 9, np.ptp(score), 0)
    with pytest.raises(ValueError, match="do not sum to the scores"):
        explaining.reasons(model, frame, wrong, 3)


def test_native_categories_of_scikit_learn_are_refused_because_shap_explains_them_wrongly() -> None:
    model, (frame, _) = fitted(Params(BOOSTING, {"max_iter": 20}, "native")), rows()
    direct = shap.TreeExplainer(model["model"]).shap_values(model["encode"].transform(frame)).sum(axis=1)
    score = model.predict_proba(frame)[:, 1]
    assert np.ptp(np.log(score / (1 - score)) - direct) > 1  # if this fails, SHAP has learned them: allow them
    with pytest.raises(ValueError, match="does not know scikit-learn's native categories"):
        explaining.make_explainer(model)


def test_values_that_do_not_sum_to_the_scores_are_an_error() -> None:
    model, (frame, _) = fitted(MODELS["boosting"]), rows()
    score = model.predict_proba(frame)[:, 1]
    explaining.reasons(model, frame, score, 1)
    explaining.reasons(model, frame.head(1), np.ones(1), 1)  # the log-odds of 1 are infinite: nothing to compare
    with pytest.raises(ValueError, match="do not sum to the scores"):
        explaining.reasons(model, frame, np.append(score[:-1], 0.5 * score[-1] + 0.25), 1)


def test_the_values_are_those_of_shap_under_the_names_of_the_columns() -> None:
    model, (frame, _) = fitted(MODELS["boosting"]), rows()
    direct = shap.TreeExplainer(model["model"]).shap_values(model["encode"].transform(frame))
    by_name = dict(zip(["kind", "noise", "x"], direct.T, strict=True))  # the encoder puts texts first
    lists = explaining.reasons(model, frame, model.predict_proba(frame)[:, 1], 2).to_pylist()
    for i, reasons in enumerate(lists):
        assert len(reasons) == 2
        assert [reason["value"] for reason in reasons] == [by_name[reason["name"]][i] for reason in reasons]
        strongest = sorted((abs(values[i]) for values in by_name.values()), reverse=True)
        assert [abs(reason["value"]) for reason in reasons] == strongest[:2]
    assert {reason["name"] for reasons in lists for reason in reasons} == {"kind", "noise", "x"}


def test_the_columns_of_a_one_hot_code_are_summed() -> None:
    model, (frame, _) = fitted(MODELS["forest"]), rows()
    direct = shap.TreeExplainer(model["model"]).shap_values(model["encode"].transform(frame))[..., 1]
    assert direct.shape[1] == 6  # car, house, toy, missing, noise, x
    np.testing.assert_allclose(
        values_of(model, frame), np.column_stack([direct[:, 4], direct[:, :4].sum(axis=1), direct[:, 5]])
    )


def test_rows_are_explained_in_parts_and_no_rows_need_no_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (frame, _) = fitted(MODELS["boosting"]), rows()
    score = model.predict_proba(frame)[:, 1]
    whole = explaining.reasons(model, frame, score, 9)
    monkeypatch.setattr(explaining, "CELLS", 3 * 70)
    assert explaining.reasons(model, frame, score, 9).equals(whole)
    assert [len(reasons) for reasons in whole.to_pylist()] == [3] * 300
    assert explaining.reasons(model, frame.head(0), score[:0], 2).to_pylist() == []
