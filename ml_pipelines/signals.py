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
