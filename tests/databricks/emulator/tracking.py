"""The MLflow of the workspace: a real MLflow server, to which the MLflow routes are forwarded."""

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
from emulator.catalog import Catalog
from emulator.errors import ApiError, invalid, missing
from emulator.files import Files


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Tracking:
    """The MLflow server of one workspace."""

    def __init__(self, folder: Path, files: Files, user: str, store: Path | None) -> None:
        self.folder, self.files = folder, files
        self.catalog = Catalog(user, self._has_model)
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
                log_text = (self.folder / "mlflow.log").read_text()
                self.stop()
                raise RuntimeError(f"the MLflow server doesn't start: {log_text[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.address}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    def stop(self) -> None:
        """Stop the server and its child processes."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)  # sqlite survives a kill, and uvicorn takes seconds to end
            self._process.wait()

    def forward(self, request: Request, path: str) -> Response:
        """Forward a request to the server and return the response."""
        if path.endswith("mlflow/experiments/create"):
            return self._create_experiment(path, request.get_json())
        if "/unity-catalog/" in path:
            return self._unity_catalog(request, path)
        return self._send(request.method, path, data=request.get_data(), params=request.args)

    def _create_experiment(self, path: str, body: dict[str, Any]) -> Response:
        """Create an experiment as a workspace does. Every cluster can reach the folder of its artifacts."""
        name = str(body.get("name", ""))
        if not name.startswith("/"):
            raise invalid(
                f"Got an invalid experiment name '{name}'. An experiment name must be an absolute path within the "
                "Databricks workspace, e.g. '/Users/<some-username>/my-experiment'."
            )
        parent = name.rpartition("/")[0]
        if not self.files.local(f"/Workspace{parent}").is_dir():
            raise missing(f"Parent directory {parent} does not exist.")
        body.setdefault("artifact_location", (self.folder / "artifacts" / uuid.uuid4().hex).as_uri())
        return self._send("POST", path, json=body)

    def _unity_catalog(self, request: Request, path: str) -> Response:
        """Answer requests to Unity Catalog's registry with the registry of the server, which has other names."""
        name = path.partition("/unity-catalog/")[2]
        if name.endswith(":is-databricks-sdk-models-artifact-repository-enabled"):
            return jsonify(is_databricks_sdk_models_artifact_repository_enabled=True)  # files go to /Models
        if name == "model-versions/emit-lineage":
            return jsonify({})
        fields = {**request.args, **(request.get_json(silent=True) or {})}
        model = str(fields.get("name", "a.b.c"))
        if model.count(".") != 2:
            raise invalid(f"Invalid name: {model}. A model in Unity Catalog is named <catalog>.<schema>.<model>.")
        if "name" in fields:
            self.catalog.admit(request.method, name, model)
        path = path.replace("/unity-catalog/", "/")
        if name == "model-versions/finalize":
            return _as_unity_catalog(self._send("GET", path.replace("/finalize", "/get"), params=fields))
        if name == "model-versions/create":
            fields = {
                key: fields[key]
                for key in ("name", "source", "run_id", "model_id", "description", "tags")
                if key in fields
            }
        content = {"params": fields} if request.method == "GET" else {"json": fields}
        return _as_unity_catalog(self._send(request.method, path, **content))

    def _has_model(self, name: str) -> bool:
        return self._send("GET", "api/2.0/mlflow/registered-models/get", params={"name": name}).status_code == 200

    def _send(self, method: str, path: str, **content: Any) -> Response:
        headers = {"Content-Type": "application/json"}
        response = requests.request(
            method, f"{self.address}/{path}", headers=headers, timeout=120, allow_redirects=False, **content
        )
        if response.status_code in (404, 405) and "json" not in response.headers.get("Content-Type", ""):
            raise ApiError(501, "NOT_IMPLEMENTED", f"MLflow's server has no {method} /{path}")
        return Response(response.content, response.status_code, content_type=response.headers.get("Content-Type"))


def _as_unity_catalog(response: Response) -> Response:
    """Return the response with the aliases of versions in the format of Unity Catalog."""
    content = response.get_json()
    for version in [content.get("model_version", {}), *content.get("model_versions", [])]:
        if "aliases" in version:
            version["aliases"] = [{"alias": alias, "version": version["version"]} for alias in version["aliases"]]
    return Response(json.dumps(content), response.status_code, content_type="application/json")
