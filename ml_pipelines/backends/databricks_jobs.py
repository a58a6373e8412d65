"""The backend `databricks-jobs`: each step is a one-time run of the wheel on Databricks, on compute of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from ml_pipelines.backends.on_databricks import SUBMITTING, OnDatabricks
from ml_pipelines.config.loading import load
from ml_pipelines.config.schema import NONE, Config, Step
from ml_pipelines.databricks import job_payload, preflight, specs
from ml_pipelines.databricks.remote import RemoteStep
from ml_pipelines.errors import ConfigError, Interrupted, PipelineError, StepFailed, one_line
from ml_pipelines.execution import standalone, step_run
from ml_pipelines.system.signals import raise_on_signals
from ml_pipelines.tracking import ending, opening
from ml_pipelines.tracking.store import REMOTE, Store

PROFILE = "dev"  # the default of `mlflow run -e <step>`, because a cluster can't read the tables of profile local


class JobsBackend(OnDatabricks):
    """Submits a step as a one-time run of the wheel, on the compute that the backend config describes."""

    name = "databricks-jobs"

    def check(self, config: Config, steps: Sequence[Step]) -> None:
        """Check the settings, the cluster specs and the workspace, and upload the wheel if the Volume lacks it."""
        preflight.check_workspace(config, steps, preflight.computes_of(config, steps))

    def describe(self, config: Config, steps: Sequence[Step], needs: Mapping[str, AbstractSet[str]]) -> list[str]:
        """Return the requests that would submit the steps, and the number of cluster starts."""
        return ["", job_payload.describe_submissions(config, steps, needs)]

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> RemoteStep:
        """Create the step's run below the active run, submit the step, and return at once.

        Without an active run, the caller is `mlflow run`. It waits only for MLflow's own backends, so this method waits
        for the end of the step instead.
        """
        import mlflow
        from mlflow.exceptions import ExecutionException

        parent = mlflow.active_run()
        if parent is not None:
            store = Store.inherited(tracking_uri)
            return _submit(store, entry_point, params or {}, backend_config, experiment_id, str(parent.info.run_id))
        raise_on_signals()
        try:
            submitted = _submit(None, entry_point, params or {}, backend_config, experiment_id, None)
            _wait_alone(submitted)
        except PipelineError as error:
            raise ExecutionException(ending.complaint(error)) from error
        return submitted


def _submit(
    store: Store | None,
    name: str,
    given: Mapping[str, str],
    backend_config: Mapping[str, Any],
    experiment: str,
    parent: str | None,
) -> RemoteStep:
    """Create the step's run below `parent` and submit the step. If `store` is None, open one and check the workspace.

    Raises:
        ConfigError, NoAnswer: the step can't be submitted. Its run, if it exists, is closed as FAILED.
    """
    given = {"profile": PROFILE, "set": NONE, **given}
    config = load(given["profile"], [given["set"]])
    if name == "main":
        raise ConfigError(
            "main is the whole pipeline, not a step. Run `python driver.py --profile dev` to submit each of its steps."
        )
    step = config.step(name)
    compute = specs.parse_compute(backend_config, f"the backend config of {name}")
    if store is None:
        store = opening.open_store(config)
        preflight.check_workspace(config, [step], [compute])
    inputs = step_run.find_inputs(store, step, given)
    run_id = store.create_step_run(experiment, name, parent)
    store.set_tags(run_id, {REMOTE: SUBMITTING})
    store.log_params(run_id, given | inputs)
    try:
        return RemoteStep(store, step, run_id).submit(job_payload.submission_of(config, step, compute, inputs, run_id))
    except (PipelineError, Interrupted) as error:
        status = "KILLED" if isinstance(error, Interrupted) else "FAILED"
        store.close(run_id, status, {"exit_code": str(error.exit_code), "cause": one_line(error)})
        raise


def _wait_alone(submitted: RemoteStep) -> None:
    """Wait for a step that is not part of a pipeline run, and report its outputs.

    Raises:
        StepFailed: the step failed, or the workspace stopped answering, so that the step's result is unknown.
        Interrupted: a signal stopped this process. Before that, this function cancels the step and closes its run.
    """
    began = time.monotonic()
    store = submitted.store
    try:
        submitted.wait()
    except Interrupted as error:
        submitted.cancel()
        store.close(submitted.run_id, "KILLED", {"cause": one_line(error)})
        raise
    if submitted.lost:
        raise StepFailed(one_line(submitted.lost))
    run = store.get_run(submitted.run_id)
    standalone.report_end(submitted.step, run, time.monotonic() - began)
    if submitted.get_status() != "FINISHED":
        raise StepFailed(run.data.tags["cause"])
