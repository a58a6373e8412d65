"""Runs of jobs: tasks run in the order of the DAG, branches in parallel, with the states of the Jobs API."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks.sdk.service.compute import Library, PythonPyPiLibrary
from databricks.sdk.service.jobs import Format, JobSettings, RunIf, Task

from emulator import machine, settings
from emulator.clusters import SERVERLESS, Cluster
from emulator.errors import TaskFault, invalid

if TYPE_CHECKING:
    from emulator.workspace import Workspace

FINAL = {"TERMINATED", "SKIPPED", "INTERNAL_ERROR"}
_GOOD = {"SUCCESS", "EXCLUDED"}


def now() -> int:
    """Return the time in milliseconds, as the API has it."""
    return int(time.time() * 1000)


@dataclass
class State:
    """The state of a run or of an attempt of a task."""

    life: str
    result: str | None = None
    message: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the state as in the API: only a run that has ended and was not skipped has a `result_state`."""
        result = {"result_state": self.result} if self.result else {}
        return {"life_cycle_state": self.life, "state_message": self.message, **result}


@dataclass
class Attempt:
    """One attempt of one task. The API calls it a task run, with a run id of its own."""

    run_id: int
    task: Task
    number: int
    log: Path
    state: State = field(default_factory=lambda: State("BLOCKED"))
    started: int = field(default_factory=now)
    ended: int = 0
    cluster_id: str | None = None
    failure: dict[str, str] = field(default_factory=dict)  # error, error_trace
    process: subprocess.Popen[bytes] | None = None

    @property
    def done(self) -> bool:
        """Whether the attempt has ended."""
        return self.state.life in FINAL

    def as_dict(self, page: Callable[[int], str]) -> dict[str, Any]:
        """Return the attempt as runs/get shows a task."""
        cluster = {"cluster_instance": {"cluster_id": self.cluster_id}} if self.cluster_id else {}
        return {
            **self.task.as_dict(),
            **cluster,
            "run_id": self.run_id,
            "attempt_number": self.number,
            "state": self.state.as_dict(),
            "start_time": self.started,
            "end_time": self.ended,
            "run_page_url": page(self.run_id),
        }


