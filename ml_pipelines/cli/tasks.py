"""The wheel's console scripts: one for each step, one for the whole pipeline, and one that ends a job's pipeline run.

A Databricks job calls these functions by their entry points, and can treat any SystemExit as a failure. So a function
returns normally after success, and raises the error after a failure. Outside Databricks, the function does not raise
the error: it prints the error as one line and exits.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import click

from ml_pipelines.config import loading
from ml_pipelines.config.schema import LOCAL, NONE, Config, Step
from ml_pipelines.errors import (
    BadData,
    ConfigError,
    Interrupted,
    NothingToDo,
    PipelineError,
    QaRefused,
    StepFailed,
)
from ml_pipelines.execution import job_run, standalone, step_run
from ml_pipelines.planning import plan, resuming
from ml_pipelines.system import environment, imports, paths, processes
from ml_pipelines.system.signals import raise_on_signals
from ml_pipelines.text import quoted
from ml_pipelines.tracking import ending, opening


def __getattr__(name: str) -> Callable[[], None]:
    """Return the console script of step `name`. pyproject.toml refers to it as `ml_pipelines.cli.tasks:<step>`."""
    if name.startswith("_") or not (paths.code() / "steps" / f"{name}.py").is_file():
        raise AttributeError(f"module {__name__} has no attribute {name}: steps/{name}.py doesn't exist")
    return partial(_run_script, name)


def local_pipeline() -> None:
    """Run the whole pipeline in this process."""
    _call(_pipeline_command, sys.argv[1:])


def close_pipeline() -> None:
    """End the pipeline run of a job run. The job's last task calls this."""
    _call(_close_command, sys.argv[1:])


def run_named_script() -> None:
    """Run the console script that the first argument names, with the remaining arguments. A step's name works too."""
    _call(_group, sys.argv[1:])


def _run_script(step: str) -> None:
    _call(partial(_step_command, step), sys.argv[1:])


def _call(command: Callable[[], click.Command], arguments: Sequence[str]) -> None:
    imports.put_project_first()
    try:
        if threading.current_thread() is threading.main_thread():
            raise_on_signals()
        environment.prepare()
        try:
            command().main(list(arguments), standalone_mode=False)
        except click.ClickException as error:
            raise ConfigError(error.format_message()) from error
    except NothingToDo as message:
        ending.end_with(message)
    except (Exception, Interrupted) as error:
        if processes.on_databricks():
            raise
        sys.exit(ending.end_with(error))


def _command(name: str, summary: str, call: Callable[..., None], *more: click.Parameter) -> click.Command:
    """Return a command with --profile, --set and `more`. The argument `pipeline=<profile>` also sets the profile."""

    def callback(profile: str, overrides: Sequence[str], words: Sequence[str], **values: Any) -> None:
        for word in words:
            key, _, profile = word.partition("=")
            if key != "pipeline" or not profile:
                raise ConfigError(f"{name}: unexpected argument {quoted(word)}. Use options, or pipeline=<profile>.")
        call(loading.load(profile, overrides), **values)

    parameters: list[click.Parameter] = [
        click.Argument(["words"], nargs=-1, metavar="[pipeline=PROFILE]"),
        click.Option(
            ["--profile"], default=LOCAL, show_default=True, metavar="NAME", help="Profile to use: conf/NAME.yaml."
        ),
        click.Option(
            ["--set", "overrides"], multiple=True, metavar="KEY=VALUE", help="Change one key of the configuration."
        ),
        *more,
    ]
    return click.Command(name, callback=callback, params=parameters, help=summary)


def _option(name: str, text: str) -> click.Option:
    return click.Option([f"--{name.replace('_', '-')}"], default=NONE, metavar="VALUE", help=text)


def _group() -> click.Group:
    steps = loading.load(LOCAL).steps
    commands = {
        str(command.name): command for command in (_pipeline_command(), _close_command(), *map(_step_command, steps))
    }
    commands |= {name: commands[step.script] for name, step in steps.items()}
    return click.Group("ml_pipelines", commands, no_args_is_help=False)


