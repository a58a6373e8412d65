"""The backend `forkserver`: each step runs in a child of the fork server, which has imported everything already."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ml_pipelines.backends import fork_server
from ml_pipelines.backends.common import ThisMachine, create_run, reads_source
from ml_pipelines.config.schema import Config, Step
from ml_pipelines.errors import StepFailed
from ml_pipelines.execution import step_run
from ml_pipelines.planning.backend import SubmittedStep
from ml_pipelines.system import events, processes
from ml_pipelines.text import escaped
from ml_pipelines.tracking import opening
from ml_pipelines.tracking.store import Store


class ForkedStep:
    """A step in a forked process. Its output is reported line by line, and becomes the log artifact of its run."""

    def __init__(
        self, store: Store, run_id: str, step: str, parameters: Mapping[str, str], config: Config | None
    ) -> None:
        self.run_id = run_id
        self._store = store
        self._step = step
        self._folder = Path(tempfile.mkdtemp(prefix=f"{step}-", dir=fork_server.folder()))
        self._log = self._folder / f"{step}.log"
        self._threads = processes.processors()
        self._share = self._folder / "share"
        self._share.write_text(str(self._threads))
        self._child = fork_server.Child(
            step_run.execute_in_child,
            (step, dict(parameters), run_id, self._log, config, self._share),
            self._environment(),
            self._on_line,
            self._on_end,
        )

    def _environment(self) -> dict[str, str]:
        """Return the child's environment. TMPDIR is set to the step's own folder, which `_on_end` deletes.

        If the user's TMPDIR is too long for a socket, the driver's folder is elsewhere. Then TMPDIR stays as it is.
        """
        is_default = fork_server.folder().parent == Path(tempfile.gettempdir())
        return {**os.environ, **({"TMPDIR": str(self._folder)} if is_default else {})}

    def wait(self) -> bool:
        """Wait for the end; return whether the step succeeded."""
        return self._child.wait() == 0

    def get_status(self) -> str:
        """Return RUNNING, FINISHED or FAILED."""
        code = self._child.exit_code
        return "RUNNING" if code is None else "FAILED" if code else "FINISHED"

    def cancel(self) -> None:
        """Stop the step: TERM first, KILL if the step does not end."""
        self._child.stop()

    def share(self, steps: int) -> None:
        """Limit the step to its share of the OpenMP threads. `steps` steps run at the same time."""
        threads = max(1, processes.processors() // steps)
        if threads != self._threads:
            self._threads = threads
            with suppress(FileNotFoundError):  # the step has ended, and its folder is deleted
                written = self._share.with_suffix(".new")
                written.write_text(str(threads))
                written.replace(self._share)
                self._child.send_signal(processes.SHARE_CHANGED)

    def _on_line(self, line: str) -> None:
        events.report(events.StepOutput(self._step, line))
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{escaped(line)}\n")

    def _on_end(self, code: int) -> None:
        from mlflow.exceptions import MlflowException

        store = self._store
        try:
            if self._log.exists():
                store.client.log_artifact(self.run_id, str(self._log))
            if code < 0:
                cause = f"its process was killed by signal {-code}"
                tags = {"exit_code": str(StepFailed.exit_code), "signal": str(-code), "cause": cause}
                store.close(self.run_id, "FAILED", {**tags, "transient": "true"})
            elif code and store.get_run(self.run_id).info.status == "RUNNING":
                store.close(self.run_id, "FAILED", {"cause": f"its process ended with exit code {code}"})
        except (MlflowException, OSError) as error:  # the pipeline run reads this run next, and reports the error
            store.failed(error)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


class ForkServerBackend(ThisMachine):
    """Runs a step in a child of the fork server."""

    name = "forkserver"
    enforces_time_limits = True

    def stand_in(self) -> str | None:
        """Return None if this system can run the fork server, else `local`, the backend that replaces this one."""
        return None if fork_server.supported() else "local"

    def prepare(self, config: Config, steps: Sequence[Step]) -> None:
        """Start the fork server, which imports modules at the same time as this process."""
        fork_server.start(opening.store_uri(config), fitting_first=not reads_source(steps))

    def share(self, submitted: SubmittedStep, steps: int) -> None:
        """Limit a step to its share of the processors."""
        if isinstance(submitted, ForkedStep):
            submitted.share(steps)

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> ForkedStep:
        """Create the step's run below the active run, start the step, and return at once."""
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri  # the child inherits it
        store = Store.inherited(tracking_uri)
        run_id = create_run(store, experiment_id, entry_point, params)
        return ForkedStep(store, run_id, entry_point, params or {}, backend_config.get("config"))
