"""One step in one MLflow run: its inputs found, its module called, its outputs checked and handed on as tags.

The same in every place a step runs: in process, as an entry point of the project, as a task of a job.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_pipelines import errors, lineage, run_page, taskvalues, tracking
from ml_pipelines.config import LOCAL, NONE, Config, Step, load
from ml_pipelines.context import Output, Outputs, StepContext
from ml_pipelines.errors import ConfigError, Interrupted, PipelineError, QaRefused, StepFailed, TimedOut, one_line
from ml_pipelines.forking import SHARE_CHANGED
from ml_pipelines.signals import raise_on_signals
from ml_pipelines.terminal import complain

if TYPE_CHECKING:
    from mlflow.entities import Run

CASTS: dict[str, Callable[[str], Output]] = {"str": str, "float": float, "bool": lambda text: text == "true"}


def execute(
    key: str, parameters: Mapping[str, str], run_id: str, log: Path | None = None, config: Config | None = None
) -> int:
    """Run step `key` in the MLflow run `run_id`, close that run, and return the exit code.

    Args:
        key: the step's name in conf.
        parameters: the entry point's, as text: pipeline_run_id and the step's inputs; profile and set, if no `config`.
        run_id: the step's run.
        log: where to append what is logged, if someone else makes an artifact of it.
        config: the configuration, where the caller has loaded it.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _execute(key, parameters, run_id, log, config)
    except (MlflowException, OSError) as error:  # of the store itself, which may not take even that
        cause = one_line(tracking.failed(error))
        complain(cause)
        with suppress(MlflowException):
            tracking.close(run_id, "FAILED", {"exit_code": str(StepFailed.exit_code), "cause": cause})
        return StepFailed.exit_code


def _execute(key: str, parameters: Mapping[str, str], run_id: str, log: Path | None, config: Config | None) -> int:
    import mlflow
    from mlflow.exceptions import MlflowException

    run = mlflow.start_run(run_id=run_id, nested=True)
    status, tags = "FAILED", {"step": key, "exit_code": "0"}
    try:
        with _logging_to(log, run_id, key):
            try:
                config = config or load(parameters.get("profile", LOCAL), [parameters.get("set", NONE)])
                tags |= _run(config.step(key), config, parameters, run)
                status = "FINISHED"
            except (Exception, SystemExit) as error:
                if isinstance(error, MlflowException):
                    tracking.failed(error)
                logging.getLogger(f"steps.{key}").error("%s", "".join(traceback.format_exception(error)))
                with suppress(OSError):  # a disk that is full, perhaps: the log, and the cause below, say it too
                    tracking.client().log_text(run_id, "".join(traceback.format_exception(error)), "traceback.txt")
                code = error.exit_code if isinstance(error, PipelineError) else StepFailed.exit_code
                tags |= {"exit_code": str(code), "cause": one_line(error)}
                tags |= {"transient": "true"} if errors.transient(error) else {}
            if reason := tags.get("refusal"):
                status, tags = "FAILED", {**tags, "exit_code": str(QaRefused.exit_code), "cause": reason}
        tracking.set_tags(run_id, tags)  # before its status: killed between, a run would be FINISHED without outputs
    except BaseException as error:
        status = "KILLED"
        tracking.close(run_id, status, {"cause": one_line(error)})
        raise
    finally:
        mlflow.end_run(status)
    return int(tags["exit_code"])


def _run(step: Step, config: Config, parameters: Mapping[str, str], run: Run) -> dict[str, str]:
    """Call the step's module, and return the tags that hand on what it returned."""
    run_id = str(run.info.run_id)
    run_page.describe_step(run_id, step, config)
    inputs = find_inputs(step, parameters)
    module = importlib.import_module(f"steps.{step.key}")
    context: StepContext[Any] = StepContext(
        config, step.key, run_id, tracking.parent_of(run) or run_id, str(run.info.experiment_id)
    )
    with _within(step.timeout_s):
        outputs = module.run(context, **_typed(module, inputs))
    _check_outputs(step, outputs)
    context.check_tables()
    taskvalues.mirror(outputs)
    tags = {f"{lineage.OUTPUT}{name}": _text(value) for name, value in outputs.items()}
    return {**tags, **context.tags(), **({"refusal": context.refusal} if context.refusal else {})}


