"""The names of the backends and the class behind each name. docs/development.md shows how to add a backend."""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from pathlib import Path

from ml_pipelines.errors import ConfigError
from ml_pipelines.planning.backend import Backend
from ml_pipelines.system import processes
from ml_pipelines.text import did_you_mean, quoted

# Name of a backend in conf/ and for --backend -> `module:class` below ml_pipelines.backends.
BACKENDS = {
    "inline": "inline:InlineBackend",
    "forkserver": "forked:ForkServerBackend",
    "local": "local:LocalBackend",
    "databricks-jobs": "databricks_jobs:JobsBackend",
    "databricks": "databricks:DatabricksBackend",
}
MLFLOWS_OWN = {"local", "databricks"}  # MLflow implements these itself, so we don't register them


def choose(name: str) -> Backend:
    """Return the backend of this name, or the backend that replaces it on this machine.

    Raises:
        ConfigError: no backend has this name.
    """
    if name not in BACKENDS:
        near = did_you_mean(name, BACKENDS)
        raise ConfigError(f"There is no backend {quoted(name)}.{near} Set backend to one of: {', '.join(BACKENDS)}.")
    module, _, kind = BACKENDS[name].partition(":")
    backend: Backend = getattr(importlib.import_module(f"ml_pipelines.backends.{module}"), kind)()
    other = backend.stand_in()
    return choose(other) if other else backend


def entry_points() -> dict[str, str]:
    """Return name -> `module:class` for our own backends. pyproject.toml declares these entry points for MLflow."""
    ours = ((name, place) for name, place in BACKENDS.items() if name not in MLFLOWS_OWN)
    return {name: f"ml_pipelines.backends.{place}" for name, place in ours}


def register_backends() -> None:
    """Register our backends with MLflow, even if the wheel is not installed.

    Also make MLflow's backend `local` use this Python.
    """
    from mlflow.projects.backend import loader

    os.environ[processes.DRIVER] = str(os.getpid())  # a step of `local` ends when the process with this id ends
    scripts = str(Path(sys.executable).parent)  # the folder of the `python` and `mlflow` that `local` starts
    if not os.environ.get("PATH", "").startswith(scripts):
        os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    for name in BACKENDS.keys() - MLFLOWS_OWN:
        loader.MLFLOW_BACKENDS.setdefault(name, partial(choose, name))
