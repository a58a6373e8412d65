"""Job settings, parsed by the SDK and checked as a workspace checks them when a job is created or submitted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from graphlib import CycleError, TopologicalSorter
from typing import Any

from databricks.sdk.service.jobs import JobSettings, Task

from emulator import clusters
from emulator.errors import invalid

_REFERENCE = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_SINGLE_TASK = ("new_cluster", "existing_cluster_id", "libraries", "spark_python_task", "python_wheel_task")


def parse(payload: Mapping[str, Any]) -> JobSettings:
    """Return the settings, or refuse them. A payload of Jobs 2.0 has one task and no list of tasks."""
    body = dict(payload)
    if "tasks" not in body:
        body["format"] = "SINGLE_TASK"
        body["tasks"] = [{"task_key": "main", **{key: body.pop(key) for key in _SINGLE_TASK if key in body}}]
    for task in body["tasks"]:
        _refuse_unknown(task, Task, "task")
    settings = JobSettings.from_dict(body)
    tasks = settings.tasks or []
    keys = [task.task_key for task in tasks]
    if not keys or len(keys) != len(set(keys)):
        raise invalid(f"A job needs tasks with different keys. Its keys are: {', '.join(keys) or 'none'}.")
    graph = {task.task_key: [need.task_key for need in task.depends_on or []] for task in tasks}
    for key, needs in graph.items():
        if unknown := set(needs) - graph.keys():
            raise invalid(f"Task '{key}' depends on unknown task '{sorted(unknown)[0]}'.")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise invalid(f"The tasks' dependencies have a cycle: {' -> '.join(error.args[1])}.") from error
    shared = {cluster.job_cluster_key for cluster in settings.job_clusters or []}
    environments = {environment.environment_key for environment in settings.environments or []}
    for raw, task in zip(body["tasks"], tasks, strict=True):
        _check_task(raw, task, shared, environments)
    for cluster in body.get("job_clusters", []):
        clusters.check(cluster["new_cluster"])
    return settings


def _check_task(raw: Mapping[str, Any], task: Task, shared: set[str], environments: set[str]) -> None:
    computes = [task.new_cluster, task.existing_cluster_id, task.job_cluster_key, task.environment_key]
    if sum(compute is not None for compute in computes) != 1:
        raise invalid(
            f"Task '{task.task_key}' needs exactly one compute: a new, existing or job cluster, or serverless."
        )
    if task.job_cluster_key and task.job_cluster_key not in shared:
        raise invalid(f"Job cluster '{task.job_cluster_key}' is not defined in field 'job_clusters'.")
    if task.environment_key and (task.environment_key not in environments or task.libraries):
        raise invalid(f"Environment '{task.environment_key}' is not defined, or the task has libraries too.")
    if task.new_cluster:
        clusters.check(raw["new_cluster"])
    wheel, file = task.python_wheel_task, task.spark_python_task
    if (wheel is None) == (file is None):
        raise invalid(f"Task '{task.task_key}': the emulator runs only a python_wheel_task or a spark_python_task.")
    if wheel and wheel.parameters and wheel.named_parameters:
        raise invalid(f"Task '{task.task_key}': parameters and named_parameters exclude each other.")


def _refuse_unknown(payload: Mapping[str, Any], kind: type[Task], what: str) -> None:
    if unknown := payload.keys() - {field.name for field in fields(kind)}:
        raise invalid(f"Unknown field of a {what}: {', '.join(sorted(unknown))}.")


def parameters(task: Task, value: Callable[[str], str | None]) -> list[str]:
    """Return the task's parameters with all `{{...}}` replaced. `value` returns None for an unknown reference."""
    wheel, file = task.python_wheel_task, task.spark_python_task
    texts = list((wheel and wheel.parameters) or (file and file.parameters) or [])
    if wheel and wheel.named_parameters:
        texts = [f"--{name}={text}" for name, text in wheel.named_parameters.items()]

    def replace(match: re.Match[str]) -> str:
        replacement = value(match[1])
        if replacement is None:
            raise invalid(f"Task '{task.task_key}': unknown reference {{{{{match[1]}}}}}.")
        return replacement

    return [_REFERENCE.sub(replace, text) for text in texts]
