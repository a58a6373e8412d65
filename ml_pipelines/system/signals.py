"""Turns signals that stop this process into an exception that no step catches."""

from __future__ import annotations

import os
import signal
import sys
import time
from threading import Timer
from types import FrameType

from ml_pipelines.errors import Interrupted
from ml_pipelines.system import processes

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
IGNORE_S = 5.0  # seconds in which signals after the first are ignored, so that they don't interrupt the clean-up
AGAIN_S = 0.05  # seconds until a lost Interrupted is raised again

_held: list[int] = []  # signals that came before this process could handle them


def hold() -> None:
    """Keep signals for `raise_on_signals`. Call this before slow imports.

    Without this, a signal during the imports would end the process with a traceback, or while the run that `mlflow run`
    created is still RUNNING.
    """
    _handle(lambda signum, _: _held.append(signum))


def raise_on_signals() -> None:
    """Raise Interrupted in the main thread when a signal asks this process to stop, or when its launcher has ended.

    Raises:
        Interrupted: a signal came between `hold` and this call.
    """
    ignore_until = 0.0

    def stop(signum: int, _frame: FrameType | None) -> None:
        nonlocal ignore_until
        if time.monotonic() >= ignore_until:
            ignore_until = time.monotonic() + IGNORE_S
            raise Interrupted(signum)

    report = sys.unraisablehook

    def raise_again(lost: sys.UnraisableHookArgs) -> None:
        """Send the signal again if Python has dropped Interrupted, as in a destructor or a weakref callback."""
        nonlocal ignore_until
        if not isinstance(lost.exc_value, Interrupted):
            report(lost)
            return
        ignore_until = 0.0
        again = Timer(AGAIN_S, os.kill, (os.getpid(), lost.exc_value.exit_code - 128))
        again.daemon = True
        again.start()

    sys.unraisablehook = raise_again
    _handle(stop)
    # `mlflow run` started this process, but does not stop it. So this process ends when `mlflow run` ends.
    if "MLFLOW_RUN_ID" in os.environ:
        processes.end_with(os.getppid())
    if driver := os.environ.get(processes.DRIVER):
        processes.end_with(int(driver))
    if _held:
        raise Interrupted(_held[0])


def ignore() -> None:
    """Ignore signals from now on: this process has its exit code and is about to end."""
    _handle(signal.SIG_IGN)


def _handle(handler: signal._HANDLER) -> None:
    for name in STOPPING:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # nohup makes a process ignore SIGHUP. Such a process must go on ignoring it.
        if number and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            signal.signal(number, handler)


def keep_interruptible() -> None:
    """Make SIGINT interrupt a waiting main thread again. Call this after an import of Polars or MLflow.

    Polars installs its own signal handler. With that handler, a waiting thread would not notice the signal.
    """
    if hasattr(signal, "siginterrupt"):  # not on Windows
        signal.siginterrupt(signal.SIGINT, True)
