"""Clusters. Specs are checked as a workspace checks them; each cluster has its own Python environment and folder."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from databricks.sdk.service.compute import ClusterSpec, DataSecurityMode, Library

from emulator.errors import TaskFault, invalid, missing
from emulator.files import Files

CHECKOUT = Path(__file__).resolve().parents[3]
SPARK_VERSIONS = {
    "15.4.x-cpu-ml-scala2.12": "15.4 LTS ML (includes Apache Spark 3.5.0, Scala 2.12)",
    "16.4.x-cpu-ml-scala2.12": "16.4 LTS ML (includes Apache Spark 3.5.2, Scala 2.12)",
    "17.3.x-cpu-ml-scala2.13": "17.3 LTS ML (includes Apache Spark 4.0.0, Scala 2.13)",
    "17.3.x-scala2.13": "17.3 LTS (includes Apache Spark 4.0.0, Scala 2.13)",
}
NODE_TYPES = {  # name -> cores, GB; all without local disks
    "m6i.large": (2, 8),
    "m6i.xlarge": (4, 16),
    "m6i.2xlarge": (8, 32),
    "r6i.xlarge": (4, 32),
    "r6i.2xlarge": (8, 64),
    "r6i.4xlarge": (16, 128),
}
SINGLE_NODE_CONF = {"spark.databricks.cluster.profile": "singleNode", "spark.master": "local[*]"}
SERVERLESS: dict[str, Any] = {"serverless": True}


def check(payload: dict[str, Any]) -> ClusterSpec:
    """Return the spec as the SDK parses it, or refuse it. Each rule is a rule of a workspace or of its runtimes."""
    spec = ClusterSpec.from_dict(payload)
    if spec.spark_version not in SPARK_VERSIONS:
        raise invalid(f"Invalid spark version {spec.spark_version}.")
    if spec.node_type_id not in NODE_TYPES and not (spec.instance_pool_id or spec.policy_id):
        raise invalid(f"Node type {spec.node_type_id} is not supported.")
    has_ebs = bool(spec.aws_attributes and spec.aws_attributes.ebs_volume_count) or spec.enable_elastic_disk
    if not (has_ebs or spec.instance_pool_id or spec.policy_id):
        raise invalid(f"At least one EBS volume must be attached for clusters with node type {spec.node_type_id}.")
    if spec.is_single_node:
        if not spec.kind or spec.num_workers is not None or spec.autoscale:
            raise invalid("is_single_node needs kind CLASSIC_PREVIEW, and no num_workers or autoscale.")
    elif (spec.num_workers is None) == (spec.autoscale is None):
        raise invalid("A cluster needs either num_workers or autoscale.")
    if spec.num_workers == 0:
        conf, tags = spec.spark_conf or {}, spec.custom_tags or {}
        if not conf.items() >= SINGLE_NODE_CONF.items() or tags.get("ResourceClass") != "SingleNode":
            raise invalid("A single node (num_workers 0) needs singleNode and local[*] in spark_conf, and its tag.")
    dedicated = {DataSecurityMode.SINGLE_USER, DataSecurityMode.DATA_SECURITY_MODE_DEDICATED}
    if "-ml-" in str(spec.spark_version) and spec.data_security_mode not in dedicated:
        raise invalid("An ML runtime needs the dedicated access mode: data_security_mode SINGLE_USER.")
    return spec


def uv(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run uv offline. It installs from the cache that `make setup` filled."""
    command = [str(Path(sysconfig.get_path("scripts"), "uv")), "--quiet", "--offline", "--no-progress"]
    return subprocess.run([*command, *map(str, arguments)], cwd=CHECKOUT, capture_output=True, text=True, check=False)


