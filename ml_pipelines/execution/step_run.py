"""Run one step in one MLflow run: find its inputs, call its module, check its outputs and record them as tags.

Every backend uses this code: in this process, in a forked process, as an entry point, and as a task of a job.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_pipelines import errors
from ml_pipelines.authoring.context import Output, Outputs
from ml_pipelines.config.loading import load
from ml_pipelines.config.schema import LOCAL, NONE, Config, Step
from ml_pipelines.data import engines, locations, sail, sources
from ml_pipelines.errors import ConfigError, Interrupted, PipelineError, QaRefused, StepFailed, TimedOut, one_line
from ml_pipelines.execution import task_values
from ml_pipelines.execution.context import TrackedContext
from ml_pipelines.system import observed, shortage, terminal
from ml_pipelines.system.processes import SHARE_CHANGED
from ml_pipelines.system.signals import raise_on_signals
from ml_pipelines.text import hide, quoted
from ml_pipelines.tracking import lineage, run_page
from ml_pipelines.tracking.store import OUTPUT, TAG_LENGTH, Store, parent_of

if TYPE_CHECKING:
    from mlflow.entities import Run

CASTS: dict[str, Callable[[str], Output]] = {"str": str, "float": float, "bool": lambda text: text == "true"}


def execute(
    store: Store,
    name: str,
    parameters: Mapping[str, str],
    run_id: str,
    log: Path | None = None,
    config: Config | None = None,
) -> int:
    """Run a step in the MLflow run `run_id`, close that run, and return the exit code.

    Args:
        store: the store that has the run.
        name: the name of the step in the configuration.
        parameters: the entry point's parameters: pipeline_run_id, inputs and, if `config` is None, profile and set.
        run_id: the id of the step's run.
        log: a file for the log lines, which the caller logs as an artifact. If it is None, this function makes a file
            and logs it.
        config: the configuration, if the caller has loaded it.
    """
    from mlflow.exceptions import MlflowException

    hide(config.hidden if config else ())  # `load` hides these secrets, but a forked process has not called it
    terminal.escape_log_records()
    try:
        return _execute(store, name, parameters, run_id, log, config)
    except (MlflowException, OSError) as error:  # the store failed, so it can also refuse the tags below
        cause = one_line(store.failed(error))
        terminal.complain(cause)
        with suppress(MlflowException):
            store.close(run_id, "FAILED", {"exit_code": str(StepFailed.exit_code), "cause": cause})
        return StepFailed.exit_code


def _execute(
    store: Store, name: str, parameters: Mapping[str, str], run_id: str, log: Path | None, config: Config | None
) -> int:
    import mlflow
    from mlflow.exceptions import MlflowException

    run = mlflow.start_run(run_id=run_id, nested=True)
    status, tags = "FAILED", {"step": name, "exit_code": "0"}
    try:
        with _logging_to(store, log, run_id, name) as folder:
            try:
                config = config or load(parameters.get("profile", LOCAL), [parameters.get("set", NONE)])
                config = config.in_pipeline(config.step(name).pipeline)
                with errors.renaming("data.source", config.source_key):
                    tags |= _run(store, config.step(name), config, parameters, run, folder)
                status = "FINISHED"
            except (Exception, SystemExit) as error:
                if isinstance(error, MlflowException):
                    store.failed(error)
                logging.getLogger(f"steps.{name}").error("%s", "".join(traceback.format_exception(error)))
                with suppress(OSError):  # for example a full disk; the log file and the tag `cause` have the error too
                    store.log_text(run_id, "".join(traceback.format_exception(error)), "traceback.txt")
                failure = shortage.explain(error) or error
                code = failure.exit_code if isinstance(failure, PipelineError) else StepFailed.exit_code
                tags |= {"exit_code": str(code), "cause": one_line(failure)}
                tags |= {"transient": "true"} if errors.is_transient(failure) else {}
            if reason := tags.get("refusal"):
                status, tags = "FAILED", {**tags, "exit_code": str(QaRefused.exit_code), "cause": reason}
        # Set the tags before the status, so that a FINISHED run always has its outputs, even if this process is killed.
        store.set_tags(run_id, tags)
    except BaseException as error:
        status = "KILLED"
        store.close(run_id, status, {"cause": one_line(error)})
        raise
    finally:
        mlflow.end_run(status)
    return int(tags["exit_code"])


def _run(
    store: Store, step: Step, config: Config, parameters: Mapping[str, str], run: Run, folder: Path
) -> dict[str, str]:
    """Call the step's module, and return the tags that record its outputs. `folder` is for temporary files."""
    run_id = str(run.info.run_id)
    if not step.inputs:
        needs_python = partial(sources.may_have_text, config.data.source, config.data.drop)
        engines.start_early(config.spark.engine, locations.need_network(config), needs_python)
    run_page.describe_step(store, run_id, step, config)
    inputs = find_inputs(store, step, parameters)
    module = importlib.import_module(f"steps.{step.name}")
    context: TrackedContext[Any] = TrackedContext(
        store, config, step.name, run_id, parent_of(run) or run_id, str(run.info.experiment_id), folder
    )
    observed.watch_polars()
    try:
        with _time_limit(step.timeout_s):
            outputs = module.run(context, **_typed_inputs(module, inputs))
    finally:
        context.remove_copies()
    _check_outputs(step, outputs)
    context.check_tables()
    task_values.set_task_values(outputs)
    tags = {f"{OUTPUT}{name}": _text(value) for name, value in outputs.items()}
    tags |= lineage.log_observed(store, run_id, observed.observed_by(step.name))
    return {**tags, **context.tags(), **({"refusal": context.refusal} if context.refusal else {})}


