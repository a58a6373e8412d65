"""The errors that a person can fix, each with the exit code of driver.py.

    PipelineError
     +-- ConfigError     2   an option, a config file, a step's declaration
     |    +-- SecretGiven    the command contains a secret
     +-- BadData         3   the source, the label, the split
     +-- StepFailed      4   anything else that a step raised
     |    +-- Unreachable    an engine or a store does not answer
     +-- QaRefused       5   the quality gate refused the model
     +-- TimedOut      124   a step took longer than its time limit
     +-- NothingToDo     0   all results are up to date

A message says what is wrong, where, and what to do next, in one line.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ml_pipelines.text import escaped, shown


class PipelineError(Exception):
    """The base class of all errors that a person can fix. Only its subclasses are raised."""

    exit_code: int


class ConfigError(PipelineError):
    """An option, a config file or the declaration of a step is wrong. Nothing has run."""

    exit_code = 2


class SecretGiven(ConfigError):
    """The command contains a secret. tracking/ending.py deletes the run in which `mlflow run` stored it."""


class BadData(PipelineError):
    """The data does not match the configuration."""

    exit_code = 3


class StepFailed(PipelineError):
    """A step failed for a reason that has no exception class of its own."""

    exit_code = 4


class Unreachable(StepFailed):
    """An engine or the MLflow store does not answer."""


class QaRefused(PipelineError):
    """The quality gate (step model_qa) finished, and refused the model."""

    exit_code = 5


class TimedOut(PipelineError):
    """A step took longer than its `timeout_s`."""

    exit_code = 124

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"took longer than its time limit of {limit_s:g} s (timeout_s)")


class Interrupted(BaseException):
    """A signal asked this process to stop. It is not an Exception, so that no step catches it."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.exit_code = 128 + signum


class NothingToDo(PipelineError):
    """All results are up to date. This is not a failure: the exit code is 0."""

    exit_code = 0


# Errors of the system that can go away by themselves, unlike a full disk, a missing file or a missing permission.
TRANSIENT = {errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH}


def is_transient(error: BaseException | None) -> bool:
    """Return whether a step that failed with this error can succeed when it is tried again.

    True: a connection, an engine, a store or a device failed, or the step exceeded its time limit. False: the error
    comes from the data, the configuration or the quality gate, or is unknown, which mostly means a mistake in the code.
    """
    if isinstance(error, PipelineError) and not isinstance(error, StepFailed | TimedOut):
        return False
    while error is not None:
        if isinstance(error, Unreachable | TimedOut | ConnectionError | TimeoutError):
            return True
        if isinstance(error, OSError) and error.errno in TRANSIENT:
            return True
        kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
        if kinds & {"requests.exceptions.ConnectionError", "requests.exceptions.Timeout"}:
            return True
        if getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE" or "StatusCode.UNAVAILABLE" in str(error):
            return True  # MLflow: the database is locked; gRPC: the engine is gone
        error = error.__cause__
    return False


@contextmanager
def renaming(old: str, new: str) -> Iterator[None]:
    """Replace `old` by `new` in the message of an error that a person can fix and the with block raises.

    The messages about a source name the settings in `data.source`, and `score.source` has the same settings.
    """
    try:
        yield
    except PipelineError as error:
        error.args = (str(error).replace(old, new),)
        raise


def message_of(error: object, limit: int | None = 200) -> str:
    """Return an error's message, escaped and on one line, cut to `limit` characters. None means no limit."""
    text = " ".join(str(error).split())
    return escaped(text) if limit is None else shown(text, limit)


def one_line(error: BaseException) -> str:
    """Return the error as one line for a person. If another library raised it, the line begins with its type."""
    text = " ".join(str(error).split())
    return shown(text if isinstance(error, PipelineError | Interrupted) else f"{type(error).__name__}: {text}", 400)
