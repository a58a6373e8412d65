"""Servers on loopback: `mlflow server`, and any other command that answers a URL."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def serve(folder: Path, migrated: Path) -> Iterator[str]:
    """Run a server whose store is a copy of `migrated`, and return its address."""
    shutil.copy(migrated, folder / "served.db")
    port = free_port()
    command = ["mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [
        f"--backend-store-uri=sqlite:///{folder / 'served.db'}",
        f"--artifacts-destination={folder / 'art'}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        environment = dict(os.environ)
    command[0] = str(Path(sys.executable).parent / command[0])
    with running(command, f"http://127.0.0.1:{port}/health", folder / "server.log", env=environment):
        yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: list[str], url: str, log: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Run a server in the folder of its log until the block ends. The block starts once the URL answers."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=log.parent, env=env, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        _wait_until_healthy(process, url, log)
        yield
    finally:
        with suppress(ProcessLookupError):  # the server has ended
            os.killpg(process.pid, signal.SIGTERM)  # also the server's own processes
        process.wait(30)


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            try:
                process.wait(0.25)
            except subprocess.TimeoutExpired:
                continue
            break
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")
