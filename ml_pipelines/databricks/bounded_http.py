"""HTTP with limits: how long an answer of the workspace may take, how large it may be, and what it may contain."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDone
from typing import Any

from requests import ConnectionError, PreparedRequest, ReadTimeout, RequestException, Response
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

ANSWER_S = 30.0  # the longest time from a request to the last byte of its answer
UPLOAD_S = 900.0  # the same limit for a request that sends a file
LARGEST = 32 * 2**20  # the most bytes of an answer; the Jobs API sends at most 5 MB of logs
LONGEST_PAUSE_S = 10  # a longer Retry-After is shortened to this, because remote.py asks again anyway


class OddAnswer(RequestException):
    """The answer is not what the API promises. For example, it is the web page of a proxy or of a sign-in."""


class BoundedAdapter(HTTPAdapter):
    """Sends requests within this module's limits. The timeout of `requests` is not enough: each byte restarts it."""

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        """Send a request and return the whole answer.

        Raises:
            ReadTimeout: the answer is not complete within its time limit.
            OddAnswer: the answer is too large, a web page, or not a JSON object.
        """
        limit_s = UPLOAD_S if hasattr(request.body, "read") else ANSWER_S
        deadline = time.monotonic() + limit_s
        answer: Future[Response] = Future()
        send = super().send

        def work() -> None:
            try:
                answer.set_result(_read(send(request, *args, **{**options, "stream": True}), deadline))
            except HTTPError as error:  # urllib3 raises this in _read; callers expect errors of requests
                answer.set_exception(ConnectionError(error))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=work, daemon=True, name="request").start()
        try:
            response = answer.result(limit_s)
        except (NotDone, ReadTimeout):
            raise ReadTimeout(f"no complete answer within {limit_s:g} s") from None
        if "Retry-After" in response.headers:
            asked = response.headers["Retry-After"]
            pause = min(int(asked), LONGEST_PAUSE_S) if asked.isdecimal() else LONGEST_PAUSE_S
            response.headers["Retry-After"] = str(pause)
        _check(response, request.path_url)
        return response


def _read(response: Response, deadline: float) -> Response:
    """Read the body of an answer and return the answer. Reading in pieces lets the deadline stop a slow answer too."""
    body = bytearray()
    while piece := response.raw.read1(2**16, decode_content=True):
        body += piece
        if len(body) > LARGEST or time.monotonic() > deadline:
            response.close()
            if len(body) > LARGEST:
                raise OddAnswer(f"it sends an answer of more than {LARGEST / 2**20:g} MB")
            raise ReadTimeout("the answer is too slow")  # send() reports the time-out with its own text
    response._content, response._content_consumed = bytes(body), True
    return response


def _check(response: Response, path: str) -> None:
    """Refuse a web page, and any other answer that is not a JSON object. Accept any content of a file on a Volume."""
    body = response.content.lstrip()
    if response.is_redirect or not body or path.startswith("/api/2.0/fs/") or response.status_code >= 500:
        return
    if body.startswith(b"<") or response.headers.get("Content-Type", "").startswith("text/html"):
        raise OddAnswer("it answers with a web page. Is this the workspace's address, or does a proxy ask to sign in?")
    if response.ok:
        try:
            content = json.loads(body)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise OddAnswer(
                f"it answers with something that is not a JSON object: {body[:80].decode(errors='replace')!r}"
            )
