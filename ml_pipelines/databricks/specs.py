"""Parses and checks the compute of a step: a new job cluster, a running cluster, or serverless."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ml_pipelines.databricks import workspace
from ml_pipelines.errors import ConfigError

if TYPE_CHECKING:
    from databricks.sdk.service.compute import ClusterSpec

SINGLE_NODE = "spark_conf spark.databricks.cluster.profile: singleNode and spark.master: local[*]"
# AWS node types of the families m, c and r without local disks: m6i.xlarge, r7iz.large, m-fleet.xlarge.
# The letter d after the generation stands for local disks: m6id.xlarge, rd-fleet.xlarge.
DISKLESS = re.compile(r"[mcr](?:[4-9]|\d\d)[abceg-z]*(?:-flex)?\.[\w-]+|[mcr]g?-fleet\.[\w-]+")
EBS = '"aws_attributes": {"ebs_volume_count": 1, "ebs_volume_size": 100, "ebs_volume_type": "GENERAL_PURPOSE_SSD"}'
DEDICATED = ("SINGLE_USER", "DATA_SECURITY_MODE_DEDICATED")  # the old and the new name of one access mode


@dataclass(frozen=True)
class Compute:
    """The compute that a step runs on. Exactly one of the three optional fields is set."""

    where: str  # the file or configuration key that describes the compute, for messages
    new_cluster: ClusterSpec | None = None
    existing_cluster_id: str | None = None
    environment_version: str | None = None  # of serverless compute


def parse_compute(raw: Mapping[str, Any], where: str) -> Compute:
    """Return the compute that a cluster spec, an `existing_cluster_id` or an `environment_version` describes.

    Args:
        raw: the content of a file of resources/clusters, or the backend config that MLflow passes on.
        where: the file or configuration key of the spec, for messages.

    Raises:
        ConfigError: `raw` is not a cluster spec, or Databricks would refuse it after some minutes.
    """
    from databricks.sdk.service.compute import ClusterSpec
    from mlflow.projects import utils

    mlflow_keys = {value for name, value in vars(utils).items() if name.startswith("PROJECT_")}  # MLflow adds these
    spec = {key: value for key, value in raw.items() if key not in mlflow_keys}
    for key in ("existing_cluster_id", "environment_version"):
        if key in spec:
            if others := ", ".join(spec.keys() - {key}):
                raise ConfigError(f"{where}: {key} must be the only key. Remove {others}.")
            return Compute(where, None, spec.get("existing_cluster_id"), spec.get("environment_version"))
    try:
        cluster = ClusterSpec.from_dict(spec)
        dropped = _dropped(spec, cluster.as_dict())
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{where} is not a cluster spec: {error}.") from error
    if dropped:
        raise ConfigError(
            f"{where}: {dropped} is not a key or value of a cluster spec. See ClusterSpec of databricks-sdk."
        )
    for rule in RULES:
        if message := rule(cluster):
            raise ConfigError(f"{where}: {message}")
    return Compute(where, new_cluster=cluster)


def _dropped(spec: Mapping[str, Any], parsed: Mapping[str, Any], prefix: str = "") -> str | None:
    """Return the first `key=value` that the SDK has silently dropped, because it does not know the key or the value."""
    for key, value in spec.items():
        if isinstance(value, Mapping) and isinstance(parsed.get(key), Mapping):
            if dropped := _dropped(value, parsed[key], f"{prefix}{key}."):
                return dropped
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
        return "is_single_node and the singleNode settings mean the same. Keep one of them." if any(marks) else None
    if any(marks) and spec.num_workers != 0:
        return "a single node has num_workers 0. Set num_workers to 0, or remove the singleNode settings."
    if spec.num_workers == 0 and not all(marks):
        return f"num_workers 0 is a single node, which needs {SINGLE_NODE}, and custom_tags ResourceClass: SingleNode."
    return None


def _access(spec: ClusterSpec) -> str | None:
    is_ml = "-ml-" in str(spec.spark_version) or spec.use_ml_runtime
    if is_ml and (spec.data_security_mode is None or spec.data_security_mode.value not in DEDICATED):
        return "an ML runtime needs data_security_mode SINGLE_USER. Standard access mode has no ML runtimes."
    return None


def _runtime(spec: ClusterSpec) -> str | None:
    if not spec.spark_version:
        return "it has no spark_version. Set one, for example 17.3.x-cpu-ml-scala2.13."
    if not (spec.node_type_id or spec.instance_pool_id or spec.policy_id):
        return "it has no node_type_id. Set one, or an instance_pool_id or policy_id that implies one."
    return None


def _disks(spec: ClusterSpec) -> str | None:
    """Return what is wrong with the EBS disks of AWS nodes. A pool, policy or enable_elastic_disk may add disks too."""
    aws = spec.aws_attributes
    count = aws.ebs_volume_count if aws else None
    if not count and not (spec.enable_elastic_disk or spec.instance_pool_id or spec.policy_id):
        for node in (spec.node_type_id, spec.driver_node_type_id):
            if node and DISKLESS.fullmatch(node):
                return f"{node} has no local disk, so AWS needs at least one EBS volume. Add {EBS}."
    if count and count > 10:
        return f"aws_attributes.ebs_volume_count is {count}. A node has at most 10 volumes."
    if aws and aws.ebs_volume_size is not None:
        kind = aws.ebs_volume_type.value if aws.ebs_volume_type else "GENERAL_PURPOSE_SSD"
        smallest = 500 if kind == "THROUGHPUT_OPTIMIZED_HDD" else 100
        if not smallest <= aws.ebs_volume_size <= 4096:
            return f"aws_attributes.ebs_volume_size is {aws.ebs_volume_size}. {kind} has {smallest} to 4096 GB."
    return None


RULES: tuple[Callable[[ClusterSpec], str | None], ...] = (_size, _single_node, _access, _runtime, _disks)


def check_available(compute: Compute) -> None:
    """Check that the workspace has the compute: its runtime and node types, or its running cluster.

    Raises:
        ConfigError: the workspace lacks one of them.
    """
    if compute.existing_cluster_id:
        with workspace.explaining_errors(f"cluster {compute.existing_cluster_id} ({compute.where})", "CAN RESTART"):
            workspace.client().clusters.get(compute.existing_cluster_id)
    if (spec := compute.new_cluster) is None:
        return
    runtimes, nodes = _runtimes_and_nodes()
    if spec.spark_version not in runtimes:
        raise ConfigError(
            f"{compute.where}: {workspace.host()} has no runtime {spec.spark_version}.{_newest_ml(runtimes)}"
        )
    for node in (spec.node_type_id, spec.driver_node_type_id):
        if node and node not in nodes:
            raise ConfigError(
                f"{compute.where}: {workspace.host()} has no node type {node}; each cloud has its own. "
                f"Set node_type_id to one of: {', '.join(sorted(nodes)[:4])}, ..."
            )


def _newest_ml(runtimes: frozenset[str]) -> str:
    ml = sorted(name for name in runtimes if "-cpu-ml-" in name)
    return f" The newest ML runtimes are {', '.join(ml[-3:])}." if ml else ""


@cache
def _runtimes_and_nodes() -> tuple[frozenset[str], frozenset[str]]:
    with workspace.explaining_errors("the list of runtimes and node types", "workspace access"):
        clusters = workspace.client().clusters
        runtimes = frozenset(str(version.key) for version in clusters.spark_versions().versions or [])
        return runtimes, frozenset(str(node.node_type_id) for node in clusters.list_node_types().node_types or [])
