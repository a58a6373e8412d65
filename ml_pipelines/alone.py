"""One step by itself: `mlflow run . -e train -P train_uri=...`, or a child of MLflow's `local` backend."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ml_pipelines import execution, lineage, tracking
from ml_pipelines.config import Config, Step
from ml_pipelines.errors import ConfigError
from ml_pipelines.terminal import complain, say, step_line

if TYPE_CHECKING:
    from mlflow.entities import Run


def parameters(options: Sequence[str]) -> dict[str, str]:
    """Return `--train-uri=... --pipeline-run-id=...` as the parameters of a step's entry point.

    Raises:
        ConfigError: something else stands among them.
    """
    parts = [text.removeprefix("--").partition("=") for text in options]
    if not all(text.startswith("--") and "=" in text for text in options):
        raise ConfigError(f"--step takes its inputs as --name=value; {' '.join(options)} is something else.")
    return {name.replace("-", "_"): value for name, _, value in parts}


def run_step(key: str, config: Config, inputs: Mapping[str, str]) -> int:
    """Run step `key` in the run that MLflow made for it, else in one of its own, and return its exit code.

    Raises:
        ConfigError: conf declares no such step.
    """
    step = config.step(key)
    tracking.connect(config)
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    if run_id is None:
        experiment = tracking.experiment_id(config.experiment_name)
        tracking.reap(experiment)
        run_id = tracking.create_step_run(experiment, key, None)
    else:
        tracking.set_tags(run_id, tracking.provenance())
    started = time.monotonic()
    code = execution.execute(key, inputs, run_id, config=config)
    run = tracking.get_run(run_id)
    if tracking.parent_of(run) is None:  # below a parent, that one speaks
        tell(step, run, time.monotonic() - started)
        if code:
            complain(run.data.tags.get("cause", ""))
    return code


def tell(step: Step, run: Run, seconds: float) -> None:
    """Say how the step ended, and what it handed on."""
    tags = run.data.tags
    say(
        step_line(
            "done" if tags.get("exit_code") == "0" else "failed", step.step_name, seconds, tags.get("summary", "")
        )
    )
    for name, value in lineage.outputs(run).items():
        say(f"      {name}={value}")
