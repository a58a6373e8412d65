"""Which process a run belongs to, what becomes of the runs whose process is gone, and who is alone at a store.

A run bears the tag `process`: host, process id, and when that process began. The id alone would do no good,
since it is given out again.
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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROCESS = "process"
DRIVER = "ML_PIPELINES_DRIVER"  # in the environment of a step: the id of the process that started the pipeline
PATIENCE_S = 10.0  # between TERM and KILL, for a process whose launcher has ended
REMOTE = "databricks.run_id"  # a step that goes on elsewhere, whatever becomes of its driver
GONE = "its process is gone: killed, or its machine went down"


@cache
def _host() -> str:
    """Return the machine's name, and which of its process tables this is: a container's ids mean nothing outside."""
    return f"{socket.gethostname()}/{Path('/proc/self/ns/pid').readlink().name}"


def _began(pid: int) -> str | None:
    """Return when a process began, in ticks since the machine's start: a clock that is set doesn't change it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # proc(5): state, and starttime


def identity() -> dict[str, str]:
    """Return the tag that says which process a run belongs to; nothing where there is no /proc (see docs)."""
    began = _began(os.getpid())
    return {PROCESS: f"{_host()} {os.getpid()} {began}"} if began else {}


def gone(process: str) -> bool:
    """Return whether a tag's process was one of this machine, and is there no more."""
    host, *ids = process.split(" ")
    return len(ids) == 2 and bool(identity()) and host == _host() and _began(int(ids[0])) != ids[1]


def reap(store: MlflowClient, experiment: str) -> list[str]:
    """Mark KILLED the experiment's runs that are RUNNING though their process is gone; return their ids."""
    running = list(store.search_runs([experiment], "attributes.status = 'RUNNING'"))
    dead = {run.info.run_id for run in running if gone(run.data.tags.get(PROCESS, ""))}
    for run in running:  # MLflow makes a step's run before our code can tag it
        if PROCESS not in run.data.tags and run.data.tags.get("mlflow.parentRunId") in dead:
            dead.add(run.info.run_id)
    left = [run.info.run_id for run in running if run.info.run_id in dead and REMOTE not in run.data.tags]
    # Read again: a process that is gone by now may have ended well since the search.
    left = [run_id for run_id in left if store.get_run(run_id).info.status == "RUNNING"]
    for run_id in left:
        store.set_tag(run_id, "cause", GONE)
        store.set_terminated(run_id, "KILLED")
    return left


def close_own(store: MlflowClient, experiment: str, cause: str) -> None:
    """Mark KILLED what this process began and has not closed, also what it doesn't know of yet."""
    if mine := identity():
        wanted = f"attributes.status = 'RUNNING' and tags.{PROCESS} = '{mine[PROCESS]}'"
        for run in store.search_runs([experiment], wanted):
            store.set_tag(run.info.run_id, "cause", cause)
            store.set_terminated(run.info.run_id, "KILLED")


@contextmanager
def alone_at(uri: str) -> Iterator[None]:
    """Keep other pipelines on this machine from a sqlite file meanwhile, by a lock on its folder.

    Two that create its tables at once leave it unusable. Not on the file: closing it would drop SQLite's own locks.
    """
    if sys.platform == "win32" or not uri.startswith("sqlite:///"):  # Windows has no such lock
        yield
        return
    import fcntl

    with ExitStack() as opened:
        with suppress(OSError):  # a folder that isn't there: whoever opens the file says so
            folder = os.open(Path(uri.removeprefix("sqlite:///").partition("?")[0]).parent, os.O_RDONLY)
            opened.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def end_with(pid: int) -> None:
    """End this process, by TERM and then KILL, when that one, parent or not, has ended, however that ended (Linux)."""
    if not hasattr(os, "pidfd_open") or pid == 0:  # 0: a parent outside of this container, which nobody can watch
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
