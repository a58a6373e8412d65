"""The payload of a job run: the request that submits a step to Databricks (runs/submit). A dry run shows it too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ml_pipelines.config.schema import NONE, Config, Step
from ml_pipelines.databricks import specs, volume, workspace
from ml_pipelines.databricks.preflight import compute_of
from ml_pipelines.system import paths

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import JobEnvironment, SubmitTask


@dataclass(frozen=True)
class Submission:
    """The request that submits one step (runs/submit)."""

    run_name: str
    idempotency_token: str
    task: SubmitTask
    environment: JobEnvironment | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the request as a dict, ready for JSON."""
        request: dict[str, Any] = {
            "run_name": self.run_name,
            "idempotency_token": self.idempotency_token,
            "tasks": [self.task.as_dict()],
        }
        return request | ({"environments": [self.environment.as_dict()]} if self.environment else {})

    def send(self) -> int:
        """Send the request and return the id of the Databricks run.

        The idempotency token makes the workspace return the same run, however often the request is sent.

        Raises:
            ConfigError: the workspace refuses the request.
            NoAnswer: the workspace does not answer.
        """
        environments = [self.environment] if self.environment else None
        with workspace.explaining_errors(
            f"Job run {self.run_name}", "permission to submit job runs and create clusters"
        ):
            submitted = workspace.client().jobs.submit(
                run_name=self.run_name,
                idempotency_token=self.idempotency_token,
                tasks=[self.task],
                environments=environments,
            )
        if not isinstance(submitted.run_id, int):
            raise workspace.NoAnswer(
                f"{workspace.host()} answers a request for Job run {self.run_name} without the id of a run. "
                "See in the workspace whether the run exists, and try again."
            )
        return submitted.run_id


def submission_of(
    config: Config, step: Step, compute: specs.Compute, inputs: Mapping[str, str], run_id: str
) -> Submission:
    """Return the request that runs `step` in the MLflow run `run_id`.

    `run_id` is also the idempotency token. Each attempt of a step has a new MLflow run, so each gets a run on
    Databricks of its own.
    """
    from databricks.sdk.service.jobs import PythonWheelTask, SubmitTask

    options = {"profile": config.profile, "set": config.overrides, **inputs, "run_id": run_id}
    placement, environment = _placement(compute, volume.wheel_path(config), {"step": step.name, "mlflow_run": run_id})
    task = SubmitTask(
        task_key=step.name,
        python_wheel_task=PythonWheelTask(
            package_name="ml_pipelines",
            entry_point=step.script,
            parameters=[f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value != NONE],
        ),
        timeout_seconds=math.ceil(step.timeout_s) if step.timeout_s else None,
        **placement,
    )
    return Submission(f"ml-pipelines {config.env_name} {step.step_name} {run_id[:8]}", run_id, task, environment)


def _placement(compute: specs.Compute, whl: str, tags: dict[str, str]) -> tuple[dict[str, Any], JobEnvironment | None]:
    """Return the fields of a task that name its compute and libraries, and its environment if it is serverless."""
    from databricks.sdk.service.compute import Environment, Library, PythonPyPiLibrary
    from databricks.sdk.service.jobs import JobEnvironment

    if compute.environment_version:
        spec = Environment(environment_version=compute.environment_version, dependencies=[whl, *pins()])
        return {"environment_key": "ml"}, JobEnvironment("ml", spec)
    # The wheel comes after the pins, because a cluster installs one library after another. A wheel that is installed
    # first would bring the newest versions that its requirements allow.
    libraries = [*(Library(pypi=PythonPyPiLibrary(package=pin)) for pin in pins()), Library(whl=whl)]
    if compute.new_cluster is None:
        return {"libraries": libraries, "existing_cluster_id": compute.existing_cluster_id}, None
    cluster = replace(compute.new_cluster, custom_tags={**(compute.new_cluster.custom_tags or {}), **tags})
    return {"libraries": libraries, "new_cluster": cluster}, None


def pins() -> list[str]:
    """Return the libraries that MLproject pins, because the runtime lacks them or has a version that is too old."""
    import yaml

    project = yaml.safe_load((paths.root() / "MLproject").read_text(encoding="utf-8"))
    return list(project["databricks_spark_job"]["python_libraries"])


def describe_submissions(config: Config, steps: Sequence[Step], needs: Mapping[str, AbstractSet[str]]) -> str:
    """Return text with the request of each step, as one line of JSON each, and the number of cluster starts."""
    computes = {step.name: compute_of(config, step) for step in steps}
    payloads = [
        submission_of(
            config, step, computes[step.name], {name: f"<{name}>" for name in step.inputs}, "<run id>"
        ).as_dict()
        for step in steps
    ]
    starts: dict[str, int] = {}  # step -> cluster starts, one after another, before the step runs
    for step in steps:
        before = max((starts[need] for need in needs[step.name]), default=0)
        starts[step.name] = before + (computes[step.name].new_cluster is not None)
    total = sum(compute.new_cluster is not None for compute in computes.values())
    count = f"cluster starts: {total}, on the critical path {max(starts.values())} (minutes each: docs/databricks.md)"
    return "\n".join([*(json.dumps(payload) for payload in payloads), count])
