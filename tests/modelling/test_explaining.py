"""Reasons for a score: they agree with SHAP itself, sum to the score, and name the columns of the table."""

from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("shap")

import shap

from ml_pipelines.modelling import explaining
from ml_pipelines.modelling.encoder import make_encoder
from ml_pipelines.modelling.estimators import make_estimator

BOOSTING = "sklearn.ensemble.HistGradientBoostingClassifier"


def rows(count: int = 300) -> tuple[pl.DataFrame, np.ndarray]:
    """Return features and a label: it depends on `x` and `kind`, not on `noise`."""
    draw = np.random.default_rng(1)
    kind = [("car", "house", "toy", None)[i] for i in draw.integers(0, 4, count)]
    x = [None if i % 17 == 0 else float(value) for i, value in enumerate(draw.normal(size=count))]
    frame = pl.DataFrame({"noise": draw.normal(size=count), "kind": kind, "x": x})
    risk = frame["x"].fill_null(0).to_numpy() + 2 * (frame["kind"] == "toy").fill_null(value=False).to_numpy()
    return frame, (risk + draw.normal(size=count) / 2 > 0.5).astype(int)


def fitted(estimator: str, categories: str = "ordinal", missing: str = "median", **options: Any) -> Any:
    from sklearn.pipeline import Pipeline

    frame, label = rows()
    takes_nan = missing == "keep"
    encoder = make_encoder(frame, categories, missing, False, takes_nan)
    return Pipeline([("encode", encoder), ("model", make_estimator(estimator, options, 0))]).fit(frame, label)


MODELS = {
    "boosting": (BOOSTING, "ordinal", "keep", {"max_iter": 20}),
    "forest with one_hot": ("sklearn.ensemble.RandomForestClassifier", "one_hot", "median", {"n_estimators": 5}),
    "gradient boosting": ("sklearn.ensemble.GradientBoostingClassifier", "one_hot", "median", {"n_estimators": 10}),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_values_of_a_row_sum_to_its_score(name: str) -> None:
    estimator, categories, missing, options = MODELS[name]
    model, (frame, _) = fitted(estimator, categories, missing, **options), rows()
    explainer = explaining.make_explainer(model)
    score = model.predict_proba(frame)[:, 1]
    wanted = score if explainer.model.tree_output == "probability" else np.log(score / (1 - score))
    found = explaining.shap_values(model, frame).sum(axis=1) + np.ravel(explainer.expected_value)[-1]
    np.testing.assert_allclose(found, wanted, atol=1e-8)


def test_the_values_are_those_of_shap_under_the_names_of_the_columns() -> None:
    model, (frame, _) = fitted(*MODELS["boosting"][:3], max_iter=20), rows()
    direct = shap.TreeExplainer(model["model"]).shap_values(model["encode"].transform(frame))
    by_name = dict(zip(["kind", "noise", "x"], direct.T, strict=True))  # the encoder puts texts first
    lists = explaining.reasons(model, frame, 2).to_pylist()
    for i, reasons in enumerate(lists):
        assert len(reasons) == 2
        assert [reason["value"] for reason in reasons] == [by_name[reason["name"]][i] for reason in reasons]
        strongest = sorted((abs(values[i]) for values in by_name.values()), reverse=True)
        assert [abs(reason["value"]) for reason in reasons] == strongest[:2]
    assert {reason["name"] for reasons in lists for reason in reasons} == {"kind", "noise", "x"}


def test_the_columns_of_a_one_hot_code_are_summed() -> None:
    model, (frame, _) = fitted(*MODELS["forest with one_hot"][:3], n_estimators=5), rows()
    direct = shap.TreeExplainer(model["model"]).shap_values(model["encode"].transform(frame))[..., 1]
    assert direct.shape[1] == 6  # car, house, toy, missing, noise, x
    np.testing.assert_allclose(
        explaining.shap_values(model, frame), np.column_stack([direct[:, 4], direct[:, :4].sum(axis=1), direct[:, 5]])
    )


def test_rows_are_explained_in_parts_and_no_rows_need_no_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (frame, _) = fitted(*MODELS["boosting"][:3], max_iter=5), rows()
    whole = explaining.reasons(model, frame, 9)
    monkeypatch.setattr(explaining, "CELLS", 3 * 70)
    assert explaining.reasons(model, frame, 9).equals(whole)
    assert [len(reasons) for reasons in whole.to_pylist()] == [3] * 300
    assert explaining.reasons(model, frame.head(0), 2).to_pylist() == []
