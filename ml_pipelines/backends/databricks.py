"""The backend `databricks`, part of MLflow: it puts the project on DBFS and runs each step on a new cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml_pipelines.backends.on_databricks import OnDatabricks
from ml_pipelines.config.schema import Config, Step
from ml_pipelines.databricks import preflight, projects
from ml_pipelines.databricks.remote import RemoteStep
from ml_pipelines.planning.backend import SubmittedStep
from ml_pipelines.tracking.store import Store


class DatabricksBackend(OnDatabricks):
    """Runs steps with MLflow's backend, but checks first, sends a small archive, and notices a run that was skipped."""

    name = "databricks"

    def check(self, config: Config, steps: Sequence[Step]) -> None:
        """Check the settings, the cluster specs and the workspace. Refuse what MLflow's backend does not support."""
        computes = preflight.computes_of(config, steps)
        projects.check_mlflow_backend(computes, config.overrides)
        preflight.check_workspace(config, steps, computes, wheel=False)

    def project(self) -> str:
        """Return the path of an archive with all files that git does not ignore."""
        return projects.project_archive()

    def follow(self, store: Store, step: Step, submitted: Any) -> SubmittedStep:
        """Follow the run that MLflow's backend submitted, in the same way as the backend databricks-jobs."""
        remote = RemoteStep(store, step, str(submitted.run_id))
        return remote.attach(int(submitted._databricks_run_id))
