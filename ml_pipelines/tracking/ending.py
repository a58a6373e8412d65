"""How a command ends with an error: one line for a person, an exit code, and a file with an unexpected traceback."""

from __future__ import annotations

import os
import tempfile
import traceback
from contextlib import suppress

from ml_pipelines.errors import Interrupted, PipelineError, SecretGiven, StepFailed, Unreachable, one_line
from ml_pipelines.system import paths, terminal
from ml_pipelines.text import escaped
from ml_pipelines.tracking import opening
from ml_pipelines.tracking.store import Store


def end_with(error: BaseException) -> int:
    """Print the error as one line, and return the exit code of the command.

    An error that the pipeline did not expect gets a file with its traceback, and the line names the file.
    """
    if isinstance(error, PipelineError | Interrupted):
        (terminal.complain if error.exit_code else terminal.say)(complaint(error))
        return error.exit_code
    if type(error).__module__.partition(".")[0] == "click":  # a wrong option: click prints how to use the command
        raise error
    terminal.complain(f"{complaint(error)} {_traceback_file(error)}")
    return StepFailed.exit_code


def complaint(error: BaseException) -> str:
    """Return the error as one line for a person, and close the run that `mlflow run` made if it is still RUNNING.

    The run becomes KILLED after a signal, and FAILED after any other error. Its tag `cause` names the error.
    If `mlflow run` stored a secret in the run, the run is deleted. A run that `mlflow run` can't have made for this
    process stays as it is.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID") or (opening.adopted.pop() if opening.adopted else None)
    code = getattr(error, "exit_code", StepFailed.exit_code)
    if not run_id or code == 0:
        return one_line(error)
    from mlflow.exceptions import MlflowException

    store = Store(paths.absolute_uri(os.environ.get("MLFLOW_TRACKING_URI") or paths.sqlite_uri()))
    with suppress(Unreachable, MlflowException, OSError):  # the error must be shown even if the store doesn't answer
        if opening.why_not_ours(store, run_id):
            return one_line(error)
        if not isinstance(error, SecretGiven):  # a person must hear about the secret even if the store doesn't answer
            status = "KILLED" if isinstance(error, Interrupted) else "FAILED"
            store.close(run_id, status, {"cause": one_line(error), "exit_code": str(code)})
    return one_line(error) + (store.withdraw_secret(run_id) if isinstance(error, SecretGiven) else "")


def _traceback_file(error: BaseException) -> str:
    """Write the traceback into a new temporary file, and return a sentence that names the file."""
    text = escaped("".join(traceback.format_exception(error)), keep="\n\t")
    try:
        descriptor, path = tempfile.mkstemp(prefix="ml-pipelines-", suffix=".traceback.txt")
        with open(descriptor, "w", encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # a descriptor
            file.write(text)
    except OSError:
        return f"Traceback:\n{text}"
    return f"This is unexpected. Please report it with its traceback: {path}"
