"""The registered model as MLflow loads it: its scores and predictions, and the values that it takes or refuses."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import polars as pl
import pytest
from conftest import Result, Store
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from ml_pipelines.models import model_files
from ml_pipelines.problems import binary, regression
from steps.train import Params, make_model

FEATURES = pl.DataFrame(
    {
        "x": [float(i % 7) for i in range(200)],
        "single": pl.Series([(i * 37 % 101) / 7 for i in range(200)], dtype=pl.Float32),
        "flag": [i % 3 == 0 for i in range(200)],
        "code": ["007", "7", None, "red"] * 50,
    }
)
LABEL = pl.Series([int(i % 7 + 3 * (i % 4 == 0) > 4) for i in range(200)])
FACTS = {"threshold": 0.5, "label": {"no": 0, "yes": 1}, "null_values": ["", "NA"]}
ROW = {"x": 5.0, "single": 0.5, "flag": False, "code": "007"}


def fitted() -> Any:
    params = Params("sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 20})
    return make_model(FEATURES, params, binary, seed=1).fit(FEATURES, LABEL)


@pytest.fixture
def uri(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Log a model, and return its URI. MLflow may load no pickle."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with mlflow.start_run(experiment_id=store.opened.experiment_id("models")):
        yield model_files.log_model(fitted(), FEATURES.head(5), [], FACTS).uri


@pytest.fixture
def model(uri: str) -> Any:
    return mlflow.pyfunc.load_model(uri)


def predict(model: Any, **changed: Any) -> tuple[float, str]:
    """Return the score and the prediction of one row."""
    row = model.predict(pd.DataFrame([ROW | changed])).iloc[0]
    return row["score"], row["prediction"]


def refusal(model: Any, rows: pd.DataFrame, **params: float) -> str:
    with pytest.raises(MlflowException) as error:
        model.predict(rows, params=params or None)
    assert error.value.error_code == "INVALID_PARAMETER_VALUE" and "\n" not in error.value.message
    return error.value.message


def test_scores_are_those_of_the_estimator_and_predictions_are_values_of_the_label(model: Any) -> None:
    answer = model.predict(FEATURES.to_pandas().sample(frac=1, random_state=1)).sort_index()
    score = fitted().predict_proba(FEATURES)[:, 1]
    assert answer["score"].tolist() == score.tolist()
    assert answer["prediction"].tolist() == ["yes" if each >= 0.5 else "no" for each in score]
    assert set(answer["prediction"]) == {"yes", "no"}


def test_the_threshold_is_a_parameter_and_a_score_at_it_is_class_1(model: Any) -> None:
    rows = pd.DataFrame([ROW])
    score = float(model.predict(rows)["score"][0])
    assert 0 < score < 1 - 1e-9
    assert model.predict(rows, params={"threshold": score})["prediction"][0] == "yes"
    assert model.predict(rows, params={"threshold": score + 1e-9})["prediction"][0] == "no"
    assert refusal(model, rows, threshold=1.5) == "threshold: 1.5 is not from 0 to 1."


@pytest.mark.parametrize("x", [5, "5", " 5.0 ", "5e0", Decimal("5.0")])
def test_a_number_may_be_written_in_any_way(model: Any, x: Any) -> None:
    assert predict(model, x=x) == predict(model)


def test_a_boolean_counts_as_a_number(model: Any) -> None:
    assert predict(model, flag=1) == predict(model, flag=True) == predict(model, flag=1.0)
    assert predict(model, flag="NA") == predict(model, flag=None)


def test_text_is_cleaned_as_in_training(model: Any) -> None:
    assert predict(model, code=" 007\u200b") == predict(model)
    assert predict(model, code="NA") == predict(model, code=None) == predict(model, code=float("nan"))
    assert predict(model, code="7") != predict(model)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"code": 7},
            "Column 'code': the model learned text, but the rows have numbers, which may have lost zeros (1: 7)",
        ),
        ({"x": "many"}, "Column 'x': the model learned numbers, but the rows have text (1: 'many'). Correct them."),
        ({"x": float("inf")}, "Column 'x': values are infinite or beyond the range of a 32-bit float (1: inf)."),
        ({"x": "1e39"}, "Column 'x': values are infinite or beyond the range of a 32-bit float (1: 1e+39)."),
    ],
)
def test_values_that_the_model_did_not_learn_are_refused_in_one_line(model: Any, changed: Any, message: str) -> None:
    assert message in refusal(model, pd.DataFrame([ROW | changed]))


def test_a_column_of_several_kinds_is_refused(model: Any) -> None:
    rows = pd.DataFrame([ROW, ROW | {"code": 7}])
    assert refusal(model, rows) == "Column 'code' mixes kinds of values, such as text and numbers. Send one kind."


def test_a_request_over_http_is_answered_or_refused_as_a_bad_request(model: Any) -> None:
    def ask(row: dict[str, Any]) -> Any:
        content = json.dumps({"dataframe_records": [row], "params": {"threshold": 0.0}})
        return scoring_server.invocations(content, "application/json", model, model.metadata.get_input_schema())

    score, _ = predict(model)
    assert json.loads(ask(ROW).response) == {"predictions": [{"score": score, "prediction": "yes"}]}
    with pytest.raises(MlflowException, match="the model learned text") as error:
        ask(ROW | {"code": 7})
    assert error.value.get_http_status_code() == 400


@pytest.mark.slow
def test_the_model_needs_no_package_of_ours(uri: str, shell: Any, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['ml_pipelines'] = None\n"
        "import mlflow, pandas as pd\n"
        f"print(mlflow.pyfunc.load_model({uri!r}).predict(pd.DataFrame([{ROW!r}]))['score'][0])"
    )
    result: Result = shell("python", "-c", script, cwd=tmp_path)
    assert result.code == 0, result.text
    assert float(result.out.split()[-1]) == predict(mlflow.pyfunc.load_model(uri))[0]


def test_a_model_of_a_number_returns_only_its_score(store: Store) -> None:
    number = FEATURES["x"] * 3 + 1
    fitted = make_model(FEATURES, Params(options={"max_iter": 20}), regression, seed=1).fit(FEATURES, number)
    facts = {**FACTS, "label": {}}
    with mlflow.start_run(experiment_id=store.opened.experiment_id("models")):
        loaded = mlflow.pyfunc.load_model(model_files.log_model(fitted, FEATURES.head(5), [], facts).uri)
    scores = loaded.predict(FEATURES.to_pandas())
    assert list(scores.columns) == ["score"]
    assert scores["score"].tolist() == fitted.predict(FEATURES).tolist()
    assert loaded.metadata.signature.params is None
