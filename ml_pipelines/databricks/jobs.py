"""The backend `databricks-jobs`: each step a one-time run of the wheel, on compute of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import ExecutionException
from mlflow.projects.backend.abstract_backend import AbstractBackend

from ml_pipelines import alone, execution, tracking
from ml_pipelines.config import NONE, Config, Step, load
from ml_pipelines.databricks import preflight, specs, submissions
from ml_pipelines.databricks.remote import REMOTE, RemoteRun
from ml_pipelines.errors import ConfigError, Interrupted, PipelineError, StepFailed, one_line
from ml_pipelines.signals import raise_on_signals

if TYPE_CHECKING:
    from mlflow.entities import Run

SUBMITTING = "submitting"  # the tag's value until the run's id is known
PROFILE = "dev"  # of `mlflow run -e <step>` without -P profile=...: local's tables are not to be had there


class JobsBackend(AbstractBackend):  # type: ignore[misc]
    """Run the step there, as a one-time run of the wheel on the cluster that the backend config describes."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> RemoteRun:
        """Create the step's run below the active one, submit the step, and return at once.

        Without an active one this is `mlflow run`, which waits for MLflow's own backends only: so this does.
        """
        import mlflow

        parent = mlflow.active_run()
        if parent is not None:
            return _begin(entry_point, params or {}, backend_config, experiment_id, str(parent.info.run_id))
        raise_on_signals()
        try:
            submitted = _begin(entry_point, params or {}, backend_config, experiment_id, None)
            _wait_alone(submitted)
        except PipelineError as error:
            raise ExecutionException(one_line(error)) from error
        return submitted


def _begin(
    key: str, given: Mapping[str, str], backend_config: Mapping[str, Any], experiment: str, parent: str | None
) -> RemoteRun:
    """Create the step's run below `parent`, and submit the step.

    Raises:
        ConfigError, Away: it can't be submitted; its run is FAILED then.
    """
    given = {"profile": PROFILE, "set": NONE, **given}
    config = load(given["profile"], [given["set"]])
    if key == "main":
        raise ConfigError("main is no step: python driver.py --profile dev runs it here, and each step on its compute.")
    step = config.step(key)
    compute = specs.read(backend_config, f"the backend config of {key}")
    if parent is None:  # nobody has looked before
        tracking.connect(config)
        preflight.check(config, [compute])
    inputs = execution.find_inputs(step, given)
    run_id = tracking.create_step_run(experiment, key, parent)
    tracking.set_tags(run_id, {REMOTE: SUBMITTING})
    tracking.log_params(run_id, given | inputs)
    try:
        return RemoteRun(step, run_id).submit(submissions.of(config, step, compute, inputs, run_id))
    except (PipelineError, Interrupted) as error:
        status = "KILLED" if isinstance(error, Interrupted) else "FAILED"
        tracking.close(run_id, status, {"exit_code": str(error.exit_code), "cause": one_line(error)})
        raise


def _wait_alone(submitted: RemoteRun) -> None:
    """Wait for a step that has no pipeline run to speak for it, and say what it hands on.

    Raises:
        Away: nobody knows how it ended.
        ConfigError, BadData, StepFailed: how it failed.
    """
    began = time.monotonic()
    try:
        submitted.wait()
    except Interrupted as error:
        submitted.cancel()
        tracking.close(submitted.run_id, "KILLED", {"cause": one_line(error)})
        raise
    if submitted.lost:
        raise StepFailed(one_line(submitted.lost))
    run = tracking.get_run(submitted.run_id)
    alone.tell(submitted.step, run, time.monotonic() - began)
    if submitted.get_status() != "FINISHED":
        raise StepFailed(run.data.tags["cause"])


def followed(step: Step, submitted: Any) -> RemoteRun:
    """Return a run that MLflow's own backend has submitted as one that is followed as ours are."""
    return RemoteRun(step, str(submitted.run_id)).attach(int(submitted._databricks_run_id))


def left_going(pipeline_run: str, step: Step) -> Run | None:
    """Return the step's run below a pipeline run that goes on there, its driver being gone, or has just ended well."""
    runs = (run for run in tracking.children(pipeline_run) if run.data.tags.get("step") == step.key)
    going = ("RUNNING", "FINISHED")
    return next((run for run in runs if run.info.status in going and REMOTE in run.data.tags), None)


def reattach(config: Config, step: Step, inputs: Mapping[str, str], run: Run) -> RemoteRun:
    """Follow a step that goes on there; submit it where its driver came no further than that.

    By its token a submission that did get through is answered with the run that there is.
    """
    run_id, remote = str(run.info.run_id), run.data.tags[REMOTE]
    if remote != SUBMITTING:
        return RemoteRun(step, run_id).attach(int(remote))
    return RemoteRun(step, run_id).submit(submissions.of(config, step, preflight.read(config, step), inputs, run_id))
