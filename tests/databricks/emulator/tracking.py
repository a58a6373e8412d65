"""MLflow: a real MLflow server beside the workspace, to which the workspace's MLflow routes lead."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import requests
from flask import Request, Response

from emulator.errors import ApiError, invalid, missing
from emulator.files import Files


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Tracking:
    """The MLflow server of one workspace."""

    def __init__(self, folder: Path, files: Files, store: Path | None) -> None:
        self.folder, self.files = folder, files
        if store:
            shutil.copy(store, folder / "mlflow.db")
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DATABRICKS_"))},
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        command += [f"--backend-store-uri=sqlite:///{self.folder / 'mlflow.db'}", "--no-serve-artifacts"]
        command += [f"--default-artifact-root={(self.folder / 'artifacts').as_uri()}"]
        with (self.folder / "mlflow.log").open("wb") as log:
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                said = (self.folder / "mlflow.log").read_text()
                self.stop()
                raise RuntimeError(f"the MLflow server doesn't start: {said[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.address}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    def stop(self) -> None:
        """Stop the server and what it started."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)  # sqlite survives it, and uvicorn's own end takes seconds
            self._process.wait()

    def forward(self, asked: Request, path: str) -> Response:
        """Pass a request on, and its answer back; None where the server knows no such route."""
        body = asked.get_data()
        if path.endswith("mlflow/experiments/create"):
            return self._create_experiment(path, asked.get_json())
        query = asked.query_string.decode()
        return self._send(asked.method, f"{path}?{query}" if query else path, body)

    def _create_experiment(self, path: str, wanted: dict[str, Any]) -> Response:
        """Create an experiment as a workspace does, its artifacts in a folder that everyone reaches."""
        name = str(wanted.get("name", ""))
        if not name.startswith("/"):
            raise invalid(
                f"Got an invalid experiment name '{name}'. An experiment name must be an absolute path within the "
                "Databricks workspace, e.g. '/Users/<some-username>/my-experiment'."
            )
        parent = name.rpartition("/")[0]
        if not self.files.local(f"/Workspace{parent}").is_dir():
            raise missing(f"Parent directory {parent} does not exist.")
        wanted.setdefault("artifact_location", (self.folder / "artifacts" / uuid.uuid4().hex).as_uri())
        return self._send("POST", path, json=wanted)

    def _send(self, method: str, path: str, data: bytes | None = None, json: object = None) -> Response:
        headers = {"Content-Type": "application/json"}
        answer = requests.request(
            method, f"{self.address}/{path}", data=data, json=json, headers=headers, timeout=120, allow_redirects=False
        )
        if answer.status_code in (404, 405) and "json" not in answer.headers.get("Content-Type", ""):
            raise ApiError(501, "NOT_IMPLEMENTED", f"MLflow's server has no {method} /{path}")
        return Response(answer.content, answer.status_code, content_type=answer.headers.get("Content-Type"))