def _step_command(name: str) -> click.Command:
    step = loading.load(LOCAL).step(name)
    return _command(
        step.script,
        f"Run the step {step.name}.",
        partial(_run_step, step),
        *(_option(each, "An input of the step.") for each in step.inputs),
        _option("pipeline_run_id", "Take missing inputs from the outputs of this pipeline run."),
        _option("run_id", "Use this existing MLflow run instead of a new one."),
        _option("job_run_id", "The job run of this task. All steps of a job run share one pipeline run."),
    )


def _run_step(declared: Step, config: Config, run_id: str, job_run_id: str, **inputs: str) -> None:
    step = config.step(declared.name)
    config = config.in_pipeline(step.pipeline)
    store = opening.open_store(config)
    parent = None
    if job_run_id != NONE:
        inputs["pipeline_run_id"] = parent = job_run.open_pipeline_run(store, config, job_run_id)
    if run_id == NONE:
        run_id = store.create_step_run(store.experiment_id(config.experiment_name), step.name, parent)
    started = time.monotonic()
    code = step_run.execute(store, step.name, inputs, run_id, config=config)
    run = store.get_run(run_id)
    standalone.report_end(step, run, time.monotonic() - started)
    if code:
        raise _failure(code, f"{step.step_name}: {run.data.tags.get('cause')} (run {run_id})")


def _failure(code: int, text: str) -> PipelineError:
    kinds = {kind.exit_code: kind for kind in (ConfigError, BadData, QaRefused)}
    error = kinds.get(code, StepFailed)(text)
    error.exit_code = code
    return error


def _close_command() -> click.Command:
    states = click.Option(
        ["--state", "states"], multiple=True, metavar="STEP=STATE", help="The result state of a step's task."
    )
    return _command(
        "close-pipeline",
        "End the pipeline run of a job run, and set its status.",
        _close,
        click.Option(
            ["--job-run-id"], required=True, metavar="VALUE", help="The job run. Its other tasks must have ended."
        ),
        states,
    )


def _close(settings: Config, job_run_id: str, states: Sequence[str]) -> None:
    state_of = dict(state.partition("=")[::2] for state in states)
    pipelines = [settings.steps[name].pipeline for name in state_of if name in settings.steps]
    settings = replace(settings, pipeline=pipelines[0] if pipelines else settings.pipeline)
    code, cause = job_run.close_pipeline_run(opening.open_store(settings), settings, job_run_id, state_of)
    if code:
        raise _failure(code, cause)


def _pipeline_command() -> click.Command:
    resume = click.Option(["--resume"], metavar="RUN", help="Continue a pipeline run.")
    force = click.Option(["--force"], is_flag=True, help="Run all steps, even if nothing has changed.")
    return _command("local-pipeline", "Run the whole pipeline in this process.", _run_pipeline, resume, force)


def _run_pipeline(config: Config, resume: str | None, force: bool) -> None:
    from ml_pipelines.backends.inline import InlineBackend
    from ml_pipelines.running.parent_run import pipeline_run

    inline, resumed = InlineBackend(), None
    if resume:
        profile = None if config.profile == LOCAL else config.profile
        config, resumed = resuming.load([config.overrides], True, profile, run=resume)
    planned = plan.make_plan(config, inline, resumed, force=[plan.EVERYTHING] if force else [])
    with pipeline_run(planned) as parent:
        for step in parent.schedule():
            backend_config = inline.config(config, step)
            inputs, uri = parent.parameters(step), parent.store.uri
            parent.started(step, inline.run("", step.name, inputs, None, backend_config, uri, parent.experiment_id))
    if parent.exit_code:
        raise _failure(parent.exit_code, f"{config.pipeline.run_name} {parent.run_id[:8]} failed")
