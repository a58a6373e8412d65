"""Rules for the bundle's job: mistakes that `databricks bundle validate --strict` doesn't report."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from ml_pipelines.bundle import merge
from ml_pipelines.system import paths

Job = Mapping[str, Any]


def job_problems() -> list[str]:
    """Return one line for each mistake that would make a deployment or a run of the job fail, in any target.

    Variables that the user must give to the Databricks CLI stay `${var.name}` in the checked job.
    """
    problems = []
    for target in merge.bundle_targets():
        variables = {name: f"${{var.{name}}}" for name in merge.required_variables(target)}
        for pipeline, name in merge.JOBS.items():
            job = merge.bundle_job(target, variables, pipeline)
            where = f"{merge.FILE}, target {target}, job {name}"
            problems += [f"{where}: {text}" for rule in RULES for text in rule(job)]
    return problems


def _needs(job: Job) -> dict[str, list[str]]:
    return {task["task_key"]: [need["task_key"] for need in task.get("depends_on", [])] for task in job["tasks"]}


def _unknown_dependencies(job: Job) -> Iterator[str]:
    needs = _needs(job)
    for key, others in needs.items():
        yield from (f"task {key} depends on {other}, which is not a task." for other in others if other not in needs)


def _cycles(job: Job) -> Iterator[str]:
    try:
        TopologicalSorter(_needs(job)).prepare()
    except CycleError as error:
        yield f"tasks {' -> '.join(error.args[1])} wait for each other. Remove one of their depends_on."


def _sizes(job: Job) -> Iterator[str]:
    inline = {f"task {task['task_key']}": task["new_cluster"] for task in job["tasks"] if "new_cluster" in task}
    shared = {f"cluster {item['job_cluster_key']}": item["new_cluster"] for item in job.get("job_clusters", [])}
    for name, spec in {**shared, **inline}.items():
        sizes = [size for size in ("num_workers", "autoscale") if size in spec]
        if len(sizes) == 2:
            yield f"{name} has both num_workers and autoscale. Keep one. The other may come from another file."
        elif not sizes and not spec.get("is_single_node"):
            yield f"{name} has no size. Add num_workers, or autoscale with min_workers and max_workers."


def _parameters_twice(job: Job) -> Iterator[str]:
    for task in job["tasks"]:
        if {"parameters", "named_parameters"} <= task.get("python_wheel_task", {}).keys():
            yield f"task {task['task_key']} has both parameters and named_parameters. Keep one."


def _entry_points(job: Job) -> Iterator[str]:
    project = tomllib.loads((paths.root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for task in job["tasks"]:
        wheel = task.get("python_wheel_task", {})
        ours = merge.normalised(wheel.get("package_name")) == merge.normalised(project["name"])
        if ours and wheel.get("entry_point") not in project["scripts"]:
            yield f"task {task['task_key']}: the wheel has no entry point {wheel.get('entry_point')} (pyproject.toml)."


def _clusters(job: Job) -> Iterator[str]:
    known = {
        "job_cluster_key": [item["job_cluster_key"] for item in job.get("job_clusters", [])],
        "environment_key": [item["environment_key"] for item in job.get("environments", [])],
    }
    for task in job["tasks"]:
        for kind, keys in known.items():
            if kind in task and task[kind] not in keys:
                existing = ", ".join(keys) or "none"
                yield f"task {task['task_key']}: {kind} {task[kind]} doesn't exist. The job has: {existing}."


def _types(job: Job) -> Iterator[str]:
    """Yield unknown keys and wrong types, if databricks-bundles is installed (`make setup` installs it)."""
    if importlib.util.find_spec("databricks.bundles"):
        from databricks.bundles import jobs

        try:
            jobs.Job.from_dict(job)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            yield f"databricks-bundles can't load the job: {error}"


RULES: tuple[Callable[[Job], Iterable[str]], ...] = (
    _unknown_dependencies,
    _cycles,
    _sizes,
    _parameters_twice,
    _entry_points,
    _clusters,
    _types,
)
