"""Explains errors that come from a lack of disk space, open files or threads. Libraries often don't name that cause."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ml_pipelines.errors import StepFailed
from ml_pipelines.system import paths

FULL = re.compile(r"No space left on device|database or disk is full|Disk quota exceeded", re.IGNORECASE)
FILES = re.compile(r"Too many open files", re.IGNORECASE)
THREADS = re.compile(
    r"can't start new thread|failed to (spawn|create|initiate) [\w ]*thread|pthread_create(?!\.c:)", re.IGNORECASE
)
# The fewest open files, and processes and threads, with which a pipeline run of two steps at once can finish.
OPEN_FILES, PROCESSES = 128, 128


def check_limits() -> None:
    """Check that this process may open as many files and start as many threads as a pipeline run needs.

    Raises:
        StepFailed: a limit is too low.
    """
    for name, option, least, what in _limits():
        if name < least:
            raise StepFailed(
                f"{option} is {name}, and a pipeline run needs at least {least} {what}. "
                f"Raise the limit, for example: {option} 4096."
            )


def _limits() -> Iterator[tuple[int, str, int, str]]:
    """Yield (value, command that shows it, least value for a pipeline run, unit) for each limit that is set."""
    if sys.platform == "win32":
        return
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY:
        yield files, "ulimit -n", OPEN_FILES, "open files"
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if processes != resource.RLIM_INFINITY and os.geteuid() != 0:  # Linux does not limit root
        yield processes, "ulimit -u", PROCESSES, "processes and threads"


def explain(error: BaseException, told: str = "", place: str = "") -> StepFailed | None:
    """Return an error that names the shortage behind `error` and what to do, or None if no shortage caused `error`.

    Args:
        error: an error of any library, possibly because of a shortage.
        told: the caller's message for a full disk, if the caller knows what could not be written.
        place: the folder that the caller wrote to. The message shows this folder's free space too.
    """
    if isinstance(error, StepFailed) and FULL.search(str(error)):
        told = told or str(error)
    for cause in _chain(error):
        text = str(cause)
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or FULL.search(text):
            return _no_space(cause, told, place)
        if number in (errno.EMFILE, errno.ENFILE) or FILES.search(text):
            return StepFailed(
                f"Too many open files{_limit('ulimit -n')}. Raise the limit, for example: ulimit -n 4096."
            )
        if THREADS.search(text) or (isinstance(cause, BlockingIOError) and number == errno.EAGAIN):
            limit = _limit("ulimit -u")
            return StepFailed(f"Too many processes and threads{limit}. Raise the limit, for example: ulimit -u 4096.")
    return None


def _no_space(error: BaseException, told: str, place: str) -> StepFailed:
    file = getattr(error, "filename2", None) or getattr(error, "filename", None)  # filename2: a copy's target
    told = told or f"No space left on device{f' for {file}' if file else ''}"
    places = [place, str(Path(str(file)).parent) if file else "", tempfile.gettempdir(), str(paths.root())]
    free = ", ".join(
        f"{folder} {shutil.disk_usage(folder).free / 1e6:,.0f} MB"
        for folder in dict.fromkeys(places)
        if folder and Path(folder).exists()
    )
    return StepFailed(f"{told.rstrip('.')}. Free: {free}. Make room, or set TMPDIR to another folder.")


def _limit(option: str) -> str:
    return next((f" ({option} is {value})" for value, name, *_ in _limits() if name == option), "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
