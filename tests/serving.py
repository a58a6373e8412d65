"""A real `mlflow server` on loopback."""

import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def serve(folder: Path, migrated: Path) -> Iterator[str]:
    """Run a server whose store is a copy of `migrated`, and return its address."""
    shutil.copy(migrated, folder / "served.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [
        f"--backend-store-uri=sqlite:///{folder / 'served.db'}",
        f"--artifacts-destination={folder / 'art'}",
    ]
    with pytest.MonkeyPatch.context() as patch, (folder / "server.log").open("w") as log:
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        program = Path(sys.executable).parent / command[0]
        process = subprocess.Popen([str(program), *command[1:]], cwd=folder, stdout=log, stderr=log)
    try:
        _wait_until_healthy(process, f"http://127.0.0.1:{port}/health", folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
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
    pytest.fail(f"mlflow server did not start: {log.read_text()[-2000:]}")
