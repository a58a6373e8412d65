"""The bundle: its job as it is merged for each target, what is wrong with one, and the change to serverless."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Result

from ml_pipelines import bundle, config, paths

TARGETS = yaml.safe_load((ROOT / "databricks.yml").read_text())["targets"]
STEPS = config.load("local").steps


@pytest.fixture
def copy(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project, which this process takes for its own."""
    monkeypatch.setattr(paths, "root", lambda: project)
    return project


def override(project: Path, text: str) -> None:
    """Let prod's target say something of the job beside what it says already."""
    file, there = project / "databricks.yml", "          schedule:\n            pause_status: UNPAUSED\n"
    assert file.read_text().count(there) == 1
    file.write_text(file.read_text().replace(there, f"{there}          {text}\n"))


def tasks(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["task_key"]: task for task in job["tasks"]}


# -- this project's own


@pytest.mark.parametrize("target", TARGETS)
def test_each_step_is_a_task_behind_those_it_needs_and_the_last_one_closes(target: str) -> None:
    found = tasks(bundle.job(target))
    assert list(found) == [*STEPS, "close_pipeline"]
    assert [need["task_key"] for need in found["evaluate"]["depends_on"]] == ["prepare_data", "train"]
    assert [need["task_key"] for need in found["close_pipeline"]["depends_on"]] == list(STEPS)
    assert found["close_pipeline"]["run_if"] == "ALL_DONE"
    assert {task.get("run_if") for key, task in found.items() if key != "close_pipeline"} == {None}
    assert all(task["timeout_seconds"] for task in found.values())
    assert {key for key, task in found.items() if task.get("max_retries")} == {"prepare_data"}


@pytest.mark.parametrize("target", TARGETS)
def test_each_task_names_its_profile_and_its_job_run(target: str) -> None:
    job = bundle.job(target)
    assert {item["name"]: item["default"] for item in job["parameters"]} == {"pipeline": target, "set": "none"}
    for task in job["tasks"]:
        assert task["python_wheel_task"]["parameters"][:3] == [
            "pipeline={{job.parameters.pipeline}}",
            "--set={{job.parameters.set}}",
            "--job-run-id={{job.run_id}}",
        ]


def test_branches_that_run_side_by_side_have_a_cluster_each() -> None:
    found = {key: task["job_cluster_key"] for key, task in tasks(bundle.job("dev")).items()}
    assert found.pop("prepare_data") == "spark" and found.pop("feature_importance") == "single_node_2"
    assert set(found.values()) == {"single_node"}


def test_sizes_stand_in_the_targets_only() -> None:
    """A target that overrides one size keeps the other, silently."""
    base = (ROOT / "resources" / "ml_pipeline.job.yml").read_text()
    assert not re.search("num_workers|autoscale|new_cluster", base)


def test_dev_is_the_default_and_paused_and_prod_is_run_by_a_service_principal() -> None:
    dev, prod = TARGETS["dev"], TARGETS["prod"]
    assert (dev["mode"], dev["default"]) == ("development", True)
    assert bundle.job("dev")["schedule"]["pause_status"] == "PAUSED"
    assert prod["mode"] == "production" and prod["workspace"]["root_path"].startswith("/Workspace/")
    assert prod["run_as"] == {"service_principal_name": "${var.service_principal}"} and prod["permissions"]
    assert bundle.job("prod")["schedule"]["pause_status"] == "UNPAUSED"


def test_who_is_told_is_a_variable() -> None:
    assert bundle.job("dev")["email_notifications"]["on_failure"] == []
    assert bundle.job("dev", {"notify": ["a@b"]})["email_notifications"]["on_failure"] == ["a@b"]


# -- merged as the Databricks CLI does it


def test_a_target_wins_entry_by_entry_and_keeps_what_it_does_not_name(copy: Path) -> None:
    override(
        copy, "tasks: [{task_key: train, timeout_seconds: 60, depends_on: [{task_key: extra}]}, {task_key: extra}]"
    )
    found = tasks(bundle.job("prod"))
    assert found["train"]["timeout_seconds"] == 60
    assert found["train"]["python_wheel_task"]["entry_point"] == "train-model"
    assert [need["task_key"] for need in found["train"]["depends_on"]] == ["prepare_data", "extra"]
    assert "extra" in found and "extra" not in tasks(bundle.job("dev"))


