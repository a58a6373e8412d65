"""Signals that ask for an end, as an exception that no step swallows."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from ml_pipelines import processes
from ml_pipelines.errors import Interrupted

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
DEAF_S = 5.0  # after the first: a second signal would break off what the first asked for


def raise_on_signals() -> None:
    """Raise Interrupted in the main thread when this process is asked to stop, or the one that launched it ended."""
    deaf_until = 0.0

    def stop(signum: int, _frame: FrameType | None) -> None:
        nonlocal deaf_until
        if time.monotonic() >= deaf_until:
            deaf_until = time.monotonic() + DEAF_S
            raise Interrupted(signum)

    for name in STOPPING:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):  # nohup's
            signal.signal(number, stop)
    if "MLFLOW_RUN_ID" in os.environ:  # started by `mlflow run`, which stops nobody when it is stopped
        processes.end_with(os.getppid())
    if driver := os.environ.get(processes.DRIVER):
        processes.end_with(int(driver))


def keep_interruptible() -> None:
    """Let a waiting main thread notice SIGINT again, after an import of Polars (which `import mlflow` does too).

    Polars puts a handler of its own before Python's, and has system calls restarted: a wait would just go on.
    """
    if hasattr(signal, "siginterrupt"):  # not on Windows
        signal.siginterrupt(signal.SIGINT, True)
