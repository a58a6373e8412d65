"""The workspace: its address and tokens, what it consists of, and its start and end."""

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
    """That a task ran: on which cluster, and by which spec."""

    task_key: str
    job_run_id: int
    run_id: int
    attempt: int
    cluster_id: str
    spec: dict[str, Any]


class Workspace:
    """An emulated workspace, running inside `with`. `folder` holds all of it, and must not lie in the checkout.

    `store`, a migrated sqlite store, is what MLflow begins with: it saves the seconds of making one.
    `env` is what a client's environment needs; `executed` tells which spec ran which task, `unhandled` which routes
    were asked for in vain, and `faults` lets it fail on demand.
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
        self.tracking = Tracking(folder, self.files, store)
        self.jobs = Jobs(self)
        self.files.local(f"/Workspace/Users/{self.user}").mkdir()
        self._server = make_server("127.0.0.1", port, routes.make(self), threaded=True)
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self.port = self._server.port
        self.host = f"http://127.0.0.1:{self.port}"
        logging.getLogger("werkzeug").setLevel(logging.ERROR)

    @property
    def env(self) -> dict[str, str]:
        """What to put into a client's environment."""
        return {"DATABRICKS_HOST": self.host, "DATABRICKS_TOKEN": self.token, "MLFLOW_TRACKING_URI": "databricks"}

    def __enter__(self) -> Workspace:
        """Start it.

        Raises:
            RuntimeError: this machine has no namespaces, or the MLflow server doesn't start.
        """
        if why := machine.check():
            raise RuntimeError(why)
        self.tracking.start()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it, and all that it started."""
        for run in list(self.jobs.runs.values()):
            run.stop("CANCELED")
            run.wait(60)
        self._server.shutdown()
        self._server.server_close()
        self.tracking.stop()
        self.clusters.close()

    def next_id(self) -> int:
        """Return an id for a job, a run or a repair."""
        return next(self._ids)

    def page(self, run_id: int) -> str:
        """Return the address of a run's page."""
        return f"{self.host}/run/{run_id}"

    def note(self, run: Run, attempt: Attempt, cluster: Cluster) -> None:
        """Remember which spec ran which task."""
        task, spec = attempt.task.task_key, dict(cluster.payload)
        self.executed.append(Executed(task, run.run_id, attempt.run_id, attempt.number, cluster.id, spec))

    def run_page(self, run_id: int) -> str:
        """Return what a person sees of a run: its tasks' states and logs."""
        run = self.jobs.find(run_id)
        lines = [f"{run.job.name} · run {run.run_id} · {run.state.life} {run.state.result or ''} {run.state.message}"]
        for attempt in run.attempts:
            state = attempt.state
            lines += [
                f"\n{attempt.task.task_key} · run {attempt.run_id} · {state.life} {state.result or ''} {state.message}"
            ]
            lines += [attempt.log.read_text(errors="replace")] if attempt.log.exists() else []
        return "\n".join(lines)
