"""A model in a real store: a skops file with a signature, loaded only if it is the file that its run logged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from conftest import Store, change
from mlflow.types import DataType

from ml_pipelines.config.loading import load
from ml_pipelines.errors import BadData, ConfigError, StepFailed
from ml_pipelines.execution.context import TrackedContext
from ml_pipelines.models import model_files
from ml_pipelines.problems import binary
from ml_pipelines.system import paths
from ml_pipelines.tracking.lineage import LoggedModel
from ml_pipelines.tracking.store import Store as TrackingStore
from steps.train import Params, make_model

FACTS = {"threshold": 0.5, "label": {"no": 0, "yes": 1}}
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
    return make_model(FEATURES, Params(name, options, categories="one_hot"), binary, seed=1).fit(FEATURES, LABEL)


def forest() -> Any:
    return model("sklearn.ensemble.RandomForestClassifier", n_estimators=2)


@pytest.fixture
def run_id(store: Store) -> Iterator[str]:
    """Open a run, as a step does before it logs a model."""
    experiment = store.opened.experiment_id("models")
    with mlflow.start_run(experiment_id=experiment) as run:
        yield run.info.run_id


def files(logged_model: LoggedModel) -> dict[str, Path]:
    """Return the files of a logged model, in the store itself."""
    folder = Path(mlflow.get_logged_model(logged_model.uri.removeprefix("models:/")).artifact_location)
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def context(run_id: str) -> TrackedContext[Any]:
    return TrackedContext(TrackingStore.inherited(), load("local"), "evaluate", run_id, run_id, "0")


def test_a_model_is_logged_as_a_skops_file_and_never_as_a_pickle(run_id: str) -> None:
    logged_model = model_files.log_model(model(max_iter=5), FEATURES.head(5), [], FACTS)
    flavours = mlflow.models.get_model_info(logged_model.uri).flavors
    assert {name: flavour["loader_module"] for name, flavour in flavours.items()} == {
        "python_function": "mlflow.pyfunc.loaders.code_model"
    }
    assert {"model.skops", "model.json", "code_model.py", "cells.py"} <= files(logged_model).keys()
    for name, path in files(logged_model).items():
        assert path.suffix not in (".pkl", ".pickle", ".joblib", ".cloudpickle"), name
        assert not path.read_bytes().startswith(b"\x80"), f"{name} begins as a pickle does"


def test_no_file_of_a_model_names_a_path_of_this_machine(run_id: str, store: Store) -> None:
    logged_model = model_files.log_model(model(max_iter=5), FEATURES.head(5), [], FACTS)
    for name, path in files(logged_model).items():
        for folder in (store.tables.parent, paths.root()):
            assert str(folder).encode() not in path.read_bytes(), name


def test_the_signature_has_each_column_and_the_threshold(run_id: str) -> None:
    logged_model = model_files.log_model(model(max_iter=5), FEATURES.head(5), [], FACTS)
    signature = mlflow.models.get_model_info(logged_model.uri).signature
    assert {column.name: str(column.type) for column in signature.inputs} == dict.fromkeys(FEATURES.columns, "Any")
    assert {column.name: column.type for column in signature.outputs} == {
        "score": DataType.double,
        "prediction": DataType.string,
    }
    assert [(param.name, param.default) for param in signature.params] == [("threshold", 0.5)]


def test_the_input_example_has_real_values(run_id: str) -> None:
    logged_model = model_files.log_model(model(max_iter=5), FEATURES.head(5), [], FACTS)
    example = mlflow.pyfunc.load_model(logged_model.uri).input_example
    assert example["colour"].tolist()[:2] == ["red", "blue"]
    assert example.columns.tolist() == FEATURES.columns


def test_a_loaded_model_predicts_like_the_fitted_model(run_id: str) -> None:
    fitted_model = model(max_iter=5)
    logged_model = model_files.log_model(fitted_model, FEATURES.head(5), [], FACTS)
    assert (
        model_files.load_model(logged_model, []).predict_proba(FEATURES) == fitted_model.predict_proba(FEATURES)
    ).all()


def test_a_changed_record_of_the_columns_is_refused(run_id: str) -> None:
    logged_model = model_files.log_model(model(max_iter=5), FEATURES.head(5), [], FACTS)
    change(files(logged_model)["model.json"], '"threshold": 0.5', '"threshold": 0.1')
    with pytest.raises(BadData, match="is not the file that its run logged"):
        model_files.load_facts(logged_model)


def test_a_model_of_an_earlier_release_loads_and_its_threshold_is_asked_for(run_id: str, store: Store) -> None:
    logged_model = model_files.log_model(model(max_iter=5), FEATURES.head(5), [], FACTS)
    tags = {"output.model_uri": logged_model.uri, "output.model_uri.digest": logged_model.digest}
    store.opened.close(run_id, "FINISHED", tags)
    assert context(run_id).load_model(run_id).predict(FEATURES).shape == (10,)
    with pytest.raises(BadData, match=r"has no model\.json, because an earlier release trained it\. Train again"):
        context(run_id).load_threshold(run_id)


def test_a_tampered_file_is_refused(run_id: str) -> None:
    logged_model = model_files.log_model(model(max_iter=5), FEATURES.head(5), [], FACTS)
    file = files(logged_model)["model.skops"]
    file.write_bytes(model_files.dump_model(model(max_iter=6), []))
    with pytest.raises(BadData, match="is not the file that its run logged"):
        model_files.load_model(logged_model, [])


def test_a_missing_file_is_reported_with_the_uri_of_its_model(run_id: str) -> None:
    logged_model = model_files.log_model(model(max_iter=5), FEATURES.head(5), [], FACTS)
    files(logged_model)["model.skops"].unlink()
    with pytest.raises(StepFailed, match=f"Model {logged_model.uri} can't be read"):
        model_files.load_model(logged_model, [])


def test_a_forest_is_logged_only_if_the_configuration_trusts_its_types(run_id: str, store: Store) -> None:
    with pytest.raises(ConfigError, match=r"RandomForestClassifier needs .*Tree.*--set 'model.trusted_types=\["):
        model_files.log_model(forest(), FEATURES.head(5), [], FACTS)
    assert store.client.search_logged_models([store.opened.experiment_id("models")]) == []


def test_the_suggested_setting_keeps_the_types_that_are_already_trusted(run_id: str) -> None:
    with pytest.raises(ConfigError, match=r"model.trusted_types=\[numpy.ndarray,sklearn"):
        model_files.log_model(forest(), FEATURES.head(5), ["numpy.ndarray"], FACTS)


def test_loading_checks_types_against_the_configuration_and_not_the_list_in_the_model(run_id: str) -> None:
    logged_model = model_files.log_model(forest(), FEATURES.head(5), FOREST_TYPES, FACTS)
    assert set(FOREST_TYPES) <= set(model_files.load_facts(logged_model)["trusted_types"])
    with pytest.raises(BadData, match=r"model.trusted_types doesn't allow.*sklearn.tree._tree.Tree"):
        model_files.load_model(logged_model, [])
    assert model_files.load_model(logged_model, FOREST_TYPES).predict(FEATURES).shape == (10,)


def test_a_step_loads_the_model_of_a_train_run(run_id: str, store: Store) -> None:
    step = context(run_id)
    uri = step.log_model(model(max_iter=5), FEATURES.head(5), 0.25)
    store.opened.close(run_id, "FINISHED", {"output.model_uri": uri, **step.tags()})
    assert step.load_model(run_id).predict(FEATURES).shape == (10,)
    assert step.load_threshold(run_id) == 0.25


def test_a_run_without_a_model_is_named_in_the_error(run_id: str) -> None:
    with pytest.raises(ConfigError, match=f"run {run_id} has no output model_uri"):
        context(run_id).load_model(run_id)


def test_a_model_without_a_recorded_digest_is_refused(run_id: str, store: Store) -> None:
    logged_model = model_files.log_model(model(max_iter=5), FEATURES.head(5), [], FACTS)
    store.client.set_tag(run_id, "output.model_uri", logged_model.uri)
    with pytest.raises(BadData, match="is not the file that its run logged"):
        context(run_id).load_model(run_id)
