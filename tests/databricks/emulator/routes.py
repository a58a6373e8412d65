"""The HTTP routes of the workspace, with authentication and injected faults."""

from __future__ import annotations

import hmac
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from flask import Flask, Response, jsonify, redirect, request, send_file
from werkzeug.exceptions import HTTPException

from emulator.clusters import NODE_TYPES, SPARK_VERSIONS, describe_cluster
from emulator.errors import ApiError
from emulator.faults import HTTP, ODD

if TYPE_CHECKING:
    from emulator.workspace import Workspace

OPEN_PATHS = ("/.well-known/databricks-config", "/run/", "/ml/", "/favicon.ico")  # a browser has no token


def make(workspace: Workspace) -> Flask:
    """Return the web application of a workspace."""
    app = Flask(__name__)
    app.url_map.merge_slashes = False
    app.before_request(lambda: _admit(workspace))
    _files(app, workspace)
    _unity_catalog(app, workspace)
    jobs, clusters = workspace.jobs, workspace.clusters

    @app.route("/.well-known/databricks-config")
    def config() -> dict[str, str]:
        return {"oidc_endpoint": f"{workspace.host}/oidc", "workspace_id": workspace.workspace_id}

    @app.route("/ml/<path:page>")
    def pages(page: str) -> Any:
        return redirect(f"{workspace.tracking.address}/#/{page}")

    @app.route("/run/<int:run_id>")
    def run_page(run_id: int) -> Response:
        return Response(workspace.run_page(run_id), content_type="text/plain; charset=utf-8")

    @app.route("/api/2.0/preview/scim/v2/Me")
    def me() -> dict[str, Any]:
        groups = [{"display": name, "type": "direct"} for name in sorted(workspace.catalog.groups)]
        user = {"id": "1", "userName": workspace.user, "active": True, "displayName": "Emulated User"}
        return {**user, "groups": groups}

    @app.route("/api/<version>/jobs/<path:name>", methods=["GET", "POST"])
    def job(version: str, name: str) -> Any:
        handler = jobs.routes.get((request.method, name))
        return handler(_request_data()) if handler and version in ("2.0", "2.1", "2.2") else unhandled()

    @app.route("/api/2.<minor>/clusters/spark-versions")
    def spark_versions(minor: str) -> dict[str, Any]:
        return {"versions": [{"key": key, "name": name} for key, name in SPARK_VERSIONS.items()]}

    @app.route("/api/2.<minor>/clusters/list-node-types")
    def node_types(minor: str) -> dict[str, Any]:
        return {"node_types": [_node_type(name, *size) for name, size in NODE_TYPES.items()]}

    @app.route("/api/2.<minor>/clusters/get")
    def cluster(minor: str) -> dict[str, Any]:
        return describe_cluster(clusters.get(request.args["cluster_id"]))

    @app.route("/api/<version>/mlflow/<path:name>", methods=["GET", "POST", "PATCH", "DELETE"])
    def mlflow(version: str, name: str) -> Response:
        return workspace.tracking.forward(request, f"api/{version}/mlflow/{name}")

    @app.route("/", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    @app.route("/<path:path>", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    def unhandled(path: str = "") -> Any:
        raise ApiError(501, "NOT_IMPLEMENTED", f"the emulator does not implement {request.method} {request.path}")

    @app.errorhandler(ApiError)
    def refused(error: ApiError) -> Any:
        if error.status == 501:
            workspace.unhandled.append(f"{request.method} {request.path}")
        return jsonify(error_code=error.code, message=error.message), error.status

    @app.errorhandler(HTTPException)
    def wrong(error: HTTPException) -> Any:
        return jsonify(error_code="BAD_REQUEST", message=str(error.description)), error.code

    return app


def _files(app: Flask, workspace: Workspace) -> None:
    files = workspace.files

    @app.route("/api/2.0/fs/files/<path:path>", methods=["PUT"])
    def upload(path: str) -> Any:
        files.upload(f"/{path}", request.get_data(), request.args.get("overwrite") == "true")
        return "", 204

    @app.route("/api/2.0/fs/files/<path:path>", methods=["GET", "HEAD"])
    def download(path: str) -> Any:
        return send_file(files.download(f"/{path}"), mimetype="application/octet-stream")

    @app.route("/api/2.0/fs/<kind>/<path:path>", methods=["DELETE"])
    def delete(kind: str, path: str) -> Any:
        files.delete(f"/{path}", kind == "directories")
        return "", 204

    @app.route("/api/2.0/fs/directories/<path:path>", methods=["PUT"])
    def make_directory(path: str) -> Any:
        files.make_directory(f"/{path}")
        return "", 204

    @app.route("/api/2.0/fs/directories/<path:path>", methods=["HEAD"])
    def directory(path: str) -> Any:
        files.directory(f"/{path}")
        return "", 200

    @app.route("/api/2.0/fs/directories/<path:path>", methods=["GET"])
    def contents(path: str) -> Any:
        return {"contents": files.contents(f"/{path}")}

    @app.route("/api/2.0/fs/create-<what>", methods=["POST"])
    def presigned(what: str) -> Any:
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "FILES_API_API_IS_NOT_ENABLED"}
        return jsonify(error_code="PERMISSION_DENIED", message="Presigned URLs are not enabled.", details=[info]), 403

    @app.route("/api/2.0/dbfs/get-status")
    def dbfs_status() -> Any:
        return files.dbfs_status(_request_data()["path"])

    @app.route("/dbfs/<path:path>", methods=["POST"])
    def dbfs_upload(path: str) -> Any:
        files.upload(f"/dbfs/{path}", request.get_data(), overwrite=False)
        return {}

    @app.route("/api/2.0/workspace/mkdirs", methods=["POST"])
    def workspace_mkdirs() -> Any:
        files.local(f"/Workspace{_request_data()['path']}").mkdir(parents=True, exist_ok=True)
        return {}

    @app.route("/api/2.0/workspace/import", methods=["POST"])
    def workspace_import() -> Any:
        files.import_file(_request_data())
        return {}


def _unity_catalog(app: Flask, workspace: Workspace) -> None:
    catalog = workspace.catalog

    @app.route("/api/2.1/unity-catalog/metastore_summary")
    def metastore() -> Any:
        return catalog.metastore()

    @app.route("/api/2.<minor>/unity-catalog/<any(catalogs, schemas, models, tables):kind>/<name>")
    def securable(minor: str, kind: str, name: str) -> Any:
        answers = {"catalogs": catalog.catalog, "schemas": catalog.schema, "models": catalog.model}
        return (answers | {"tables": catalog.table})[kind](name)

    @app.route("/api/2.1/unity-catalog/effective-permissions/<kind>/<name>")
    def effective(kind: str, name: str) -> Any:
        return catalog.effective(kind, name, request.args.get("page_token"))


def _admit(workspace: Workspace) -> Any:
    """Check the host and the token of a request, and apply a fault if one matches."""
    if request.host not in (f"127.0.0.1:{workspace.port}", f"localhost:{workspace.port}"):
        raise ApiError(400, "BAD_REQUEST", f"Host {request.host} is not this workspace.")
    if request.path.startswith(OPEN_PATHS):
        return None
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if kind == "Bearer" and hmac.compare_digest(token, workspace.task_token):
        return None
    text = f"{request.method} {unquote(request.full_path)} {request.get_data(as_text=True)[:10_000]}"
    fault = workspace.faults.strike({*HTTP, *ODD, "drop"}, text)
    if fault and fault.kind in ODD:
        status, headers, _ = ODD[fault.kind]
        return Response(workspace.faults.odd_body(fault.kind), status, headers)
    if fault and fault.kind == "drop":
        request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    elif fault:
        raise ApiError(int(fault.kind), HTTP[fault.kind][0], fault.message)
    if kind != "Bearer" or not hmac.compare_digest(token, workspace.token):
        raise ApiError(401, *HTTP["401"])
    return Response(status=503) if fault else None


def _request_data() -> dict[str, Any]:
    """Return the JSON body of a request, or else its query. MLflow sends a body with a GET too."""
    body = request.get_json(silent=True)
    return body if isinstance(body, dict) else dict(request.args)


def _node_type(name: str, cores: int, memory_gb: int) -> dict[str, Any]:
    return {
        "node_type_id": name,
        "instance_type_id": name,
        "num_cores": float(cores),
        "memory_mb": memory_gb * 1024,
        "description": name,
        "category": "Memory Optimized" if name.startswith("r") else "General Purpose",
    }
