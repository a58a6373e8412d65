"""A secret in `mlflow run -P`: MLflow has stored it before our code starts."""

from collections.abc import Callable

import pytest
from conftest import Result, Store
from mlflow.entities import ViewType

Shell = Callable[..., Result]


@pytest.mark.slow
@pytest.mark.parametrize("parameter", ["-Pset=mlflow.password=hunter2", "-Ppassword=hunter2", "-Pdb_token=hunter2"])
@pytest.mark.parametrize("entry_point", ["main", "train"])
def test_the_run_is_deleted_and_the_message_says_to_change_the_secret(
    store: Store, shell: Shell, entry_point: str, parameter: str
) -> None:
    result = shell("mlflow", "run", ".", "-e", entry_point, parameter)
    assert result.code == 1
    warnings = [line for line in result.text.splitlines() if "looks like a secret" in line]
    assert len(warnings) == 1
    assert "MLflow had stored the secret: change it." in warnings[0]
    assert "hunter2" not in warnings[0]
    assert store.runs() == []
    [deleted_run] = store.client.search_runs(["0"], run_view_type=ViewType.DELETED_ONLY)
    assert f"mlflow gc --run-ids {deleted_run.info.run_id}" in warnings[0]


def test_a_secret_on_our_own_command_line_is_refused_and_not_stored(store: Store, shell: Shell) -> None:
    result = shell("python", "driver.py", "--password=hunter2")
    assert result.code == 2
    assert "password looks like a secret" in result.err and "hunter2" not in result.text
    assert "MLflow" not in result.err


@pytest.mark.parametrize("value", ["hunter2", "[hunter2", "${hunter2}", "hunter2: 1", "[" * 99 + "hunter2"])
def test_a_secret_is_not_shown_whatever_its_value_is(shell: Shell, value: str) -> None:
    result = shell("python", "driver.py", f"--set=mlflow.password={value}")
    assert result.code == 2
    assert "mlflow.password looks like a secret" in result.err and "hunter2" not in result.text