def image(with_spark: bool) -> Path:
    """Return the Python environment that clusters are copied from. It is made once for each requirements.lock.

    It has the pinned libraries, and Spark only if `with_spark`. It is inside the environment of this program, and is
    removed together with it.
    """
    contents = [(CHECKOUT / name).read_bytes() for name in ("pyproject.toml", "requirements.lock")]
    key = hashlib.sha256(b"".join(contents)).hexdigest()[:12]
    folder = Path(sys.prefix, "databricks-images")
    environment = folder / f"{key}-{'spark' if with_spark else 'ml'}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several tests may run at the same time
        if not environment.exists():
            part = environment.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            extra = ["--extra", "local"] if with_spark else []
            pins = ["--constraints", "requirements.lock", "--build-constraints", "build-constraints.txt"]
            python = ["--python", part / "bin" / "python"]
            for arguments in (
                ["venv", "--relocatable", "--python", sys._base_executable, part],  # type: ignore[attr-defined]
                ["pip", "install", *python, *pins, "--compile-bytecode", "--requirements", "pyproject.toml", *extra],
            ):
                done = uv(*arguments)
                if done.returncode:
                    raise TaskFault(f"the emulator's image can't be made (run `make setup`): {done.stderr}")
            part.rename(environment)
    return environment


@dataclass
class Cluster:
    """A running cluster. `folder` is its /databricks, with its Python environment; nothing of it stays afterwards."""

    id: str
    payload: dict[str, Any]
    folder: Path
    runtime: str
    env: dict[str, str] = field(default_factory=dict)
    installed: set[str] = field(default_factory=set)

    def install(self, libraries: list[Library], files: Files) -> None:
        """Install the missing libraries. A wheel with the name of an installed wheel is ignored, as on Databricks."""
        for library in libraries:
            package = library.pypi.package if library.pypi else None
            if library.whl and library.whl.startswith("dbfs:"):
                raise TaskFault("Library installation failed: libraries on DBFS are disabled; use a Volume.")
            path = library.whl or library.requirements
            file = files.local(path) if path else None
            requirement = package or (file and str(file)) or ""
            if not requirement or (file and not file.is_file()):
                raise TaskFault(f"Library installation failed: no library at {path or library.as_dict()}.")
            if Path(requirement).name in self.installed:
                continue
            option = ["--requirements"] if library.requirements else []
            done = uv("pip", "install", "--python", self.folder / "python" / "bin" / "python", *option, requirement)
            if done.returncode:
                raise TaskFault(f"Library installation failed for library due to user error: {done.stderr.strip()}")
            self.installed.add(Path(requirement).name)


class Clusters:
    """The clusters of one workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, Cluster] = {}
        self._removals: list[subprocess.Popen[bytes]] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def start(self, payload: dict[str, Any], cluster_id: str | None = None) -> Cluster:
        """Start a cluster with a copy of the image, so that its installations stay its own."""
        spec = None if payload is SERVERLESS else check(payload)
        single = spec is not None and (spec.num_workers == 0 or bool(spec.is_single_node))
        with self._lock:
            name = cluster_id or f"0101-{next(self._numbers):06}-emulated"
        runtime = str(spec.spark_version).split(".x")[0] if spec else "client.4.0"
        cluster = Cluster(name, payload, self.folder / name, runtime, (spec and spec.spark_env_vars) or {})
        for part in ("driver", "tmp", "root"):
            (cluster.folder / part).mkdir(parents=True)
        copy = ["cp", "-a", image(with_spark=not single), cluster.folder / "python"]
        if subprocess.run([*copy[:1], "-l", *copy[1:]], capture_output=True, check=False).returncode:
            shutil.rmtree(cluster.folder / "python", ignore_errors=True)
            subprocess.run(copy, check=True)  # hard links fail on another file system
        self.running[name] = cluster
        return cluster

    def get(self, cluster_id: str) -> Cluster:
        """Return a running cluster."""
        if cluster_id not in self.running:
            raise missing(f"Cluster {cluster_id} does not exist")
        return self.running[cluster_id]

    def terminate(self, cluster: Cluster) -> None:
        """Stop a cluster and start to remove its files."""
        self.running.pop(cluster.id, None)
        self._removals.append(subprocess.Popen(["rm", "-rf", cluster.folder]))

    def close(self) -> None:
        """Stop all clusters and wait until their files are removed."""
        for cluster in list(self.running.values()):
            self.terminate(cluster)
        for removal in self._removals:
            removal.wait()


def describe_cluster(cluster: Cluster) -> dict[str, Any]:
    """Return a cluster as clusters/get does."""
    return {
        **cluster.payload,
        "cluster_id": cluster.id,
        "state": "RUNNING",
        "creator_user_name": os.environ.get("USER", ""),
    }
