"""MLflow project backends of our own: where a step runs when `mlflow.projects.run` is asked to run it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.projects import SubmittedRun
from mlflow.projects.backend import loader
from mlflow.projects.backend.abstract_backend import AbstractBackend

from ml_pipelines import execution, forking, processes, tracking
from ml_pipelines.config import Config
from ml_pipelines.databricks.jobs import JobsBackend
from ml_pipelines.errors import StepFailed
from ml_pipelines.terminal import say


class FinishedRun(SubmittedRun):  # type: ignore[misc]
    """A step that ran before it was handed back."""

    def __init__(self, run_id: str, exit_code: int) -> None:
        self._run_id = run_id
        self._exit_code = exit_code

    @property
    def run_id(self) -> str:
        """The step's MLflow run."""
        return self._run_id

    def wait(self) -> bool:
        """Return whether the step succeeded."""
        return self._exit_code == 0

    def get_status(self) -> str:
        """Return FINISHED or FAILED."""
        return "FINISHED" if self.wait() else "FAILED"

    def cancel(self) -> None:
        """Do nothing: it has ended."""


class InlineBackend(AbstractBackend):  # type: ignore[misc]
    """Run the step in this process: for a debugger, for tests, and on a cluster."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> FinishedRun:
        """Create the step's run below the active one, run the step, and return when it has ended."""
        run_id = _create_run(experiment_id, entry_point, params)
        config = backend_config.get("config")
        return FinishedRun(run_id, execution.execute(entry_point, params or {}, run_id, config=config))


class ForkedRun(SubmittedRun):  # type: ignore[misc]
    """A step in a forked process; what it writes is shown as it comes, and is its run's log artifact at the end."""

    def __init__(self, run_id: str, step: str, parameters: Mapping[str, str], config: Config | None) -> None:
        self._run_id = run_id
        self._step = step
        self._folder = Path(tempfile.mkdtemp(prefix="ml-pipelines-"))
        self._log = self._folder / f"{step}.log"
        self._threads = forking.processors()
        self._share = self._folder / "share"
        self._share.write_text(str(self._threads))
        self._child = forking.Child(
            execution.execute_in_child,
            (step, dict(parameters), run_id, self._log, config, self._share),
            os.environ,
            self._on_line,
            self._on_end,
        )

    @property
    def run_id(self) -> str:
        """The step's MLflow run."""
        return self._run_id

    def wait(self) -> bool:
        """Wait for the end; return whether the step succeeded."""
        return self._child.wait() == 0

    def get_status(self) -> str:
        """Return RUNNING, FINISHED or FAILED."""
        code = self._child.exit_code
        return "RUNNING" if code is None else "FAILED" if code else "FINISHED"

    def cancel(self) -> None:
        """Stop the step: TERM, and KILL where that isn't enough."""
        self._child.stop()

    def share(self, steps: int) -> None:
        """Let it have its part of the OpenMP threads, with so many steps at once: more would fight for processors."""
        threads = max(1, forking.processors() // steps)
        if threads != self._threads:
            self._threads = threads
            with suppress(FileNotFoundError):  # it has ended
                written = self._share.with_suffix(".new")
                written.write_text(str(threads))
                written.replace(self._share)
                self._child.tell(forking.SHARE_CHANGED)

    def _on_line(self, line: str) -> None:
        say(f"    {self._step} | {line}")
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")

    def _on_end(self, code: int) -> None:
        try:
            if self._log.exists():
                tracking.client().log_artifact(self._run_id, str(self._log))
            if code < 0:
                cause = f"its process was killed by signal {-code}"
                tags = {"exit_code": str(StepFailed.exit_code), "signal": str(-code), "cause": cause}
                tracking.close(self._run_id, "FAILED", {**tags, "transient": "true"})
            elif code and tracking.get_run(self._run_id).info.status == "RUNNING":
                tracking.close(self._run_id, "FAILED", {"cause": f"its process ended with exit code {code}"})
        except (MlflowException, OSError) as error:  # the pipeline run, which asks for this run next, will say so
            tracking.failed(error)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


class ForkServerBackend(AbstractBackend):  # type: ignore[misc]
    """Run the step in a child of a fork server that has done the imports: see forking."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> ForkedRun:
        """Create the step's run below the active one, start the step, and return at once."""
        run_id = _create_run(experiment_id, entry_point, params)
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
        return ForkedRun(run_id, entry_point, params or {}, backend_config.get("config"))


OURS = {"inline": InlineBackend, "forkserver": ForkServerBackend, "databricks-jobs": JobsBackend}
AVAILABLE = (*OURS, "local", "databricks")  # the last two are MLflow's own
PROCESSES = ("forkserver", "local")  # whose steps are processes here, that can be stopped


def stop(submitted: SubmittedRun) -> None:
    """Stop a step: TERM, then KILL where that isn't enough. MLflow's own stops at TERM, and waits for ever."""
    process = getattr(submitted, "command_proc", None)
    if process is None:
        submitted.cancel()
        return
    with suppress(ProcessLookupError):  # a group of its own: `mlflow run`, the shell, the step
        os.killpg(process.pid, signal.SIGTERM)
        for _ in range(round(forking.GRACE_S / 0.05)):
            time.sleep(0.05)
            process.poll()
            os.killpg(process.pid, 0)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _create_run(experiment_id: str, step: str, parameters: Mapping[str, str] | None) -> str:
    import mlflow

    parent = mlflow.active_run()
    run_id = tracking.create_step_run(experiment_id, step, parent.info.run_id if parent else None)
    tracking.log_params(run_id, parameters or {})
    return run_id


def register() -> None:
    """Make our backends known to MLflow, also where the package isn't installed, and this environment to `local`."""
    os.environ[processes.DRIVER] = str(os.getpid())  # a step of `local`, our grandchild, ends with us
    own = str(Path(sys.executable).parent)  # has the `python` and `mlflow` that `local` starts
    if not os.environ.get("PATH", "").startswith(own):
        os.environ["PATH"] = os.pathsep.join([own, os.environ.get("PATH", os.defpath)])
    for name, backend in OURS.items():
        loader.MLFLOW_BACKENDS.setdefault(name, backend)
