"""How a process finds and opens its MLflow store. Only `open_store` sets the variables that child processes inherit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ml_pipelines.errors import ConfigError, SecretGiven, message_of, one_line
from ml_pipelines.system import imports, paths, processes, signals
from ml_pipelines.tracking.store import Store, silence_database_errors

if TYPE_CHECKING:
    from ml_pipelines.config.schema import Config

# MLflow's own limits wait for seven minutes. With these, every request is retried after 0, 0, 4, 12, 28 and 60 seconds.
SERVER_BUDGET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
# The very first request: five tries of 6 seconds with pauses of 28 seconds. A dead server is noticed within a minute.
FIRST_BUDGET = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "6"}


def adopt_run() -> str | None:
    """Return the id of the run that `mlflow run` made for this process, and hide it from child processes."""
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    return os.environ.pop("MLFLOW_RUN_ID", None)


def store_uri(config: Config) -> str:
    """Return the store's absolute URI: MLFLOW_TRACKING_URI, or else the profile's, or else sqlite beside MLproject."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or config.mlflow.tracking_uri or paths.sqlite_uri()
    return paths.absolute_uri(uri)


def has_store(config: Config) -> bool:
    """Return whether the store exists and can be read without a workspace. This creates nothing."""
    uri = store_uri(config)
    return Path(uri.removeprefix("sqlite:///")).is_file() if uri.startswith("sqlite:") else uri.startswith("http")


def open_store(config: Config) -> Store:
    """Open the store of the configuration. MLflow's own functions and child processes use it from then on too.

    Raises:
        ConfigError: the store can't be opened.
    """
    import mlflow

    signals.keep_interruptible()
    silence_database_errors()
    uri = store_uri(config)
    mlflow.set_tracking_uri(uri)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    server = uri.startswith(("http", "databricks"))
    budget = {name: value for name, value in SERVER_BUDGET.items() if server and name not in os.environ}
    os.environ |= budget
    if not uri.startswith("databricks"):  # otherwise MLflow asks the Spark session, which may have ended
        os.environ.setdefault("MLFLOW_REGISTRY_URI", paths.absolute_uri(config.mlflow.registry_uri or uri))
    elif config.mlflow.registry_uri:
        os.environ.setdefault("MLFLOW_REGISTRY_URI", config.mlflow.registry_uri)
    store = Store(uri, os.environ.get("MLFLOW_REGISTRY_URI"))
    if store.is_databricks:  # a workspace has no experiment 0; the preflight checks ours
        return store
    if uri.startswith("sqlite:////"):
        paths.check_writable(str(Path(uri.removeprefix("sqlite:///")).parent), "The MLflow store")
    try:
        os.environ |= {name: value for name, value in FIRST_BUDGET.items() if name in budget}
        with processes.alone_at(uri), imports.without_garbage_collection():  # the first request imports SQLAlchemy
            store.client.get_experiment("0")
    except Exception as error:  # from MLflow, the database driver or the file system
        if "No Experiment with id" not in str(error):
            raise ConfigError(f"The MLflow store {uri} can't be opened: {message_of(error)}") from error
    finally:
        os.environ |= budget
    return store


def migrate() -> None:
    """Create or migrate the local store, so that the first pipeline run need not do it."""
    Store(os.environ.get("MLFLOW_TRACKING_URI") or paths.sqlite_uri()).client.search_experiments(max_results=1)


def complaint(error: BaseException) -> str:
    """Return the error as one line for a person. If it is a secret, delete the run in which `mlflow run` stored it."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not isinstance(error, SecretGiven) or run_id is None:
        return one_line(error)
    uri = paths.absolute_uri(os.environ.get("MLFLOW_TRACKING_URI") or paths.sqlite_uri())
    return one_line(error) + Store(uri).withdraw_secret(run_id)
