"""What the runner asks of a backend, and of a step that a backend runs. docs/development.md shows how to add one.

A backend is one object: a class in ml_pipelines/backends, named in one line of ml_pipelines/backends/catalog.py.
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
        """The step's MLflow run."""

    def wait(self) -> bool:
        """Wait for the end; return whether the step succeeded."""

    def get_status(self) -> str:
        """Return RUNNING, FINISHED or FAILED."""

    def cancel(self) -> None:
        """Stop the step."""


class Backend(Protocol):
    """Where steps run."""

    name: ClassVar[str]
    reads_tables_elsewhere: ClassVar[bool]  # this machine can't verify the tables that its steps wrote
    enforces_time_limits: ClassVar[bool]  # a step is a process here, which can be stopped after its time limit

    def stand_in(self) -> str | None:
        """Return the name of the backend to use instead on this machine, or None if this one works here."""

    def prepare(self, config: Config, steps: Sequence[Step]) -> None:
        """Start early what the steps will need, before MLflow is imported."""

    def check(self, config: Config, steps: Sequence[Step]) -> None:
        """Run the checks that need no run, so that a pipeline run that must fail is never created.

        Raises:
            ConfigError, BadData: a check failed.
        """

    def describe(self, config: Config, steps: Sequence[Step], needs: Mapping[str, AbstractSet[str]]) -> list[str]:
        """Return the lines that a dry run adds for this backend; `needs` is step -> the steps that it waits for."""

    def project(self) -> str:
        """Return the project that `mlflow.projects.run` runs: a folder or an archive."""

    def config(self, config: Config, step: Step) -> dict[str, Any]:
        """Return a fresh `backend_config` for `mlflow.projects.run`, which changes it."""

    def follow(self, store: Store, step: Step, submitted: Any) -> SubmittedStep:
        """Return the object to wait for, given what `mlflow.projects.run` returned."""

    def lost(self, submitted: SubmittedStep) -> Exception | None:
        """Return why nobody knows how the step ended, if it may still run elsewhere; otherwise None."""

    def stop(self, submitted: SubmittedStep) -> None:
        """Stop a step and wait until it has ended."""

    def share(self, submitted: SubmittedStep, steps: int) -> None:
        """Give a step its share of the processors, since `steps` steps run at once."""

    def take_over(
        self, store: Store, config: Config, step: Step, inputs: Mapping[str, str], pipeline_run: str
    ) -> SubmittedStep | None:
        """Reattach to a step of a resumed pipeline run that still runs without its driver; None if there is none."""

    def explain(self, error: Exception) -> PipelineError | None:
        """Return what a person can do about an error of MLflow or of the system; None if the backend doesn't know."""

    def page_address(self, store: Store, experiment: str, run_id: str) -> str | None:
        """Return the address of a run's page, or None if the store is not a server."""
