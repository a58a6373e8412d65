"""A secret on `mlflow run -P`: MLflow has stored it before our code runs."""

from collections.abc import Callable

import pytest
from conftest import Result, Store
from mlflow.entities import ViewType

Shell = Callable[..., Result]


@pytest.mark.slow
@pytest.mark.parametrize("given", ["-Pset=mlflow.password=hunter2", "-Ppassword=hunter2", "-Pdb_token=hunter2"])
@pytest.mark.parametrize("entry_point", ["main", "train"])
def test_the_run_is_deleted_and_the_person_told_to_change_the_secret(
    store: Store, shell: Shell, entry_point: str, given: str
) -> None:
    result = shell("mlflow", "run", ".", "-e", entry_point, given)
    assert result.code == 1
    told = [line for line in result.text.splitlines() if "looks like a secret" in line]
    assert len(told) == 1
    assert "change the secret" in told[0]
    assert "hunter2" not in told[0]
    assert store.runs() == []
    [deleted] = store.client.search_runs(["0"], run_view_type=ViewType.DELETED_ONLY)
    assert f"mlflow gc --run-ids {deleted.info.run_id}" in told[0]


def test_on_our_own_command_line_nothing_was_stored(store: Store, shell: Shell) -> None:
    result = shell("python", "driver.py", "--password=hunter2")
    assert result.code == 2
    assert "password looks like a secret" in result.err and "hunter2" not in result.text
    assert "MLflow" not in result.err
