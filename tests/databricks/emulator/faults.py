"""Inject the faults of a real workspace on demand: `Faults.add("429", "/jobs/runs/get", times=2)`."""

from __future__ import annotations

import threading
from dataclasses import dataclass

HTTP = {
    "401": ("UNAUTHENTICATED", "Credential was not sent or was of an unsupported type for this API, or has expired."),
    "403": ("PERMISSION_DENIED", "User does not have the permission for {where}."),
    "429": ("REQUEST_LIMIT_EXCEEDED", "Too many requests; try again later."),
    "503": ("TEMPORARILY_UNAVAILABLE", "The service is temporarily unavailable."),
}
KINDS = {
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
