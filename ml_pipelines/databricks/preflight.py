"""What is checked before anything is created: first what this machine knows, then what the workspace says."""

from __future__ import annotations

from collections.abc import Iterable

from ml_pipelines import sources, tracking
from ml_pipelines.config import Config, SourceKind, Step, cluster_spec
from ml_pipelines.databricks import projects, specs, volume, workspace
from ml_pipelines.errors import ConfigError
from ml_pipelines.plan import DATABRICKS, DATABRICKS_JOBS, Plan
from ml_pipelines.terminal import say


def check_plan(plan: Plan) -> None:
    """Raise ConfigError with the one line on what would fail there; put the wheel on the Volume where it is needed."""
    computes = {step.compute: read(plan.config, step) for step in plan.steps}.values()
    if plan.backend == DATABRICKS:
        projects.check(computes, plan.config.overrides)
    check(plan.config, computes, wheel=plan.backend == DATABRICKS_JOBS)


def check(config: Config, computes: Iterable[specs.Compute], wheel: bool = True) -> None:
    """Do as `check_plan` for steps that run on these computes."""
    _check_here(config)
    path = volume.wheel_path(config) if wheel else None
    with workspace.asking("the signed-in user", "workspace access"):
        me = workspace.client().current_user.me()
    say(f"Databricks {workspace.host()} as {me.user_name}")
    check_experiment(config.experiment_name)
    volume.check(config)
    for compute in computes:
        specs.check_listed(compute)
    if path:
        volume.upload(path)


def read(config: Config, step: Step) -> specs.Compute:
    """Return the step's compute, checked.

    Raises:
        ConfigError: it is this machine, or no cluster spec.
    """
    where = config.compute[step.compute]
    raw = cluster_spec(config, step)
    if raw is None:
        raise ConfigError(f"compute.{step.compute}: {where} is this machine. Name a cluster spec in the profile.")
    return specs.read(raw, where)


def _check_here(config: Config) -> None:
    uri = tracking.store_uri(config)
    if not uri.startswith("databricks"):
        raise ConfigError(
            f"The MLflow store is {uri}, which a cluster can't reach. Unset MLFLOW_TRACKING_URI, or say databricks."
        )
    if config.spark.engine != "databricks":
        raise ConfigError(
            f"spark.engine: {config.spark.engine} is none of a cluster's. Set it to databricks in the profile."
        )
    if not config.experiment_name.startswith(("/Shared/", "/Users/")):
        raise ConfigError(
            f"experiment_name: {config.experiment_name} is no path of a workspace: /Shared/<name>, /Users/<you>/<name>."
        )
    if config.data.source.kind is SourceKind.file and (local := sources.locate(config.data.source)[1]):
        raise ConfigError(
            f"data.source.path: {local} is on this machine. Put it on a Volume: /Volumes/<...>, or a URI."
        )


def check_experiment(name: str) -> None:
    """Raise ConfigError where the experiment may not be looked at; one that isn't there will be created."""
    from databricks.sdk.errors import NotFound

    with workspace.asking(f"Experiment {name}", "CAN EDIT on it, or on its folder,"):
        try:
            workspace.client().experiments.get_by_name(name)
        except NotFound:
            return
