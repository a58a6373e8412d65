"""A step that runs on Databricks, followed from this process to its end."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from ml_pipelines.config.schema import Step
from ml_pipelines.databricks import workspace
from ml_pipelines.databricks.job_payload import Submission
from ml_pipelines.databricks.outcome import Outcome, has_ended, outcome_of, output_of, state_of
from ml_pipelines.errors import Interrupted, PipelineError, StepFailed, one_line
from ml_pipelines.system import events
from ml_pipelines.tracking import records
from ml_pipelines.tracking.store import REMOTE, Store

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import Run

# All in seconds.
POLL_S = 4.0  # the longest pause between two requests, so that a change of state is shown within 5 s
LONGEST_S = 24 * 3600.0  # the time limit of a step that has no timeout_s
START_S = 3600.0  # added to the time limit, for the queue and the start of the cluster
LOST_S = 600.0  # after this time without an answer, this process gives up; the run on Databricks continues
CANCEL_S = 3.0  # the longest wait for the end of a cancelled run: driver.py must react to a signal within 5 s


class RemoteStep:
    """A step that runs on Databricks. This object waits for its end and logs the result to the step's MLflow run."""

    def __init__(self, store: Store, step: Step, run_id: str) -> None:
        self.lost: Exception | None = None  # set if this process lost contact; the step may still run
        self.store = store
        self.step = step
        self.run_id = run_id
        self._databricks_run = 0
        self._deadline = time.monotonic() + (step.timeout_s or LONGEST_S) + START_S
        self._stopped = threading.Event()
        self._following = threading.Lock()
        self._ended: Outcome | None = None

    def submit(self, submission: Submission) -> RemoteStep:
        """Submit the step and return this object.

        Raises:
            ConfigError: the workspace refuses the step.
            NoAnswer: the workspace does not answer.
        """
        try:
            return self.attach(submission.send())
        except (Interrupted, MlflowException):  # the run may exist: the same request returns its id for cancel()
            self._databricks_run = submission.send()
            self.cancel()
            raise

    def attach(self, databricks_run: int) -> RemoteStep:
        """Attach to an existing run on Databricks and return this object."""
        self._databricks_run = databricks_run
        self.store.set_tags(self.run_id, {REMOTE: str(databricks_run), "databricks.host": workspace.host()})
        return self

    def wait(self) -> bool:
        """Follow the run to its end and return whether the step succeeded.

        If the result is False and `lost` is set, this process lost contact and does not know how the step ended.
        """
        with self._following:
            if self._ended is None and self.lost is None:
                try:
                    self._ended = self._follow()
                except Exception as error:  # any error, because nobody else waits for this step: see `lost`
                    self.lost = error
            return self.get_status() == "FINISHED"

    def get_status(self) -> str:
        """Return RUNNING, FINISHED or FAILED."""
        return "RUNNING" if self._ended is None else "FAILED" if self._ended.exit_code else "FINISHED"

    def cancel(self) -> None:
        """Cancel the run on Databricks, wait a moment for its end, and report whether it has ended."""
        self._stopped.set()
        try:
            with workspace.explaining_errors(f"run {self._databricks_run}", "CAN MANAGE RUN"):
                workspace.client().jobs.cancel_run(self._databricks_run)
            until = time.monotonic() + CANCEL_S
            while not (ended := has_ended(self._get_run())) and time.monotonic() < until:
                time.sleep(0.3)
        except PipelineError as error:
            message = f"run {self._databricks_run} was not cancelled and may still be running on Databricks"
            self._report(f"{message}: {one_line(error)}")
        else:
            self._report(f"run {self._databricks_run} {'is cancelled' if ended else 'is being cancelled'}")

    def _follow(self) -> Outcome:
        """Poll the run until it has ended or has exceeded its time limit. Report each change of its state."""
        reported_state, started = "", time.monotonic()
        run = self._get_run_patiently()
        self._report(f"run {self._databricks_run} · {run.run_page_url}")
        self.store.set_tags(self.run_id, {"databricks.run_page": str(run.run_page_url)})
        while True:
            if (state := state_of(run)) != reported_state:
                self._report(state)
                reported_state = state
            if has_ended(run):
                return self._close(run)
            if time.monotonic() > self._deadline:
                self.cancel()
                return self._close(run)
            self._pause(0.5 + (time.monotonic() - started) / 10)
            run = self._get_run_patiently()

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(min(POLL_S, seconds)):
            time.sleep(0.5)

    def _get_run(self) -> Run:
        with workspace.explaining_errors(f"run {self._databricks_run}", "CAN VIEW"):
            run = workspace.client().jobs.get_run(self._databricks_run)
            if run.run_id != self._databricks_run or run.state is None:
                raise ValueError(f"it is about run {run.run_id}")
            return run

    def _get_run_patiently(self) -> Run:
        """Return the run. If the workspace does not answer, ask again for `LOST_S` seconds.

        Raises:
            NoAnswer: the workspace has not answered for `LOST_S` seconds, or until the step was cancelled.
        """
        started = time.monotonic()
        while True:
            try:
                return self._get_run()
            except workspace.NoAnswer as error:
                if time.monotonic() - started > LOST_S or self._stopped.is_set():
                    message = f"{error} Run {self._databricks_run} continues on Databricks."
                    raise workspace.NoAnswer(message) from error
                self._report(f"no answer from {workspace.host()}: asking again. Run {self._databricks_run} continues")
            self._pause(POLL_S)

    def _close(self, run: Run) -> Outcome:
        """Log the task's output to the step's MLflow run, and end that run with the step's status."""
        output = output_of(run)
        outcome = outcome_of(run, output.error)
        for name, text in (("databricks.log", output.logs), ("databricks_error.txt", output.error_trace)):
            if text:
                self.store.log_text(self.run_id, text, name)
        step_run = self.store.get_run(self.run_id)
        tags = {"databricks.result_state": outcome.result, "databricks.termination": outcome.code or "none"}
        if step_run.info.status == "FAILED" and "exit_code" in step_run.data.tags:  # the step has recorded the cause
            outcome = replace(outcome, exit_code=records.exit_code(step_run))
        elif not outcome.exit_code and step_run.info.status != "FINISHED":
            cause = "its task ended, but the step did not report a result"
            outcome = replace(outcome, exit_code=StepFailed.exit_code, cause=cause)
        if outcome.exit_code and step_run.info.status != "FAILED":
            tags |= {"exit_code": str(outcome.exit_code), "cause": outcome.cause}
            tags |= {"transient": "true"} if outcome.transient else {}
            self.store.close(self.run_id, "KILLED" if outcome.result == "CANCELED" else "FAILED", tags)
        else:
            self.store.set_tags(self.run_id, tags)
        return outcome

    def _report(self, text: str) -> None:
        events.report(events.StepOutput(self.step.name, text))
