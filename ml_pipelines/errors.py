"""Everything that can go wrong in a way a person can mend, each with driver.py's exit code.

    PipelineError
     +-- ConfigError     2   an option, a config file, a step's declaration
     +-- BadData         3   the source, the label, the split
     +-- StepFailed      4   anything else that a step raised
     |    +-- Unreachable    an engine or a store that doesn't answer
     +-- QaRefused       5   the QA gate said no
     +-- TimedOut      124   a step took longer than its time limit
     +-- NothingToDo     0   every result is there already

A message says what is wrong, where, and what to do next, in one line.
"""

import errno


class PipelineError(Exception):
    """Base of the tree; never raised itself."""

    exit_code: int


class ConfigError(PipelineError):
    """An option, a config file or a declaration is wrong; nothing ran."""

    exit_code = 2


class BadData(PipelineError):
    """The data can't be what the pipeline was told it is."""

    exit_code = 3


class StepFailed(PipelineError):
    """A step raised something that is neither of the others."""

    exit_code = 4


class Unreachable(StepFailed):
    """What the step needs doesn't answer: an engine, the MLflow store."""


class QaRefused(PipelineError):
    """A step finished, and its verdict on the model is no."""

    exit_code = 5


class TimedOut(PipelineError):
    """A step took longer than its `timeout_s`."""

    exit_code = 124

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"took longer than its time limit of {limit_s:g} s (timeout_s)")


class Interrupted(BaseException):
    """A signal asked this process to stop. Not an Exception, so that no step swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.exit_code = 128 + signum


class NothingToDo(PipelineError):
    """Every step's result is there already. No failure: exit code 0."""

    exit_code = 0


# What errno says may pass by itself. A full disk, a missing file or a lacking permission doesn't.
PASSING = {errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH}


def transient(error: BaseException | None) -> bool:
    """Return whether the same step may well succeed when it is tried again.

    That is: a connection, an engine, a store or a device that failed for now, and a step that hung. Never what the
    data, the configuration or the gate said; nor anything unknown, which is taken for a mistake in the code.
    """
    if isinstance(error, PipelineError) and not isinstance(error, StepFailed | TimedOut):
        return False
    while error is not None:
        if isinstance(error, Unreachable | TimedOut | ConnectionError | TimeoutError):
            return True
        if isinstance(error, OSError) and error.errno in PASSING:
            return True
        kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
        if kinds & {"requests.exceptions.ConnectionError", "requests.exceptions.Timeout"}:
            return True
        if getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE" or "StatusCode.UNAVAILABLE" in str(error):
            return True  # MLflow's, of a database that is locked; gRPC's, of an engine that went away
        error = error.__cause__
    return False


def one_line(error: BaseException) -> str:
    """Return the error as one line for the person: an own message as it is, others with their type."""
    text = " ".join(str(error).split())
    if not isinstance(error, PipelineError | Interrupted):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 400 else text[:397] + "..."
