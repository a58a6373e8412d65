"""Finds out which process made a run and whether that process still exists; locks a store; counts processors.

Each run has the tag `process`: host, process id and start time. The id alone is not enough, because the system gives
the same id to a later process.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

PROCESS = "process"
DRIVER = "ML_PIPELINES_DRIVER"  # environment variable of a step: the id of the process that started the pipeline
GRACE_S = 3.0  # seconds from SIGTERM to SIGKILL of a step; driver.py must react to a signal within 5 s
# The signal that a step's share of the processors has changed. Windows has no SIGUSR1, and no backend that sends it.
SHARE_CHANGED = getattr(signal, "SIGUSR1", signal.SIGTERM)
PATIENCE_S = 10.0  # seconds from SIGTERM to SIGKILL of a process whose launcher has ended


@cache
def _host() -> str:
    """Return the machine's name and its process namespace, because a container has process ids of its own."""
    return f"{socket.gethostname()}/{Path('/proc/self/ns/pid').readlink().name}"


def _start_time(pid: int) -> str | None:
    """Return when a process started, in ticks since boot, or None if it has ended. A changed clock has no effect."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # in proc(5): state and starttime


def process_tag() -> dict[str, str]:
    """Return the tag that identifies this process; empty if the system has no /proc (docs/reliability.md)."""
    started = _start_time(os.getpid())
    return {PROCESS: f"{_host()} {os.getpid()} {started}"} if started else {}


def is_gone(process: str) -> bool:
    """Return whether the process that a run's tag `process` identifies ran on this machine and has ended."""
    host, *ids = process.split(" ")
    named = len(ids) == 2 and ids[0].isdecimal() and host == _host()
    return named and bool(process_tag()) and _start_time(int(ids[0])) != ids[1]


def is_driver(process: str) -> bool:
    """Return whether a run's tag `process` identifies the driver that started this process as a step."""
    host, *ids = process.split(" ")
    return host == _host() and ids[:1] == [os.environ.get(DRIVER, "")]


@contextmanager
def alone_at(uri: str) -> Iterator[None]:
    """Lock the folder of a sqlite file, so that no other pipeline on this machine opens the file inside the block.

    If two processes create the tables of the file at the same time, the file is unusable. The lock is on the folder,
    because opening and closing the file itself would drop SQLite's own locks.
    """
    if sys.platform == "win32" or not uri.startswith("sqlite:///"):  # Windows has no such lock
        yield
        return
    import fcntl

    with ExitStack() as opened:
        with suppress(OSError):  # if the folder does not exist, opening the file reports it
            folder = os.open(Path(uri.removeprefix("sqlite:///").partition("?")[0]).parent, os.O_RDONLY)
            opened.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def end_with(pid: int) -> None:
    """End this process (SIGTERM, then SIGKILL) as soon as the process `pid` ends for any reason. Linux only."""
    if not hasattr(os, "pidfd_open") or pid == 0:  # 0: the parent is outside this container
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
        return

    def watch() -> None:
        select.select([descriptor], [], [])
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(PATIENCE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with").start()


def processors() -> int:
    """Return how many threads OpenMP uses by default: OMP_NUM_THREADS, or else one for each available processor."""
    # The value may be a list with one number for each nested level, such as "4,2". The first number counts.
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return max(1, int(threads)) if threads.isdecimal() else len(os.sched_getaffinity(0))


def on_databricks() -> bool:
    """Return whether this process runs on a Databricks cluster."""
    return "DATABRICKS_RUNTIME_VERSION" in os.environ
