"""The workspace: its address, its tokens and its parts. It runs inside a `with` block."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from werkzeug.serving import make_server

from emulator import machine, routes
from emulator.clusters import Cluster, Clusters
from emulator.faults import Faults
from emulator.files import Files
from emulator.jobs import Jobs
from emulator.runs import Attempt, Run
from emulator.tracking import Tracking


@dataclass(frozen=True)
class Executed:
    """A record that a task ran, with its cluster and the cluster's spec."""

    task_key: str
    job_run_id: int
    run_id: int
    attempt: int
    cluster_id: str
    spec: dict[str, Any]


class Workspace:
    """An emulated workspace that runs inside a `with` block.

    `env` has the variables for a client's environment, `executed` the tasks that ran, `unhandled` the requests that the
    emulator does not implement, and `faults` the injected faults.

    Args:
        folder: has all files of the workspace. It must not be in the checkout.
        port: the port of the workspace; 0 means any free port.
        store: a migrated sqlite store. MLflow starts with a copy of it, which is faster than a new store.
    """

    user = "emulated.user@example.com"
    workspace_id = "1234567890123456"

    def __init__(self, folder: Path, port: int = 0, store: Path | None = None) -> None:
        self.files = Files(folder / "storage")
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.faults = Faults()
        self.executed: list[Executed] = []
        self.unhandled: list[str] = []
        self.token, self.task_token = (f"emulated-{secrets.token_urlsafe(24)}" for _ in range(2))
        self._ids = itertools.count(1001)
        self.clusters = Clusters(folder / "clusters")
        self.tracking = Tracking(folder, self.files, self.user, store)
        self.catalog = self.tracking.catalog
        self.jobs = Jobs(self)
        self.files.local(f"/Workspace/Users/{self.user}").mkdir()
        self._server = make_server("127.0.0.1", port, routes.make(self), threaded=True)
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self.port = self._server.port
        self.host = f"http://127.0.0.1:{self.port}"
        logging.getLogger("werkzeug").setLevel(logging.ERROR)

    @property
    def env(self) -> dict[str, str]:
        """The variables for a client's environment."""
        return {"DATABRICKS_HOST": self.host, "DATABRICKS_TOKEN": self.token, "MLFLOW_TRACKING_URI": "databricks"}

    def __enter__(self) -> Workspace:
        """Start the workspace.

        Raises:
            RuntimeError: this machine does not allow namespaces, or the MLflow server does not start.
        """
        if why := machine.check():
            raise RuntimeError(why)
        self.tracking.start()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the workspace and all processes that it started."""
        for run in list(self.jobs.runs.values()):
            run.stop("CANCELED")
            run.wait(60)
        self._server.shutdown()
        self._server.server_close()
        self.tracking.stop()
        self.clusters.close()

    def next_id(self) -> int:
        """Return a new id for a job, a run or a repair."""
        return next(self._ids)

    def page(self, run_id: int) -> str:
        """Return the address of the page of a run."""
        return f"{self.host}/run/{run_id}"

    def record(self, run: Run, attempt: Attempt, cluster: Cluster) -> None:
        """Record that a task runs, and with which spec."""
        task, spec = attempt.task.task_key, dict(cluster.payload)
        self.executed.append(Executed(task, run.run_id, attempt.run_id, attempt.number, cluster.id, spec))

    def run_page(self, run_id: int) -> str:
        """Return the page of a run as text: the states and logs of its tasks."""
        run = self.jobs.find(run_id)
        lines = [f"{run.job.name} · run {run.run_id} · {run.state.life} {run.state.result or ''} {run.state.message}"]
        for attempt in run.attempts:
            state = attempt.state
            lines += [
                f"\n{attempt.task.task_key} · run {attempt.run_id} · {state.life} {state.result or ''} {state.message}"
            ]
            lines += [attempt.log.read_text(errors="replace")] if attempt.log.exists() else []
        return "\n".join(lines)
