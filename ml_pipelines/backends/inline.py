"""The backend `inline`: each step runs in this process. Use it with a debugger, in tests, and on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_pipelines.backends.common import ThisMachine, create_run
from ml_pipelines.execution import step_run
from ml_pipelines.tracking.store import Store


class FinishedStep:
    """A step that has ended: InlineBackend.run returns only after the end of the step."""

    def __init__(self, run_id: str, exit_code: int) -> None:
        self.run_id = run_id
        self._exit_code = exit_code

    def wait(self) -> bool:
        """Return whether the step succeeded."""
        return self._exit_code == 0

    def get_status(self) -> str:
        """Return FINISHED or FAILED."""
        return "FINISHED" if self.wait() else "FAILED"

    def cancel(self) -> None:
        """Do nothing: the step has ended."""


class InlineBackend(ThisMachine):
    """Runs a step in this process."""

    name = "inline"

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> FinishedStep:
        """Create the step's run below the active run, run the step, and return when the step has ended."""
        store = Store.inherited(tracking_uri)
        run_id = create_run(store, experiment_id, entry_point, params)
        code = step_run.execute(store, entry_point, params or {}, run_id, config=backend_config.get("config"))
        return FinishedStep(run_id, code)
