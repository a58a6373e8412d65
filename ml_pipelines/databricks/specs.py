"""What a step runs on there: a new job cluster, a running cluster, or serverless; checked before it is submitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ml_pipelines.databricks import workspace
from ml_pipelines.errors import ConfigError

if TYPE_CHECKING:
    from databricks.sdk.service.compute import ClusterSpec

SINGLE_NODE = "spark_conf spark.databricks.cluster.profile: singleNode and spark.master: local[*]"
DEDICATED = ("SINGLE_USER", "DATA_SECURITY_MODE_DEDICATED")  # the old and the new name of one thing


@dataclass(frozen=True)
class Compute:
    """What one step runs on: exactly one of the three."""

    where: str  # the file or key that says so
    new_cluster: ClusterSpec | None = None
    existing_cluster_id: str | None = None
    environment_version: str | None = None  # of serverless


def read(raw: Mapping[str, Any], where: str) -> Compute:
    """Return the checked compute of a cluster spec as resources/clusters has it, or of what stands for one.

    Raises:
        ConfigError: it isn't one, or one that Databricks would refuse after minutes.
    """
    from databricks.sdk.service.compute import ClusterSpec
    from mlflow.projects import utils

    written = {value for name, value in vars(utils).items() if name.startswith("PROJECT_")}  # by MLflow, into any spec
    spec = {key: value for key, value in raw.items() if key not in written}
    for other in ("existing_cluster_id", "environment_version"):
        if other in spec:
            if more := ", ".join(spec.keys() - {other}):
                raise ConfigError(f"{where}: {other} stands alone; take {more} out.")
            return Compute(where, None, spec.get("existing_cluster_id"), spec.get("environment_version"))
    try:
        cluster = ClusterSpec.from_dict(spec)
        lost = _lost(spec, cluster.as_dict())
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{where} is no cluster spec: {error}.") from error
    if lost:
        raise ConfigError(f"{where}: {lost} is no key or value of a cluster spec (databricks-sdk's ClusterSpec).")
    for rule in RULES:
        if wrong := rule(cluster):
            raise ConfigError(f"{where}: {wrong}")
    return Compute(where, new_cluster=cluster)


def _lost(given: Mapping[str, Any], parsed: Mapping[str, Any], prefix: str = "") -> str | None:
    """Return the first key that parsing has dropped, or whose value it has: the SDK does both silently."""
    for key, value in given.items():
        if isinstance(value, Mapping) and isinstance(parsed.get(key), Mapping):
            if found := _lost(value, parsed[key], f"{prefix}{key}."):
                return found
        elif value not in (None, [], {}) and parsed.get(key) != value:
            return f"{prefix}{key}={value}"
    return None


def _size(spec: ClusterSpec) -> str | None:
    if spec.autoscale and spec.num_workers is not None:
        return "it has both num_workers and autoscale. Keep one of them."
    if not spec.autoscale and spec.num_workers is None and not spec.is_single_node:
        return "it has no size. Add num_workers, or autoscale with min_workers and max_workers."
    return None


def _single_node(spec: ClusterSpec) -> str | None:
    conf, tags = spec.spark_conf or {}, spec.custom_tags or {}
    marks = [
        conf.get("spark.databricks.cluster.profile") == "singleNode",
        conf.get("spark.master", "").startswith("local["),
        tags.get("ResourceClass") == "SingleNode",
    ]
    if spec.is_single_node:
        return (
            "is_single_node and the singleNode settings are two forms of one thing. Keep one." if any(marks) else None
        )
    if any(marks) and spec.num_workers != 0:
        return "a single node has num_workers 0. Set it, or take the singleNode settings out."
    if spec.num_workers == 0 and not all(marks):
        return f"num_workers 0 is a single node, which needs {SINGLE_NODE}, and custom_tags ResourceClass: SingleNode."
    return None


def _access(spec: ClusterSpec) -> str | None:
    is_ml = "-ml-" in str(spec.spark_version) or spec.use_ml_runtime
    if is_ml and (spec.data_security_mode is None or spec.data_security_mode.value not in DEDICATED):
        return "an ML runtime needs data_security_mode SINGLE_USER: standard access mode has none."
    return None


def _runtime(spec: ClusterSpec) -> str | None:
    if not spec.spark_version:
        return "it has no spark_version, for example 17.3.x-cpu-ml-scala2.13."
    if not (spec.node_type_id or spec.instance_pool_id or spec.policy_id):
        return "it has no node_type_id, and no instance_pool_id or policy_id that would say it."
    return None


RULES: tuple[Callable[[ClusterSpec], str | None], ...] = (_size, _single_node, _access, _runtime)


def check_listed(compute: Compute) -> None:
    """Raise ConfigError unless the workspace has the runtime and the node types, or the running cluster."""
    if compute.existing_cluster_id:
        with workspace.asking(f"cluster {compute.existing_cluster_id} ({compute.where})", "CAN RESTART"):
            workspace.client().clusters.get(compute.existing_cluster_id)
    if (spec := compute.new_cluster) is None:
        return
    runtimes, nodes = _listed()
    if spec.spark_version not in runtimes:
        raise ConfigError(f"{compute.where}: {workspace.host()} has no runtime {spec.spark_version}.{_like(runtimes)}")
    for node in (spec.node_type_id, spec.driver_node_type_id):
        if node and node not in nodes:
            raise ConfigError(
                f"{compute.where}: {workspace.host()} has no node type {node}, which differ per cloud. "
                f"It has {', '.join(sorted(nodes)[:4])} and others: set node_type_id."
            )


def _like(runtimes: frozenset[str]) -> str:
    ml = sorted(name for name in runtimes if "-cpu-ml-" in name)
    return f" Newest with ML: {', '.join(ml[-3:])}." if ml else ""


@cache
def _listed() -> tuple[frozenset[str], frozenset[str]]:
    with workspace.asking("the list of runtimes and node types", "workspace access"):
        clusters = workspace.client().clusters
        runtimes = frozenset(str(version.key) for version in clusters.spark_versions().versions or [])
        return runtimes, frozenset(str(node.node_type_id) for node in clusters.list_node_types().node_types or [])
