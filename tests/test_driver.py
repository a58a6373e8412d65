"""driver.py, as a user types it: the pipeline, parts of it, and what it says when something is wrong."""

from collections.abc import Callable

from conftest import Result, Store

Drive = Callable[..., Result]


def test_five_steps_run_below_one_parent(drive: Drive, store: Store) -> None:
    result = drive()
    assert result.code == 0, result.text
    parent = store.parent()
    children = store.runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert sorted(run.info.run_name for run in children) == [
        "01_prepare_data",
        "02_train",
        "03_evaluate",
        "04_feature_importance",
        "05_model_qa",
    ]
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
