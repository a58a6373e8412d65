"""Inject the faults of a real workspace on demand: `Faults.add("429", "/jobs/runs/get", times=2)`."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

HTTP = {
    "401": ("UNAUTHENTICATED", "Credential was not sent or was of an unsupported type for this API, or has expired."),
    "403": ("PERMISSION_DENIED", "User does not have the permission for {where}."),
    "429": ("REQUEST_LIMIT_EXCEEDED", "Too many requests; try again later."),
    "503": ("TEMPORARILY_UNAVAILABLE", "The service is temporarily unavailable."),
}
PAGE = "<!doctype html><html><title>Sign in</title></html>"
ODD = {  # kind -> status, headers and body of the answer; a dripping or huge body has no end
    "pause": (
        429,
        {"Retry-After": "86400", "Content-Type": "application/json"},
        '{"error_code": "X", "message": "Wait."}',
    ),
    "page": (200, {"Content-Type": "text/html"}, PAGE),
    "list": (200, {"Content-Type": "application/json"}, "[]"),
    "empty": (200, {"Content-Type": "application/json"}, "{}"),
    "text-id": (200, {"Content-Type": "application/json"}, '{"run_id": "a1", "state": {"life_cycle_state": "ODD"}}'),
    "drip": (200, {"Content-Type": "application/json"}, None),
    "huge": (200, {"Content-Type": "application/json"}, None),
}
KINDS = {
    "pause": "an answer 429 that asks to wait for a day",
    "page": "a web page, as of a proxy",
    "list": "a JSON list",
    "empty": "an empty JSON object",
    "text-id": "a run whose id is a text",
    "drip": "an answer that goes on, a byte now and then",
    "huge": "an answer without an end",
    **{status: message for status, (_, message) in HTTP.items()},
    "drop": "the connection is closed without an answer",
    "cluster": "Cluster is in unexpected state Terminated: AWS_INSUFFICIENT_INSTANCE_CAPACITY_FAILURE(CLOUD_FAILURE): "
    "there is no capacity for the node type in this zone.",
    "library": "Library installation failed for library due to user error. Error messages: No matching distribution.",
    "skip": "Run was skipped because a previous run of the same job is still active.",
}


@dataclass
class Fault:
    """A fault for requests whose method, path, query or body contains `where`, or for tasks whose key contains it."""

    kind: str
    where: str = ""
    times: int | None = None  # None: until `clear`
    message: str = ""


class Faults:
    """The faults of one workspace. They affect the user's requests, never those of a task on a cluster."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, kind: str, where: str = "", times: int | None = None, message: str = "") -> None:
        """Add a fault of `kind` (a key of KINDS) that strikes `times` times, or until `clear`."""
        if kind not in KINDS:
            raise ValueError(f"unknown fault {kind!r}; use one of {', '.join(KINDS)}")
        self._faults.append(Fault(kind, where, times, message or KINDS[kind].format(where=where or "this")))

    def parse(self, text: str) -> None:
        """Add a fault from its text on the command line: KIND[:WHERE[:TIMES]]."""
        kind, where, times = (*text.split(":"), "", "")[:3]
        self.add(kind, where, int(times) if times else None)

    @staticmethod
    def odd_body(kind: str) -> str | Iterator[bytes]:
        """Return the body of an odd answer."""
        if kind == "drip":
            return (b" " for _ in iter(lambda: time.sleep(0.05), 0))
        return itertools.repeat(b" " * 2**20) if kind == "huge" else str(ODD[kind][2])

    def clear(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def strike(self, kinds: set[str], text: str) -> Fault | None:
        """Return the first fault of one of `kinds` that matches `text`, and count it down; None if no fault matches."""
        with self._lock:
            for fault in self._faults:
                if fault.kind in kinds and fault.where in text and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None
