"""The terminal: lines to standard output and standard error."""

from __future__ import annotations

import logging
import os
import re
import sys

from ml_pipelines.text import escaped

MARKS = {"done": "✓", "failed": "✗", "skipped": "-", "reused": "="}  # state of a step -> the mark before its line
PLAIN = {"✓": "ok", "✗": "x", "·": "|"}  # for a terminal without Unicode


def silence_mlflow() -> None:
    """Silence MLflow's messages, so that only this library's lines appear. Call this before MLflow is imported."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # hides the address of each run
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # SHAP and Optuna bring tqdm, which draws it
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # no warning if git is not installed


class EscapedRecord(logging.LogRecord):
    """A log record whose message has no control characters: libraries log texts that come from servers and files."""

    def getMessage(self) -> str:  # noqa: N802  # logging calls this method by this name
        """Return the message, escaped."""
        return escaped(super().getMessage(), keep="\n\t")


class EscapingFormatter(logging.Formatter):
    """Formats a log record and its traceback as text without control characters and secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of the record."""
        return escaped(super().format(record), keep="\n\t")


def escape_log_records() -> None:
    """Escape the messages of all loggers of this process."""
    logging.setLogRecordFactory(EscapedRecord)


def say(text: str = "") -> None:
    """Print a line without delay. Control characters are escaped. Characters that the terminal lacks are replaced."""
    text = escaped(text, keep="\n\t")
    encoding = sys.stdout.encoding or "ascii"
    if "utf" not in encoding.lower():
        text = re.sub("^  ([-=✗]) ", r"  \1  ", text)  # make these marks as wide as "ok"
        for mark, plain in PLAIN.items():
            text = text.replace(mark, plain)
        text = text.encode(encoding, "replace").decode(encoding)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Print an error message to standard error. Control characters are escaped."""
    sys.stderr.write(f"{escaped(text, keep=chr(10))}\n")
    sys.stderr.flush()
