"""What a person sees while the pipeline runs: one line a step, one line at the end."""

from __future__ import annotations

import shlex
import sys

MARKS = {
    "done": ("✓", "ok"),
    "failed": ("✗", "x "),
    "skipped": ("-", "- "),
    "taken": ("=", "= "),
    "dot": ("·", "|"),
}


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
    return f"python driver.py --profile {profile} --resume {run_id[:8]}{changed}"


def complain(text: str) -> None:
    """Print the one line that says what went wrong, to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
