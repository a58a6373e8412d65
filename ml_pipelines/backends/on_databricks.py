"""The code that the backends `databricks` and `databricks-jobs` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_pipelines.backends.common import ThisMachine
from ml_pipelines.config.compute import cluster_spec
from ml_pipelines.config.schema import Config, Step
from ml_pipelines.databricks import job_payload, preflight, projects
from ml_pipelines.databricks.remote import RemoteStep
from ml_pipelines.errors import PipelineError
from ml_pipelines.planning.backend import SubmittedStep
from ml_pipelines.system import processes
from ml_pipelines.tracking import records
from ml_pipelines.tracking.store import REMOTE, Store

if TYPE_CHECKING:
    from mlflow.entities import Run

SUBMITTING = "submitting"  # the value of the tag REMOTE until the id of the Databricks run is known


class OnDatabricks(ThisMachine):
    """The base class of `databricks` and `databricks-jobs`: each step runs on Databricks, on compute of its own."""

    reads_tables_elsewhere = True

    def stand_in(self) -> str | None:
        """Return `inline` if this process is on Databricks already, else None: this backend works."""
        return "inline" if processes.on_databricks() else None

    def config(self, config: Config, step: Step) -> dict[str, Any]:
        """Return the step's cluster spec."""
        return cluster_spec(config, step) or {}

    def lost(self, submitted: SubmittedStep) -> Exception | None:
        """Return the error that keeps this process from knowing how the step ended, or None."""
        return submitted.lost if isinstance(submitted, RemoteStep) else None

    def take_over(
        self, store: Store, config: Config, step: Step, inputs: Mapping[str, str], pipeline_run: str
    ) -> SubmittedStep | None:
        """Reattach to a step whose driver is gone, if it still runs on Databricks or succeeded a moment ago."""
        running = _left_running(store, step, pipeline_run)
        if running is None:
            return None
        run_id, remote = str(running.info.run_id), running.data.tags[REMOTE]
        if remote != SUBMITTING:
            return RemoteStep(store, step, run_id).attach(records.whole_number(running, REMOTE))
        # The driver was killed while it submitted the step. The same request returns the existing run, or starts one.
        submission = job_payload.submission_of(config, step, preflight.compute_of(config, step), inputs, run_id)
        return RemoteStep(store, step, run_id).submit(submission)

    def explain(self, error: Exception) -> PipelineError | None:
        """Return an error that says which permission is missing, or that DBFS is disabled; None for other errors."""
        return projects.explain_permission(error)


def _left_running(store: Store, step: Step, pipeline_run: str) -> Run | None:
    """Return the step's run in a pipeline run, if it still runs on Databricks or succeeded a moment ago."""
    runs = (run for run in store.children(pipeline_run) if run.data.tags.get("step") == step.name)
    going = ("RUNNING", "FINISHED")
    return next((run for run in runs if run.info.status in going and REMOTE in run.data.tags), None)
