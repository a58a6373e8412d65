"""Run one step in a process of its own: `mlflow run . -e train -P train_uri=...`, or a step of the backend `local`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from ml_pipelines.config.schema import Config, Step
from ml_pipelines.errors import ConfigError
from ml_pipelines.execution import step_run
from ml_pipelines.system import events
from ml_pipelines.system.terminal import complain
from ml_pipelines.text import did_you_mean, shown
from ml_pipelines.tracking import lineage, opening, provenance
from ml_pipelines.tracking.store import parent_of

if TYPE_CHECKING:
    import click
    from mlflow.entities import Run


def parse_parameters(options: Sequence[str]) -> dict[str, str]:
    """Return the parameters of a step's entry point, from options like `--train-uri=... --pipeline-run-id=...`.

    Raises:
        ConfigError: an option is not written as --name=value.
    """
    parts = [text.removeprefix("--").partition("=") for text in options]
    if not all(text.startswith("--") and "=" in text for text in options):
        raise ConfigError(f"--step: write each input as --name=value, not as {' '.join(options)}.")
    return {name.replace("-", "_"): value for name, _, value in parts}


def refuse_options(given: Sequence[str], command: click.Command) -> NoReturn:
    """Refuse options that the command does not have.

    Raises:
        ConfigError: always; the message names the first of `given`, the nearest option, and all options.
    """
    name, known = given[0].partition("=")[0], [option for param in command.params for option in param.opts]
    options = [option for option in known if option.startswith("--")]
    raise ConfigError(
        f"driver.py has no {'option' if name.startswith('-') else 'argument'} {shown(name)}."
        f"{did_you_mean(name, options)} The options are {', '.join(options)}."
    )


def run_step(name: str, config: Config, inputs: Mapping[str, str]) -> int:
    """Run a step and return its exit code. Use the MLflow run that `mlflow run` made for this process, or create one.

    Raises:
        ConfigError: the configuration has no step of this name.
    """
    step = config.step(name)
    store = opening.open_store(config)
    run_id = opening.adopt_run(store, name)
    if run_id is None:
        experiment = store.experiment_id(config.experiment_name)
        store.reap(experiment)
        run_id = store.create_step_run(experiment, name, None)
    else:
        store.set_tags(run_id, provenance.provenance_tags())
    started = time.monotonic()
    code = step_run.execute(store, name, inputs, run_id, config=config)
    run = store.get_run(run_id)
    if parent_of(run) is None:  # if the run has a parent, the pipeline run's process reports how the step ended
        report_end(step, run, time.monotonic() - started)
        if code:
            complain(run.data.tags.get("cause", ""))
    return code


def report_end(step: Step, run: Run, seconds: float) -> None:
    """Report how the step ended, and its outputs."""
    tags = run.data.tags
    state = "done" if tags.get("exit_code") == "0" else "failed"
    events.report(events.StepEnded(step.step_name, state, seconds, tags.get("summary", "")))
    for name, value in lineage.outputs(run).items():
        events.report(events.Notice(f"      {name}={value}"))
