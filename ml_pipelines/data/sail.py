"""Sail: a Spark Connect server in Rust. Whoever reaches its port can run code as this user, without a password.

So the server runs in a child process that has a network of its own, where Linux allows that. This process connects to
a Unix socket in a folder that only this user can open, and the child passes the bytes on to the server's port.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_pipelines.system import imports, namespace, paths

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FOLDER = "ml-pipelines-sail-"
SESSION_S = 7 * 24 * 3600  # how long the server keeps a session that nobody uses; a server ends with its step
CHUNK = 1 << 18  # the most bytes that `_pass_on` reads at once
AUTHORITY = ("grpc.default_authority", "localhost")  # by default, gRPC sends the socket's path, which Sail refuses
SERVE = "import sys; from ml_pipelines.data import sail; sail.serve(*map(int, sys.argv[1:4]), sys.argv[4])"


class Server(NamedTuple):
    """A server in a process of its own. It ends when `stop` or the end of the owner closes `lifeline`.

    A byte in `lifeline` tells it to prepare for Python functions.
    """

    path: Path  # the path of the server's Unix socket
    lifeline: int  # the descriptor of a pipe
    process: int
    wait: Callable[[], object]
    owner: int  # the process that started the server

    def stop(self) -> None:
        """End the server, and wait for its end. In a forked child of the owner, this does nothing."""
        if os.getpid() == self.owner:
            os.close(self.lifeline)
            self.wait()
            shutil.rmtree(self.path.parent, ignore_errors=True)


def expect_python() -> None:
    """Let the server of this process prepare for Python functions on Spark, while this process does something else."""
    if server := start():
        os.write(server.lifeline, b"1")


def stop() -> None:
    """End the server of this process, if there is one."""
    if start.cache_info().currsize and (server := start()):
        start.cache_clear()
        server.stop()


@cache
def start() -> Server | None:
    """Start a server in a network namespace of its own; return None if the system does not allow one.

    A process has at most one server: later calls return the same one.
    """
    if sys.platform != "linux":
        return None
    path = Path(tempfile.mkdtemp(prefix=FOLDER, dir=paths.socket_folder(len(f"/{FOLDER}12345678/s")))) / "s"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    lifeline_end, lifeline = os.pipe()
    ready, ready_end = os.pipe()
    with listener, os.fdopen(ready, "rb", buffering=0) as is_ready:
        listener.bind(str(path))
        listener.listen()
        try:
            process, wait = _start_process(listener.fileno(), lifeline_end, ready_end, path, [lifeline, ready])
        finally:
            os.close(lifeline_end)
            os.close(ready_end)
        server = Server(path, lifeline, process, wait, os.getpid())
        if not is_ready.read(1):
            server.stop()
            return None
    atexit.register(stop)
    return server


def _start_process(
    listener: int, lifeline: int, ready: int, path: Path, parents: list[int]
) -> tuple[int, Callable[[], object]]:
    """Start a process that calls `serve`; return its id, and a function that waits for its end.

    A process with only one thread is forked, which takes a few milliseconds. Forking is not safe in a process with more
    threads, so such a process starts a new Python.
    """
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        command = [sys.executable, "-c", SERVE, str(listener), str(lifeline), str(ready), str(path)]
        process = subprocess.Popen(  # noqa: S603
            command, env=imports.environment_of_child(), pass_fds=(listener, lifeline, ready)
        )
        return process.pid, process.wait
    if pid := os.fork():
        return pid, lambda: os.waitpid(pid, 0)
    try:
        for descriptor in parents:
            os.close(descriptor)
        serve(listener, lifeline, ready, str(path))
    finally:
        os._exit(1)


def serve(listener: int, lifeline: int, ready: int, path: str) -> None:
    """Run the server in a network namespace of its own until the lifeline is closed. Then end this process.

    Args:
        listener: the descriptor of the Unix socket.
        lifeline: the descriptor of a pipe that gets a byte when Python functions are expected, and is closed when the
            server must end.
        ready: the descriptor of a pipe that gets one byte when this process is in its namespace.
        path: the path of the Unix socket. Its folder is removed at the end.
    """
    _ignore_signals()
    try:
        namespace.enter()
    except OSError:
        os._exit(1)
    os.write(ready, b"1")
    os.close(ready)
    server, port = listen()
    _ignore_signals()  # needed again, because the server has installed its own signal handler
    threading.Thread(target=_accept, args=(socket.socket(fileno=listener), port), daemon=True).start()
    while os.read(lifeline, 1):  # returns nothing when the parent closes the other end of the pipe, or ends
        threading.Thread(target=_import_worker, daemon=True).start()
    del server
    shutil.rmtree(Path(path).parent, ignore_errors=True)  # a parent that was killed can't do this
    os._exit(0)


def _ignore_signals() -> None:
    """Ignore a terminal's signals, such as that of Ctrl-C: the Sail server must outlive the process that started it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def listen() -> tuple[Any, int]:
    """Start the server on a free port of the loopback device, and return it with its port."""
    os.environ.setdefault("RUST_LOG", "error")
    # By default, Sail forgets a session after minutes without a query, in which a step can be busy with other work.
    os.environ.setdefault("SAIL_SPARK__SESSION_TIMEOUT_SECS", str(SESSION_S))
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    _, port = server.listening_address
    return server, port


def _import_worker() -> None:
    """Import what a Python function on Spark needs."""
    import pyspark.worker  # noqa: F401


def _accept(listener: socket.socket, port: int) -> None:
    while True:
        client, _ = listener.accept()
        upstream = socket.create_connection(("127.0.0.1", port))
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink in ((client, upstream), (upstream, client)):
            threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(CHUNK):
            sink.sendall(chunk)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def session(server: Server) -> SparkSession:
    """Return a session on the server."""
    from pyspark.sql.connect.client import ChannelBuilder
    from pyspark.sql.connect.session import SparkSession

    class Channel(ChannelBuilder):
        """A connection through the Unix socket."""

        host = "localhost"

        def toChannel(self) -> Any:  # noqa: N802
            return self._insecure_channel(f"unix:{server.path}")

    os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"  # so that functions such as F.col use Spark Connect
    return SparkSession.builder.channelBuilder(Channel([AUTHORITY])).create()  # type: ignore[arg-type, return-value]