@contextmanager
def _time_limit(limit_s: float | None) -> Iterator[None]:
    """Raise TimedOut in the with block after `limit_s` seconds. The traceback then shows the line that was running.

    The exception can't interrupt native code that holds the interpreter. driver.py stops such a process a little later.
    """
    main = threading.current_thread() is threading.main_thread()
    # Only the main thread can handle signals, and Windows has no setitimer.
    if limit_s is None or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise TimedOut(limit_s)

    handler, timer = signal.signal(signal.SIGALRM, stop), signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def find_inputs(store: Store, step: Step, parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the step's inputs, from `parameters` or from the outputs of the pipeline run `pipeline_run_id`.

    Raises:
        ConfigError: an input is missing.
    """
    values = {name: value for name, value in parameters.items() if value != NONE}
    pipeline_run = values.get("pipeline_run_id")
    if pipeline_run is not None and any(name not in values for name in step.inputs):
        values = {**lineage.outputs_of_pipeline(store, pipeline_run), **values}
    if missing := [name for name in step.inputs if name not in values]:
        where = f", which pipeline run {pipeline_run} does not have" if pipeline_run is not None else ""
        raise ConfigError(
            f"Step {step.name} needs {', '.join(missing)}{where}. Set "
            + ", ".join(f"-P {name}=..." for name in missing)
            + ", or -P pipeline_run_id=<id> of a pipeline run that has them."
        )
    return {name: values[name] for name in step.inputs}


def _typed_inputs(module: Any, inputs: Mapping[str, str]) -> dict[str, Output]:
    """Return the inputs, converted to the types that the step's `run` declares: str, float or bool."""
    declared = inspect.signature(module.run).parameters
    typed: dict[str, Output] = {}
    for name, text in inputs.items():
        if name not in declared:
            raise ConfigError(
                f"{module.__name__}.run has no parameter {name}, but conf declares this input. Add the parameter."
            )
        annotation = declared[name].annotation
        cast = CASTS.get(annotation if isinstance(annotation, str) else annotation.__name__, str)
        try:
            typed[name] = cast(text)
        except ValueError as error:
            raise ConfigError(f"{name}: {quoted(text)} is not of type {annotation}.") from error
    return typed


def _check_outputs(step: Step, outputs: Outputs) -> None:
    returned, declared = set(outputs), set(step.outputs)
    if returned != declared:
        raise StepFailed(
            f"steps/{step.name}.py returned the outputs {sorted(returned)}, but the configuration declares "
            f"{sorted(declared)}. Change one of them."
        )
    for name, value in outputs.items():
        if (length := len(_text(value))) > TAG_LENGTH:
            raise StepFailed(
                f"steps/{step.name}.py returned {length:,} characters as the output {name}, and a tag of MLflow holds "
                f"{TAG_LENGTH:,}. Log the value as an artifact and return step.run_id."
            )


def _text(value: Output) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def _logging_to(store: Store, log: Path | None, run_id: str, name: str) -> Iterator[Path]:
    """Write log lines and warnings of the with block to `log`, or to an artifact of the run if `log` is None.

    Yield a folder for temporary files. If `log` is given, `log` is in this folder: driver.py deletes the folder, even
    if this process is killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        handler = logging.FileHandler(log or Path(folder, f"{name}.log"), encoding="utf-8")
        handler.setFormatter(terminal.EscapingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger("steps").setLevel(logging.INFO)
        logging.captureWarnings(True)
        logging.getLogger().addHandler(handler)
        logging.getLogger(f"steps.{name}").info("run %s", run_id)
        try:
            yield Path(handler.baseFilename).parent
        finally:
            logging.getLogger().removeHandler(handler)
            logging.captureWarnings(False)
            handler.close()
            if log is None:
                store.client.log_artifact(run_id, handler.baseFilename)


def execute_in_child(
    name: str, parameters: Mapping[str, str], run_id: str, log: Path, config: Config | None, share: Path
) -> int:
    """Run `execute` in this child process, on the process's share of the processors, and return the exit code."""
    raise_on_signals()
    keep_share(share)
    try:
        return execute(Store.inherited(), name, parameters, run_id, log, config)
    except Interrupted as error:
        return error.exit_code
    finally:
        sail.stop()


def keep_share(share: Path) -> None:
    """Use as many OpenMP threads as the file `share` says, now and after each signal SHARE_CHANGED.

    A parallel region that is running keeps its threads: OpenMP reads the number of threads when a region starts.
    """
    import threadpoolctl

    def apply(*_: object) -> None:
        threads = None
        while threads != (content := share.read_text()):  # repeat if the file has changed meanwhile
            os.environ["OMP_NUM_THREADS"] = threads = content  # libraries that are loaded later read it
            threadpoolctl.threadpool_limits(int(threads), user_api="openmp")

    signal.signal(SHARE_CHANGED, apply)
    signal.siginterrupt(SHARE_CHANGED, False)  # the system restarts the calls; libraries don't
    apply()
