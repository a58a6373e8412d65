"""The latest pipeline runs of an experiment, each in a few words: `ml-pipelines runs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_pipelines.config.schema import Config, Pipeline
from ml_pipelines.tracking import lineage, run_page
from ml_pipelines.tracking.store import PIPELINE, Store, parent_of

if TYPE_CHECKING:
    from mlflow.entities import Run

STATUS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}


@dataclass(frozen=True)
class PastRun:
    """A pipeline run, with what a list of runs shows of it."""

    run_id: str
    pipeline: str
    start_ms: int  # milliseconds since 1970, UTC
    result: str  # the verdict of the quality gate, or else how the run ended: finished, failed, stopped, running
    headline: tuple[str, float] | None  # the name and the value of the run's first headline metric
    seconds: float
    steps: int
    reused: int  # how many of the steps were reused


def latest_runs(store: Store, config: Config, most: int) -> list[PastRun]:
    """Return the latest pipeline runs of the profile, of both pipelines, the newest first.

    Raises:
        ConfigError: the experiment does not exist, or is deleted.
    """
    experiment = store.existing_experiment(config.experiment_name)
    parents = lineage.pipeline_runs(store, experiment, f"tags.profile = '{config.profile}'", most)
    if not parents:
        return []
    steps: dict[str, dict[str, Run]] = {}
    since = min(run.info.start_time for run in parents)
    for run in lineage.step_runs(store, experiment, since):  # a later try of a step replaces an earlier one
        steps.setdefault(parent_of(run) or "", {})[run.data.tags["step"]] = run
    return [_past_run(config, parent, steps.get(parent.info.run_id, {})) for parent in parents]


def _past_run(config: Config, parent: Run, steps: Mapping[str, Run]) -> PastRun:
    tags, status = parent.data.tags, parent.info.status
    return PastRun(
        str(parent.info.run_id),
        tags.get(PIPELINE, Pipeline.train.value),
        int(parent.info.start_time),
        _result(status, tags.get("verdict", "")),
        headline(config, parent),
        run_page.duration_s(parent),
        len(steps),
        sum("reused_from" in run.data.tags for run in steps.values()),
    )


def _result(status: str, verdict: str) -> str:
    """Return the verdict; if there is none, or the run failed for another reason than a refused model, its status."""
    counts = status == "FINISHED" or (status == "FAILED" and verdict == "refused")
    return verdict if verdict and counts else STATUS.get(status, "running")


def headline(config: Config, parent: Run) -> tuple[str, float] | None:
    """Return the pipeline run's most important metric: the first headline metric of the last step that has one."""
    metrics = parent.data.metrics
    for step in reversed(config.steps.values()):
        for name in step.headline:
            if name in metrics:
                return name.removeprefix("test_"), float(metrics[name])
    return None
