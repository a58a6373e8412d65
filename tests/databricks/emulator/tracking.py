"""MLflow: a real MLflow server beside the workspace, to which the workspace's MLflow routes lead."""

from __future__ import annotations

import json
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
from flask import Request, Response, jsonify

from emulator import machine
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
        command = [
            *machine.BOUND,
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host=127.0.0.1",
            f"--port={self.port}",
            "--workers=1",
        ]
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
        """Pass a request on, and its answer back."""
        if path.endswith("mlflow/experiments/create"):
            return self._create_experiment(path, asked.get_json())
        if "/unity-catalog/" in path:
            return self._unity_catalog(asked, path)
        return self._send(asked.method, path, data=asked.get_data(), params=asked.args)

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

    def _unity_catalog(self, asked: Request, path: str) -> Response:
        """Answer for Unity Catalog's registry by that of the server: the names differ, and where the files go."""
        name = path.partition("/unity-catalog/")[2]
        if name.endswith(":is-databricks-sdk-models-artifact-repository-enabled"):
            return jsonify(is_databricks_sdk_models_artifact_repository_enabled=True)  # files go to /Models
        if name == "model-versions/emit-lineage":
            return jsonify({})
        given = {**asked.args, **(asked.get_json(silent=True) or {})}
        model = str(given.get("name", "a.b.c"))
        if model.count(".") != 2:
            raise invalid(f"Invalid name: {model}. A model in Unity Catalog is named <catalog>.<schema>.<model>.")
        catalog, schema, _ = model.split(".")
        if "name" in given and not self.files.local(f"/Volumes/{catalog}/{schema}").is_dir():
            raise missing(f"Schema '{catalog}.{schema}' does not exist.")
        path = path.replace("/unity-catalog/", "/")
        if name == "model-versions/finalize":
            return _as_unity_catalog(self._send("GET", path.replace("/finalize", "/get"), params=given))
        if name == "model-versions/create":
            given = {
                key: given[key]
                for key in ("name", "source", "run_id", "model_id", "description", "tags")
                if key in given
            }
        reads = {"params": given} if asked.method == "GET" else {"json": given}
        return _as_unity_catalog(self._send(asked.method, path, **reads))

    def _send(self, method: str, path: str, **content: Any) -> Response:
        headers = {"Content-Type": "application/json"}
        answer = requests.request(
            method, f"{self.address}/{path}", headers=headers, timeout=120, allow_redirects=False, **content
        )
        if answer.status_code in (404, 405) and "json" not in answer.headers.get("Content-Type", ""):
            raise ApiError(501, "NOT_IMPLEMENTED", f"MLflow's server has no {method} /{path}")
        return Response(answer.content, answer.status_code, content_type=answer.headers.get("Content-Type"))


def _as_unity_catalog(answer: Response) -> Response:
    """Return the answer with a version's aliases as Unity Catalog tells them."""
    told = answer.get_json()
    for version in [told.get("model_version", {}), *told.get("model_versions", [])]:
        if "aliases" in version:
            version["aliases"] = [{"alias": alias, "version": version["version"]} for alias in version["aliases"]]
    return Response(json.dumps(told), answer.status_code, content_type="application/json")
