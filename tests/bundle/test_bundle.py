"""Tests of the bundle: its job as merged for each target, the rules that check it, and the change to serverless."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Result, change

from ml_pipelines.bundle import merge, rules
from ml_pipelines.config import loading
from ml_pipelines.system import paths

TARGETS = yaml.safe_load((ROOT / "databricks.yml").read_text())["targets"]
STEPS = loading.load("local").steps


@pytest.fixture
def copy(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project that this process uses as its own."""
    monkeypatch.setattr(paths, "root", lambda: project)
    return project


def override(project: Path, text: str) -> None:
    """Add a setting of the job to the target prod."""
    file, schedule = project / "databricks.yml", "          schedule:\n            pause_status: UNPAUSED\n"
    change(file, schedule, f"{schedule}          {text}\n")


def tasks(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["task_key"]: task for task in job["tasks"]}


# -- this project's job


@pytest.mark.parametrize("target", TARGETS)
def test_each_step_is_a_task_after_its_upstream_tasks_and_the_last_task_closes(target: str) -> None:
    job_tasks = tasks(merge.bundle_job(target))
    assert list(job_tasks) == [*STEPS, "close_pipeline"]
    assert [need["task_key"] for need in job_tasks["evaluate"]["depends_on"]] == ["prepare_data", "train"]
    assert [need["task_key"] for need in job_tasks["close_pipeline"]["depends_on"]] == list(STEPS)
    assert job_tasks["close_pipeline"]["run_if"] == "ALL_DONE"
    assert {task.get("run_if") for key, task in job_tasks.items() if key != "close_pipeline"} == {None}
    assert all(task["timeout_seconds"] for task in job_tasks.values())
    assert {key for key, task in job_tasks.items() if task.get("max_retries")} == {"prepare_data"}


@pytest.mark.parametrize("target", TARGETS)
def test_each_task_passes_the_job_parameters_and_the_job_run_id(target: str) -> None:
    job = merge.bundle_job(target)
    assert {item["name"]: item["default"] for item in job["parameters"]} == {"pipeline": target, "set": "none"}
    for task in job["tasks"]:
        assert task["python_wheel_task"]["parameters"][:3] == [
            "pipeline={{job.parameters.pipeline}}",
            "--set={{job.parameters.set}}",
            "--job-run-id={{job.run_id}}",
        ]


def test_parallel_branches_have_a_cluster_each() -> None:
    clusters = {key: task["job_cluster_key"] for key, task in tasks(merge.bundle_job("dev")).items()}
    assert clusters.pop("prepare_data") == "spark" and clusters.pop("feature_importance") == "single_node_2"
    assert set(clusters.values()) == {"single_node"}


def test_only_the_targets_set_cluster_sizes() -> None:
    """If the base set a size too, a target that sets the other kind would silently have both."""
    base = (ROOT / "resources" / "ml_pipeline.job.yml").read_text()
    assert not re.search("num_workers|autoscale|new_cluster", base)


def test_dev_is_the_default_and_paused_and_a_service_principal_runs_prod() -> None:
    dev, prod = TARGETS["dev"], TARGETS["prod"]
    assert (dev["mode"], dev["default"]) == ("development", True)
    assert merge.bundle_job("dev")["schedule"]["pause_status"] == "PAUSED"
    assert prod["mode"] == "production" and prod["workspace"]["root_path"].startswith("/Workspace/")
    assert prod["run_as"] == {"service_principal_name": "${var.service_principal}"} and prod["permissions"]
    assert merge.bundle_job("prod")["schedule"]["pause_status"] == "UNPAUSED"


def test_the_notified_addresses_are_a_variable() -> None:
    assert merge.bundle_job("dev")["email_notifications"]["on_failure"] == []
    assert merge.bundle_job("dev", {"notify": ["a@b"]})["email_notifications"]["on_failure"] == ["a@b"]


# -- merging, as the Databricks CLI does it


