"""The limits of a request to the workspace, over real HTTP on loopback."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from databricks.sdk import WorkspaceClient

from ml_pipelines.databricks import bounded_http, workspace
from ml_pipelines.errors import ConfigError

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], WorkspaceClient]]:
    """Return a function that starts a workspace with one answer to everything, and returns its client."""
    servers = []

    def start(answer: Answer) -> WorkspaceClient:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/.well-known"):
                    return self.send_error(404)
                return answer(self)

            do_POST = do_PUT = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("DATABRICKS_HOST", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("DATABRICKS_TOKEN", "x")
        monkeypatch.setenv("DATABRICKS_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
        monkeypatch.setattr(workspace, "RETRY_S", 1)
        monkeypatch.setattr(bounded_http, "ANSWER_S", 0.4)
        monkeypatch.setattr(bounded_http, "LONGEST_PAUSE_S", 0)
        workspace._client.cache_clear()
        return workspace.client()

    yield start
    workspace._client.cache_clear()
    for server in servers:
        server.shutdown()
        server.server_close()


def reply(body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(100_000):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
    for _ in range(60_000):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.02)


def cut(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"run_id":')
    handler.close_connection = True


def huge(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 2**20)


def ask(client: WorkspaceClient) -> None:
    with workspace.explaining_errors("run 7", "CAN VIEW"):
        client.jobs.get_run(7)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (drip, "no complete answer within 0.4 s"),
        (cut, "Connection broken: IncompleteRead"),
        (drip_headers, "no complete answer within 0.4 s"),
        (reply(b"[1]"), "it answers with something that is not a JSON object: '[1]'"),
        (reply(b"12"), "not a JSON object: '12'"),
        (reply(b"{"), "not a JSON object: '{'"),
        (reply(b"<html>Sign in</html>", kind="text/html"), "a web page. Is this the workspace's address"),
        (reply(b"<html>Sign in</html>", 403, kind="text/html"), "a web page. Is this the workspace's address"),
        (reply(b'{"state": "RUNNING"}'), "with something unreadable (AttributeError: 'str' object has no"),
        (reply(b'{"message": "slow down"}', 429, Retry_After="86400"), "slow down"),
        (reply(b'{"message": "slow down"}', 429, Retry_After="Fri, 31 Dec 2060 23:59:59 GMT"), "slow down"),
    ],
)  # fmt: skip
def test_an_odd_answer_is_no_answer_and_names_its_cause(
    answering: Callable[[Answer], WorkspaceClient], answer: Answer, message: str
) -> None:
    client, began = answering(answer), time.monotonic()
    with pytest.raises(workspace.NoAnswer) as error:
        ask(client)
    assert message in str(error.value) and "http://127.0.0.1:" in str(error.value)
    assert time.monotonic() - began < 20


def test_an_answer_without_an_end_is_cut(
    answering: Callable[[Answer], WorkspaceClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = answering(huge)
    monkeypatch.setattr(bounded_http, "ANSWER_S", 20.0)
    monkeypatch.setattr(bounded_http, "LARGEST", 2**20)
    with pytest.raises(workspace.NoAnswer, match="an answer of more than 1 MB"):
        ask(client)


def test_a_whole_answer_arrives_also_compressed(answering: Callable[[Answer], WorkspaceClient]) -> None:
    body = gzip.compress(json.dumps({"run_id": 7, "run_name": "x" * 300_000}).encode())
    assert len(str(answering(reply(body, Content_Encoding="gzip")).jobs.get_run(7).run_name)) == 300_000


def test_errors_of_the_api_keep_their_meaning(answering: Callable[[Answer], WorkspaceClient]) -> None:
    client = answering(reply(b'{"error_code": "PERMISSION_DENIED", "message": "not you"}', 403))
    with pytest.raises(ConfigError, match=r"run 7: no permission\. You need CAN VIEW \(not you\)"):
        ask(client)
