"""Helpers for a step that reports that it runs and then waits, so that a test can send a signal at that moment."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WRAPPED = """

import functools as _functools
import os as _os
_run = run


@_functools.wraps(_run)
def run(step, **inputs):
    {body}
    return _run(step, **inputs)
"""


def begin_with(project: Path, step: str, body: str) -> None:
    """Make a step of this copy of the project run `body` first; in `body`, `step` is its context."""
    with (project / "steps" / f"{step}.py").open("a") as module:
        module.write(WRAPPED.format(body=body))


@dataclass(frozen=True)
class Command:
    """A running command, the process id of its waiting step, and the file with its output."""

    process: subprocess.Popen[bytes]
    step: int
    out: Path

    def text(self) -> str:
        return self.out.read_text()


def gone(pid: int, within_s: float = 10) -> bool:
    """Return whether a process ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


@contextmanager
def blocked(project: Path, *command: str, step: str = "prepare_data", before: str = "step.spark") -> Iterator[Command]:
    """Run a command in its own session until the step waits; at the end, kill the command."""
    ready, out = project.parent / "ready", project.parent / "out"
    os.mkfifo(ready)
    report = f"_os.write(_os.open({str(ready)!r}, _os.O_WRONLY), str(_os.getpid()).encode())"
    begin_with(project, step, f"{before}; {report}; __import__('threading').Event().wait()")
    reader = os.open(ready, os.O_RDONLY | os.O_NONBLOCK)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with out.open("w") as file:
        process = subprocess.Popen(
            command, cwd=project, stdout=file, stderr=file, env={**os.environ, "PATH": path}, start_new_session=True
        )
    try:
        assert select.select([reader], [], [], 150)[0], out.read_text()
        yield Command(process, int(os.read(reader, 20)), out)
    finally:
        process.kill()
        process.wait()
        os.close(reader)
