"""Everything that can go wrong in a way a person can mend, each with driver.py's exit code.

    PipelineError
     +-- ConfigError     2   an option, a config file, a step's declaration
     +-- BadData         3   the source, the label, the split
     +-- StepFailed      4   anything else that a step raised
     +-- QaRefused       5   the QA gate said no
     +-- NothingToDo     0   every result is there already

A message says what is wrong, where, and what to do next, in one line.
"""


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


class QaRefused(PipelineError):
    """A step finished, and its verdict on the model is no."""

    exit_code = 5


class Interrupted(BaseException):
    """A signal asked this process to stop. Not an Exception, so that no step swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.exit_code = 128 + signum


class NothingToDo(PipelineError):
    """Every step's result is there already. No failure: exit code 0."""

    exit_code = 0


def one_line(error: BaseException) -> str:
    """Return the error as one line for the person: an own message as it is, others with their type."""
    text = " ".join(str(error).split())
    if not isinstance(error, PipelineError | Interrupted):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 400 else text[:397] + "..."
