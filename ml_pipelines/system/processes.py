"""Finds out which process made an MLflow run and whether it still exists; locks a store; counts processors.

Each MLflow run has the tag `process`: host, process id and start time. The id alone is not enough, because the system
can give the same id to a later process.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from ml_pipelines.errors import Unreachable
from ml_pipelines.system import events, paths

PROCESS = "process"
DRIVER = "ML_PIPELINES_DRIVER"  # environment variable of a step's process: the id of the process that runs the pipeline
GRACE_S = 3.0  # seconds from SIGTERM to SIGKILL of a step; driver.py must react to a signal within 5 s
# This signal tells a step's process that its share of the processors has changed. On Windows, which has no SIGUSR1,
# no backend sends it.
SHARE_CHANGED = getattr(signal, "SIGUSR1", signal.SIGTERM)
PATIENCE_S = 10.0  # seconds from SIGTERM to SIGKILL of a process whose launcher has ended
# Seconds of waiting for a lock: until a notice tells the user, until the process gives up, and between two tries.
LOCK_PATIENCE_S, LOCK_LIMIT_S, LOCK_POLL_S = 2.0, 60.0, 0.02


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


@contextmanager
def alone_at(uri: str) -> Iterator[None]:
    """Lock a sqlite file, so that no other pipeline run on this machine opens or changes it inside the block.

    If two processes create the tables of the file at the same time, the file is unusable. The lock is on another
    file beside it, because closing the sqlite file would drop SQLite's own locks. Only a user who may write the sqlite
    file can lock it. If the lock's file can't be opened or locked, the block runs without the lock.

    Raises:
        Unreachable: another process has held the lock for LOCK_LIMIT_S.
    """
    if sys.platform == "win32" or not uri.startswith("sqlite:///"):  # Windows has no flock
        yield
        return
    import fcntl

    database = paths.sqlite_file(uri)
    with ExitStack() as opened:
        try:
            descriptor = _open_lock(database)
            opened.callback(os.close, descriptor)
            _wait_for_lock(descriptor, database)
            opened.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)  # unlocks even if a fork has the file open
        except PermissionError as error:  # this user can only read the store, or another user made the lock's file
            events.report(events.Notice(f"{database} is not locked: {error.filename} can't be opened."))
        except OSError:  # the folder is missing, which SQLite reports later, or the file system has no locks
            pass
        yield


def _open_lock(database: Path) -> int:
    """Open the lock's file, and create it if it does not exist.

    A new file gets the group of the database, and is writable for those who may write the database.
    """
    model = database if database.exists() else database.parent
    status = model.stat()
    writers = 0o600 | sum(0o6 << shift for shift in (0, 3) if status.st_mode & (0o2 << shift))
    path = database.with_name(f"{database.name}.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    with suppress(PermissionError):  # a user outside the group can't set it: the file keeps the user's own group
        os.fchown(descriptor, -1, status.st_gid)
    os.fchmod(descriptor, writers)
    return descriptor


def _wait_for_lock(descriptor: int, database: Path) -> None:
    """Wait for the lock, then write this process's id into the file. After LOCK_PATIENCE_S, report who has the lock."""
    import fcntl

    started, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            waited = time.monotonic() - started
        holder = os.pread(descriptor, 100, 0).decode(errors="replace") or "unknown"
        if waited >= LOCK_LIMIT_S:
            raise Unreachable(
                f"The MLflow store {database} has been locked for {LOCK_LIMIT_S:g} s by process {holder}. "
                "If that process is stopped or hangs, end it. Then try again."
            ) from None
        if waited >= LOCK_PATIENCE_S and not told:
            told = True
            events.report(
                events.Notice(
                    f"Waiting up to {LOCK_LIMIT_S:g} s for the MLflow store {database}: process {holder} has locked it."
                )
            )
        time.sleep(LOCK_POLL_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)


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
