"""The Jobs API 2.0 and 2.2: a method for each route."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from databricks.sdk.service.jobs import JobSettings

from emulator import settings
from emulator.errors import invalid, missing
from emulator.faults import KINDS
from emulator.runs import FINAL, Run

if TYPE_CHECKING:
    from emulator.workspace import Workspace

LOG_LIMIT = 5_000_000  # bytes, the limit of get-output


class Jobs:
    """The jobs of one workspace and their runs."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.settings: dict[int, dict[str, Any]] = {}
        self.runs: dict[int, Run] = {}
        self._tokens: dict[str, int] = {}
        self._lock = threading.RLock()
        self.routes = {
            ("POST", "create"): self.create,
            ("POST", "reset"): self.reset,
            ("POST", "delete"): self.delete,
            ("GET", "get"): self.get,
            ("GET", "list"): self.list,
            ("POST", "run-now"): self.run_now,
            ("POST", "runs/submit"): self.submit,
            ("GET", "runs/get"): lambda request: self.find(request["run_id"]).as_dict(),
            ("GET", "runs/get-output"): self.output,
            ("GET", "runs/list"): self.list_runs,
            ("POST", "runs/cancel"): self.cancel,
            ("POST", "runs/repair"): self.repair,
        }

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """Create a job."""
        self._check(request)
        job_id = self.workspace.next_id()
        self.settings[job_id] = request
        return {"job_id": job_id}

    def reset(self, request: dict[str, Any]) -> dict[str, Any]:
        """Replace a job's settings."""
        self._check(request["new_settings"])
        self.settings[self._job(request)] = request["new_settings"]
        return {}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """Delete a job."""
        del self.settings[self._job(request)]
        return {}

    def get(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a job."""
        job_id = self._job(request)
        return {"job_id": job_id, "creator_user_name": self.workspace.user, "settings": self.settings[job_id]}

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return all jobs, or the jobs with a name."""
        name = request.get("name")
        jobs = [self.get({"job_id": key}) for key, job in self.settings.items() if name in (None, job.get("name"))]
        return {"jobs": jobs, "has_more": False}

    def run_now(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a run of a job."""
        job_id = self._job(request)
        with self._lock:
            if known := self._tokens.get(request.get("idempotency_token", "")):
                return {"run_id": known}
            job = settings.parse(self.settings[job_id])
            values = request.get("job_parameters") or {}
            if unknown := values.keys() - {parameter.name for parameter in job.parameters or []}:
                raise invalid(f"The job has no parameter {', '.join(sorted(unknown))}.")
            active = [run for run in self.runs.values() if run.job_id == job_id and run.state.life not in FINAL]
            busy = active if len(active) >= (job.max_concurrent_runs or 1) else []
            return self._start(request, job, job_id, values, busy)

    def submit(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a one-time run."""
        if request.keys() & {"job_clusters", "parameters", "tags"}:
            raise invalid("A one-time run can't have job_clusters, parameters or tags.")
        with self._lock:
            if known := self._tokens.get(request.get("idempotency_token", "")):
                return {"run_id": known}
            job = settings.parse({**request, "name": request.get("run_name", "Untitled")})
            return self._start(request, job, self.workspace.next_id(), {}, [])

    def _start(
        self, request: dict[str, Any], job: JobSettings, job_id: int, values: dict[str, str], busy: list[Run]
    ) -> dict[str, Any]:
        token = request.get("idempotency_token", "")
        if len(token) > 64:
            raise invalid("An idempotency token has at most 64 characters.")
        run = Run(self.workspace, self.workspace.next_id(), job, job_id, values)
        self.runs[run.run_id] = run
        if token:
            self._tokens[token] = run.run_id
        fault = self.workspace.faults.strike({"skip"}, job.name or "")
        if fault or (busy and not (job.queue and job.queue.enabled)):
            run.skip(fault.message if fault else KINDS["skip"])
        else:
            run.start(behind=busy)
        return {"run_id": run.run_id, "number_in_job": run.run_id}

    def output(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the log and the error of a task run. A run of Jobs 2.0 has one task and counts as its task run."""
        run_id = int(request["run_id"])
        run = self.find(request["run_id"])
        if run.run_id == run_id and run.has_task_list:
            raise invalid(
                "Retrieving the output of runs with multiple tasks is not supported. Please retrieve the "
                "output of each individual task run instead."
            )
        [attempt] = [attempt for attempt in run.attempts if run_id == attempt.run_id] or run.attempts[-1:]
        log = attempt.log.read_bytes() if attempt.log.exists() else b""
        return {
            "metadata": {**run.as_dict(), **attempt.as_dict(self.workspace.page)},
            "logs": log[-LOG_LIMIT:].decode(errors="replace"),
            "logs_truncated": len(log) > LOG_LIMIT,
            **attempt.failure,
        }

    def list_runs(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the runs, the newest first; only those of a job, or only active ones, if the request says so."""
        job_id, active = request.get("job_id"), str(request.get("active_only", "")).lower() == "true"
        runs = [run for run in self.runs.values() if job_id in (None, str(run.job_id), run.job_id)]
        runs = [run for run in runs if not active or run.state.life not in FINAL]
        return {"runs": [run.as_dict() for run in reversed(runs)], "has_more": False}

    def cancel(self, request: dict[str, Any]) -> dict[str, Any]:
        """Cancel a run."""
        self.find(request["run_id"]).stop("CANCELED")
        return {}

    def repair(self, request: dict[str, Any]) -> dict[str, Any]:
        """Repair a finished run: run the named tasks or all failed tasks again, on request with their dependents."""
        run = self.find(request["run_id"])
        if run.repairs and request.get("latest_repair_id") != run.repairs[-1]:
            raise invalid("latest_repair_id must be the id of the last repair.")
        keys = run.failed() if request.get("rerun_all_failed_tasks") else set(request.get("rerun_tasks") or [])
        if request.get("rerun_dependent_tasks"):
            keys |= run.dependents(keys)
        repair_id = self.workspace.next_id()
        run.repair(keys, repair_id)
        return {"repair_id": repair_id}

    def _check(self, job: dict[str, Any]) -> None:
        Run(self.workspace, 0, settings.parse(job), 0)  # raises if a parameter has an unknown reference

    def _job(self, request: dict[str, Any]) -> int:
        job_id = int(request["job_id"])
        if job_id not in self.settings:
            raise missing(f"Job {job_id} does not exist.")
        return job_id

    def find(self, run_id: int | str) -> Run:
        """Return the run with this id, or the run that has a task run with this id."""
        run_id = int(run_id)
        for run in self.runs.values():
            if run_id == run.run_id or any(run_id == attempt.run_id for attempt in run.attempts):
                return run
        raise missing(f"Run {run_id} does not exist.")
