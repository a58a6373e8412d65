"""One pipeline run for all tasks of a job run. Each task finds or creates the pipeline run; the last task closes it.

A tag of the pipeline run has the job run's id, which stays the same when the job run is repaired. If two tasks start
at once, each can create a pipeline run. Then the earlier one counts, and the steps of the later one move to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_pipelines.config.schema import Config
from ml_pipelines.errors import QaRefused, StepFailed
from ml_pipelines.system import events
from ml_pipelines.system.events import StepEnded
from ml_pipelines.tracking import records, run_page
from ml_pipelines.tracking.store import PARENT, Store

if TYPE_CHECKING:
    from mlflow.entities import Run

JOB_RUN = "job_run_id"  # the tag with the id of the job run
BACKEND = "job"
# Tags that say how a pipeline run ended. When a repaired job run ends, the tags that are no longer true are deleted.
END_TAGS = {"cause", "failed_step", *run_page.VERDICT}
# Result states of a task, as Databricks' dynamic references spell them. NOT_RUN has the beginnings of two states.
SUCCESS, CANCELED = "success", "canceled"
NOT_RUN = ("upstream_", "excluded")


@dataclass(frozen=True)
class End:
    """How a step ended; `state` is done, failed or skipped."""

    state: str
    text: str
    code: int = 0
    canceled: bool = False


def open_pipeline_run(store: Store, config: Config, job_run_id: str) -> str:
    """Return the id of the job run's pipeline run. Create this run if it does not exist; reopen it if it has ended."""
    run = _pipeline_runs(store, config, job_run_id)[0]
    if run.info.status != "RUNNING":
        store.client.update_run(run.info.run_id, "RUNNING")
    return str(run.info.run_id)


def _pipeline_runs(store: Store, config: Config, job_run_id: str) -> list[Run]:
    """Return the pipeline runs of the job run, the oldest first. All step runs become children of the oldest."""
    experiment = store.experiment_id(config.experiment_name)

    def search() -> list[Run]:
        runs = store.client.search_runs([experiment], f"tags.{JOB_RUN} = '{job_run_id}'")
        return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    if not search():
        tags = {JOB_RUN: job_run_id}
        created = store.client.create_run(experiment, run_name=config.pipeline.run_name, tags=tags)
        run_page.describe_pipeline_run(store, str(created.info.run_id), config, BACKEND)
    first, *others = search()
    for other in others:
        for child in store.children(other.info.run_id):
            store.set_tags(child.info.run_id, {PARENT: first.info.run_id})
    return [first, *others]


def close_pipeline_run(store: Store, config: Config, job_run_id: str, states: Mapping[str, str]) -> tuple[int, str]:
    """End the pipeline run with the status that follows from its steps, and report how each step ended.

    Return the exit code of the pipeline run, and the cause of the first failure.

    Args:
        store: the store that has the pipeline run.
        config: the configuration of the tasks.
        job_run_id: the id of the job run, whose other tasks have all ended.
        states: step -> the result state of its task. If a step is missing, the status of its newest run counts.
    """
    first, *others = _pipeline_runs(store, config, job_run_id)
    for other in others:
        store.client.delete_run(other.info.run_id)
    runs = {
        run.data.tags.get("step"): run for run in (_ended(store, run) for run in store.children(first.info.run_id))
    }  # the newest run of each step
    ends = {name: _end(runs.get(name), states.get(name)) for name in config.pipeline_steps}
    failed = {name: end for name, end in ends.items() if end.state == "failed"}
    finished = all(end.state == "done" for end in ends.values())
    code = min((end.code for end in failed.values()), default=0 if finished else StepFailed.exit_code)
    step_events = [
        StepEnded(
            config.steps[name].step_name, end.state, run_page.duration_s(runs[name]) if name in runs else None, end.text
        )
        for name, end in ends.items()
    ]
    tags = {
        "exit_code": str(code),
        "mlflow.note.content": run_page.description_of(config, BACKEND, map(str, step_events)),
    }
    for name, run in runs.items():
        run_page.log_headline(store, first.info.run_id, config.step(str(name)), run)
        tags |= run_page.verdict_tags(run)
    tags |= {"failed_step": next(iter(failed))} if failed else {}
    tags |= {"verdict": "refused"} if code == QaRefused.exit_code else {}
    for tag in END_TAGS & first.data.tags.keys() - tags.keys():
        store.client.delete_tag(first.info.run_id, tag)
    stopped = failed and all(end.canceled for end in failed.values())
    store.close(first.info.run_id, "FINISHED" if finished else "KILLED" if stopped else "FAILED", tags)
    for event in step_events:
        events.report(event)
    causes = (f"{config.steps[name].step_name}: {end.text}" for name, end in failed.items())
    return code, next(causes, "no step was run")


def _ended(store: Store, run: Run) -> Run:
    """Return a step's run. Close the run first if the step's process was killed before closing it."""
    if run.info.status == "RUNNING":
        tags = {"cause": "its task ended without reporting a result", "exit_code": str(StepFailed.exit_code)}
        store.close(run.info.run_id, "KILLED", tags)
    return store.get_run(run.info.run_id)


def _end(run: Run | None, state: str | None) -> End:
    """Return how a step ended, according to its newest run and the result state of its task.

    After a repair, the run and the state can contradict each other: if the cluster did not start again, the newest run
    is of an earlier attempt. Then the result state of the task counts.
    """
    tags = run.data.tags if run else {}
    finished = run is not None and run.info.status == "FINISHED"
    if finished and state in (SUCCESS, None):
        return End("done", tags.get("summary", ""))
    if (state or "").startswith(NOT_RUN) or (run is None and state is None):
        return End("skipped", "not run")
    code = (records.exit_code(run) if run else 0) or StepFailed.exit_code
    cause = None if finished else tags.get("cause")
    return End("failed", cause or f"its task ended as {state} before the step started", code, state == CANCELED)
