"""Checks settings and workspace before a run on Databricks is created, so that no run fails minutes later."""

from __future__ import annotations

from collections.abc import Iterable

from ml_pipelines.config.compute import cluster_spec
from ml_pipelines.config.schema import Config, SourceKind, Step
from ml_pipelines.data import locations
from ml_pipelines.databricks import specs, unity_catalog, volume, workspace
from ml_pipelines.errors import ConfigError
from ml_pipelines.system import events
from ml_pipelines.tracking import opening


def computes_of(config: Config, steps: Iterable[Step]) -> list[specs.Compute]:
    """Return the clusters or other computes that the steps run on, without duplicates.

    Raises:
        ConfigError: the compute of a step is this machine, or its cluster spec is wrong.
    """
    return list({step.compute: compute_of(config, step) for step in steps}.values())


def compute_of(config: Config, step: Step) -> specs.Compute:
    """Return the checked compute of a step.

    Raises:
        ConfigError: the compute is this machine, or its cluster spec is wrong.
    """
    where = config.compute[step.compute]
    raw = cluster_spec(config, step)
    if raw is None:
        raise ConfigError(f"compute.{step.compute}: {where} is this machine. Name a cluster spec in the profile.")
    return specs.parse_compute(raw, where)


def check_workspace(
    config: Config, steps: Iterable[Step], computes: Iterable[specs.Compute], wheel: bool = True
) -> None:
    """Check the settings and the workspace for steps that run on these computes.

    Args:
        config: the configuration of the steps.
        steps: the steps.
        computes: what the steps run on.
        wheel: whether to upload the wheel too, if the Volume lacks it.

    Raises:
        ConfigError: a step would fail on Databricks; the message says what to do.
    """
    _check_settings(config)
    workspace.select(config)
    path = volume.wheel_path(config) if wheel else None
    with workspace.explaining_errors("the signed-in user", "workspace access"):
        me = workspace.client().current_user.me()
    events.report(events.Notice(f"Databricks {workspace.host()} as {me.user_name}"))
    check_experiment(config.experiment_name)
    volume.check_volume(config)
    unity_catalog.check_registry(config, steps)
    for compute in computes:
        specs.check_available(compute)
    if path:
        volume.upload_wheel(path)


def _check_settings(config: Config) -> None:
    uri = opening.store_uri(config)
    if not uri.startswith("databricks"):
        raise ConfigError(
            f"The MLflow store is {uri}, which a cluster can't reach. "
            "Unset MLFLOW_TRACKING_URI, or set it to databricks."
        )
    if config.spark.engine != "databricks":
        raise ConfigError(
            f"spark.engine: {config.spark.engine} does not run on a cluster. Set it to databricks in the profile."
        )
    if not config.experiment_name.startswith(("/Shared/", "/Users/")):
        raise ConfigError(
            f"experiment_name: {config.experiment_name} is not a workspace path. "
            "Set it to /Shared/<name> or /Users/<you>/<name>."
        )
    if config.data.source.kind is SourceKind.file and (local := locations.locate_source(config.data.source)[1]):
        raise ConfigError(
            f"data.source.path: {local} is on this machine. Put it on a Volume (/Volumes/<...>), or set a URI."
        )


def check_experiment(name: str) -> None:
    """Check that the user may read the experiment. If it does not exist, pass: MLflow will create it.

    Raises:
        ConfigError: the permission is missing.
    """
    from databricks.sdk.errors import NotFound

    with workspace.explaining_errors(f"Experiment {name}", "CAN EDIT on it or on its folder"):
        try:
            workspace.client().experiments.get_by_name(name)
        except NotFound:
            return
