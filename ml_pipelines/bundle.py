"""The bundle's job, merged for a target as the Databricks CLI does it, and what its validation doesn't see.

Mappings are merged deeply, lists are joined, and then entries of the same key become one, the target's values winning
(docs.databricks.com/dev-tools/bundles/cluster-override and job-task-override; libs/dyn/merge of the CLI's source).
"""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import yaml

from ml_pipelines import paths
from ml_pipelines.errors import ConfigError

FILE, JOB = "databricks.yml", "ml_pipeline"
KEYS = {"tasks": "task_key", "job_clusters": "job_cluster_key", "parameters": "name", "environments": "environment_key"}

Job = Mapping[str, Any]


def problems() -> list[str]:
    """Return, for each target, what would fail when the job is deployed or run: `target: text`."""
    return [
        f"{FILE}, target {target}: {text}"
        for target in _read(FILE)["targets"]
        for rule in RULES
        for text in rule(job(target))
    ]


def job(target: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the job as it is deployed to a target; `given` are values of variables, as `--var` gives them.

    Raises:
        ConfigError: there is no such target, or a variable that isn't declared.
    """
    bundle = _read(FILE)
    if target not in bundle["targets"]:
        raise ConfigError(f"{FILE} has no target {target}: it has {', '.join(bundle['targets'])}.")
    chosen = bundle["targets"][target] or {}
    merged: Any = {"resources": bundle.get("resources")}
    included = sorted(path for pattern in bundle.get("include", []) for path in paths.root().glob(pattern))
    for layer in [*(_read(str(path.relative_to(paths.root()))) for path in included), chosen]:
        merged = _merged(merged, {"resources": layer.get("resources")})
    found = {key: _joined(value, KEYS.get(key)) for key, value in merged["resources"]["jobs"][JOB].items()}
    declared = {name: variable.get("default") for name, variable in bundle.get("variables", {}).items()}
    resolved = _resolved(found, {**declared, **chosen.get("variables", {}), **(given or {})})
    return dict(resolved)


def _read(name: str) -> Any:
    try:
        return yaml.safe_load((paths.root() / name).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{name} can't be read: {' '.join(str(error).split())}") from error


def _merged(base: Any, layer: Any) -> Any:
    if base is None or layer is None:
        return layer if base is None else base
    if isinstance(base, dict):
        return {**base, **{key: _merged(base.get(key), value) for key, value in layer.items()}}
    return [*base, *layer] if isinstance(base, list) else layer


def _joined(entries: Any, key: str | None) -> Any:
    if key is None:
        return entries
    found: dict[str, Any] = {}
    for entry in entries:
        found[entry[key]] = _merged(found.get(entry[key]), entry)
    return list(found.values())


def _resolved(value: Any, variables: Mapping[str, Any]) -> Any:
    """Return the value with each ${var.name} replaced; a variable alone keeps its type."""

    def of(match: re.Match[str]) -> Any:
        if match[1] not in variables:
            raise ConfigError(f"{FILE} declares no variable {match[1]}.")
        return variables[match[1]]

    if isinstance(value, dict):
        return {key: _resolved(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    pattern = r"\$\{var\.(\w+)\}"
    whole = re.fullmatch(pattern, value)
    return of(whole) if whole else re.sub(pattern, lambda match: str(of(match)), value)


# -- what `databricks bundle validate --strict` doesn't see


def _needs(job: Job) -> dict[str, list[str]]:
    return {task["task_key"]: [need["task_key"] for need in task.get("depends_on", [])] for task in job["tasks"]}


def _unknown_dependencies(job: Job) -> Iterator[str]:
    needs = _needs(job)
    for key, others in needs.items():
        yield from (f"task {key} depends on {other}, which is no task." for other in others if other not in needs)


def _cycles(job: Job) -> Iterator[str]:
    try:
        TopologicalSorter(_needs(job)).prepare()
    except CycleError as error:
        yield f"tasks {' -> '.join(error.args[1])} wait for each other. Take one of these depends_on out."


def _sizes(job: Job) -> Iterator[str]:
    inline = {f"task {task['task_key']}": task["new_cluster"] for task in job["tasks"] if "new_cluster" in task}
    shared = {f"cluster {item['job_cluster_key']}": item["new_cluster"] for item in job.get("job_clusters", [])}
    for name, spec in {**shared, **inline}.items():
        sizes = [size for size in ("num_workers", "autoscale") if size in spec]
        if len(sizes) == 2:
            yield f"{name} has both num_workers and autoscale. Keep one; the other may come from another file."
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
        if wheel.get("package_name") == project["name"] and wheel.get("entry_point") not in project["scripts"]:
            yield f"task {task['task_key']}: the wheel has no entry point {wheel.get('entry_point')} (pyproject.toml)."


def _clusters(job: Job) -> Iterator[str]:
    known = {
        "job_cluster_key": [item["job_cluster_key"] for item in job.get("job_clusters", [])],
        "environment_key": [item["environment_key"] for item in job.get("environments", [])],
    }
    for task in job["tasks"]:
        for kind, keys in known.items():
            if kind in task and task[kind] not in keys:
                had = ", ".join(keys) or "none"
                yield f"task {task['task_key']}: {kind} {task[kind]} is not there; the job has {had}."


def _types(job: Job) -> Iterator[str]:
    """Load the job with Databricks' own classes, where `make setup` has installed them: unknown keys, wrong types."""
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
