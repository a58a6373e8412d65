"""What MLflow's page of a run shows: tags, configuration, description, and the headline metrics of its steps."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ml_pipelines.config.schema import NONE, Config, Step
from ml_pipelines.system.processes import PROCESS
from ml_pipelines.tracking import provenance
from ml_pipelines.tracking.store import PIPELINE, Store, shortened

if TYPE_CHECKING:
    from mlflow.entities import Run

SHOWN = 300  # the description shows at most this many characters of the settings, and of each line
VERDICT = ("verdict", "conclusion")  # tags of a step that its pipeline run gets too


def describe_pipeline_run(
    store: Store, run_id: str, config: Config, backend: str, more: Mapping[str, str] | None = None
) -> None:
    """Tag a pipeline run with its profile, engine and backend, and log its configuration.

    The tag `process` is left out. With this tag, the pipeline run of a job would count as dead when the task that
    created the run ends.
    """
    tags = {
        **{name: value for name, value in provenance.provenance_tags().items() if name != PROCESS},
        "mlflow.runName": config.pipeline.run_name,
        PIPELINE: config.pipeline.value,
        "profile": config.profile,
        "env": config.env_name,
        "engine": config.spark.engine,
        "backend": backend,
        **(more or {}),
    }
    store.set_tags(run_id, tags)
    if "profile" not in store.get_run(run_id).data.params:  # `mlflow run` has logged these params already
        store.log_params(run_id, {"profile": config.profile, "set": config.overrides})
    store.log_json(run_id, config_json(config), "config.json")


def describe_step(store: Store, run_id: str, step: Step, config: Config) -> None:
    """Name the run of a step, and log its params and its configuration."""
    store.log_params(
        run_id,
        # A step logs the value that it chose itself for a param without one.
        {**{name: v for name, v in dataclasses.asdict(step.params).items() if v is not None}, "seed": config.seed},
        {"step": step.name, "mlflow.runName": step.step_name},
    )
    store.log_json(run_id, config_json(config, step.name), "config.json")


def description_of(config: Config, backend: str, lines: Iterable[str]) -> str:
    """Return the description of a pipeline run, in Markdown. MLflow's table of runs shows the first line only.

    Long settings and lines are shortened, so that the description of a hundred steps fits into a tag.
    """
    changed = [shortened(config.overrides, SHOWN)] if config.overrides != NONE else []
    how = [*changed, config.profile, config.data.source.kind.name, config.spark.engine, backend]
    return "\n".join([" · ".join(how), "", *(f"    {shortened(line, SHOWN)}" for line in lines)])


def verdict_tags(run: Run) -> dict[str, str]:
    """Return the tags to copy from a step's run to its pipeline run: the verdict and the conclusion."""
    return {name: run.data.tags[name] for name in VERDICT if name in run.data.tags}


def log_headline(store: Store, run_id: str, step: Step, run: Run) -> None:
    """Log the step's headline metrics to the pipeline run too."""
    store.log_metrics(run_id, {name: value for name, value in run.data.metrics.items() if name in step.headline})


def duration_s(run: Run) -> float:
    """Return how long a run took, or has taken so far, in seconds; 0 if the clock was set back."""
    end = run.info.end_time or int(time.time() * 1000)
    return max(0.0, float(end - run.info.start_time) / 1000)


def config_json(config: Config, step: str | None = None) -> dict[str, Any]:
    """Return the content of config.json: the configuration of a run, or of one step if `step` names it.

    Interpolations stay unresolved, so that a value from the environment (`${oc.env:...}`) is never logged.
    """
    content: dict[str, Any] = {"profile": config.profile, "set": config.overrides, **config.written}
    return content if step is None else {**content, "steps": {step: content["steps"][step]}}
