"""What a person sees while the pipeline runs: one line a step, one line at the end."""

from __future__ import annotations

import os
import shlex
import sys

from ml_pipelines import paths

MARKS = {
    "done": ("✓", "ok"),
    "failed": ("✗", "x "),
    "skipped": ("-", "- "),
    "taken": ("=", "= "),
    "dot": ("·", "|"),
}


def quieten() -> None:
    """Keep MLflow from saying what would drown the steps' own lines. To be called before it is imported."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of a server, twice a step
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git needs no lecture on it


def say(text: str = "") -> None:
    """Print a line now, in ASCII where the terminal knows no more."""
    encoding = sys.stdout.encoding or "ascii"
    if "utf" not in encoding.lower():
        for mark, plain in MARKS.values():
            text = text.replace(mark, plain)
        text = text.encode(encoding, "replace").decode(encoding)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def step_line(mark: str, step_name: str, seconds: float | None, text: str) -> str:
    """Return one step's line; `mark` is a key of MARKS."""
    time = "" if seconds is None else f"{seconds:5.1f} s"
    return f"  {MARKS[mark][0]} {step_name:<24}{time:>7}   {text}"


def resume_command(profile: str, run_id: str, overrides: str) -> str:
    """Return the command that goes on with a pipeline run."""
    changed = "" if overrides == "none" else f" --set {shlex.quote(overrides)}"
    command = "python driver.py" if paths.checkout() else "local-pipeline"
    return f"{command} --profile {profile} --resume {run_id[:8]}{changed}"


def complain(text: str) -> None:
    """Print the one line that says what went wrong, to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
