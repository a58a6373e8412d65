"""A model in a real store: a skops file with a signature, loaded only when it is the file its run logged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from conftest import Store
from mlflow.types import DataType

from ml_pipelines import models, tracking
from ml_pipelines.config import load
from ml_pipelines.context import StepContext
from ml_pipelines.errors import BadData, ConfigError, StepFailed
from ml_pipelines.models import Logged
from steps.train import Params, make_model

FOREST_TYPES = ["sklearn.tree._tree.Tree"]
LABEL = pl.Series("label", [0, 1] * 5)
FEATURES = pl.DataFrame(
    {
        "x": [0.5, 9.5, 1.5, 8.5, None, 7.5, 3.5, 6.5, 4.5, 5.5],
        "count": range(10),
        "small": pl.Series([0, 1] * 5, dtype=pl.Int16),
        "single": pl.Series([0.0, 1.0] * 5, dtype=pl.Float32),
        "flag": [True, False] * 5,
        "colour": ["red", "blue", None, "blue", "red"] * 2,
    }
)


def model(name: str = "sklearn.ensemble.HistGradientBoostingClassifier", **options: Any) -> Any:
    return make_model(FEATURES, Params(name, options, categories="one_hot"), seed=1).fit(FEATURES, LABEL)


def forest() -> Any:
    return model("sklearn.ensemble.RandomForestClassifier", n_estimators=2)


@pytest.fixture
def run_id(store: Store) -> Iterator[str]:
    """Open a run, as a step's is open while it logs a model."""
    experiment = tracking.experiment_id("models")
    with mlflow.start_run(experiment_id=experiment) as run:
        yield run.info.run_id


def files(logged: Logged) -> dict[str, Path]:
    """Return the files of a logged model, in the store itself."""
    folder = Path(mlflow.get_logged_model(logged.uri.removeprefix("models:/")).artifact_location)
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def context(run_id: str) -> StepContext[Any]:
    return StepContext(load("local"), "evaluate", run_id, run_id, "0")


def test_a_model_is_a_skops_file_and_nothing_is_a_pickle(run_id: str) -> None:
    logged = models.log(model(max_iter=5), FEATURES.head(5), [])
    flavours = mlflow.models.get_model_info(logged.uri).flavors
    assert flavours["sklearn"]["serialization_format"] == "skops"
    assert "model.skops" in files(logged)
    for name, path in files(logged).items():
        assert path.suffix not in (".pkl", ".pickle", ".joblib", ".cloudpickle"), name
        assert not path.read_bytes().startswith(b"\x80"), f"{name} begins as a pickle does"


def test_the_signature_has_a_real_type_for_every_column(run_id: str) -> None:
    logged = models.log(model(max_iter=5), FEATURES.head(5), [])
    signature = mlflow.models.get_model_info(logged.uri).signature
    assert {column.name: column.type for column in signature.inputs} == {
        "x": DataType.double,
        "count": DataType.long,
        "small": DataType.integer,
        "single": DataType.float,
        "flag": DataType.boolean,
        "colour": DataType.string,
    }
    assert [column.type for column in signature.outputs] == [DataType.integer]


def test_the_input_example_has_real_values(run_id: str) -> None:
    logged = models.log(model(max_iter=5), FEATURES.head(5), [])
    example = mlflow.pyfunc.load_model(logged.uri).input_example
    assert example["colour"].tolist()[:2] == ["red", "blue"]
    assert example.columns.tolist() == FEATURES.columns


def test_a_loaded_model_predicts_as_the_fitted_one(run_id: str) -> None:
    fitted = model(max_iter=5)
    logged = models.log(fitted, FEATURES.head(5), [])
    assert (models.load(logged, []).predict_proba(FEATURES) == fitted.predict_proba(FEATURES)).all()


def test_mlflow_itself_loads_the_model_and_predicts_on_a_pandas_frame(run_id: str) -> None:
    fitted = model(max_iter=5)
    logged = models.log(fitted, FEATURES.head(5), [])
    frame = FEATURES.to_pandas().astype({"small": "int32"})  # MLflow knows no 16 bits
    assert mlflow.pyfunc.load_model(logged.uri).predict(frame).tolist() == fitted.predict(FEATURES).tolist()


def test_a_tampered_file_is_refused(run_id: str) -> None:
    logged = models.log(model(max_iter=5), FEATURES.head(5), [])
    file = files(logged)["model.skops"]
    file.write_bytes(models.dump(model(max_iter=6), []))
    with pytest.raises(BadData, match="is not the file that its run logged"):
        models.load(logged, [])


def test_a_missing_file_is_told_with_the_model_that_lacks_it(run_id: str) -> None:
    logged = models.log(model(max_iter=5), FEATURES.head(5), [])
    files(logged)["model.skops"].unlink()
    with pytest.raises(StepFailed, match=f"Model {logged.uri} can't be read"):
        models.load(logged, [])


def test_a_forest_is_logged_only_where_conf_trusts_its_types(run_id: str, store: Store) -> None:
    with pytest.raises(ConfigError, match=r"RandomForestClassifier needs .*Tree.*--set 'model.trusted_types=\["):
        models.log(forest(), FEATURES.head(5), [])
    assert store.client.search_logged_models([tracking.experiment_id("models")]) == []


def test_the_message_keeps_the_types_that_conf_trusts_already(run_id: str) -> None:
    with pytest.raises(ConfigError, match=r"model.trusted_types=\[numpy.ndarray,sklearn"):
        models.log(forest(), FEATURES.head(5), ["numpy.ndarray"])


def test_a_forest_is_loaded_against_our_own_list_and_not_the_list_in_the_model(run_id: str) -> None:
    logged = models.log(forest(), FEATURES.head(5), FOREST_TYPES)
    trusted_by_itself = mlflow.models.get_model_info(logged.uri).flavors["sklearn"]["skops_trusted_types"]
    assert set(FOREST_TYPES) <= set(trusted_by_itself)
    with pytest.raises(BadData, match=r"model.trusted_types doesn't allow.*sklearn.tree._tree.Tree"):
        models.load(logged, [])
    assert models.load(logged, FOREST_TYPES).predict(FEATURES).shape == (10,)


def test_a_step_loads_the_model_that_a_train_run_handed_on(run_id: str, store: Store) -> None:
    step = context(run_id)
    uri = step.log_model(model(max_iter=5), FEATURES.head(5))
    tracking.close(run_id, "FINISHED", {"output.model_uri": uri, **step.tags()})
    assert step.load_model(run_id).predict(FEATURES).shape == (10,)


def test_a_run_that_handed_on_no_model_is_named(run_id: str) -> None:
    with pytest.raises(ConfigError, match=f"run {run_id} has handed on no model"):
        context(run_id).load_model(run_id)


def test_a_model_without_a_recorded_digest_is_refused(run_id: str, store: Store) -> None:
    logged = models.log(model(max_iter=5), FEATURES.head(5), [])
    store.client.set_tag(run_id, "output.model_uri", logged.uri)
    with pytest.raises(BadData, match="is not the file that its run logged"):
        context(run_id).load_model(run_id)
