"""Turns signals that stop this process into an exception that no step catches."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from ml_pipelines.errors import Interrupted
from ml_pipelines.system import processes

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
IGNORE_S = 5.0  # seconds in which signals after the first are ignored, so that they don't interrupt the clean-up


def raise_on_signals() -> None:
    """Raise Interrupted in the main thread when a signal asks this process to stop, or when its launcher has ended."""
    ignore_until = 0.0

    def stop(signum: int, _frame: FrameType | None) -> None:
        nonlocal ignore_until
        if time.monotonic() >= ignore_until:
            ignore_until = time.monotonic() + IGNORE_S
            raise Interrupted(signum)

    for name in STOPPING:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # nohup makes a process ignore SIGHUP. Such a process must go on ignoring it.
        if number and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            signal.signal(number, stop)
    # `mlflow run` started this process, but does not stop it. So this process ends when `mlflow run` ends.
    if "MLFLOW_RUN_ID" in os.environ:
        processes.end_with(os.getppid())
    if driver := os.environ.get(processes.DRIVER):
        processes.end_with(int(driver))


def keep_interruptible() -> None:
    """Make SIGINT interrupt a waiting main thread again. Call this after an import of Polars or MLflow.

    Polars installs its own signal handler. With it, a waiting thread would not notice the signal.
    """
    if hasattr(signal, "siginterrupt"):  # not on Windows
        signal.siginterrupt(signal.SIGINT, True)
