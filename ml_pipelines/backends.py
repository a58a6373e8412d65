"""MLflow project backends of our own: where a step runs when `mlflow.projects.run` is asked to run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow.projects import SubmittedRun
from mlflow.projects.backend import loader
from mlflow.projects.backend.abstract_backend import AbstractBackend

from ml_pipelines import execution, tracking

AVAILABLE = ("inline", "local")  # `local` is MLflow's own: a shell and a fresh interpreter a step


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
        import mlflow

        parent = mlflow.active_run()
        run_id = tracking.create_step_run(experiment_id, entry_point, parent.info.run_id if parent else None)
        tracking.client().log_batch(run_id, params=tracking.params(params or {}))
        return FinishedRun(run_id, execution.execute(entry_point, params or {}, run_id))


def register() -> None:
    """Make our backends known to MLflow where the package isn't installed, and its entry points therefore aren't."""
    loader.MLFLOW_BACKENDS.setdefault("inline", InlineBackend)
