"""Outputs are mirrored as a job's task values on a cluster, and whatever goes wrong with that changes nothing."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from ml_pipelines import taskvalues


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Stand in for the runtime's dbutils, and return the task values that are set there."""
    found: dict[str, object] = {}
    runtime = ModuleType("databricks.sdk.runtime")
    task_values = SimpleNamespace(set=lambda key, value: found.update({key: value}))
    runtime.dbutils = SimpleNamespace(jobs=SimpleNamespace(taskValues=task_values))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "databricks.sdk.runtime", runtime)
    return found


def test_on_a_cluster_outputs_are_task_values_too(monkeypatch: pytest.MonkeyPatch, values: dict[str, object]) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    taskvalues.mirror({"test_auc": 0.9, "qa_passed": True})
    assert values == {"test_auc": 0.9, "qa_passed": True}


def test_elsewhere_there_are_none(monkeypatch: pytest.MonkeyPatch, values: dict[str, object]) -> None:
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    taskvalues.mirror({"test_auc": 0.9})
    assert values == {}


def test_a_runtime_without_them_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    monkeypatch.setitem(sys.modules, "databricks.sdk.runtime", None)
    taskvalues.mirror({"test_auc": 0.9})
