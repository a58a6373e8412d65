"""The Jobs API, 2.0 and 2.2: what is asked of it, by the name at the end of its address."""

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

LOG_LIMIT = 5_000_000  # bytes, as get-output has it


class Jobs:
    """The jobs of one workspace, and the runs of them."""

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
            ("GET", "runs/get"): lambda asked: self.find(asked["run_id"]).described(),
            ("GET", "runs/get-output"): self.output,
            ("GET", "runs/list"): self.list_runs,
            ("POST", "runs/cancel"): self.cancel,
            ("POST", "runs/repair"): self.repair,
        }

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Keep a job."""
        self._check(asked)
        job_id = self.workspace.next_id()
        self.settings[job_id] = asked
        return {"job_id": job_id}

    def reset(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Replace a job's settings."""
        self._check(asked["new_settings"])
        self.settings[self._job(asked)] = asked["new_settings"]
        return {}

    def delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Forget a job."""
        del self.settings[self._job(asked)]
        return {}

    def get(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return a job."""
        job_id = self._job(asked)
        return {"job_id": job_id, "creator_user_name": self.workspace.user, "settings": self.settings[job_id]}

    def list(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return the jobs, or those of a name."""
        name = asked.get("name")
        found = [self.get({"job_id": key}) for key, job in self.settings.items() if name in (None, job.get("name"))]
        return {"jobs": found, "has_more": False}

    def run_now(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Start a run of a job."""
        job_id = self._job(asked)
        with self._lock:
            if known := self._tokens.get(asked.get("idempotency_token", "")):
                return {"run_id": known}
            job = settings.parse(self.settings[job_id])
            given = asked.get("job_parameters") or {}
            if unknown := given.keys() - {parameter.name for parameter in job.parameters or []}:
                raise invalid(f"The job has no parameter {', '.join(sorted(unknown))}.")
            active = [run for run in self.runs.values() if run.job_id == job_id and run.state.life not in FINAL]
            busy = active if len(active) >= (job.max_concurrent_runs or 1) else []
            return self._start(asked, job, job_id, given, busy)

    def submit(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Start a one-time run."""
        if asked.keys() & {"job_clusters", "parameters", "tags"}:
            raise invalid("A one-time run takes no job_clusters, parameters or tags.")
        with self._lock:
            if known := self._tokens.get(asked.get("idempotency_token", "")):
                return {"run_id": known}
            job = settings.parse({**asked, "name": asked.get("run_name", "Untitled")})
            return self._start(asked, job, self.workspace.next_id(), {}, [])

    def _start(
        self, asked: dict[str, Any], job: JobSettings, job_id: int, given: dict[str, str], busy: list[Run]
    ) -> dict[str, Any]:
        token = asked.get("idempotency_token", "")
        if len(token) > 64:
            raise invalid("An idempotency token has at most 64 characters.")
        run = Run(self.workspace, self.workspace.next_id(), job, job_id, given)
        self.runs[run.run_id] = run
        if token:
            self._tokens[token] = run.run_id
        fault = self.workspace.faults.strike({"skip"}, job.name or "")
        if fault or (busy and not (job.queue and job.queue.enabled)):
            run.skip(fault.message if fault else KINDS["skip"])
        else:
            run.start(behind=busy)
        return {"run_id": run.run_id, "number_in_job": run.run_id}

    def output(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return the log of a task's run, and its error. A run of Jobs 2.0 has one task, and stands for it."""
        run_id = int(asked["run_id"])
        run = self.find(asked["run_id"])
        if run.run_id == run_id and run.listed:
            raise invalid(
                "Retrieving the output of runs with multiple tasks is not supported. Please retrieve the "
                "output of each individual task run instead."
            )
        [attempt] = [one for one in run.attempts if run_id == one.run_id] or run.attempts[-1:]
        log = attempt.log.read_bytes() if attempt.log.exists() else b""
        return {
            "metadata": {**run.described(), **attempt.described(self.workspace.page)},
            "logs": log[-LOG_LIMIT:].decode(errors="replace"),
            "logs_truncated": len(log) > LOG_LIMIT,
            **attempt.said,
        }

    def list_runs(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return the runs, the newest first: of a job, or those that are active or not."""
        job_id, active = asked.get("job_id"), str(asked.get("active_only", "")).lower() == "true"
        found = [run for run in self.runs.values() if job_id in (None, str(run.job_id), run.job_id)]
        found = [run for run in found if not active or run.state.life not in FINAL]
        return {"runs": [run.described() for run in reversed(found)], "has_more": False}

    def cancel(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Cancel a run."""
        self.find(asked["run_id"]).stop("CANCELED")
        return {}

    def repair(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Run tasks of a finished run again: those named, or all that failed, and with them what they kept back."""
        run = self.find(asked["run_id"])
        if run.repairs and asked.get("latest_repair_id") != run.repairs[-1]:
            raise invalid("latest_repair_id must be that of the last repair.")
        keys = run.failed() if asked.get("rerun_all_failed_tasks") else set(asked.get("rerun_tasks") or [])
        if asked.get("rerun_dependent_tasks"):
            keys |= run.dependents(keys)
        repair_id = self.workspace.next_id()
        run.repair(keys, repair_id)
        return {"repair_id": repair_id}

    def _check(self, job: dict[str, Any]) -> None:
        Run(self.workspace, 0, settings.parse(job), 0)  # which refuses a reference to nothing

    def _job(self, asked: dict[str, Any]) -> int:
        job_id = int(asked["job_id"])
        if job_id not in self.settings:
            raise missing(f"Job {job_id} does not exist.")
        return job_id

    def find(self, run_id: int | str) -> Run:
        """Return the run of an id, which may be that of one of its tasks."""
        run_id = int(run_id)
        for run in self.runs.values():
            if run_id == run.run_id or any(run_id == attempt.run_id for attempt in run.attempts):
                return run
        raise missing(f"Run {run_id} does not exist.")
