"""The limits of a request to the workspace, over real HTTP on loopback."""

import gzip
import json
import time
from http.server import BaseHTTPRequestHandler

import pytest
from answering import Answer, answering, reply

from ml_pipelines.databricks import bounded_http, workspace
from ml_pipelines.errors import ConfigError, PipelineError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "RETRY_S", 1)
    monkeypatch.setattr(bounded_http, "ANSWER_S", 0.4)
    monkeypatch.setattr(bounded_http, "LONGEST_PAUSE_S", 0)


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


def ask() -> None:
    with workspace.explaining_errors("run 7", "CAN VIEW"):
        workspace.client().jobs.get_run(7)


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
def test_an_odd_answer_is_no_answer_and_names_its_cause(answer: Answer, message: str) -> None:
    began = time.monotonic()
    with answering(answer) as stand, pytest.raises(workspace.NoAnswer) as error:
        ask()
    assert message in str(error.value) and stand.address in str(error.value)
    assert time.monotonic() - began < 20


def test_an_answer_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "ANSWER_S", 20.0)
    monkeypatch.setattr(bounded_http, "LARGEST", 2**20)
    with answering(huge), pytest.raises(workspace.NoAnswer, match="an answer of more than 1 MB"):
        ask()


def test_a_whole_answer_arrives_also_compressed() -> None:
    body = gzip.compress(json.dumps({"run_id": 7, "run_name": "x" * 300_000}).encode())
    with answering(reply(body, Content_Encoding="gzip")):
        assert len(str(workspace.client().jobs.get_run(7).run_name)) == 300_000


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "INVALID_PARAMETER_VALUE", ConfigError),
        (403, "PERMISSION_DENIED", ConfigError),
        (404, "RESOURCE_DOES_NOT_EXIST", ConfigError),
        (409, "RESOURCE_CONFLICT", ConfigError),
        (501, "NOT_IMPLEMENTED", ConfigError),
        (429, "REQUEST_LIMIT_EXCEEDED", workspace.NoAnswer),
        (500, "INTERNAL_ERROR", workspace.NoAnswer),
        (503, "TEMPORARILY_UNAVAILABLE", workspace.NoAnswer),
    ],
)
def test_an_error_of_the_workspace_is_no_answer_if_the_same_request_may_succeed_later(
    status: int, code: str, kind: type[PipelineError]
) -> None:
    body = json.dumps({"error_code": code, "message": "not you"}).encode()
    with answering(reply(body, status)), pytest.raises(kind, match=r"run 7.*not you"):
        ask()
