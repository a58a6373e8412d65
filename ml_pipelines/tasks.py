"""The wheel's console scripts: each step as a task of a job, and the whole pipeline in one process.

A job calls these functions by their entry points, and may take any SystemExit for a failure: success just returns,
and what fails is raised. At a shell that is one line and the exit code.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from ml_pipelines import alone, config, execution, job_run, plan, terminal, tracking
from ml_pipelines.config import LOCAL, NONE, Config, Step
from ml_pipelines.errors import (
    BadData,
    ConfigError,
    Interrupted,
    NothingToDo,
    PipelineError,
    QaRefused,
    StepFailed,
    one_line,
)
from ml_pipelines.signals import raise_on_signals


def __getattr__(name: str) -> Callable[[], None]:
    """Return the console script of step `name`, which pyproject.toml calls `ml_pipelines.tasks:<step>`."""
    if name.startswith("_") or importlib.util.find_spec(f"steps.{name}") is None:
        raise AttributeError(f"module {__name__} has no attribute {name}: there is no steps/{name}.py")
    return partial(_run_script, name)


def local_pipeline() -> None:
    """Run the whole pipeline in this process."""
    _call(_pipeline_command, sys.argv[1:])


def close_pipeline() -> None:
    """End the pipeline run of a job run whose other tasks have ended."""
    _call(_close_command, sys.argv[1:])


def main() -> None:
    """Run the script whose name, or whose step's name, is the first argument, with the others as its own."""
    _call(_group, sys.argv[1:])


def _run_script(key: str) -> None:
    _call(partial(_step_command, key), sys.argv[1:])


def _call(command: Callable[[], click.Command], arguments: Sequence[str]) -> None:
    try:
        if threading.current_thread() is threading.main_thread():
            raise_on_signals()
        terminal.quieten()
        try:
            command().main(list(arguments), standalone_mode=False)
        except click.ClickException as error:
            raise ConfigError(error.format_message()) from error
    except NothingToDo as done:
        terminal.say(one_line(done))
    except (PipelineError, Interrupted) as error:
        if "DATABRICKS_RUNTIME_VERSION" in os.environ:
            raise
        terminal.complain(one_line(error))
        sys.exit(error.exit_code)


def _command(name: str, summary: str, call: Callable[..., None], *more: click.Parameter) -> click.Command:
    """Return a command that takes a profile and overrides, as options or in the form `pipeline=<profile>`."""

    def callback(profile: str, overrides: Sequence[str], words: Sequence[str], **given: Any) -> None:
        for word in words:
            key, _, profile = word.partition("=")
            if key != "pipeline" or not profile:
                raise ConfigError(f"{name} takes options, and pipeline=<profile>; {word!r} is neither.")
        call(config.load(profile, overrides), **given)

    parameters: list[click.Parameter] = [
        click.Argument(["words"], nargs=-1, metavar="[pipeline=PROFILE]"),
        click.Option(["--profile"], default=LOCAL, show_default=True, metavar="NAME", help="Where and how."),
        click.Option(["--set", "overrides"], multiple=True, metavar="KEY=VALUE", help="Change one key."),
        *more,
    ]
    return click.Command(name, callback=callback, params=parameters, help=summary)


def _option(name: str, text: str) -> click.Option:
    return click.Option([f"--{name.replace('_', '-')}"], default=NONE, metavar="VALUE", help=text)


def _group() -> click.Group:
    steps = config.load(LOCAL).steps
    commands = {
        str(command.name): command for command in (_pipeline_command(), _close_command(), *map(_step_command, steps))
    }
    commands |= {key: commands[step.script] for key, step in steps.items()}
    return click.Group("ml_pipelines", commands, no_args_is_help=False)


def _step_command(key: str) -> click.Command:
    step = config.load(LOCAL).step(key)
    return _command(
        step.script,
        f"Run the step {step.key}.",
        partial(_run_step, step),
        *(_option(name, "An input of the step.") for name in step.inputs),
        _option("pipeline_run_id", "Inputs that aren't given are taken from the outputs below this pipeline run."),
        _option("run_id", "The MLflow run to run in, where one was made for it."),
        _option("job_run_id", "The job run that this is a task of: its steps share one pipeline run."),
    )


def _run_step(declared: Step, settings: Config, run_id: str, job_run_id: str, **inputs: str) -> None:
    step = settings.step(declared.key)
    tracking.connect(settings)
    parent = None
    if job_run_id != NONE:
        inputs["pipeline_run_id"] = parent = job_run.find(settings, job_run_id)
    if run_id == NONE:
        run_id = tracking.create_step_run(tracking.experiment_id(settings.experiment_name), step.key, parent)
    started = time.monotonic()
    code = execution.execute(step.key, inputs, run_id, config=settings)
    run = tracking.get_run(run_id)
    alone.tell(step, run, time.monotonic() - started)
    if code:
        raise _failure(code, f"{step.step_name}: {run.data.tags.get('cause')} (run {run_id})")


def _failure(code: int, text: str) -> PipelineError:
    kinds = {kind.exit_code: kind for kind in (ConfigError, BadData, QaRefused)}
    error = kinds.get(code, StepFailed)(text)
    error.exit_code = code
    return error


def _close_command() -> click.Command:
    states = click.Option(["--state", "states"], multiple=True, metavar="STEP=STATE", help="How the step's task ended.")
    return _command(
        "close-pipeline",
        "End the pipeline run of a job run, with its true status.",
        _close,
        click.Option(
            ["--job-run-id"], required=True, metavar="VALUE", help="The job run, whose other tasks have ended."
        ),
        states,
    )


def _close(settings: Config, job_run_id: str, states: Sequence[str]) -> None:
    tracking.connect(settings)
    code, cause = job_run.close(settings, job_run_id, dict(state.partition("=")[::2] for state in states))
    if code:
        raise _failure(code, cause)


def _pipeline_command() -> click.Command:
    resume = click.Option(["--resume"], metavar="RUN", help="Go on from a pipeline run.")
    force = click.Option(["--force"], is_flag=True, help="Run every step, though unchanged.")
    return _command("local-pipeline", "Run the whole pipeline in this process.", _run_pipeline, resume, force)


def _run_pipeline(settings: Config, resume: str | None, force: bool) -> None:
    from ml_pipelines import backends, pipeline

    planned = plan.make(settings, "inline", force=[plan.EVERYTHING] if force else [])
    inline = backends.InlineBackend()
    with pipeline.pipeline_run(planned, resume) as parent:
        for step in parent.schedule():
            given = parent.parameters(step)
            parent.started(step, inline.run("", step.key, given, None, {}, "", parent.experiment_id))
    if parent.exit_code:
        raise _failure(parent.exit_code, f"{tracking.PROJECT_RUN} {parent.run_id[:8]} failed")