@contextmanager
def _within(limit_s: float | None) -> Iterator[None]:
    """Raise TimedOut inside when the time is over, so that the traceback shows where.

    What holds the interpreter notices nothing; the driver stops such a step's process a little later.
    """
    main = threading.current_thread() is threading.main_thread()
    if limit_s is None or not main or not hasattr(signal, "setitimer"):  # not on Windows
        yield
        return

    def over(*_: object) -> None:
        raise TimedOut(limit_s)

    handler, timer = signal.signal(signal.SIGALRM, over), signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def find_inputs(step: Step, parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the step's inputs: as given, else from the outputs of the steps of pipeline_run_id.

    Raises:
        ConfigError: an input is neither given nor found.
    """
    given = {name: value for name, value in parameters.items() if value != NONE}
    earlier: Mapping[str, str] = {}
    if any(name not in given for name in step.inputs) and "pipeline_run_id" in given:
        earlier = lineage.outputs_of_pipeline(given["pipeline_run_id"])
    found = {**earlier, **given}
    if missing := [name for name in step.inputs if name not in found]:
        where = f"pipeline run {given['pipeline_run_id']} has" if earlier or "pipeline_run_id" in given else "there is"
        raise ConfigError(
            f"Step {step.key} needs {', '.join(missing)}, and {where} none. Give "
            + ", ".join(f"-P {name}=..." for name in missing)
            + ", or -P pipeline_run_id=<id> of a pipeline run that has them."
        )
    return {name: found[name] for name in step.inputs}


def _typed(module: Any, inputs: Mapping[str, str]) -> dict[str, Output]:
    """Return the inputs as the types that the step's `run` declares for them: str, float or bool."""
    declared = inspect.signature(module.run).parameters
    typed: dict[str, Output] = {}
    for name, text in inputs.items():
        if name not in declared:
            raise ConfigError(f"{module.__name__}.run takes no {name}, an input that conf declares. Add the parameter.")
        annotation = declared[name].annotation
        cast = CASTS.get(annotation if isinstance(annotation, str) else annotation.__name__, str)
        try:
            typed[name] = cast(text)
        except ValueError as error:
            raise ConfigError(f"{name}: {text!r} is no {annotation}.") from error
    return typed


def _check_outputs(step: Step, outputs: Outputs) -> None:
    returned, declared = set(outputs), set(step.outputs)
    if returned != declared:
        raise StepFailed(f"steps/{step.key}.py returned {sorted(returned)}, conf declares {sorted(declared)}.")


def _text(value: Output) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def _logging_to(log: Path | None, run_id: str, key: str) -> Iterator[None]:
    """Collect what is logged meanwhile, warnings too, in `log`, else as an artifact of the run."""
    with tempfile.TemporaryDirectory() as folder:
        handler = logging.FileHandler(log or Path(folder, f"{key}.log"), encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger("steps").setLevel(logging.INFO)
        logging.captureWarnings(True)
        logging.getLogger().addHandler(handler)
        logging.getLogger(f"steps.{key}").info("run %s", run_id)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
            logging.captureWarnings(False)
            handler.close()
            if log is None:
                tracking.client().log_artifact(run_id, handler.baseFilename)


def execute_in_child(
    key: str, parameters: Mapping[str, str], run_id: str, log: Path, config: Config | None, share: Path
) -> int:
    """Do as `execute` in a process of its own, on its share of the processors; stopped by a signal, say so."""
    import mlflow

    raise_on_signals()
    keep_share(share)
    tracking.keep_quiet()
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    try:
        return execute(key, parameters, run_id, log, config)
    except Interrupted as error:
        return error.exit_code


def keep_share(share: Path) -> None:
    """Use as many OpenMP threads as the file says, now and whenever SHARE_CHANGED says that it has changed.

    What is under way keeps its threads: OpenMP takes note at the start of a parallel region.
    """
    import threadpoolctl

    def take(*_: object) -> None:
        threads = None
        while threads != (said := share.read_text()):  # a signal that comes meanwhile is answered first
            os.environ["OMP_NUM_THREADS"] = threads = said  # for a library that is loaded after this
            threadpoolctl.threadpool_limits(int(threads), user_api="openmp")

    signal.signal(SHARE_CHANGED, take)
    signal.siginterrupt(SHARE_CHANGED, False)  # libraries need not know of it
    take()
