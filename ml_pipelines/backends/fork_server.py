"""A fork server: a process that does the heavy imports once, and then forks a child for each step in milliseconds.

This uses the fork server of Python's `multiprocessing`, with four additions. A child gets exactly the environment of
this process. A child never imports the `__main__` of this process, which may be bin/mlflow. A child writes its output
to a pipe that this process reads. A child dies with this process, even if this process is killed.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ml_pipelines.errors import Interrupted, StepFailed, one_line
from ml_pipelines.system import paths, processes, signals
from ml_pipelines.tracking import ending

FOLDER = "ml-pipelines-driver-"  # prefix of the folder for a driver's socket and logs; mkdtemp adds eight characters
LISTENER_BYTES = len(f"/{FOLDER}12345678/listener-12345678")  # length of the socket's path below the temporary folder
CALLER_ONLY = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")  # variables of this process that the server must not inherit

# Modules that the server imports for every step (ALWAYS), to read the source (SPARK), to fit and evaluate (FITTING).
ALWAYS = (
    "scipy.special",  # skops searches modules in the order of their imports: this one first saves 0.6 s
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
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)


def supported() -> bool:
    """Return whether this platform can run the fork server."""
    return sys.platform == "linux"


def start(tracking_uri: str = "", fitting_first: bool = False) -> None:
    """Start the server, unless it is running. The server does its imports while the caller continues.

    Args:
        tracking_uri: the store that the children will use. The server opens it in advance if it is sqlite.
        fitting_first: import FITTING before SPARK. Set it if no step reads the source.
    """
    first = [*ALWAYS, *(FITTING if fitting_first else SPARK)]
    forkserver.set_forkserver_preload(["ml_pipelines.backends.preload", *first])
    path = os.pathsep.join([str(paths.code()), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Without PYTHONSAFEPATH, the server (`python -c`) would import from the working directory first.
    # The server is killed at the end, so its temporary files are in a folder that the driver deletes.
    extra = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "TMPDIR": str(folder())}
    multiprocessing.current_process()._config["tempdir"] = str(folder())  # type: ignore[attr-defined]
    resource_tracker.ensure_running()  # must come before SIGINT is blocked, because this call unblocks SIGINT
    with (
        _environment_with({**extra, **({"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {})}),
        _without_interrupts(),
    ):
        forkserver.ensure_running()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block SIGINT (Ctrl-C) in the `with` block. A server that starts in it blocks SIGINT until preload.py runs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@cache
def folder() -> Path:
    """Return the temporary folder of this driver. It holds the server's socket and the logs of running steps.

    The folder is locked as long as this process lives, and deleted when the process ends. A killed process can't
    delete its folder, so the next driver does.

    Raises:
        ConfigError: the path of every temporary folder is too long for a socket.
    """
    import fcntl  # Windows has no such module, and no fork server

    place = paths.socket_folder(LISTENER_BYTES)
    _delete_abandoned(place)
    while True:
        created = Path(tempfile.mkdtemp(prefix=FOLDER, dir=place))
        with suppress(OSError):
            descriptor = os.open(created, os.O_RDONLY)  # open until the process ends, because it holds the lock
            with suppress(OSError):  # on a file system without locks, the folder is used without a lock
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if created.exists():  # another driver can delete the folder before this process has locked it
                atexit.register(_delete, created, os.getpid())
                return created
            os.close(descriptor)


def _delete_abandoned(place: Path) -> None:
    """Delete the folders that killed drivers of this user left behind: no process holds the lock of such a folder."""
    import fcntl

    for abandoned in place.glob(f"{FOLDER}*"):
        with suppress(OSError):
            descriptor = os.open(abandoned, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(abandoned, ignore_errors=True)
            finally:
                os.close(descriptor)


def _delete(created: Path, process: int) -> None:
    if os.getpid() == process:  # a fork inherits the atexit handler, and must not delete the folder
        shutil.rmtree(created, ignore_errors=True)


@contextmanager
def quick_exit() -> Iterator[None]:
    """Handle signals, and end this process at once if the `with` block raises SystemExit and a fork server was started.

    Python's normal exit takes up to two seconds: it waits for the resource tracker, which waits for the server, which
    may still be importing. Nothing is lost: the pipeline run is closed by then, and the server dies with this process.
    """
    try:
        try:
            signals.raise_on_signals()
            yield
        except Interrupted as error:  # a signal came before or after main(), which handles errors itself
            sys.exit(ending.end_with(error))
    except SystemExit as end:
        signals.ignore()
        if _server() is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            shutil.rmtree(folder(), ignore_errors=True)
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        if end.code:  # return normally after code 0: a Databricks cluster treats every SystemExit as a failure
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
        reader, self._process = _fork(target, arguments, dict(environment))
        self._code: int | None = None
        self._follower = threading.Thread(target=self._follow, args=(reader, on_line, on_end), name="follow-child")
        self._follower.start()

    def _follow(self, reader: Connection, on_line: Callable[[str], None], on_end: Callable[[int], None]) -> None:
        """Read the output to its end, then the exit code. Only this thread reads the code: it can be read only once."""
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


def _fork(
    target: Callable[..., int], arguments: tuple[Any, ...], environment: dict[str, str]
) -> tuple[Connection, BaseProcess]:
    """Let the server fork a child; return the pipe with the child's output, and the child.

    If the server ends before it has forked the child, this function starts a new server and tries once more.

    Raises:
        StepFailed: the new server ended too.
    """
    context = multiprocessing.get_context("forkserver")
    for is_last in (False, True):
        start()
        server = _server()
        reader, writer = context.Pipe(duplex=False)
        process: BaseProcess = context.Process(
            target=_call, args=(target, arguments, environment, str(Path.cwd()), writer, server), daemon=False
        )
        try:
            with _no_main():
                process.start()
            return reader, process
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            reader.close()
            _await_end(server)
            if is_last:
                cause = one_line(error)
                raise StepFailed(f"The fork server ended twice before it started a step: {cause}") from error
        finally:
            writer.close()
    raise AssertionError("the last try returns or raises")


def _server() -> int | None:
    """Return the process id of the fork server, or None if none was started."""
    pid: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return pid


def _await_end(server: int | None) -> None:
    """Kill the server, which doesn't answer any more, and wait for its end, so that `start` starts a new one."""
    if server is not None:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(server, signal.SIGKILL)
            os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)


@contextmanager
def _no_main() -> Iterator[None]:
    """Hide `__main__` inside the `with` block, so that a child which the block starts does not import it."""
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
    target: Callable[..., int],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    folder: str,
    out: Connection,
    server: int | None,
) -> None:
    """Call the function in the child, with the caller's environment and folder. Its output goes to `out`."""
    die_with_parent(server)  # if the server has ended, the driver starts the step again, so this child must end
    tempfile.tempdir = None  # forget the server's folder: `environment` names the folder of this child
    gc.freeze()  # garbage collection skips the objects of the server's imports, because they are never garbage
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
    os._exit(code or 0)  # a normal exit would wait for threads of Sail and Polars


def die_with_parent(parent: int | None = None) -> None:
    """Let the kernel kill this process when its parent ends for any reason (Linux, prctl(2)).

    Args:
        parent: the parent's process id, if it is known. It may have ended already.
    """
    parent = parent or os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # the parent ended before the call of prctl, so the kernel will not kill this process
        os._exit(128 + signal.SIGKILL)