class Run:
    """A run of a job, or a one-time run. Each task has a thread, which waits for the tasks that it depends on."""

    def __init__(
        self, workspace: Workspace, run_id: int, job: JobSettings, job_id: int, values: dict[str, str] | None = None
    ) -> None:
        self.workspace, self.run_id, self.job, self.job_id = workspace, run_id, job, job_id
        self.parameters = {item.name: item.default for item in job.parameters or []} | (values or {})
        self.tasks = {task.task_key: task for task in job.tasks or []}
        self.has_task_list = job.format is not Format.SINGLE_TASK  # a run of Jobs 2.0 has no list of tasks
        self.attempts: list[Attempt] = []
        self.repairs: list[int] = []
        self.state = State("PENDING")
        self.started, self.ended = now(), 0
        self.stopped: str | None = None  # CANCELED or TIMEDOUT, if the whole run was stopped
        self.changed = threading.Condition()
        self._clusters: dict[str, Cluster] = {}
        self._cluster_lock = threading.Lock()
        for task in self.tasks.values():  # refuse unknown references before a task starts
            settings.parameters(task, self._value(Attempt(0, task, 0, Path())))

    # -- used by the API

    def start(self, keys: set[str] | None = None, behind: Sequence[Run] = ()) -> None:
        """Start all tasks, or those in `keys`, when the runs in `behind` have ended. Results of other tasks stay."""
        with self.changed:
            self.state, self.stopped, self.ended = State("QUEUED" if behind else "PENDING"), None, 0
            fresh = [self._attempt(task, 0) for key, task in self.tasks.items() if keys is None or key in keys]
        threads = [threading.Thread(target=self._run_task, args=[attempt], daemon=True) for attempt in fresh]
        threading.Thread(target=self._run, args=[threads, behind], daemon=True).start()

    def stop(self, result: str) -> None:
        """Stop the run now, and kill the processes of its tasks."""
        with self.changed:
            if self.state.life in FINAL or self.stopped:
                return
            self.stopped = result
            for attempt in self.attempts:
                kill(attempt.process)
            self.changed.notify_all()

    def skip(self, message: str) -> None:
        """Mark the run as skipped."""
        self.state, self.ended = State("SKIPPED", None, message), now()

    def repair(self, keys: set[str], repair_id: int) -> None:
        """Run some tasks of a finished run again."""
        if self.state.life not in FINAL:
            raise invalid(f"Run {self.run_id} is active; only a finished run can be repaired.")
        if unknown := keys - self.tasks.keys():
            raise invalid(f"Run {self.run_id} has no task {', '.join(sorted(unknown))}.")
        self.repairs.append(repair_id)
        self.start(keys)

    def latest(self, key: str) -> Attempt:
        """Return the last attempt of a task."""
        return [attempt for attempt in self.attempts if attempt.task.task_key == key][-1]

    def failed(self) -> set[str]:
        """Return the tasks that did not succeed."""
        return {key for key in self.tasks if self.latest(key).state.result not in _GOOD}

    def dependents(self, keys: set[str]) -> set[str]:
        """Return the tasks that need one of `keys`, directly or indirectly."""
        dependents: set[str] = set()
        while more := {
            key
            for key, task in self.tasks.items()
            if {need.task_key for need in task.depends_on or []} & (keys | dependents) and key not in dependents
        }:
            dependents |= more
        return dependents

    def wait(self, timeout_s: float) -> State:
        """Wait for the end of the run and return its state. Tests use this."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.state.life in FINAL, timeout_s):
                raise TimeoutError(f"run {self.run_id} is {self.state.life} after {timeout_s} s")
        return self.state

    def as_dict(self) -> dict[str, Any]:
        """Return the run as runs/get does."""
        with self.changed:
            page = self.workspace.page
            return {
                "run_id": self.run_id,
                "job_id": self.job_id,
                "run_name": self.job.name,
                "creator_user_name": self.workspace.user,
                "state": self.state.as_dict(),
                "start_time": self.started,
                "end_time": self.ended,
                "run_page_url": page(self.run_id),
                "job_parameters": [{"name": name, "value": value} for name, value in self.parameters.items()],
                "job_clusters": [cluster.as_dict() for cluster in self.job.job_clusters or []],
                "repair_history": [{"id": repair} for repair in self.repairs],
                "tasks": [attempt.as_dict(page) for attempt in self.attempts],
            }

    # -- private

    def _attempt(self, task: Task, number: int) -> Attempt:
        run_id = self.workspace.next_id()
        attempt = Attempt(run_id, task, number, self.workspace.logs / f"{run_id}.log")
        self.attempts.append(attempt)
        return attempt

    def _run(self, threads: list[threading.Thread], behind: Sequence[Run]) -> None:
        while any(run.state.life not in FINAL for run in behind) and not self.stopped:
            time.sleep(0.05)
        timer = threading.Timer(self.job.timeout_seconds or 0, self.stop, ["TIMEDOUT"])
        timer.daemon = True
        if self.job.timeout_seconds:
            timer.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        timer.cancel()
        for cluster in self._clusters.values():
            self.workspace.clusters.terminate(cluster)
        self._clusters.clear()
        with self.changed:
            self.state, self.ended = self._final(), now()
            self.changed.notify_all()

    def _final(self) -> State:
        """Return the final state: the results of the last tasks decide, as in a workspace."""
        if self.stopped:
            return State("TERMINATED", self.stopped, f"Run {self.stopped.lower()}.")
        if not self.has_task_list:
            return self.attempts[-1].state
        needed = {before.task_key for task in self.tasks.values() for before in task.depends_on or []}
        failed = self.failed()
        if failed - needed:
            roots = [key for key in self.tasks if key in failed and self.latest(key).state.result != "UPSTREAM_FAILED"]
            first = self.latest((roots or sorted(failed))[0])
            message = f"Task {first.task.task_key} failed with message: {first.state.message}"
            return State("INTERNAL_ERROR", "FAILED", message)
        return State("TERMINATED", "SUCCESS_WITH_FAILURES" if failed else "SUCCESS")

    def _run_task(self, attempt: Attempt) -> None:
        before = [needed.task_key for needed in attempt.task.depends_on or []]
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or all(self.latest(key).done for key in before))
            results = [self.latest(key).state.result or "" for key in before]
        result = self.stopped or result_without_run(attempt.task.run_if or RunIf.ALL_SUCCESS, results)
        if result:
            self._end(attempt, State("TERMINATED", result, "The task was not run."))
            return
        following: Attempt | None = attempt
        while following:
            following = self._end(following, self._execute(following))

    def _end(self, attempt: Attempt, state: State) -> Attempt | None:
        """End an attempt and return the next attempt, or None if the task is not tried again."""
        task = attempt.task
        with self.changed:
            attempt.state, attempt.ended, attempt.process = state, now(), None
            tries = task.max_retries or 0
            again = state.result == "FAILED" or (state.result == "TIMEDOUT" and bool(task.retry_on_timeout))
            following = None
            if again and not self.stopped and (tries < 0 or attempt.number < tries):
                following = self._attempt(task, attempt.number + 1)
                following.state = State("WAITING_FOR_RETRY")
                self.changed.wait_for(lambda: self.stopped, (task.min_retry_interval_millis or 0) / 1000)
            self.changed.notify_all()
        return following

    def _execute(self, attempt: Attempt) -> State:
        """Run an attempt on its cluster to its end."""
        own_cluster = None
        try:
            if not self.stopped:
                self._enter(attempt, "PENDING")
                cluster, shared = self._cluster(attempt)
                own_cluster = None if shared else cluster
                self._process(attempt, cluster)
            return self._verdict(attempt)
        except subprocess.TimeoutExpired:
            kill(attempt.process)
            return State("TERMINATED", "TIMEDOUT", f"Task timed out after {attempt.task.timeout_seconds} s.")
        except TaskFault as fault:
            return State("INTERNAL_ERROR", "FAILED", str(fault))
        except Exception as error:  # an error of the emulator must end the run, or nobody would see it
            return State("INTERNAL_ERROR", "FAILED", f"emulator: {type(error).__name__}: {error}")
        finally:
            if own_cluster:
                self.workspace.clusters.terminate(own_cluster)

    def _verdict(self, attempt: Attempt) -> State:
        if self.stopped:
            return State("TERMINATED", self.stopped, f"Run {self.stopped.lower()}.")
        if attempt.process and attempt.process.wait() == 0:
            return State("TERMINATED", "SUCCESS")
        return State("TERMINATED", "FAILED", "Workload failed, see run output for details")

    def _enter(self, attempt: Attempt, life: str) -> None:
        with self.changed:
            attempt.state = State(life)
            if life == "RUNNING":
                self.state = State(life)
            self.changed.notify_all()

    def _cluster(self, attempt: Attempt) -> tuple[Cluster, bool]:
        """Return the attempt's cluster, started and with libraries, and whether other tasks use it too."""
        task, clusters, faults = attempt.task, self.workspace.clusters, self.workspace.faults
        libraries = list(task.libraries or [])
        with self._cluster_lock:
            if task.existing_cluster_id or task.job_cluster_key in self._clusters:
                cluster = self._clusters.get(task.job_cluster_key or "") or clusters.get(task.existing_cluster_id or "")
            elif fault := faults.strike({"cluster"}, task.task_key):
                raise TaskFault(f"Unexpected failure while waiting for the cluster to be ready: {fault.message}")
            else:
                specs = {item.job_cluster_key: item.new_cluster.as_dict() for item in self.job.job_clusters or []}
                payload = task.new_cluster.as_dict() if task.new_cluster else specs.get(task.job_cluster_key or "")
                cluster = clusters.start(payload or SERVERLESS)
                if task.job_cluster_key:
                    self._clusters[task.job_cluster_key] = cluster
            attempt.cluster_id = cluster.id
            shared = bool(task.existing_cluster_id or task.job_cluster_key)
            try:
                if fault := faults.strike({"library"}, task.task_key):
                    raise TaskFault(fault.message)
                cluster.install(libraries + self._environment(task), self.workspace.files)
            except TaskFault:
                if not shared:
                    clusters.terminate(cluster)
                raise
        return cluster, shared

    def _environment(self, task: Task) -> list[Library]:
        for environment in self.job.environments or []:
            if environment.environment_key == task.environment_key and environment.spec:
                return [_library(name) for name in environment.spec.dependencies or []]
        return []

    def _process(self, attempt: Attempt, cluster: Cluster) -> None:
        """Run the process of the attempt. The exit code tells whether it failed, and `failure` has its exception."""
        task = attempt.task
        launch = {"parameters": settings.parameters(task, self._value(attempt))}
        if wheel := task.python_wheel_task:
            launch |= {"package_name": wheel.package_name, "entry_point": wheel.entry_point}  # type: ignore[dict-item]
        elif file := task.spark_python_task:
            source = self.workspace.files.local(file.python_file)
            launch |= {"python_file": f"/{source.relative_to(self.workspace.files.folder)}"}  # type: ignore[dict-item]
        with self.changed:
            if self.stopped:
                return
            env = {"DATABRICKS_HOST": self.workspace.host, "DATABRICKS_TOKEN": self.workspace.task_token}
            attempt.process = machine.start(cluster, self.workspace.files, launch, env, attempt.log)
        self.workspace.record(self, attempt, cluster)
        self._enter(attempt, "RUNNING")
        attempt.process.wait(task.timeout_seconds or None)
        attempt.failure = machine.outcome(cluster, attempt.log)

    def _value(self, attempt: Attempt) -> Callable[[str], str | None]:
        known = {
            "job.id": str(self.job_id),
            "job.name": self.job.name or "",
            "job.run_id": str(self.run_id),
            "job.repair_count": str(len(self.repairs)),
            "job.start_time.iso_date": time.strftime("%Y-%m-%d", time.gmtime(self.started / 1000)),
            "task.name": attempt.task.task_key,
            "task.run_id": str(attempt.run_id),
            "workspace.id": self.workspace.workspace_id,
        }
        known |= {f"job.parameters.{name}": value for name, value in self.parameters.items()}
        results = dict.fromkeys(self.tasks, "") | {a.task.task_key: a.state.result or "" for a in self.attempts}
        known |= {f"tasks.{key}.result_state": result.lower() for key, result in results.items()}
        return known.get


