"""A step's run there, followed from here to its end."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException
from mlflow.projects import SubmittedRun

from ml_pipelines import tracking
from ml_pipelines.config import Step
from ml_pipelines.databricks import outcome, workspace
from ml_pipelines.databricks.outcome import Outcome
from ml_pipelines.databricks.submissions import Submission
from ml_pipelines.errors import Interrupted, PipelineError, StepFailed, one_line
from ml_pipelines.terminal import say

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import Run

REMOTE = "databricks.run_id"  # the tag of a step's run: the Databricks run that it stands for
POLL_S = 4.0  # at most between two looks: a change is seen within 5 s
LONGEST_S = 24 * 3600.0  # a step without a time limit
START_S = 3600.0  # beyond a step's time limit, for a queue and a cluster's start
LOST_S = 600.0  # without an answer of the workspace, before this process gives up; the run there goes on
CANCEL_S = 3.0  # to see a cancelled run end: driver.py answers a signal within 5 s


class RemoteRun(SubmittedRun):  # type: ignore[misc]
    """A step that runs there: followed here, so that what it says, and how it ended, stands in its MLflow run."""

    def __init__(self, step: Step, run_id: str) -> None:
        self.lost: Exception | None = None  # why nobody here knows how it ended: it may go on there
        self.step = step
        self._run_id = run_id
        self._remote = 0
        self._deadline = time.monotonic() + (step.timeout_s or LONGEST_S) + START_S
        self._stopped = threading.Event()
        self._following = threading.Lock()
        self._ended: Outcome | None = None

    @property
    def run_id(self) -> str:
        """The step's MLflow run."""
        return self._run_id

    def submit(self, submission: Submission) -> RemoteRun:
        """Submit the step, and return itself.

        Raises:
            ConfigError: the workspace refuses it.
            Away: no answer.
        """
        try:
            return self.attach(submission.send())
        except (Interrupted, MlflowException):  # it may have got through: by its token the same run is answered
            self._remote = submission.send()
            self.cancel()
            raise

    def attach(self, remote: int) -> RemoteRun:
        """Take on a run that is there, and return itself."""
        self._remote = remote
        tracking.set_tags(self._run_id, {REMOTE: str(remote), "databricks.host": workspace.host()})
        return self

    def wait(self) -> bool:
        """Follow the run to its end; return whether the step succeeded. False with `lost`: nobody knows."""
        with self._following:
            if self._ended is None and self.lost is None:
                try:
                    self._ended = self._follow()
                except (PipelineError, MlflowException, OSError) as error:  # no answer, or the store's
                    self.lost = error
            return self.get_status() == "FINISHED"

    def get_status(self) -> str:
        """Return RUNNING, FINISHED or FAILED."""
        return "RUNNING" if self._ended is None else "FAILED" if self._ended.exit_code else "FINISHED"

    def cancel(self) -> None:
        """Stop the run there, wait a moment to see it end, and say so, or that it could not be stopped."""
        self._stopped.set()
        try:
            with workspace.asking(f"run {self._remote}", "CAN MANAGE RUN"):
                workspace.client().jobs.cancel_run(self._remote)
            until = time.monotonic() + CANCEL_S
            while not (ended := outcome.ended(self._look())) and time.monotonic() < until:
                time.sleep(0.3)
        except PipelineError as error:
            self._say(f"run {self._remote} was not cancelled, and may go on there: {one_line(error)}")
        else:
            self._say(f"run {self._remote} {'is cancelled' if ended else 'is being cancelled'}")

    def _follow(self) -> Outcome:
        """Look at the run until it has ended, or its time is over; say each change."""
        seen, began = "", time.monotonic()
        run = self._look_patiently()
        self._say(f"run {self._remote} · {run.run_page_url}")
        tracking.set_tags(self._run_id, {"databricks.run_page": str(run.run_page_url)})
        while True:
            if (state := outcome.state(run)) != seen:
                self._say(state)
                seen = state
            if outcome.ended(run):
                return self._close(run)
            if time.monotonic() > self._deadline:
                self.cancel()
                return self._close(run)
            self._pause(0.5 + (time.monotonic() - began) / 10)
            run = self._look_patiently()

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(min(POLL_S, seconds)):
            time.sleep(0.5)

    def _look(self) -> Run:
        with workspace.asking(f"run {self._remote}", "CAN VIEW"):
            return workspace.client().jobs.get_run(self._remote)

    def _look_patiently(self) -> Run:
        """Look, for as long as `LOST_S` where the workspace doesn't answer.

        Raises:
            Away: it has not answered.
        """
        since = time.monotonic()
        while True:
            try:
                return self._look()
            except workspace.Away as error:
                if time.monotonic() - since > LOST_S or self._stopped.is_set():
                    raise workspace.Away(f"{error} Run {self._remote} goes on there.") from error
                self._say(f"no answer from {workspace.host()}; run {self._remote} goes on, and is looked for again")
            self._pause(POLL_S)

    def _close(self, run: Run) -> Outcome:
        """Bring back what the task wrote, and let the step's MLflow run end as the step did."""
        written = outcome.output(run)
        found = outcome.of(run, written.error)
        for name, text in (("databricks.log", written.logs), ("databricks_error.txt", written.error_trace)):
            if text:
                tracking.client().log_text(self._run_id, text, name)
        mine = tracking.get_run(self._run_id)
        tags = {"databricks.result_state": found.result, "databricks.termination": found.code or "none"}
        if mine.info.status == "FAILED" and "exit_code" in mine.data.tags:  # the step itself has said why
            found = replace(found, exit_code=int(mine.data.tags["exit_code"]))
        elif not found.exit_code and mine.info.status != "FINISHED":
            found = replace(found, exit_code=StepFailed.exit_code, cause="its task ended without a word of the step")
        if found.exit_code and mine.info.status != "FAILED":
            tags |= {"exit_code": str(found.exit_code), "cause": found.cause}
            tags |= {"transient": "true"} if found.passing else {}
            tracking.close(self._run_id, "KILLED" if found.result == "CANCELED" else "FAILED", tags)
        else:
            tracking.set_tags(self._run_id, tags)
        return found

    def _say(self, text: str) -> None:
        say(f"    {self.step.key} | {text}")
