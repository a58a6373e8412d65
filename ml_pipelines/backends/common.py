"""Defaults for all backends: check, follow and stop a step on this machine, and find the page of a run.

MLflow calls `run` of our backends as it calls `run` of its own (mlflow.projects.backend.abstract_backend). Our backends
don't inherit MLflow's base class, so that driver.py can load them before it imports MLflow, which is slow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any, ClassVar

from ml_pipelines.config.schema import Config, SourceKind, Step
from ml_pipelines.data import locations, sources
from ml_pipelines.errors import ConfigError, PipelineError
from ml_pipelines.planning.backend import SubmittedStep
from ml_pipelines.system import namespace, paths
from ml_pipelines.tracking import opening
from ml_pipelines.tracking.store import Store


class ThisMachine:
    """The base class of all backends. Its defaults fit a backend whose steps run on this machine."""

    name: ClassVar[str]
    reads_tables_elsewhere: ClassVar[bool] = False
    enforces_time_limits: ClassVar[bool] = False

    def stand_in(self) -> str | None:
        """Return None: this backend works on every machine."""
        return None

    def prepare(self, config: Config, steps: Sequence[Step]) -> None:
        """Do nothing: the steps need no preparation."""

    def check(self, config: Config, steps: Sequence[Step]) -> None:
        """Check the registry if it is in Unity Catalog.

        If a step reads the source, also check the source, and that the folder of the tables can be written.

        Raises:
            ConfigError, BadData: the user lacks a privilege, the source is missing, or the folder can't be written.
        """
        if opening.registry_uri(config).startswith("databricks"):
            from ml_pipelines.databricks import unity_catalog

            unity_catalog.check_registry(config, steps)
        if not reads_source(steps):
            return
        if config.data.source.kind is SourceKind.file:
            sources.file_format(config.data.source)
        if config.spark.engine != "databricks":
            paths.check_writable(locations.absolute_prefix(config.table_prefix), "data.delta_prefix.local")

    def describe(self, config: Config, steps: Sequence[Step], needs: Mapping[str, AbstractSet[str]]) -> list[str]:
        """Return a warning if a step would use Sail while other users of this machine can reach Sail's port."""
        if not reads_source(steps) or config.spark.engine != "sail":
            return []
        if locations.need_network(config):
            why = "its source or its tables need the network"
        elif namespace.is_allowed():
            return []
        else:
            why = "this system allows no network namespace"
        return [
            f"\nSail's port on 127.0.0.1 has no password ({why}): while a step uses it, other users of this machine "
            "can run code as you. On a shared machine, use spark.engine=jvm (SECURITY.md)."
        ]

    def project(self) -> str:
        """Return this project's folder."""
        return str(paths.root())

    def config(self, config: Config, step: Step) -> dict[str, Any]:
        """Return the loaded configuration, so that no step has to load it again."""
        return {"config": config}

    def follow(self, store: Store, step: Step, submitted: Any) -> SubmittedStep:
        """Return `submitted` unchanged: it can already wait for its step."""
        followed: SubmittedStep = submitted
        return followed

    def lost(self, submitted: SubmittedStep) -> Exception | None:
        """Return None: this process can't lose contact with a step on the same machine."""
        return None

    def stop(self, submitted: SubmittedStep) -> None:
        """Cancel the step."""
        submitted.cancel()

    def share(self, submitted: SubmittedStep, steps: int) -> None:
        """Do nothing: the step uses all processors."""

    def take_over(
        self, store: Store, config: Config, step: Step, inputs: Mapping[str, str], pipeline_run: str
    ) -> SubmittedStep | None:
        """Return None: a step on this machine ends when its driver ends, so there is no step to reattach to."""
        return None

    def explain(self, error: Exception) -> PipelineError | None:
        """Return None: this backend has nothing to add to the error's own message."""
        return None

    def page_address(self, store: Store, experiment: str, run_id: str) -> str | None:
        """Return the address of a run's page, without a password. Return None if the store is not a server."""
        if store.is_databricks:
            from ml_pipelines.databricks import workspace

            with suppress(ConfigError):  # inside a cluster, the workspace may be unknown; then there is no address
                return f"{workspace.host()}/ml/experiments/{experiment}/runs/{run_id}"
        uri = re.sub(r"//[^/]*@", "//", store.uri)
        return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}" if uri.startswith("http") else None


def reads_source(steps: Sequence[Step]) -> bool:
    """Return whether one of the steps reads the source, and so needs Spark."""
    return any(not step.inputs for step in steps)


def create_run(store: Store, experiment: str, step: str, parameters: Mapping[str, str] | None) -> str:
    """Create the run of a step below MLflow's active run, log its parameters, and return its id."""
    import mlflow

    parent = mlflow.active_run()
    run_id = store.create_step_run(experiment, step, parent.info.run_id if parent else None)
    store.log_params(run_id, parameters or {})
    return run_id
