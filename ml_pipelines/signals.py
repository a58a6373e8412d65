"""Signals that ask for an end, as an exception that no step swallows."""

from __future__ import annotations

import signal
from types import FrameType

from ml_pipelines.errors import Interrupted

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


def raise_on_signals() -> None:
    """Raise Interrupted in the main thread when this process is asked to stop."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        raise Interrupted(signum)

    for name in STOPPING:
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), stop)


def keep_interruptible() -> None:
    """Let a waiting main thread notice SIGINT again, after an import of Polars (which `import mlflow` does too).

    Polars puts a handler of its own before Python's, and has system calls restarted: a wait would just go on.
    """
    if hasattr(signal, "siginterrupt"):  # not on Windows
        signal.siginterrupt(signal.SIGINT, True)
