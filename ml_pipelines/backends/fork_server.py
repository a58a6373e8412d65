"""A fork server: it does the heavy imports once, and then forks a child for each step within milliseconds.

This uses the fork server of Python's `multiprocessing`, with four additions. A child gets exactly the environment of
the caller. It never imports the caller's `__main__`, which may be bin/mlflow. It writes to a pipe that this process
reads. It dies with this process, even if this process is killed.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ml_pipelines.system import paths, processes

CALLER_ONLY = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")  # the server must not pass these on to every child

# Modules that the server imports for every step (ALWAYS), to read the source (SPARK), to fit and evaluate (FITTING).
ALWAYS = (
    "scipy.special",  # skops searches all modules in the order of import; this one first saves 0.6 s
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.data.meta_dataset",
    "deltalake",
    "ml_pipelines.execution.step_run",
)
SPARK = ("pyspark.sql.connect.session", "pysail.spark")
FITTING = (
    "scipy.optimize",
    "scipy.stats",
    "sklearn.utils._testing",  # skops imports it
    "sklearn.ensemble",
    "sklearn.inspection",
    "skops.io",
    "mlflow.sklearn",
    "mlflow.store.model_registry.sqlalchemy_store",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)


def supported() -> bool:
    """Return whether this platform can run the fork server."""
    return sys.platform == "linux"


def start(tracking_uri: str = "", fitting_first: bool = False) -> None:
    """Start the server, unless it is running. It does its imports while the caller continues.

    Args:
        tracking_uri: the store that the children will use. The server opens it in advance if it is sqlite.
        fitting_first: import FITTING before SPARK, because no step reads the source.
    """
    first = [*ALWAYS, *(FITTING if fitting_first else SPARK)]
    forkserver.set_forkserver_preload(["ml_pipelines.backends.preload", *first])
    path = os.pathsep.join([str(paths.code()), *filter(None, [os.environ.get("PYTHONPATH")])])
    with _environment_with({"PYTHONPATH": path, **({"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {})}):
        forkserver.ensure_running()


@contextmanager
def quick_exit() -> Iterator[None]:
    """End this process at once when the block raises SystemExit and a fork server was started.

    Python's normal exit takes up to two seconds: it waits for the resource tracker, which waits for the server, which
    may still be importing. Nothing is lost: the pipeline run is closed by then, and the server dies with this process.
    """
    try:
        yield
    except SystemExit as end:
        if forkserver._forkserver._forkserver_pid is not None:  # type: ignore[attr-defined]
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        if end.code:  # a Databricks cluster treats every SystemExit as a failure
            raise


@contextmanager
def _environment_with(extra: Mapping[str, str]) -> Iterator[None]:
    saved = dict(os.environ)
    for name in CALLER_ONLY:
        os.environ.pop(name, None)
    os.environ.update(extra)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


class Child:
    """A forked process that calls one function. `on_line` gets each line of its output, `on_end` its exit code."""

    def __init__(
        self,
        target: Callable[..., int],
        arguments: tuple[Any, ...],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        on_end: Callable[[int], None],
    ) -> None:
        start()
        context = multiprocessing.get_context("forkserver")
        reader, writer = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(
            target=_call, args=(target, arguments, dict(environment), str(Path.cwd()), writer), daemon=False
        )
        with _no_main():
            self._process.start()
        writer.close()
        self._code: int | None = None
        self._follower = threading.Thread(target=self._follow, args=(reader, on_line, on_end), name="follow-child")
        self._follower.start()

    def _follow(self, reader: Connection, on_line: Callable[[str], None], on_end: Callable[[int], None]) -> None:
        """Read the output to its end, then the exit code. Only this thread does it: the code can be read only once."""
        with os.fdopen(os.dup(reader.fileno()), encoding="utf-8", errors="replace") as lines:
            reader.close()
            for line in lines:
                on_line(line.rstrip("\n"))
        self._process.join()
        self._code = self._process.exitcode
        on_end(self._code or 0)

    @property
    def exit_code(self) -> int | None:
        """The exit code; a negative signal number if a signal killed the child; None while it runs."""
        return self._code

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until the child has ended and its output was read. Return its exit code, or None after a time-out."""
        self._follower.join(timeout_s)
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal to the child if it is still running."""
        if self._code is None and self._process.pid:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def stop(self) -> None:
        """Ask the child to end, and kill it if it does not."""
        self._process.terminate()
        if self.wait(processes.GRACE_S) is None:
            self._process.kill()
            self.wait()


@contextmanager
def _no_main() -> Iterator[None]:
    """Hide the caller's `__main__` in the block, so that a child started in the block does not import it."""
    main = sys.modules["__main__"]
    saved: dict[str, Any] = {
        name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__
    }
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(saved)


def _call(
    target: Callable[..., int], arguments: tuple[Any, ...], environment: dict[str, str], folder: str, out: Connection
) -> None:
    """Call the function in the child, with the caller's environment and folder. Its output goes to `out`."""
    die_with_parent()
    gc.freeze()  # the objects of the server's imports are never garbage
    gc.enable()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor in (1, 2):
        os.dup2(out.fileno(), descriptor)
    out.close()
    code = target(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)  # do not wait for threads of Sail and Polars


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends for any reason (Linux, prctl(2))."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # the parent ended before the call
        os._exit(128 + signal.SIGKILL)
