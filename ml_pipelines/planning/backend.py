"""The protocols of a backend, and of a step that a backend runs.

To add a backend, write a class in ml_pipelines/backends and add its name to catalog.py (docs/development.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from ml_pipelines.config.schema import Config, Step
    from ml_pipelines.errors import PipelineError
    from ml_pipelines.tracking.store import Store


class SubmittedStep(Protocol):
    """A step that a backend runs: what `mlflow.projects.run` returns."""

    @property
    def run_id(self) -> str:
        """The id of the step's MLflow run."""

    def wait(self) -> bool:
        """Wait until the step has ended; return whether it succeeded."""

    def get_status(self) -> str:
        """Return RUNNING, FINISHED or FAILED."""

    def cancel(self) -> None:
        """Stop the step."""


class Backend(Protocol):
    """Runs steps, for example in this process, in child processes or on Databricks."""

    name: ClassVar[str]
    reads_tables_elsewhere: ClassVar[bool]  # whether this machine can't verify the tables that steps wrote
    enforces_time_limits: ClassVar[bool]  # whether `stop` can end a step that exceeds its time limit

    def stand_in(self) -> str | None:
        """Return the name of the backend that replaces this backend on this machine, or None if this backend works."""

    def prepare(self, config: Config, steps: Sequence[Step]) -> None:
        """Start slow preparations for the steps. This is called early, before MLflow is imported."""

    def check(self, config: Config, steps: Sequence[Step]) -> None:
        """Find errors that would make the steps fail. This is called before the pipeline run is created.

        Raises:
            ConfigError, BadData: a check failed.
        """

    def describe(self, config: Config, steps: Sequence[Step], needs: Mapping[str, AbstractSet[str]]) -> list[str]:
        """Return the lines that this backend adds to a dry run. `needs` is step -> the steps that it waits for."""

    def project(self) -> str:
        """Return the project that `mlflow.projects.run` runs: a folder or an archive."""

    def config(self, config: Config, step: Step) -> dict[str, Any]:
        """Return a new `backend_config` for `mlflow.projects.run`. MLflow changes it, so each step needs a new one."""

    def follow(self, store: Store, step: Step, submitted: Any) -> SubmittedStep:
        """Return the object that waits for the step. `submitted` is what `mlflow.projects.run` returned."""

    def lost(self, submitted: SubmittedStep) -> Exception | None:
        """Return the error if this process lost contact with the step, which may still be running; otherwise None."""

    def stop(self, submitted: SubmittedStep) -> None:
        """Stop a step and wait until it has ended."""

    def share(self, submitted: SubmittedStep, steps: int) -> None:
        """Limit a step to its share of the processors. `steps` steps run at the same time."""

    def take_over(
        self, store: Store, config: Config, step: Step, inputs: Mapping[str, str], pipeline_run: str
    ) -> SubmittedStep | None:
        """Return a step of `pipeline_run` that still runs although its driver has ended; None if no such step runs."""

    def explain(self, error: Exception) -> PipelineError | None:
        """Return an error that says what to do about `error` (from MLflow or the system), or None for other errors."""

    def page_address(self, store: Store, experiment: str, run_id: str) -> str | None:
        """Return the web address of a run's page in MLflow, or None if the tracking store is not a server."""
