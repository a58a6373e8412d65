"""Finds and opens the MLflow store of a process.

`open_store` sets environment variables such as MLFLOW_TRACKING_URI, so that child processes use the same store.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ml_pipelines.errors import ConfigError, PipelineError, message_of
from ml_pipelines.system import events, imports, locks, paths, processes, shortage, signals
from ml_pipelines.text import credentials, hide
from ml_pipelines.tracking import relocation, schema
from ml_pipelines.tracking.store import Store, silence_database_errors

if TYPE_CHECKING:
    from ml_pipelines.config.schema import Config

# By default, MLflow waits seven minutes for a tracking server that doesn't answer. With these limits, it tries a
# request after 0, 0, 4, 12, 28 and 60 s.
SERVER_BUDGET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
# For the first request: five tries of 6 s, with pauses of 28 s in all. So a dead tracking server is noticed within a
# minute.
FIRST_BUDGET = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "6"}

adopted: list[str] = []  # the run that `mlflow run` made for this process, once `adopt_run` has returned it


def adopt_run(store: Store, entry_point: str) -> str | None:
    """Return the id of the run that `mlflow run` made for this process, or None if there is no such run.

    The id is in MLFLOW_RUN_ID. This function removes the variable, so that child processes don't use the run too. If a
    shell or a notebook left the variable behind, this function reports that the variable is ignored.

    Args:
        store: the store that has the run.
        entry_point: what this process runs: `main` or a step.

    Raises:
        Unreachable: the store fails.
    """
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    adopted.clear()
    if not run_id:
        return None
    if reason := why_not_ours(store, run_id, entry_point):
        events.report(events.Notice(f"MLFLOW_RUN_ID={run_id} is ignored: {reason}. Unset the variable."))
        return None
    adopted.append(run_id)
    return run_id


def why_not_ours(store: Store, run_id: str, entry_point: str | None = None) -> str:
    """Return why `mlflow run` can't have made this run for this process. Return an empty text if it can.

    Args:
        store: the store to look into.
        run_id: the run.
        entry_point: the entry point that this process runs. None means any.

    Raises:
        Unreachable: the store fails.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise store.failed(error) from error
        return f"the store {store.uri} has no such run"
    tags = run.data.tags
    if run.info.lifecycle_stage != "active":
        return "the run is deleted"
    if run.info.status != "RUNNING":
        return f"the run is {run.info.status}"
    if tags.get("mlflow.source.type") != "PROJECT" or "mlflow.project.entryPoint" not in tags:
        return "`mlflow run` didn't make the run"
    if entry_point is not None and tags["mlflow.project.entryPoint"] != entry_point:
        return f"the run is for the entry point {tags['mlflow.project.entryPoint']}, not for {entry_point}"
    process = tags.get(processes.PROCESS)  # in a step's run: the process of driver.py if driver.py created the run
    is_ours = not process or process in processes.process_tag().values() or processes.is_driver(process)
    if not is_ours or store.children(run_id):
        return "another process uses the run"
    return ""


def store_uri(config: Config) -> str:
    """Return the store's absolute URI: MLFLOW_TRACKING_URI, else the profile's, else a sqlite file beside MLproject."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or config.mlflow.tracking_uri or paths.sqlite_uri()
    return paths.absolute_uri(_on_cluster(uri))


def registry_uri(config: Config) -> str:
    """Return the URI of the model registry: MLFLOW_REGISTRY_URI, or else the profile's URI, or else the store's own.

    A store that is a Databricks workspace has Unity Catalog (`databricks-uc`) as its own registry.
    """
    given = os.environ.get("MLFLOW_REGISTRY_URI") or config.mlflow.registry_uri
    store = store_uri(config)
    own = store.replace("databricks", "databricks-uc", 1) if store.startswith("databricks") else store
    return paths.absolute_uri(_on_cluster(given)) if given else own


def _on_cluster(uri: str) -> str:
    """Return the URI. On a cluster, remove the sign-in profile from it: the cluster is signed in without one."""
    return uri.partition("://")[0] if processes.on_databricks() and uri.startswith("databricks") else uri


def has_store(config: Config) -> bool:
    """Return whether the store is an existing sqlite file or a tracking server. This function creates no store."""
    uri = store_uri(config)
    return paths.sqlite_file(uri).is_file() if uri.startswith("sqlite:") else uri.startswith("http")


def open_store(config: Config, may_migrate: bool = True) -> Store:
    """Open the store of the configuration. From then on, MLflow's functions and child processes use it too.

    Args:
        config: the configuration.
        may_migrate: true: copy a sqlite store of an older MLflow, then migrate it. False: refuse such a store.

    Raises:
        ConfigError: the store can't be opened, its schema is not the installed MLflow's, or its paths lead to another
            project.
        StepFailed: another process keeps the store locked, or this machine is short of disk space, files or threads.
    """
    import mlflow

    signals.keep_interruptible()
    silence_database_errors()
    uri = store_uri(config)
    hide(credentials(uri))
    mlflow.set_tracking_uri(uri)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    server = uri.startswith(("http", "databricks"))
    budget = {name: value for name, value in SERVER_BUDGET.items() if server and name not in os.environ}
    os.environ |= budget
    os.environ["MLFLOW_REGISTRY_URI"] = registry_uri(config)  # if unset, MLflow asks the Spark session for the URI
    store = Store(uri, os.environ.get("MLFLOW_REGISTRY_URI"))
    if store.is_databricks:  # a workspace has no experiment 0, which is read below; preflight.py checks the workspace
        return store
    if uri.startswith("sqlite:////"):
        paths.check_writable(str(paths.sqlite_file(uri).parent), "The MLflow store")
    try:
        os.environ |= {name: value for name, value in FIRST_BUDGET.items() if name in budget}
        # The first request imports SQLAlchemy, which is faster without garbage collection.
        with locks.alone_at(uri), imports.many_at_once():
            relocation.check_places(uri)
            schema.prepare(uri, may_migrate)
            _limit_tries(uri)
            store.client.get_experiment("0")
    except PipelineError:  # the store stays locked, or another version of MLflow wrote its schema
        raise
    except Exception as error:  # MLflow, the database driver or the file system can raise any error
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":  # a store without experiment 0 works too
            refused = ConfigError(f"The MLflow store {uri} can't be opened: {message_of(error)}")
            full = f"The MLflow store {uri} can't be opened: the disk is full"
            raise shortage.explain(error, full, str(paths.sqlite_file(uri).parent)) or refused from error
    finally:
        os.environ |= budget
    return store


def _limit_tries(uri: str) -> None:
    """Make MLflow give up after one second if it can't open a sqlite file. By default, it tries for 100 seconds."""
    if uri.startswith("sqlite:"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 3


def migrate() -> None:
    """Create or migrate the local store, so that the first pipeline run need not do it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or paths.sqlite_uri()
    schema.prepare(uri, may_migrate=True)
    Store(uri).client.search_experiments(max_results=1)
