"""What is submitted for a step: one request to runs/submit, the same that a dry run shows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ml_pipelines import paths
from ml_pipelines.config import NONE, Config, Step
from ml_pipelines.databricks import preflight, specs, volume, workspace

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import JobEnvironment, SubmitTask


@dataclass(frozen=True)
class Submission:
    """One request to runs/submit, whole: what is sent, and what a dry run shows."""

    run_name: str
    idempotency_token: str
    task: SubmitTask
    environment: JobEnvironment | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the request's JSON."""
        whole: dict[str, Any] = {
            "run_name": self.run_name,
            "idempotency_token": self.idempotency_token,
            "tasks": [self.task.as_dict()],
        }
        return whole | ({"environments": [self.environment.as_dict()]} if self.environment else {})

    def send(self) -> int:
        """Submit it and return the Databricks run's id: the same one however often it is sent.

        Raises:
            ConfigError: the workspace refuses it.
            Away: no answer.
        """
        environments = [self.environment] if self.environment else None
        with workspace.asking(f"Job run {self.run_name}", "permission to submit job runs and create clusters"):
            submitted = workspace.client().jobs.submit(
                run_name=self.run_name,
                idempotency_token=self.idempotency_token,
                tasks=[self.task],
                environments=environments,
            )
            return int(submitted.run_id)


def of(config: Config, step: Step, compute: specs.Compute, inputs: Mapping[str, str], run_id: str) -> Submission:
    """Return the request that runs `step` in the MLflow run `run_id`.

    Its token is that id, which stands for a pipeline run, a step and an attempt.
    """
    from databricks.sdk.service.jobs import PythonWheelTask, SubmitTask

    options = {"profile": config.profile, "set": config.overrides, **inputs, "run_id": run_id}
    placed, environment = _placed(compute, volume.wheel_path(config), {"step": step.key, "mlflow_run": run_id})
    task = SubmitTask(
        task_key=step.key,
        python_wheel_task=PythonWheelTask(
            package_name="ml-pipelines",
            entry_point=step.script,
            parameters=[f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value != NONE],
        ),
        timeout_seconds=math.ceil(step.timeout_s) if step.timeout_s else None,
        **placed,
    )
    return Submission(f"ml-pipelines {config.env_name} {step.step_name} {run_id[:8]}", run_id, task, environment)


def _placed(compute: specs.Compute, whl: str, tags: dict[str, str]) -> tuple[dict[str, Any], JobEnvironment | None]:
    """Return what a task says of where it runs and with which libraries; of serverless, its environment too."""
    from databricks.sdk.service.compute import Environment, Library, PythonPyPiLibrary
    from databricks.sdk.service.jobs import JobEnvironment

    if compute.environment_version:
        spec = Environment(environment_version=compute.environment_version, dependencies=[whl, *pins()])
        return {"environment_key": "ml"}, JobEnvironment("ml", spec)
    libraries = [Library(whl=whl), *(Library(pypi=PythonPyPiLibrary(package=pin)) for pin in pins())]
    if compute.new_cluster is None:
        return {"libraries": libraries, "existing_cluster_id": compute.existing_cluster_id}, None
    cluster = replace(compute.new_cluster, custom_tags={**(compute.new_cluster.custom_tags or {}), **tags})
    return {"libraries": libraries, "new_cluster": cluster}, None


def pins() -> list[str]:
    """Return the versions that MLproject pins: what a runtime ships of these libraries is not documented."""
    import yaml

    project = yaml.safe_load((paths.root() / "MLproject").read_text(encoding="utf-8"))
    return list(project["databricks_spark_job"]["python_libraries"])


def describe(config: Config, steps: Sequence[Step], needs: Mapping[str, AbstractSet[str]]) -> str:
    """Return what would be submitted, and how many cluster starts a person waits for."""
    found = {step.key: preflight.read(config, step) for step in steps}
    payloads = [
        of(config, step, found[step.key], {name: f"<{name}>" for name in step.inputs}, "<run id>").as_dict()
        for step in steps
    ]
    starts: dict[str, int] = {}  # of the longest path that ends with the step
    for step in steps:
        before = max((starts[need] for need in needs[step.key]), default=0)
        starts[step.key] = before + (found[step.key].new_cluster is not None)
    total = sum(compute.new_cluster is not None for compute in found.values())
    count = f"cluster starts: {total}, on the critical path {max(starts.values())} (minutes each: docs/databricks.md)"
    return "\n".join([*(json.dumps(payload) for payload in payloads), count])
