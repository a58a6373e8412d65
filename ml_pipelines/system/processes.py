"""Finds out which process made an MLflow run and whether it still exists; counts processors.

Each MLflow run has the tag `process`: host, process id and start time. The id alone is not enough, because the system
can give the same id to a later process.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from functools import cache
from pathlib import Path

PROCESS = "process"
DRIVER = "ML_PIPELINES_DRIVER"  # environment variable of a step's process: the id of the process that runs the pipeline
GRACE_S = 3.0  # seconds from SIGTERM to SIGKILL of a step; driver.py must react to a signal within 5 s
# This signal tells a step's process that its share of the processors has changed. On Windows, which has no SIGUSR1,
# no backend sends it.
SHARE_CHANGED = getattr(signal, "SIGUSR1", signal.SIGTERM)
PATIENCE_S = 10.0  # seconds from SIGTERM to SIGKILL of a process whose launcher has ended


@cache
def _host() -> str:
    """Return the names of the machine and of the process namespace: each container has process ids of its own."""
    return f"{socket.gethostname()}/{Path('/proc/self/ns/pid').readlink().name}"


def _start_time(pid: int) -> str | None:
    """Return when a process started, in ticks since boot, or None if it has ended. A changed clock has no effect."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # these fields are the state and the start time (proc(5))


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


def end_with(pid: int) -> None:
    """End this process (SIGTERM, then SIGKILL) as soon as the process `pid` ends for any reason. Linux only."""
    if not hasattr(os, "pidfd_open") or pid == 0:  # 0: a process outside this container, which can't be watched
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
    # OMP_NUM_THREADS can be a list such as "4,2": 4 threads, and 2 in parallel code that these 4 start. Use only the 4.
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return max(1, int(threads)) if threads.isdecimal() else len(os.sched_getaffinity(0))


def on_databricks() -> bool:
    """Return whether this process runs on a Databricks cluster."""
    return "DATABRICKS_RUNTIME_VERSION" in os.environ