WRONG = [
    ("tasks: [{task_key: train, depends_on: [{task_key: trian}]}]", "task train depends on trian, which is no task."),
    ("tasks: [{task_key: train, depends_on: [{task_key: evaluate}]}]", "wait for each other"),
    (
        "tasks: [{task_key: train, python_wheel_task: {named_parameters: {a: b}}}]",
        "task train has both parameters and named_parameters.",
    ),
    (
        "tasks: [{task_key: train, python_wheel_task: {entry_point: trian}}]",
        "task train: the wheel has no entry point trian (pyproject.toml).",
    ),
    ("tasks: [{task_key: train, job_cluster_key: gpu}]", "task train: job_cluster_key gpu is not there; the job has"),
    (
        "tasks: [{task_key: train, environment_key: ml}]",
        "task train: environment_key ml is not there; the job has none",
    ),
    ("tasks: [{task_key: train, timeout_second: 60}]", "databricks-bundles can't load the job: "),
    ("max_concurrent_runs: {a: b}", "databricks-bundles can't load the job: "),
    ("tasks: [{task_key: train, new_cluster: {node_type_id: x}}]", "task train has no size."),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_validation_does_not_see_is_said_of_the_target_that_has_it(text: str, said: str, copy: Path) -> None:
    assert bundle.problems() == []
    override(copy, text)
    (problem, *_) = bundle.problems()
    assert problem.startswith("databricks.yml, target prod: ") and said in problem


def test_two_sizes_from_two_files_are_seen(copy: Path) -> None:
    job = copy / "resources" / "ml_pipeline.job.yml"
    size = "job_clusters: [{job_cluster_key: spark, new_cluster: {num_workers: 4}}]"
    job.write_text(job.read_text().replace("      tasks:\n", f"      {size}\n      tasks:\n"))
    (problem,) = bundle.problems()  # dev's has one size, said twice
    assert "target prod: cluster spark has both num_workers and autoscale." in problem


def test_make_check_fails_where_the_job_is_wrong(shell: Callable[..., Result], project: Path) -> None:
    override(
        project, "tasks:\n            - task_key: train\n              depends_on:\n                - task_key: trian"
    )
    result = shell("ml-pipelines", "sync", "--check", cwd=project, PYTHONPATH=str(project))
    assert (result.code, result.err) == (
        1,
        "databricks.yml, target prod: task train depends on trian, which is no task.\n",
    )


# -- serverless


def test_the_change_to_serverless_is_as_the_page_says(shell: Callable[..., Result], copy: Path) -> None:
    section = (ROOT / "docs" / "bundle.md").read_text().partition("## Serverless")[2].partition("\n## ")[0]
    (command,) = re.findall(r"```\n(sed .*?)```", section, re.DOTALL)
    (block,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    subprocess.run(["sh", "-ec", command], cwd=copy, check=True)
    job = copy / "resources" / "ml_pipeline.job.yml"
    job.write_text(job.read_text() + block)
    synced = shell("ml-pipelines", "sync", cwd=copy, PYTHONPATH=str(copy))
    assert synced.code == 0, synced.text
    for target in TARGETS:
        merged = bundle.job(target)
        assert merged.get("job_clusters") == []
        assert {
            tuple(sorted(task.keys() & {"job_cluster_key", "libraries", "environment_key"})) for task in merged["tasks"]
        } == {("environment_key",)}
        (environment,) = merged["environments"]
        assert environment["spec"]["dependencies"] == ["../dist/*.whl", "-r ./requirements.txt"]
    assert bundle.problems() == []
    again = shell("ml-pipelines", "sync", "--check", cwd=copy, PYTHONPATH=str(copy))
    assert (again.code, again.text) == (0, "")
