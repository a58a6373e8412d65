"""A fork server: the heavy imports done once, then a forked child a step, in tens of milliseconds.

Python's own `multiprocessing` fork server, with what it leaves open closed: a child gets exactly the environment
it is given, never imports the caller's `__main__` (bin/mlflow, or the text that MLflow pastes a preamble to),
writes into a pipe that is read here, and dies with this process, even when that is killed.
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

from ml_pipelines import paths

OF_THE_CALLER = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")  # a server that kept them would hand them to every child
GRACE_S = 3.0  # between TERM and KILL: driver.py answers a signal within 5 s

SHARE_CHANGED = getattr(signal, "SIGUSR1", signal.SIGTERM)  # Windows has neither that nor a fork server

# What the server imports: for every step; for one that reads the source; for those that fit and judge.
ALWAYS = (
    "scipy.special",  # skops looks for each of its functions in all modules, in the order of import: 0.1 s, not 0.7 s
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.data.meta_dataset",
    "deltalake",
    "ml_pipelines.execution",
)
SPARK = ("pyspark.sql.connect.session", "pysail.spark")
FITTING = (
    "scipy.optimize",
    "scipy.stats",
    "sklearn.utils._testing",  # which skops imports
    "sklearn.ensemble",
    "sklearn.inspection",
    "skops.io",
    "mlflow.sklearn",
    "mlflow.store.model_registry.sqlalchemy_store",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)


def supported() -> bool:
    """Return whether this platform has what the fork server relies on."""
    return sys.platform == "linux"


def processors() -> int:
    """Return how many threads OpenMP would use here by itself: OMP_NUM_THREADS, else one a processor it may run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a number for each level of nesting
    return max(1, int(asked)) if asked.isdecimal() else len(os.sched_getaffinity(0))


def start(tracking_uri: str = "", fitting_first: bool = False) -> None:
    """Start the server, which does its imports while the caller goes on; nothing where it already runs.

    Args:
        tracking_uri: the store that the children will use, opened beforehand where it is sqlite.
        fitting_first: no step reads the source, so the first children need what fits and judges, and not Spark.
    """
    first = [*ALWAYS, *(FITTING if fitting_first else SPARK)]
    forkserver.set_forkserver_preload(["ml_pipelines.forking_server", *first])
    path = os.pathsep.join([str(paths.code()), *filter(None, [os.environ.get("PYTHONPATH")])])
    with _environment({"PYTHONPATH": path, **({"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {})}):
        forkserver.ensure_running()


@contextmanager
def leaving() -> Iterator[None]:
    """At a SystemExit inside, end this process at once where it has started a server.

    Python's own end would wait for the resource tracker, and that for the server, which may be importing: two seconds.
    The server dies with this process. All that was to be written has been: a pipeline run is closed by then.
    """
    try:
        yield
    except SystemExit as end:
        if forkserver._forkserver._forkserver_pid is not None:  # type: ignore[attr-defined]
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        if end.code:  # a Databricks cluster takes any SystemExit for a failure
            raise


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    saved = dict(os.environ)
    for name in OF_THE_CALLER:
        os.environ.pop(name, None)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


class Child:
    """A forked process that calls one function; its output comes through `on_line`, its end through `on_end`."""

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
        """Read to the end of the output, then take the exit code: in this thread alone, it can be read only once."""
        with os.fdopen(os.dup(reader.fileno()), encoding="utf-8", errors="replace") as lines:
            reader.close()
            for line in lines:
                on_line(line.rstrip("\n"))
        self._process.join()
        self._code = self._process.exitcode
        on_end(self._code or 0)

    @property
    def exit_code(self) -> int | None:
        """The exit code, minus a signal's number, or None while it runs."""
        return self._code

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until the child has ended and all it wrote was read; return its exit code, None where it still runs."""
        self._follower.join(timeout_s)
        return self._code

    def tell(self, number: int) -> None:
        """Send the child a signal, where it still runs."""
        if self._code is None and self._process.pid:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def stop(self) -> None:
        """Ask the child to end, and kill it where it doesn't."""
        self._process.terminate()
        if self.wait(GRACE_S) is None:
            self._process.kill()
            self.wait()


@contextmanager
def _no_main() -> Iterator[None]:
    """Hide the caller's `__main__` while a child's preparation data is made, so that no child imports it."""
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
    """In the child: take on the caller's environment, folder and output, then call."""
    die_with_parent()
    gc.freeze()  # what the server imported stays
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
    os._exit(code or 0)  # Sail's and Polars' threads have nothing to say at an interpreter's end


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends (Linux, prctl(2))."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended meanwhile
        os._exit(128 + signal.SIGKILL)
