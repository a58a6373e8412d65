"""Tests of the identity: what a version says about its split and its label, also versions of earlier releases."""

from typing import Any

import mlflow
from conftest import Store

from ml_pipelines.models import identity
from ml_pipelines.models.registry import Version
from ml_pipelines.tracking.store import PARENT


def logged(store: Store, **artifacts: Any) -> str:
    """Return a train run, below a pipeline run whose prepare_data run has these artifacts."""
    client, experiment = mlflow.MlflowClient(), store.opened.experiment_id("identity")
    parent = str(client.create_run(experiment).info.run_id)
    prepare, train = (str(client.create_run(experiment, tags={PARENT: parent}).info.run_id) for _ in range(2))
    for name, content in artifacts.items():
        client.log_dict(prepare, content, f"{name}.json")
    client.set_tag(prepare, "output.train_uri", "somewhere")
    client.set_tag(prepare, "step", "prepare_data")
    client.set_terminated(prepare)
    return train


def of(store: Store, train: str, tags: dict[str, str] | None = None) -> dict[str, str]:
    return identity.of_version(store.opened, Version("model", 1, train, 0, tags or {}))


OLD = {"seed": 7, "data": {"key": "loan id", "test_fraction": 0.25, "label": "defaulted"}}
COLUMNS = {"label": {"no": 0, "yes": 1}}
LABEL = {"label_name": "defaulted", "label_0": "no", "label_1": "yes"}


def test_the_tags_of_a_version_are_its_identity(store: Store) -> None:
    tags = {"split_kind": "key", "split_seed": "3", "label_1": "yes", "verdict": "passed"}
    assert of(store, "gone", tags) == {"split_kind": "key", "split_seed": "3", "label_1": "yes"}


def test_a_version_of_an_earlier_release_has_the_identity_that_its_configuration_gives(store: Store) -> None:
    split = {"split_kind": "key", "split_key": "loan_id", "split_seed": "7", "split_fraction": "0.25"}
    assert of(store, logged(store, config=OLD, columns=COLUMNS)) == {**split, **LABEL}
    without_key = {**OLD, "data": {**OLD["data"], "key": None}}  # type: ignore[dict-item]
    row = {"split_kind": "row", "split_seed": "7", "split_fraction": "0.25"}
    assert of(store, logged(store, config=without_key, columns=COLUMNS)) == {**row, **LABEL}


def test_the_artifact_of_the_split_wins_over_the_configuration(store: Store) -> None:
    split = {"split_kind": "own", "split_seed": 5, "other": 1}
    assert of(store, logged(store, config=OLD, columns=COLUMNS, split=split)) == {
        **{"split_kind": "own", "split_seed": "5"},
        **LABEL,
    }
    new = {**OLD, "data": {**OLD["data"], "split_seed": 7}}  # type: ignore[dict-item]
    assert of(store, logged(store, config=new, columns=COLUMNS)) == LABEL


def test_what_nobody_recorded_is_missing(store: Store) -> None:
    assert of(store, "0" * 32) == {}
    assert of(store, logged(store)) == {}
    assert of(store, logged(store, config=["odd"], columns="odd", split="odd")) == {}
