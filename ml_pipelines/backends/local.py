"""The backend `local`, part of MLflow: it starts a shell and a new Python for each step. For Windows and macOS."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from ml_pipelines.backends.common import ThisMachine
from ml_pipelines.config.schema import Config, Step
from ml_pipelines.errors import ConfigError
from ml_pipelines.planning.backend import SubmittedStep
from ml_pipelines.system.processes import GRACE_S


class LocalBackend(ThisMachine):
    """Runs steps with MLflow's backend, but stops them with its own code: MLflow sends SIGTERM and waits for ever."""

    name = "local"
    enforces_time_limits = True

    def check(self, config: Config, steps: Sequence[Step]) -> None:
        """Do the checks of the base class, and check that MLflow can run a project in this folder.

        Raises:
            ConfigError, BadData: one of these checks failed.
        """
        if "#" in self.project():
            raise ConfigError(
                f"--backend: MLflow's backend local can't run a project in {self.project()}, because # begins the name "
                "of a sub-folder there. Rename the folder, or use another backend: inline or forkserver."
            )
        super().check(config, steps)

    def stop(self, submitted: SubmittedStep) -> None:
        """Stop the step's process group (`mlflow run`, the shell, the step) with SIGTERM, then SIGKILL."""
        process = submitted.command_proc  # type: ignore[attr-defined]  # LocalSubmittedRun of MLflow has it
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            for _ in range(round(GRACE_S / 0.05)):
                time.sleep(0.05)
                process.poll()
                os.killpg(process.pid, 0)  # raises ProcessLookupError once the whole group has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
