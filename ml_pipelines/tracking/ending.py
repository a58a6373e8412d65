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
    terminal.complain(f"{one_line(error)} {_traceback_file(error)}")
    return StepFailed.exit_code


def complaint(error: BaseException) -> str:
    """Return the error as one line for a person. If the command contained a secret, delete the run that stores it.

    `mlflow run` made that run for this process and named it in MLFLOW_RUN_ID. If the variable names any other run, the
    run is not deleted.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not isinstance(error, SecretGiven) or not run_id:
        return one_line(error)
    store = Store(paths.absolute_uri(os.environ.get("MLFLOW_TRACKING_URI") or paths.sqlite_uri()))
    with suppress(Unreachable):  # if the store doesn't answer, still tell the person to change the secret
        if opening.why_not_ours(store, run_id):
            return one_line(error)
    return one_line(error) + store.withdraw_secret(run_id)


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