def test_a_target_overrides_single_entries_and_keeps_the_others(copy: Path) -> None:
    override(
        copy, "tasks: [{task_key: train, timeout_seconds: 60, depends_on: [{task_key: extra}]}, {task_key: extra}]"
    )
    job_tasks = tasks(merge.bundle_job("prod"))
    assert job_tasks["train"]["timeout_seconds"] == 60
    assert job_tasks["train"]["python_wheel_task"]["entry_point"] == "train-model"
    assert [need["task_key"] for need in job_tasks["train"]["depends_on"]] == ["prepare_data", "extra"]
    assert "extra" in job_tasks and "extra" not in tasks(merge.bundle_job("dev"))


WRONG_JOBS = [
    (
        "tasks: [{task_key: train, depends_on: [{task_key: trian}]}]",
        "task train depends on trian, which is not a task.",
    ),
    ("tasks: [{task_key: train, depends_on: [{task_key: evaluate}]}]", "wait for each other"),
    (
        "tasks: [{task_key: train, python_wheel_task: {named_parameters: {a: b}}}]",
        "task train has both parameters and named_parameters.",
    ),
    (
        "tasks: [{task_key: train, python_wheel_task: {entry_point: trian}}]",
        "task train: the wheel has no entry point trian (pyproject.toml).",
    ),
    (
        "tasks: [{task_key: train, job_cluster_key: gpu}]",
        "task train: job_cluster_key gpu doesn't exist. The job has: ",
    ),
    (
        "tasks: [{task_key: train, environment_key: ml}]",
        "task train: environment_key ml doesn't exist. The job has: none.",
    ),
    ("tasks: [{task_key: train, timeout_second: 60}]", "databricks-bundles can't load the job: "),
    ("max_concurrent_runs: {a: b}", "databricks-bundles can't load the job: "),
    ("tasks: [{task_key: train, new_cluster: {node_type_id: x}}]", "task train has no size."),
]


@pytest.mark.parametrize(("text", "message"), WRONG_JOBS, ids=[message for _, message in WRONG_JOBS])
def test_the_rules_name_the_target_that_has_a_problem(text: str, message: str, copy: Path) -> None:
    assert rules.job_problems() == []
    override(copy, text)
    (problem, *_) = rules.job_problems()
    assert problem.startswith("databricks.yml, target prod: ") and message in problem


def test_two_sizes_from_two_files_are_reported(copy: Path) -> None:
    job = copy / "resources" / "ml_pipeline.job.yml"
    size = "job_clusters: [{job_cluster_key: spark, new_cluster: {num_workers: 4}}]"
    change(job, "      tasks:\n", f"      {size}\n      tasks:\n")
    (problem,) = rules.job_problems()  # dev sets one kind of size, twice
    assert "target prod: cluster spark has both num_workers and autoscale." in problem


def test_sync_check_fails_if_the_job_is_wrong(shell: Callable[..., Result], project: Path) -> None:
    override(
        project, "tasks:\n            - task_key: train\n              depends_on:\n                - task_key: trian"
    )
    result = shell("ml-pipelines", "sync", "--check", cwd=project, PYTHONPATH=str(project))
    assert (result.code, result.err) == (
        1,
        "databricks.yml, target prod: task train depends on trian, which is not a task.\n",
    )


# -- serverless


def test_the_documented_change_to_serverless_works(shell: Callable[..., Result], copy: Path) -> None:
    section = (ROOT / "docs" / "bundle.md").read_text().partition("## Serverless")[2].partition("\n## ")[0]
    (command,) = re.findall(r"```\n(sed .*?)```", section, re.DOTALL)
    (block,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    subprocess.run(["sh", "-ec", command], cwd=copy, check=True)
    job = copy / "resources" / "ml_pipeline.job.yml"
    job.write_text(job.read_text() + block)
    synced = shell("ml-pipelines", "sync", cwd=copy, PYTHONPATH=str(copy))
    assert synced.code == 0, synced.text
    for target in TARGETS:
        merged = merge.bundle_job(target)
        assert merged.get("job_clusters") == []
        assert {
            tuple(sorted(task.keys() & {"job_cluster_key", "libraries", "environment_key"})) for task in merged["tasks"]
        } == {("environment_key",)}
        (environment,) = merged["environments"]
        assert environment["spec"]["dependencies"] == ["../dist/*.whl", "-r ./requirements.txt"]
    assert rules.job_problems() == []
    again = shell("ml-pipelines", "sync", "--check", cwd=copy, PYTHONPATH=str(copy))
    assert (again.code, again.text) == (0, "")
