"""A stand-in for a workspace: a server on loopback whose every answer a test writes itself."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

from ml_pipelines.databricks import workspace

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Stand:
    """A running stand-in. `requests` has the method and the path of each request, without the query."""

    address: str
    requests: list[str] = field(default_factory=list)


@contextmanager
def answering(answer: Answer) -> Iterator[Stand]:
    """Run a workspace that gives this answer to every request, and make the library's client use it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/.well-known"):
                return self.send_error(404)
            stand.requests.append(f"{self.command} {self.path.partition('?')[0]}")
            return answer(self)

        do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stand = Stand(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    variables = {"DATABRICKS_HOST": stand.address, "DATABRICKS_TOKEN": "x", "DATABRICKS_CONFIG_FILE": os.devnull}
    try:
        with patch.dict(os.environ, {**variables, "MLFLOW_TRACKING_URI": "databricks"}):
            workspace._client.cache_clear()
            yield stand
    finally:
        workspace._client.cache_clear()
        server.shutdown()
        server.server_close()


def reply(body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> Answer:
    """Return an answer with this body; underscores in the names of headers stand for hyphens."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


def by_path(answers: dict[str, Any]) -> Answer:
    """Return an answer that depends on the end of the path; another path is not found."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if length := int(handler.headers.get("Content-Length", 0)):
            handler.rfile.read(length)
        path = handler.path.partition("?")[0]
        match = next((value for end, value in answers.items() if path.endswith(end)), None)
        found = json.dumps(match).encode() if match is not None else b'{"error_code": "NOT_FOUND", "message": "No."}'
        reply(found, 200 if match is not None else 404)(handler)

    return answer
