"""An MLflow store: create, tag, read and close its runs, and log to them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_pipelines.errors import ConfigError, StepFailed, Unreachable, message_of
from ml_pipelines.system import events, paths, processes, shortage
from ml_pipelines.text import credentials, escaped, hide, redacted, without_secrets
from ml_pipelines.tracking import provenance, records

if TYPE_CHECKING:
    import polars as pl
    from mlflow import MlflowClient
    from mlflow.entities import Run

OUTPUT = "output."  # the beginning of the tags with a step's outputs
PARENT = "mlflow.parentRunId"
PROJECT_RUN = "pipeline_run"  # the name of the parent run of the pipeline `train`
PIPELINE = "pipeline"  # tag of a parent run: its pipeline, train or score
SHOWN_TABLES = "mlflow.loggedArtifacts"  # MLflow's page shows the JSON files in this tag as tables
REMOTE = "databricks.run_id"  # tag of a step's run on Databricks, where the step goes on even if driver.py ends
# The longest texts that MLflow stores: it cuts or refuses longer ones.
NAME_LENGTH, TAG_LENGTH, PARAM_LENGTH, INPUT_TAG_LENGTH = 250, 8_000, 6_000, 500
NOT_JSON = (ValueError, TypeError, RecursionError)  # the errors of reading a file that is not the expected JSON
GONE = "its process is gone: killed, or its machine went down"


@dataclass(frozen=True)
class Store:
    """A tracking store and its model registry. driver.py opens it with `opening.open_store`; its steps inherit it."""

    uri: str
    registry_uri: str | None = None  # None: MLflow's default for this store

    @staticmethod
    def inherited(uri: str = "") -> Store:
        """Return the store that the parent process has opened, and make MLflow's own functions use it.

        Args:
            uri: the URI of the store. If it is empty, MLFLOW_TRACKING_URI is used.
        """
        import mlflow

        silence_database_errors()
        hide(credentials(uri or os.environ["MLFLOW_TRACKING_URI"]))
        store = Store(uri or os.environ["MLFLOW_TRACKING_URI"], os.environ.get("MLFLOW_REGISTRY_URI"))
        mlflow.set_tracking_uri(store.uri)
        return store

    @property
    def client(self) -> MlflowClient:
        """MLflow's client of this store."""
        import mlflow

        return mlflow.MlflowClient(self.uri, self.registry_uri)

    @property
    def models_uri(self) -> str:
        """The URI of the registry."""
        return self.registry_uri or self.uri

    @property
    def is_sqlite(self) -> bool:
        """Whether the store is a sqlite file."""
        return self.uri.startswith("sqlite")

    @property
    def is_databricks(self) -> bool:
        """Whether the store is a Databricks workspace."""
        return self.uri.startswith("databricks")

    def failed(self, error: Exception) -> StepFailed:
        """Return the error that the caller should raise instead of `error`, which MLflow or the file system raised.

        MLflow has retried the request already, so this function turns off retries for all later requests.
        """
        import mlflow

        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        if self.is_sqlite and (moved := self._moved_database(error)):
            return StepFailed(
                f"The MLflow store {moved} was removed, moved or replaced during the run, so no result can be "
                "recorded. Put it back, or start again."
            )
        if isinstance(error, OSError) and (run := mlflow.active_run()):  # writing an artifact failed
            place = str(run.info.artifact_uri)
            told = f"Can't write artifacts to {place}: {_cause(error)}"
        else:
            place = str(paths.sqlite_file(self.uri).parent) if self.is_sqlite else ""
            told = f"The MLflow store {self.uri} fails: {_cause(error)}"
        return shortage.explain(error, told, place) or Unreachable(told)

    def _moved_database(self, error: Exception) -> Path | None:
        """Return the path of the sqlite file if it is no longer the file that this process opened, else None."""
        database = paths.sqlite_file(self.uri)
        said = "readonly database" in str(error)  # SQLite's words for a file that was moved
        return database if not database.is_file() or (said and os.access(database, os.W_OK)) else None

    # -- experiments

    def find_experiment(self, name: str) -> str | None:
        """Return the id of the experiment, or None if it does not exist.

        Raises:
            ConfigError: the experiment is deleted.
        """
        experiment = self.client.get_experiment_by_name(name)
        if experiment and experiment.lifecycle_stage == "deleted":
            raise ConfigError(
                f"Experiment {name} is deleted. Restore it "
                f"(`mlflow experiments restore --experiment-id {experiment.experiment_id}`), "
                "or set experiment_name to another name."
            )
        return str(experiment.experiment_id) if experiment else None

    def existing_experiment(self, name: str) -> str:
        """Return the id of the experiment.

        Raises:
            ConfigError: the experiment does not exist, or is deleted.
        """
        if experiment := self.find_experiment(name):
            return experiment
        raise ConfigError(f"The store {self.uri} has no experiment {name}. Run the pipeline once, or choose a profile.")

    def experiment_id(self, name: str) -> str:
        """Return the id of the experiment, and create the experiment if it does not exist.

        If the store is a sqlite file, a new experiment has its artifacts in the folder `mlruns` beside the file. By
        default, MLflow would use the working directory.

        Raises:
            ConfigError: the experiment is deleted, or can't be created.
        """
        from mlflow.exceptions import MlflowException

        if experiment := self.find_experiment(name):
            return experiment
        database = re.fullmatch(r"sqlite:///(/[^?]+).*", self.uri)
        location = str(Path(database[1]).parent / "mlruns" / paths.slug(name)) if database else None
        try:
            return str(self.client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if experiment := self.find_experiment(name):  # another pipeline created it first
                return experiment
            raise ConfigError(f"Experiment {name} can't be created: {message_of(error)}") from error

    def experiment_name(self, experiment: str) -> str:
        """Return the name of an experiment, given its id."""
        return str(self.client.get_experiment(experiment).name)

    # -- runs

    def create_step_run(self, experiment: str, step: str, parent: str | None) -> str:
        """Create the run of a step as a child of the run `parent`, if there is one, and return its id."""
        tags = {**provenance.provenance_tags(), "mlflow.project.entryPoint": step, "step": step}
        if parent:
            tags[PARENT] = parent
        return str(self.client.create_run(experiment, run_name=step, tags=tags).info.run_id)

    def get_run(self, run_id: str) -> Run:
        """Return the run with this id.

        Raises:
            ConfigError: the store has no run with this id.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            # These codes mean that the run doesn't exist, or that `run_id` can't be a run's id.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise ConfigError(f"The store {self.uri} has no run {run_id}.") from error

    def children(self, run_id: str) -> list[Run]:
        """Return the step runs below a pipeline run, the earliest first.

        Raises:
            ConfigError: the store has no run with this id.
        """
        experiment = self.get_run(run_id).info.experiment_id
        query = f"tags.`{PARENT}` = '{run_id}'"
        return list(self.client.search_runs([experiment], query, order_by=["attributes.start_time ASC"]))

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        self.log(run_id, tags=tags)

    def close(self, run_id: str, status: str, tags: Mapping[str, str] | None = None) -> None:
        """Set the tags and end the run with status FINISHED, FAILED or KILLED."""
        self.set_tags(run_id, tags or {})
        self.client.set_terminated(run_id, status)

    def reap(self, experiment: str) -> None:
        """Mark RUNNING runs as KILLED if their process is gone, and report their ids."""
        running = list(self.client.search_runs([experiment], "attributes.status = 'RUNNING'"))
        dead = {run.info.run_id for run in running if processes.is_gone(run.data.tags.get(processes.PROCESS, ""))}
        # A step's run can have no tag `process` yet: MLflow creates the run before our code tags it. Then its parent
        # decides.
        for run in running:
            if processes.PROCESS not in run.data.tags and parent_of(run) in dead:
                dead.add(run.info.run_id)
        open_runs = [run.info.run_id for run in running if run.info.run_id in dead and REMOTE not in run.data.tags]
        # Read the status again: after the search, a process can have closed its run and ended.
        open_runs = [run_id for run_id in open_runs if self.client.get_run(run_id).info.status == "RUNNING"]
        for run_id in open_runs:
            self.client.set_tag(run_id, "cause", GONE)
            self.client.set_terminated(run_id, "KILLED")
        if open_runs:
            ids = ", ".join(run_id[:8] for run_id in open_runs)
            events.report(events.Notice(f"Marked as KILLED runs whose process is gone: {ids}"))

    def close_own(self, experiment: str, cause: str) -> None:
        """Mark the RUNNING runs of this process as KILLED.

        This function searches the store by the tag `process`. So it also finds a run whose id this process doesn't know
        yet, because MLflow has created the run, but has not returned the id.
        """
        if tag := processes.process_tag():
            query = f"attributes.status = 'RUNNING' and tags.{processes.PROCESS} = '{tag[processes.PROCESS]}'"
            for run in self.client.search_runs([experiment], query):
                self.client.set_tag(run.info.run_id, "cause", cause)
                self.client.set_terminated(run.info.run_id, "KILLED")

    # -- params, metrics and tables of runs

    def log_params(self, run_id: str, values: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
        """Log nested values as params with dotted names, together with tags."""
        self.log(run_id, params={name: str(value) for name, value in flatten(values).items()}, tags=tags or {})

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Log metrics of a run."""
        self.log(run_id, metrics=metrics)

    def log(
        self,
        run_id: str,
        *,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log metrics, params and tags. MLflow splits large requests.

        Texts that are too long are shortened. In tags for people, control characters are escaped. Tags with outputs of
        steps are values for other steps, so they are not escaped.
        """
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        numbers = [Metric(entity_name(name), float(value), now, 0) for name, value in (metrics or {}).items()]
        texts = [
            Param(entity_name(name), shortened(redacted(value), PARAM_LENGTH)) for name, value in (params or {}).items()
        ]
        labels = [
            RunTag(
                entity_name(name),
                shortened(value if name.startswith(OUTPUT) else escaped(value, keep="\n"), TAG_LENGTH),
            )
            for name, value in (tags or {}).items()
        ]
        self.client.log_batch(run_id, numbers, texts, labels)

    def log_table(self, run_id: str, frame: pl.DataFrame, name: str) -> None:
        """Log a table: a small one as `.json`, which MLflow's page shows as a table, or any size as `.parquet`."""
        if name.endswith(".json"):
            entry = {"path": name, "type": "table"}
            content = {"columns": frame.columns, "data": [list(row) for row in frame.rows()]}
            self.log_json(run_id, content, name)
            others = records.parse_json(self.get_run(run_id).data.tags.get(SHOWN_TABLES, "[]"))
            others = others if isinstance(others, list) else []
            entries = json.dumps([*(other for other in others if other != entry), entry])
            if len(entries) <= TAG_LENGTH:  # if the tag would be too long, the page doesn't list the table
                self.client.set_tag(run_id, SHOWN_TABLES, entries)
            return
        with tempfile.TemporaryDirectory() as folder:
            frame.write_parquet(Path(folder, name))
            self.client.log_artifact(run_id, str(Path(folder, name)))

    def log_json(self, run_id: str, content: Any, name: str) -> None:
        """Log an artifact as JSON, without secrets."""
        self.client.log_dict(run_id, without_secrets(content), name)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Log an artifact as text, without secrets."""
        self.client.log_text(run_id, redacted(text), name)

    def load_table(self, run_id: str, name: str) -> pl.DataFrame:
        """Return a table that `log_table` logged.

        Raises:
            StepFailed: the artifact is missing or damaged.
        """
        import polars as pl
        from mlflow.exceptions import MlflowException

        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(self.client.download_artifacts(run_id, name, folder))
                if name.endswith(".parquet"):
                    return pl.read_parquet(path)
                content = json.loads(path.read_text(encoding="utf-8"))
                return pl.DataFrame(content["data"], schema=content["columns"], orient="row", infer_schema_length=None)
        except (MlflowException, pl.exceptions.PolarsError, OSError, LookupError, *NOT_JSON) as error:
            raise StepFailed(f"{name} of run {run_id} can't be read: {message_of(error)}") from error

    def artifact_digest(self, run_id: str, name: str) -> str | None:
        """Return the SHA-256 of an artifact of a run, or None if it is missing or can't be read."""
        from mlflow.exceptions import MlflowException

        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(self.client.download_artifacts(run_id, name, folder))
                return hashlib.sha256(path.read_bytes()).hexdigest()
        except (MlflowException, OSError):
            return None

    def load_json(self, run_id: str, name: str) -> Any:
        """Return a JSON artifact of a run, or None if it is missing or can't be read."""
        from mlflow.exceptions import MlflowException

        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(self.client.download_artifacts(run_id, name, folder))
                return records.parse_json(path.read_text(encoding="utf-8"))
        except (MlflowException, OSError, ValueError):
            return None

    def withdraw_secret(self, run_id: str) -> str:
        """Delete the run that `mlflow run` made with a secret in its params, and return what a person must do next."""
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):  # without permission to delete the run, still tell the person about the secret
            self.client.delete_run(run_id)
        erase = (
            "Databricks erases it after 30 days" if self.is_databricks else f"`mlflow gc --run-ids {run_id}` erases it"
        )
        return f" MLflow had stored the secret: change it. Run {run_id} is deleted; {erase}."


def parent_of(run: Run) -> str | None:
    """Return the id of the parent run of a step's run, which is its pipeline run, or None if it has no parent."""
    parent: str | None = run.data.tags.get(PARENT)
    return parent


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one level with dotted names: {"a": {"b": 1}} becomes {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
        )
    return flat


def entity_name(name: str) -> str:
    """Return the name of a metric, param or tag as MLflow accepts it.

    A character that MLflow refuses becomes `_`. MLflow also refuses the vowel signs of many scripts, since Python's
    `\\w` does not match them. A changed name ends in a digest of the whole name, so that two names stay different.
    """
    plain = re.sub(r"[^/\w.\- :]", "_", name)
    if posixpath.normpath(plain) != plain or plain == "." or plain.startswith(("..", "/")):  # MLflow refuses paths
        plain = re.sub(r"[./]", "_", plain)
    return name if plain == name and len(name) <= NAME_LENGTH else _with_digest(plain, name, NAME_LENGTH)


def shortened(text: str, length: int) -> str:
    """Return the text with at most `length` characters; a cut text ends in a digest of the whole text."""
    return text if len(text) <= length else _with_digest(text, text, length)


def _with_digest(text: str, whole: str, length: int) -> str:
    end = f"... {hashlib.sha256(whole.encode(errors='surrogatepass')).hexdigest()[:10]}"
    return text[: length - len(end)] + end


def silence_database_errors() -> None:
    """Stop MLflow from logging tracebacks of database errors. MLflow also raises the errors; callers report them."""
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _cause(error: Exception) -> str:
    text = message_of(error, None)
    if database := re.search(r"\(\w+\.\w+Error\) ([^\[(]+)", text):  # the part that the database wrote
        return database[1].strip()
    return text if len(text) <= 200 else f"{text[:120]} ... {text[-70:]}"
