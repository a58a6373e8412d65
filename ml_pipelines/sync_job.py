"""The bundle's job, kept in step: its tasks with depends_on and entry points, and the cluster specs of the targets.

A person's timeouts, retries, parameters, choice of cluster, and tasks of their own stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from ml_pipelines import graph, paths, plan
from ml_pipelines.bundle import JOB
from ml_pipelines.config import LOCAL, SCRIPTS, Config, load

PACKAGE, CLOSE, CLOSE_SCRIPT = "ml-pipelines", "close_pipeline", "close-pipeline"
PLACES = ("job_cluster_key", "environment_key", "existing_cluster_id", "new_cluster")  # where a task may run


def job(document: Any, config: Config) -> set[str]:
    """Bring the job's tasks in step with the steps, and return the shared clusters that they use."""
    tasks = document["resources"]["jobs"][JOB]["tasks"]
    gone = [task for task in tasks if _is_of_a_step(task) and task["task_key"] not in config.steps]
    for task in gone:
        tasks.remove(task)
    clusters = _clusters(config)
    needs = graph.upstream(plan.nodes(config))
    ours = {*config.steps, CLOSE, *(task["task_key"] for task in gone)}
    for key, step in config.steps.items():
        task = _task(tasks, key, clusters[key])
        _set(task["python_wheel_task"], "entry_point", step.script)
        _depend(task, [other for other in config.steps if other in needs[key]], ours)
    last = _task(tasks, CLOSE, [*clusters.values()][-1])
    _set(last["python_wheel_task"], "entry_point", CLOSE_SCRIPT)
    _set(last, "run_if", "ALL_DONE")
    _depend(last, list(config.steps), ours)
    _report(last["python_wheel_task"], config.steps)
    return {task["job_cluster_key"] for task in tasks if "job_cluster_key" in task}


def _is_of_a_step(task: Mapping[str, Any]) -> bool:
    wheel = task.get("python_wheel_task", {})
    return wheel.get("package_name") == PACKAGE and wheel.get("entry_point") not in SCRIPTS


def _task(tasks: Any, key: str, cluster: str) -> Any:
    """Return the task of this key; a new one takes its parameters and libraries from the first, and the last stays."""
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


def _depend(task: Any, needs: list[str], ours: set[str]) -> None:
    """Let the task depend on these of our tasks, and on those of a person's own that it depends on already."""
    present = [item["task_key"] for item in task.get("depends_on", [])]
    others = [key for key in present if key not in ours]
    if sorted(present) == sorted([*needs, *others]):
        return
    if needs or others:
        task.pop("depends_on", None)
        task.insert(1, "depends_on", [{"task_key": key} for key in [*needs, *others]])
    else:
        del task["depends_on"]


def _report(wheel: Any, steps: Iterable[str]) -> None:
    """Let the last task be told how each of the others ended."""
    states = [f"--state={key}={{{{tasks.{key}.result_state}}}}" for key in steps]
    others = [text for text in wheel["parameters"] if not text.startswith("--state=")]
    if list(wheel["parameters"]) != [*others, *states]:
        wheel["parameters"] = [*others, *states]


def _clusters(config: Config) -> dict[str, str]:
    """Return step -> its cluster: shared with steps of the same compute, unless they can run beside it."""
    needs = graph.upstream(plan.nodes(config))
    found: dict[str, str] = {}
    for key in graph.order(plan.nodes(config)):
        compute = config.steps[key].compute
        beside = {found[other] for other in found if other not in graph.closure(key, needs)}
        names = (compute if number == 1 else f"{compute}_{number}" for number in count(1))
        found[key] = next(name for name in names if name not in beside)
    return found


def targets(document: Any, used: set[str]) -> None:
    """Bring each target's clusters in step with the specs of its profile: those that are used, no others of ours."""
    for target in document["targets"].values():
        computes = load(target["variables"]["pipeline"]).compute
        target_job = target["resources"]["jobs"][JOB]
        clusters = target_job.setdefault("job_clusters", [])
        for item in [item for item in clusters if _compute(item["job_cluster_key"], computes)]:
            if item["job_cluster_key"] not in used:
                clusters.remove(item)
        for key in sorted(used):
            if compute := _compute(key, computes):
                _cluster(clusters, key, json.loads((paths.root() / computes[compute]).read_text(encoding="utf-8")))


def _compute(cluster: str, computes: Mapping[str, str]) -> str | None:
    """Return the compute whose spec the cluster has: its name, or that without a number."""
    names = (cluster, re.sub(r"_\d+$", "", cluster))
    return next((name for name in names if computes.get(name, LOCAL) != LOCAL), None)


def _cluster(clusters: Any, key: str, spec: Mapping[str, Any]) -> None:
    for item in clusters:
        if item["job_cluster_key"] == key:
            if item["new_cluster"] != spec:
                item["new_cluster"] = dict(spec)
            return
    clusters.append({"job_cluster_key": key, "new_cluster": dict(spec)})
