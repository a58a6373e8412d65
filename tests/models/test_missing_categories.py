"""A row whose category is missing gets one probability, however the row is written and whatever scores it."""

import io
import json
from collections.abc import Iterator
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import Store
from mlflow.pyfunc import scoring_server

from ml_pipelines.modelling import encoder
from ml_pipelines.models import model_files
from ml_pipelines.problems import binary
from steps.train import Params, make_model

COLOURS = ["red", "blue", None, "green"] * 50
FEATURES = pl.DataFrame({"x": [float(i % 7) for i in range(200)], "colour": COLOURS})
LABEL = pl.Series([1 if colour is None else i // 4 % 2 for i, colour in enumerate(COLOURS)])
TREES, FEW = "sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 20}
PARAMS = {
    "trees": Params(TREES, FEW),
    "trees, one-hot": Params(TREES, FEW, categories="one_hot"),
    "linear": Params("sklearn.linear_model.LogisticRegression", categories="one_hot", missing="median", scale=True),
    "linear, ordinal": Params("sklearn.linear_model.LogisticRegression", missing="median"),
}
MODELS = pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
ARROW = pa.table({"x": [1.0], "colour": pa.array([None], pa.string())})


def fitted(params: Params) -> Any:
    return make_model(FEATURES, params, binary, seed=1).fit(FEATURES, LABEL)


def in_pandas(colour: object, dtype: object = object) -> pd.DataFrame:
    return pd.DataFrame({"x": [1.0], "colour": pd.Series([colour], dtype=dtype)})  # type: ignore[call-overload]


def in_polars(colour: str | None) -> pl.DataFrame:
    return pl.DataFrame({"x": [1.0], "colour": [colour]}, schema=FEATURES.schema)


# A missing category, as a caller can write it.
ROWS = {
    "pandas None": in_pandas(None),
    "pandas NaN": in_pandas(np.nan),
    "pandas NA": in_pandas(pd.NA),
    "pandas string": in_pandas(None, "string"),
    "pandas on Arrow": in_pandas(None, pd.ArrowDtype(pa.string())),
    "pandas empty text": in_pandas(""),
    "pandas unseen": in_pandas("violet"),
    "Polars None": in_polars(None),
    "Polars empty text": in_polars(""),
    "Polars null marker": in_polars("N/A"),
    "Polars unseen": in_polars("violet"),
    "Arrow": pl.DataFrame(ARROW),
    "Arrow to pandas": ARROW.to_pandas(),
    "pandas category": in_pandas(None, pd.CategoricalDtype(["red"])),
    "read_csv": pd.read_csv(io.StringIO("x,colour\n1,\n")),  # the column has type float64
    "read_csv null marker": pd.read_csv(io.StringIO("x,colour\n1,N/A\n")),
}


@MODELS
def test_each_form_of_a_missing_category_has_the_same_probability(params: Params) -> None:
    model = fitted(params)
    scores = {name: model.predict_proba(row)[0, 1] for name, row in ROWS.items()}
    assert scores == dict.fromkeys(scores, scores["Polars None"])
    assert scores["Polars None"] > 0.8 > model.predict_proba(in_polars("red"))[0, 1]  # as the rows of training say


@MODELS
def test_a_rare_category_counts_as_missing(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "MAX_CATEGORIES", 3)
    colours = [*COLOURS[:-4], "violet", "white", "white", "white"]  # red has 49 rows, white 3, violet 1
    features = FEATURES.with_columns(colour=pl.Series(colours))
    model = make_model(features, params, binary, seed=1).fit(features, LABEL)
    scores = [model.predict_proba(in_polars(colour))[0, 1] for colour in ("violet", "white", "unseen", None, "red")]
    assert scores[0] == scores[1] == scores[2] == scores[3] != scores[4]


def test_the_most_frequent_values_get_a_code_and_ties_go_by_the_alphabet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "MAX_CATEGORIES", 2)
    assert encoder.frequent_values(pl.Series("count", ["c", "b", "a", None, None, "c"])) == ["a", "c"]


@pytest.fixture
def logged(name: str, store: Store) -> Iterator[str]:
    """Log a model, and return its URI."""
    facts = {"threshold": 0.5, "label": {"no": 0, "yes": 1}, "null_values": ["", "N/A", "NA"]}
    with mlflow.start_run(experiment_id=store.opened.experiment_id("models")):
        yield model_files.log_model(fitted(PARAMS[name]), FEATURES.head(5), [], facts).uri


@pytest.mark.parametrize("name", ["trees", "linear"])
def test_mlflow_gives_a_missing_category_the_same_probability(name: str, logged: str) -> None:
    model = mlflow.pyfunc.load_model(logged)
    expected = float(fitted(PARAMS[name]).predict_proba(in_polars(None))[0, 1])
    frames = {form: row for form, row in ROWS.items() if isinstance(row, pd.DataFrame)}
    scores = {form: float(model.predict(row)["score"][0]) for form, row in frames.items()}
    requests = {
        '{"dataframe_split": {"columns": ["x", "colour"], "data": [[1.0, null]]}}',
        '{"dataframe_records": [{"x": 1.0, "colour": NaN}]}',
        '{"dataframe_records": [{"x": 1, "colour": ""}]}',
        '{"dataframe_records": [{"x": true, "colour": "NA"}]}',
    }
    for request in requests:
        answer = scoring_server.invocations(request, "application/json", model, model.metadata.get_input_schema())
        scores[request] = json.loads(answer.response)["predictions"][0]["score"]
    assert scores == dict.fromkeys(scores, expected)
