"""Updates the bundle's job: its tasks, their depends_on and entry points, and the cluster specs of the targets.

Timeouts, retries, parameters, the choice of a cluster, and tasks that a person added are not changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from ml_pipelines.bundle.merge import JOBS, normalised
from ml_pipelines.config import graph
from ml_pipelines.config.loading import load
from ml_pipelines.config.rules import SCRIPTS
from ml_pipelines.config.schema import LOCAL, Config, Pipeline
from ml_pipelines.planning import plan
from ml_pipelines.system import paths

PACKAGE, CLOSE, CLOSE_SCRIPT = "ml_pipelines", "close_pipeline", "close-pipeline"
PLACES = ("job_cluster_key", "environment_key", "existing_cluster_id", "new_cluster")  # keys that say where a task runs


def sync_tasks(document: Any, config: Config) -> set[str]:
    """Update the tasks of the pipeline's job from its steps. Return the keys of the job clusters that the tasks use."""
    tasks = document["resources"]["jobs"][JOBS[config.pipeline]]["tasks"]
    steps = config.pipeline_steps
    obsolete = [task for task in tasks if _is_step_task(task) and task["task_key"] not in steps]
    for task in obsolete:
        tasks.remove(task)
    clusters = _clusters(config)
    needs = graph.upstream(plan.graph_of(config))
    ours = {*steps, CLOSE, *(task["task_key"] for task in obsolete)}
    for name, step in steps.items():
        task = _task(tasks, name, clusters[name])
        _set(task["python_wheel_task"], "entry_point", step.script)
        _set_dependencies(task, [other for other in steps if other in needs[name]], ours)
    last = _task(tasks, CLOSE, [*clusters.values()][-1])
    _set(last["python_wheel_task"], "entry_point", CLOSE_SCRIPT)
    _set(last, "run_if", "ALL_DONE")
    _set_dependencies(last, list(steps), ours)
    _set_states(last["python_wheel_task"], steps)
    return {task["job_cluster_key"] for task in tasks if "job_cluster_key" in task}


def _is_step_task(task: Mapping[str, Any]) -> bool:
    wheel = task.get("python_wheel_task", {})
    return normalised(wheel.get("package_name")) == normalised(PACKAGE) and wheel.get("entry_point") not in SCRIPTS


def _task(tasks: Any, key: str, cluster: str) -> Any:
    """Return the task with this key.

    If the job has no such task, add it before the task close_pipeline, with the parameters of the first task.
    """
    keys = [task["task_key"] for task in tasks]
    if key in keys:
        return tasks[keys.index(key)]
    from ruamel.yaml.comments import CommentedMap

    first = tasks[0]
    place = next((name for name in PLACES if name in first), PLACES[0])
    wheel = CommentedMap(package_name=PACKAGE, entry_point="", parameters=first["python_wheel_task"]["parameters"])
    task = CommentedMap(
        {"task_key": key, place: cluster if place == PLACES[0] else first[place], "timeout_seconds": 3600}
    )
    task["python_wheel_task"] = wheel
    if "libraries" in first:
        task["libraries"] = first["libraries"]
    tasks.insert(keys.index(CLOSE) if CLOSE in keys else len(keys), task)
    return task


def _set(parent: Any, key: str, value: Any) -> None:
    if parent.get(key) != value:
        parent[key] = value


def _set_dependencies(task: Any, needs: list[str], ours: set[str]) -> None:
    """Make the task depend on the tasks `needs`. Dependencies on tasks that a person added stay."""
    present = [item["task_key"] for item in task.get("depends_on", [])]
    others = [key for key in present if key not in ours]
    if sorted(present) == sorted([*needs, *others]):
        return
    if needs or others:
        task.pop("depends_on", None)
        task.insert(1, "depends_on", [{"task_key": key} for key in [*needs, *others]])
    else:
        del task["depends_on"]