def _library(dependency: str) -> Library:
    """Return a dependency of a serverless environment as a library of a cluster."""
    if dependency.startswith("-r "):
        return Library(requirements=dependency.removeprefix("-r ").strip())
    return Library(whl=dependency) if dependency.endswith(".whl") else Library(pypi=PythonPyPiLibrary(dependency))


def result_without_run(condition: RunIf, results: list[str]) -> str | None:
    """Return the result of a task that can't run because of the results before it, or None if it runs."""
    good = [result == "SUCCESS" for result in results]
    bad = [result not in ("SUCCESS", "EXCLUDED") for result in results]
    runs = {
        RunIf.ALL_SUCCESS: all(good),
        RunIf.ALL_DONE: True,
        RunIf.NONE_FAILED: not any(bad) and (any(good) or not results),
        RunIf.AT_LEAST_ONE_SUCCESS: any(good) or not results,
        RunIf.ALL_FAILED: bool(bad) and all(bad),
        RunIf.AT_LEAST_ONE_FAILED: any(bad),
    }[condition]
    if runs:
        return None
    if condition in (RunIf.ALL_FAILED, RunIf.AT_LEAST_ONE_FAILED) or not any(bad):
        return "EXCLUDED"
    return "UPSTREAM_CANCELED" if "CANCELED" in results else "UPSTREAM_FAILED"


def kill(process: subprocess.Popen[bytes] | None) -> None:
    """Kill the process of a task. Its namespace ends with it, and so do all processes that it started."""
    if process and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
