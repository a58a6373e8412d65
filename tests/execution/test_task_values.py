"""On a cluster, outputs are also set as task values of the job; an error in that changes nothing."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from ml_pipelines.execution import task_values


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Replace the runtime's dbutils, and return the task values that are set in it."""
    recorded_values: dict[str, object] = {}
    runtime = ModuleType("databricks.sdk.runtime")
    task_values = SimpleNamespace(set=lambda key, value: recorded_values.update({key: value}))
    runtime.dbutils = SimpleNamespace(jobs=SimpleNamespace(taskValues=task_values))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "databricks.sdk.runtime", runtime)
    return recorded_values


def test_on_a_cluster_outputs_are_also_task_values(monkeypatch: pytest.MonkeyPatch, values: dict[str, object]) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    task_values.set_task_values({"test_auc": 0.9, "qa_passed": True})
    assert values == {"test_auc": 0.9, "qa_passed": True}


def test_outside_a_cluster_no_task_values_are_set(monkeypatch: pytest.MonkeyPatch, values: dict[str, object]) -> None:
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    task_values.set_task_values({"test_auc": 0.9})
    assert values == {}


def test_a_runtime_without_task_values_does_not_fail_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    monkeypatch.setitem(sys.modules, "databricks.sdk.runtime", None)
    task_values.set_task_values({"test_auc": 0.9})
