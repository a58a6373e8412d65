"""One pipeline run over the tasks of a job run: each task finds or creates it, the last one closes it.

The job run's id is a tag of the pipeline run, and stays the same when the job run is repaired. Two first tasks may
create one each: the earliest counts, and what stands below another is moved below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_pipelines import run_page, tracking
from ml_pipelines.config import Config
from ml_pipelines.errors import QaRefused, StepFailed
from ml_pipelines.terminal import say, step_line

if TYPE_CHECKING:
    from mlflow.entities import Run

JOB_RUN = "job_run_id"  # the tag
BACKEND = "job"
OF_AN_END = {"cause", "failed_step", *run_page.VERDICT}  # tags that a repair takes back
# Result states of a task as Databricks' references give them.
SUCCESS, CANCELED = "success", "canceled"
NOT_RUN = ("upstream_", "excluded")


@dataclass(frozen=True)
class End:
    """How a step ended; `mark` is done, failed or skipped."""

    mark: str
    text: str
    code: int = 0
    canceled: bool = False


def find(config: Config, job_run_id: str) -> str:
    """Return the id of the job run's pipeline run: created where there is none, running again after a repair."""
    run = _same(config, job_run_id)[0]
    if run.info.status != "RUNNING":
        tracking.client().update_run(run.info.run_id, "RUNNING")
    return str(run.info.run_id)


def _same(config: Config, job_run_id: str) -> list[Run]:
    """Return the pipeline runs that were created for the job run, the one that counts first and all steps below it."""
    experiment = tracking.experiment_id(config.experiment_name)

    def found() -> list[Run]:
        runs = tracking.client().search_runs([experiment], f"tags.{JOB_RUN} = '{job_run_id}'")
        return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    if not found():
        tags = {JOB_RUN: job_run_id}
        created = tracking.client().create_run(experiment, run_name=tracking.PROJECT_RUN, tags=tags)
        run_page.describe(str(created.info.run_id), config, BACKEND)
    first, *others = found()
    for other in others:
        for child in tracking.children(other.info.run_id):
            tracking.set_tags(child.info.run_id, {tracking.PARENT: first.info.run_id})
    return [first, *others]


def close(config: Config, job_run_id: str, states: Mapping[str, str]) -> tuple[int, str]:
    """End the pipeline run with its true status, say what came out; return the exit code and the first cause.

    Args:
        config: the configuration that the tasks had.
        job_run_id: the id of the job run, whose other tasks have all ended.
        states: step -> how the job says its task ended; without it, the step's newest run tells.
    """
    first, *others = _same(config, job_run_id)
    for other in others:
        tracking.client().delete_run(other.info.run_id)
    runs = {run.data.tags.get("step"): run for run in map(_ended, tracking.children(first.info.run_id))}  # the newest
    ends = {key: _end(runs.get(key), states.get(key)) for key in config.steps}
    failed = {key: end for key, end in ends.items() if end.mark == "failed"}
    whole = all(end.mark == "done" for end in ends.values())
    code = min((end.code for end in failed.values()), default=0 if whole else StepFailed.exit_code)
    lines = [
        step_line(end.mark, config.steps[key].step_name, run_page.seconds(runs[key]) if key in runs else None, end.text)
        for key, end in ends.items()
    ]
    tags = {"exit_code": str(code), "mlflow.note.content": run_page.note(config, BACKEND, lines)}
    for key, run in runs.items():
        run_page.headline(first.info.run_id, config.step(str(key)), run)
        tags |= run_page.verdict(run)
    tags |= {"failed_step": next(iter(failed))} if failed else {}
    tags |= {"verdict": "refused"} if code == QaRefused.exit_code else {}
    for name in OF_AN_END & first.data.tags.keys() - tags.keys():
        tracking.client().delete_tag(first.info.run_id, name)
    stopped = failed and all(end.canceled for end in failed.values())
    tracking.close(first.info.run_id, "FINISHED" if whole else "KILLED" if stopped else "FAILED", tags)
    for line in lines:
        say(line)
    return code, next((f"{config.steps[key].step_name}: {end.text}" for key, end in failed.items()), "no step was run")


def _ended(run: Run) -> Run:
    """Return a step's run, closed where its process was killed before it could."""
    if run.info.status == "RUNNING":
        tags = {"cause": "its task ended without a word", "exit_code": str(StepFailed.exit_code)}
        tracking.close(run.info.run_id, "KILLED", tags)
    return tracking.get_run(run.info.run_id)


def _end(run: Run | None, state: str | None) -> End:
    """Return how a step ended, by its newest run and what the job says of its task.

    After a repair they may differ: the newest run is an earlier attempt's where the cluster didn't start again.
    """
    tags = run.data.tags if run else {}
    finished = run is not None and run.info.status == "FINISHED"
    if finished and state in (SUCCESS, None):
        return End("done", tags.get("summary", ""))
    if (state or "").startswith(NOT_RUN) or (run is None and state is None):
        return End("skipped", "not run")
    code = int(tags.get("exit_code", "0")) or StepFailed.exit_code
    cause = None if finished else tags.get("cause")
    return End("failed", cause or f"its task ended as {state}, before the step began", code, state == CANCELED)