def _set_states(wheel: Any, steps: Iterable[str]) -> None:
    """Set the parameters that tell the last task the result state of each step's task."""
    states = [f"--state={step}={{{{tasks.{step}.result_state}}}}" for step in steps]
    others = [text for text in wheel["parameters"] if not text.startswith("--state=")]
    if list(wheel["parameters"]) != [*others, *states]:
        wheel["parameters"] = [*others, *states]


def _clusters(config: Config) -> dict[str, str]:
    """Return step -> its cluster. Steps with the same compute share a cluster unless they can run in parallel."""
    needs = graph.upstream(plan.graph_of(config))
    clusters: dict[str, str] = {}
    for step in graph.step_order(plan.graph_of(config)):
        compute = config.steps[step].compute
        parallel = {clusters[other] for other in clusters if other not in graph.closure(step, needs)}
        names = (compute if number == 1 else f"{compute}_{number}" for number in count(1))
        clusters[step] = next(name for name in names if name not in parallel)
    return clusters


def sync_clusters(document: Any, used: Mapping[Pipeline, set[str]]) -> None:
    """Update the clusters of each target from the cluster specs of its profile.

    A cluster that is named after a compute is removed if no task uses it. Other clusters stay as they are. `used` has
    the keys of the clusters that the tasks of each pipeline's job use.
    """
    for target in document["targets"].values():
        computes = load(target["variables"]["pipeline"]).compute
        for pipeline, keys in used.items():
            job = target["resources"]["jobs"][JOBS[pipeline]]
            _sync_clusters(job.setdefault("job_clusters", []), keys, computes)


def _sync_clusters(clusters: Any, used: set[str], computes: Mapping[str, str]) -> None:
    for item in [item for item in clusters if _compute(item["job_cluster_key"], computes)]:
        if item["job_cluster_key"] not in used:
            clusters.remove(item)
    for key in sorted(used):
        if compute := _compute(key, computes):
            _cluster(clusters, key, json.loads((paths.root() / computes[compute]).read_text(encoding="utf-8")))


def _compute(cluster: str, computes: Mapping[str, str]) -> str | None:
    """Return the compute in a cluster's key: single_node for single_node_2, or None if the key has no compute."""
    names = (cluster, re.sub(r"_\d+$", "", cluster))
    return next((name for name in names if computes.get(name, LOCAL) != LOCAL), None)


def _cluster(clusters: Any, key: str, spec: Mapping[str, Any]) -> None:
    for item in clusters:
        if item["job_cluster_key"] == key:
            if item["new_cluster"] != spec:
                _update_cluster(item["new_cluster"], spec)
            return
    clusters.append({"job_cluster_key": key, "new_cluster": dict(spec)})


def _update_cluster(present: Any, spec: Mapping[str, Any]) -> None:
    """Make the cluster equal to the spec. Parts that don't change keep their comments.

    ruamel stores the comments and blank lines below a block with the block's last value. So this moves them from the
    old last value to the new one.
    """
    parent, key = _last_value(present)
    below = parent.ca.items.pop(key, None)
    _update(present, spec)
    parent, key = _last_value(present)
    if below:
        parent.ca.items[key] = below


def _update(present: Any, spec: Mapping[str, Any]) -> None:
    for key in [key for key in present if key not in spec]:
        del present[key]
    for position, (key, value) in enumerate(spec.items()):
        if key not in present:
            present.insert(position, key, _with_comments(value))
        elif isinstance(value, Mapping) and isinstance(present[key], Mapping):
            _update(present[key], value)
        elif present[key] != value:
            present[key] = _with_comments(value)


def _with_comments(value: Any) -> Any:
    """Return mappings as a type that can have comments. Lists are written in one line, so they need no comments."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, Mapping):
        return CommentedMap((key, _with_comments(item)) for key, item in value.items())
    if isinstance(value, list):
        items = CommentedSeq(_with_comments(item) for item in value)
        items.fa.set_flow_style()
        return items
    return value


def _last_value(block: Any) -> tuple[Any, str]:
    """Return where the last value of nested mappings is: the innermost mapping, and the key of the value."""
    key = list(block)[-1]
    value = block[key]
    return _last_value(value) if isinstance(value, Mapping) and value else (block, key)
