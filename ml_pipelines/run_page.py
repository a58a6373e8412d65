"""What a pipeline run says of itself on its page: tags, its configuration, a description, its steps' headlines."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ml_pipelines import tracking
from ml_pipelines.config import NONE, Config, Step
from ml_pipelines.processes import PROCESS

if TYPE_CHECKING:
    from mlflow.entities import Run

VERDICT = ("verdict", "conclusion")


def describe(run_id: str, config: Config, backend: str, more: Mapping[str, str] | None = None) -> None:
    """Tag a pipeline run with what is run how, and log its configuration.

    Not with this process: a job's pipeline run outlives the task that creates it.
    """
    provenance = {name: value for name, value in tracking.provenance().items() if name != PROCESS}
    tags = {
        **provenance,
        "mlflow.runName": tracking.PROJECT_RUN,
        "profile": config.profile,
        "env": config.env_name,
        "engine": config.spark.engine,
        "backend": backend,
        **(more or {}),
    }
    tracking.set_tags(run_id, tags)
    store = tracking.client()
    if "profile" not in tracking.get_run(run_id).data.params:  # `mlflow run` has logged them
        tracking.log_params(run_id, {"profile": config.profile, "set": config.overrides})
    store.log_dict(run_id, tracking.resolved(config), "config.json")


def describe_step(run_id: str, step: Step, config: Config) -> None:
    """Name a step's run, and log its params and its configuration."""
    tracking.log_params(
        run_id,
        {**dataclasses.asdict(step.params), "seed": config.seed},
        {"step": step.key, "mlflow.runName": step.step_name},
    )
    tracking.client().log_dict(run_id, tracking.resolved(config, step.key), "config.json")


def note(config: Config, backend: str, lines: Iterable[str]) -> str:
    """Return the description, Markdown whose first line the table of runs shows as plain text."""
    changed = [config.overrides] if config.overrides != NONE else []
    how = [*changed, config.profile, config.data.source.kind.name, config.spark.engine, backend]
    return "\n".join([" · ".join(how), "", *(f"    {line}" for line in lines)])


def verdict(run: Run) -> dict[str, str]:
    """Return the tags of a step that the pipeline run bears too: its verdict, and what it concludes."""
    return {name: run.data.tags[name] for name in VERDICT if name in run.data.tags}


def headline(run_id: str, step: Step, run: Run) -> None:
    """Show the step's headline metrics on the pipeline run too."""
    tracking.log_metrics(run_id, {name: value for name, value in run.data.metrics.items() if name in step.headline})


def seconds(run: Run) -> float:
    """Return how long a run took, or has taken so far; 0 where a clock was set back meanwhile."""
    end = run.info.end_time or int(time.time() * 1000)
    return max(0.0, float(end - run.info.start_time) / 1000)
