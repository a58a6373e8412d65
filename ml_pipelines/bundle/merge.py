"""Computes the job that a target of the bundle deploys, with the merge rules of the Databricks CLI.

Mappings are merged deeply, and lists are joined. Then list entries with the same key become one entry, in which the
target's values win (docs.databricks.com/dev-tools/bundles: cluster-override, job-task-override; libs/dyn/merge in the
CLI's source).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from ml_pipelines.config.schema import Pipeline
from ml_pipelines.errors import ConfigError, message_of
from ml_pipelines.system import paths

FILE = "databricks.yml"
JOBS = {Pipeline.train: "ml_pipeline", Pipeline.score: "ml_scoring"}  # each is in resources/<job>.job.yml
KEYS = {"tasks": "task_key", "job_clusters": "job_cluster_key", "parameters": "name", "environments": "environment_key"}


def bundle_targets() -> list[str]:
    """Return the names of the bundle's targets."""
    return list(_read(FILE)["targets"])


def required_variables(target: str) -> list[str]:
    """Return the variables that have no value in a target. The user must give the values to the Databricks CLI."""
    bundle = _read(FILE)
    return [name for name in _declared(bundle) if name not in _values(bundle, bundle["targets"][target] or {})]


def bundle_job(
    target: str, variables: Mapping[str, Any] | None = None, pipeline: Pipeline = Pipeline.train
) -> dict[str, Any]:
    """Return a pipeline's job as the Databricks CLI deploys it to a target. `variables` has values as `--var` has them.

    Raises:
        ConfigError: the target doesn't exist, or the job uses a variable that isn't declared or has no value.
    """
    bundle = _read(FILE)
    if target not in bundle["targets"]:
        raise ConfigError(f"{FILE} has no target {target}. Use one of: {', '.join(bundle['targets'])}.")
    chosen = bundle["targets"][target] or {}
    merged: Any = {"resources": bundle.get("resources")}
    included = sorted(path for pattern in bundle.get("include", []) for path in paths.root().glob(pattern))
    for layer in [*(_read(str(path.relative_to(paths.root()))) for path in included), chosen]:
        merged = _merged(merged, {"resources": layer.get("resources")})
    job = {key: _joined(value, KEYS.get(key)) for key, value in merged["resources"]["jobs"][JOBS[pipeline]].items()}
    values = {**_values(bundle, chosen), **(variables or {})}

    def value(name: str) -> Any:
        if name not in _declared(bundle):
            raise ConfigError(f"{FILE}: the variable {name} is not declared. Add it to `variables`.")
        if name not in values:
            raise ConfigError(
                f"{FILE}, target {target}: the variable {name} has no value. Add --var {name}=VALUE to the command, "
                "or set it in the target's `variables`."
            )
        return values[name]

    return dict(_resolved(job, value))


def _declared(bundle: Any) -> dict[str, Any]:
    return {name: variable or {} for name, variable in (bundle.get("variables") or {}).items()}


def _values(bundle: Any, target: Any) -> dict[str, Any]:
    """Return variable -> its value in a target, or its default. A variable without a value is left out."""
    defaults = {name: variable.get("default") for name, variable in _declared(bundle).items()}
    values = {**defaults, **(target.get("variables") or {})}
    return {name: value for name, value in values.items() if value is not None}


def normalised(package: str | None) -> str:
    """Return a package's name in the form that installers compare (PEP 503): ml_pipelines becomes ml-pipelines."""
    return re.sub(r"[-_.]+", "-", package or "").lower()


def _read(name: str) -> Any:
    try:
        return yaml.safe_load((paths.root() / name).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{name} can't be read: {message_of(error, None)}") from error


def _merged(base: Any, layer: Any) -> Any:
    if base is None or layer is None:
        return layer if base is None else base
    if isinstance(base, dict):
        return {**base, **{key: _merged(base.get(key), value) for key, value in layer.items()}}
    return [*base, *layer] if isinstance(base, list) else layer


def _joined(entries: Any, key: str | None) -> Any:
    if key is None:
        return entries
    by_key: dict[str, Any] = {}
    for entry in entries:
        by_key[entry[key]] = _merged(by_key.get(entry[key]), entry)
    return list(by_key.values())


def _resolved(value: Any, value_of: Callable[[str], Any]) -> Any:
    """Return the value with each ${var.name} replaced. A text that is one variable gets the variable's type too."""
    if isinstance(value, dict):
        return {key: _resolved(item, value_of) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, value_of) for item in value]
    if not isinstance(value, str):
        return value
    pattern = r"\$\{var\.(\w+)\}"
    whole = re.fullmatch(pattern, value)
    return value_of(whole[1]) if whole else re.sub(pattern, lambda match: str(value_of(match[1])), value)
