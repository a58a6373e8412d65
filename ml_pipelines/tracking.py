"""The MLflow store: opened once, its runs created, tagged, logged into and closed."""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_pipelines import imports, paths, processes, signals
from ml_pipelines.errors import ConfigError, StepFailed, Unreachable
from ml_pipelines.terminal import say

if TYPE_CHECKING:
    import polars as pl
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from ml_pipelines.config import Config

PARENT = "mlflow.parentRunId"
PROJECT_RUN = "pipeline_run"  # the parent's name
SHOWN_TABLES = "mlflow.loggedArtifacts"  # a JSON file that stands in it is shown as a table
# MLflow's own would wait for seven minutes. These are tries after 0, 0, 4, 12, 28 and 60 seconds, whoever asks.
SERVER_BUDGET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
# For the first request of all: 28 seconds between five tries of 6. A server that never answers is known in a minute.
FIRST_BUDGET = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "6"}


def connect(config: Config) -> str:
    """Point MLflow at the store, and return its URI.

    Raises:
        ConfigError: the store can't be opened.
    """
    import mlflow

    signals.keep_interruptible()
    keep_quiet()
    uri = store_uri(config)
    mlflow.set_tracking_uri(uri)
    os.environ["MLFLOW_TRACKING_URI"] = uri  # steps in other processes must find the same store
    server = uri.startswith(("http", "databricks"))
    budget = {name: value for name, value in SERVER_BUDGET.items() if server and name not in os.environ}
    os.environ |= budget
    if not uri.startswith("databricks"):  # else MLflow asks the Spark session for it, which may be gone
        os.environ.setdefault("MLFLOW_REGISTRY_URI", paths.absolute_uri(config.mlflow.registry_uri or uri))
    elif config.mlflow.registry_uri:
        os.environ.setdefault("MLFLOW_REGISTRY_URI", config.mlflow.registry_uri)
    if uri.startswith("databricks"):  # has no experiment 0; the preflight asks for ours
        return uri
    if uri.startswith("sqlite:////"):
        paths.check_writable(str(Path(uri.removeprefix("sqlite:///")).parent), "The MLflow store")
    try:
        os.environ |= {name: value for name, value in FIRST_BUDGET.items() if name in budget}
        with processes.alone_at(uri), imports.uncollected():  # the store's own, with SQLAlchemy
            client().get_experiment("0")
    except Exception as error:  # of MLflow, of the database's driver, of the file system
        if "No Experiment with id" not in str(error):
            raise ConfigError(
                f"The MLflow store {uri} can't be opened: {' '.join(str(error).split())[:200]}"
            ) from error
    finally:
        os.environ |= budget
    return uri


def failed(error: Exception) -> Unreachable:
    """Return what to say of a store that fails, and wait for it no more: it has been waited for."""
    import mlflow

    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    if isinstance(error, OSError) and (run := mlflow.active_run()):  # of a file: an artifact
        return Unreachable(f"Artifacts can't be written to {run.info.artifact_uri}: {_said(error)}")
    return Unreachable(f"The MLflow store {os.environ.get('MLFLOW_TRACKING_URI')} fails: {_said(error)}")


def keep_quiet() -> None:
    """Have MLflow print no traceback of a database: it raises as well, and whoever asked says it in a line."""
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    if database := re.search(r"\(\w+\.\w+Error\) ([^\[(]+)", text):  # SQLAlchemy's, around the database's own words
        return database[1].strip()
    return text if len(text) <= 200 else f"{text[:120]} ... {text[-70:]}"


def store_uri(config: Config) -> str:
    """Return the store's absolute URI: MLFLOW_TRACKING_URI, else the profile's, else sqlite beside MLproject."""
    given = os.environ.get("MLFLOW_TRACKING_URI") or config.mlflow.tracking_uri or paths.sqlite_uri()
    return paths.absolute_uri(given)


def migrate() -> None:
    """Create or migrate the local store, so that the first pipeline run doesn't have to."""
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or paths.sqlite_uri())
    client().search_experiments(max_results=1)


def client() -> MlflowClient:
    """Return a client of the store that `connect` chose."""
    import mlflow

    return mlflow.MlflowClient()


