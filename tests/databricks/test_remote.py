"""A step on Databricks, followed from this process: what it records when something goes wrong there."""

from typing import Any

import pytest
from answering import answering, by_path
from conftest import Store

from ml_pipelines.config.loading import load
from ml_pipelines.databricks import remote
from ml_pipelines.errors import Interrupted

DONE = {
    "runs/get": {"run_id": 7, "state": {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"}},
    "runs/cancel": {},
    "runs/get-output": {"logs": "what the task printed"},
}


def new_step(store: Store) -> remote.RemoteStep:
    run_id = store.opened.create_step_run("0", "train", None)
    return remote.RemoteStep(store.opened, load("dev", []).step("train"), run_id)


def test_a_task_that_ends_without_a_result_of_its_step_is_a_failure(store: Store) -> None:
    with answering(by_path(DONE)):
        step = new_step(store).attach(7)
        assert (step.wait(), step.get_status(), step.lost) == (False, "FAILED", None)
    run = store.client.get_run(step.run_id)
    assert (run.info.status, run.data.tags["exit_code"]) == ("FAILED", "4")
    assert run.data.tags["cause"] == "its task ended, but the step did not report a result"
    assert "databricks.log" in store.artifacts(run)


def test_a_step_that_finished_keeps_its_result(store: Store) -> None:
    with answering(by_path(DONE)):
        step = new_step(store).attach(7)
        store.client.set_terminated(step.run_id, "FINISHED")
        assert (step.wait(), step.get_status()) == (True, "FINISHED")


class Submitting:
    """A submission whose first request is interrupted, although it has reached the workspace."""

    def __init__(self) -> None:
        self.sent = 0

    def send(self) -> int:
        self.sent += 1
        if self.sent == 1:
            raise Interrupted(2)
        return 7


def test_a_signal_during_the_submission_cancels_the_run_that_it_may_have_started(store: Store) -> None:
    submission: Any = Submitting()
    with answering(by_path(DONE)) as stand, pytest.raises(Interrupted):
        new_step(store).submit(submission)
    assert submission.sent == 2 and "POST /api/2.2/jobs/runs/cancel" in stand.requests