def experiment_id(name: str) -> str:
    """Return the id of the experiment, created where there is none.

    In a sqlite store its artifacts go beside the database: MLflow's default is the working directory's mlruns.
    """
    from mlflow.exceptions import MlflowException

    store = client()
    if found := store.get_experiment_by_name(name):
        return str(found.experiment_id)
    database = re.fullmatch(r"sqlite:///(/[^?]+).*", os.environ["MLFLOW_TRACKING_URI"])
    location = str(Path(database[1]).parent / "mlruns" / paths.slug(name)) if database else None
    try:
        return str(store.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if found := store.get_experiment_by_name(name):  # another pipeline was quicker, or it was deleted
            return str(found.experiment_id)
        raise ConfigError(f"Experiment {name} can't be created: {' '.join(str(error).split())[:200]}") from error


@cache
def provenance() -> Mapping[str, str]:
    """Return tags that say who ran which code in which process: git commit, whether the tree had changes, version."""
    tags = {
        "mlflow.source.type": "PROJECT",
        "mlflow.source.name": str(paths.checkout() or "ml-pipelines"),
        **processes.identity(),
    }
    with suppress(KeyError, OSError, ImportError):  # a user without a name, as in some containers
        tags["mlflow.user"] = getpass.getuser()
    try:
        tags["package_version"] = version("ml-pipelines")
    except PackageNotFoundError:  # unpacked, not installed
        tags["package_version"] = "unknown"
    if paths.checkout() and (commit := _git("rev-parse", "HEAD")):  # else the version names it
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain"))).lower()
    return tags


def commit_tags() -> dict[str, str]:
    """Return the git commit and whether the tree had changes, as tags of a registered model."""
    names = {"mlflow.source.git.commit": "git_commit", "git.dirty": "git_dirty"}
    return {names[tag]: value for tag, value in provenance().items() if tag in names}


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(paths.root()), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def reap(experiment: str) -> None:
    """Close the runs of the experiment that a killed process left RUNNING, and say so."""
    if left := processes.reap(client(), experiment):
        say(f"Marked KILLED, since their process is gone: runs {', '.join(run_id[:8] for run_id in left)}")


def withdraw() -> str:
    """Delete the run that `mlflow run` made for this process, since it holds a secret; return what to tell of it."""
    from mlflow.exceptions import MlflowException

    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id is None:
        return ""
    with suppress(MlflowException):  # an experiment that may not be changed; the secret must be in any case
        client().delete_run(run_id)
    return (
        f" MLflow had stored it: change the secret. Run {run_id} is deleted; `mlflow gc --run-ids {run_id}` erases it."
    )


def create_step_run(experiment: str, step: str, parent: str | None) -> str:
    """Create the run of a step below `parent` and return its id."""
    tags = {**provenance(), "mlflow.project.entryPoint": step, "step": step}
    if parent:
        tags[PARENT] = parent
    return str(client().create_run(experiment, run_name=step, tags=tags).info.run_id)


def parent_of(run: Run) -> str | None:
    """Return the id of the pipeline run above a step's run."""
    parent: str | None = run.data.tags.get(PARENT)
    return parent


def children(run_id: str) -> list[Run]:
    """Return the step runs below a pipeline run, the earliest first.

    Raises:
        ConfigError: there is no such run.
    """
    parent = get_run(run_id)
    found = client().search_runs(
        [parent.info.experiment_id], f"tags.`{PARENT}` = '{run_id}'", order_by=["attributes.start_time ASC"]
    )
    return list(found)


def close(run_id: str, status: str, tags: Mapping[str, str] | None = None) -> None:
    """Set the tags and end the run, with status FINISHED, FAILED or KILLED."""
    set_tags(run_id, tags or {})
    client().set_terminated(run_id, status)


def get_run(run_id: str) -> Run:
    """Return a run.

    Raises:
        ConfigError: there is none of this id.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client().get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ConfigError(f"There is no run {run_id} in {os.environ.get('MLFLOW_TRACKING_URI')}.") from error


def address(experiment: str, run_id: str) -> str | None:
    """Return the address of a run's page, where the store is a server; without a password that stands in its URI."""
    uri = re.sub(r"//[^/]*@", "//", os.environ["MLFLOW_TRACKING_URI"])
    if uri.startswith("databricks"):
        from ml_pipelines.databricks import workspace

        with suppress(ConfigError):  # a cluster's own sign-in may not say where it is
            return f"{workspace.host()}/ml/experiments/{experiment}/runs/{run_id}"
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}" if uri.startswith("http") else None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one level with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
        )
    return flat


def log_params(run_id: str, values: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
    """Log nested values as params with dotted names, and tags, in one batch."""
    from mlflow.entities import Param, RunTag

    params = [Param(name, str(value)) for name, value in flatten(values).items()]
    client().log_batch(run_id, params=params, tags=[RunTag(key, value) for key, value in (tags or {}).items()])


def log_metrics(run_id: str, metrics: Mapping[str, float]) -> None:
    """Log numbers in one batch."""
    from mlflow.entities import Metric
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()
    client().log_batch(run_id, metrics=[Metric(name, float(value), now, 0) for name, value in metrics.items()])


def log_table(run_id: str, frame: pl.DataFrame, name: str) -> None:
    """Log a table: `.json` in the form that MLflow's page shows as a table, `.parquet` for any size."""
    if name.endswith(".json"):
        store, shown = client(), {"path": name, "type": "table"}
        store.log_dict(run_id, {"columns": frame.columns, "data": [list(row) for row in frame.rows()]}, name)
        others = json.loads(get_run(run_id).data.tags.get(SHOWN_TABLES, "[]"))
        store.set_tag(run_id, SHOWN_TABLES, json.dumps([*(other for other in others if other != shown), shown]))
        return
    with tempfile.TemporaryDirectory() as folder:
        frame.write_parquet(Path(folder, name))
        client().log_artifact(run_id, str(Path(folder, name)))


def load_table(run_id: str, name: str) -> pl.DataFrame:
    """Return a table as `log_table` logged it.

    Raises:
        StepFailed: the artifact is gone or damaged.
    """
    import polars as pl
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(client().download_artifacts(run_id, name, folder))
            if name.endswith(".parquet"):
                return pl.read_parquet(path)
            content = json.loads(path.read_text(encoding="utf-8"))
            return pl.DataFrame(content["data"], schema=content["columns"], orient="row", infer_schema_length=None)
    except (MlflowException, pl.exceptions.PolarsError, OSError, ValueError, KeyError) as error:
        raise StepFailed(f"{name} of run {run_id} can't be read: {' '.join(str(error).split())[:200]}") from error


def resolved(config: Config, step: str | None = None) -> dict[str, Any]:
    """Return what config.json holds: the configuration of a run, of one step only where `step` names it.

    Taken before interpolation, so that a value from the environment (`${oc.env:...}`) is never in it.
    """
    whole: dict[str, Any] = {"profile": config.profile, **config.written}
    return whole if step is None else {**whole, "steps": {step: whole["steps"][step]}}


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags in one batch."""
    from mlflow.entities import RunTag

    client().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def has_store(config: Config) -> bool:
    """Return whether the store is one that looking into neither creates nor needs a workspace for."""
    uri = store_uri(config)
    return Path(uri.removeprefix("sqlite:///")).is_file() if uri.startswith("sqlite:") else uri.startswith("http")
