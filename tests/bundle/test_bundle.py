"""Tests of the bundle: its job as merged for each target, the rules that check it, and the change to serverless."""

import itertools
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Result, change
from databricks.sdk.service.jobs import JobSettings

from ml_pipelines.bundle import merge, rules
from ml_pipelines.config import loading
from ml_pipelines.config.schema import Pipeline
from ml_pipelines.errors import ConfigError
from ml_pipelines.system import paths

TARGETS = yaml.safe_load((ROOT / "databricks.yml").read_text())["targets"]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
STEPS = loading.load("local").pipeline_steps


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
def test_the_pipeline_score_has_a_job_of_its_own_without_a_schedule(target: str) -> None:
    job = merge.bundle_job(target, pipeline=Pipeline.score)
    job_tasks = tasks(job)
    assert list(job_tasks) == ["score", "close_pipeline"]
    assert job_tasks["score"]["python_wheel_task"]["entry_point"] == "score-data"
    assert (
        "--state=score={{tasks.score.result_state}}" in job_tasks["close_pipeline"]["python_wheel_task"]["parameters"]
    )
    assert [cluster["job_cluster_key"] for cluster in job["job_clusters"]] == ["spark"]
    assert "schedule" not in job


@pytest.mark.parametrize(("target", "pipeline"), list(itertools.product(TARGETS, merge.JOBS)))
def test_each_task_passes_the_job_parameters_and_the_job_run_id(target: str, pipeline: Pipeline) -> None:
    job = merge.bundle_job(target, pipeline=pipeline)
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


@pytest.mark.parametrize("target", ["dev", "prod"])
def test_a_run_that_is_due_while_another_one_runs_is_skipped_without_a_mail(target: str) -> None:
    job = JobSettings.from_dict(merge.bundle_job(target))
    assert (job.max_concurrent_runs, job.queue.enabled) == (1, False)
    assert job.notification_settings.no_alert_for_skipped_runs is True
    assert job.email_notifications.no_alert_for_skipped_runs is None  # deprecated


def test_only_prod_demands_the_service_principal() -> None:
    assert {target: merge.required_variables(target) for target in TARGETS} == {
        "dev": [],
        "prod": ["service_principal"],
    }


def test_a_variable_without_a_value_is_named(copy: Path) -> None:
    override(copy, "description: ${var.service_principal}")
    with pytest.raises(ConfigError) as refused:
        merge.bundle_job("prod")
    assert str(refused.value) == (
        "databricks.yml, target prod: the variable service_principal has no value. Add --var service_principal=VALUE "
        "to the command, or set it in the target's `variables`."
    )
    assert merge.bundle_job("prod", {"service_principal": "123"})["description"] == "123"
    assert rules.job_problems() == [], "the user gives the value to the CLI"


def test_a_variable_that_is_not_declared_is_named(copy: Path) -> None:
    override(copy, "description: by ${var.owner}")
    with pytest.raises(ConfigError, match=r"the variable owner is not declared. Add it to `variables`."):
        rules.job_problems()


@pytest.mark.parametrize(("value", "expected"), [('""', ""), ("0", 0), ("[]", [])])
def test_an_empty_default_is_a_value(value: str, expected: Any, copy: Path) -> None:
    change(
        copy / "databricks.yml", "variables:\n  pipeline:", f"variables:\n  empty: {{default: {value}}}\n  pipeline:"
    )
    override(copy, "description: ${var.empty}")
    assert merge.bundle_job("prod")["description"] == expected


def test_null_is_not_a_value(copy: Path) -> None:
    change(copy / "databricks.yml", "variables:\n  pipeline:", "variables:\n  empty: {default: null}\n  pipeline:")
    assert merge.required_variables("dev") == ["empty"]


@pytest.mark.parametrize("package", ["ml-pipelines", "ml_pipelines", "ML.Pipelines"])
def test_the_rules_report_a_wrong_entry_point_under_every_name_of_the_package(package: str, copy: Path) -> None:
    override(copy, f"tasks: [{{task_key: train, python_wheel_task: {{package_name: {package}, entry_point: trian}}}}]")
    (problem,) = rules.job_problems()
    assert problem.endswith("task train: the wheel has no entry point trian (pyproject.toml).")


def test_a_task_has_the_import_name_which_is_also_a_name_of_the_distribution() -> None:
    wheels = [task["python_wheel_task"] for task in merge.bundle_job("dev")["tasks"]]
    assert {wheel["package_name"] for wheel in wheels} == {"ml_pipelines"}
    assert distribution("ml_pipelines").name == "ml-pipelines"


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_runner_may_start_a_task_by_python_m(script: str, shell: Callable[..., Result]) -> None:
    by_module, by_script = (
        shell(*command, "--no-such-option") for command in (["python", "-m", "ml_pipelines", script], [script])
    )
    assert by_module.code == by_script.code == 2
    assert by_module.err.splitlines()[-1] == by_script.err.splitlines()[-1]
    assert "--no-such-option" in by_module.err and "No such command" not in by_module.err


# -- the files that the CLI uploads beside the wheel


def uploaded(folder: Path, files: Iterable[str]) -> set[str]:
    """Return the files that `sync.exclude` leaves. Its patterns are those of a .gitignore, so git applies them."""
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    patterns = yaml.safe_load((ROOT / "databricks.yml").read_text())["sync"]["exclude"]
    (folder / ".git" / "info" / "exclude").write_text("\n".join(patterns))
    command = ["git", "-C", str(folder), "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(command, input="\n".join(files), capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return set(files) - set(done.stdout.splitlines())


def local_files(value: Any) -> set[str]:
    """Return the files of the project that a part of the job names, without the wheel."""
    if isinstance(value, dict | list):
        return set().union(*map(local_files, value.values() if isinstance(value, dict) else value))
    path = str(value).removeprefix("-r ")
    if not path.startswith(("./", "../")) or path.endswith(".whl"):
        return set()
    return {(ROOT / "resources" / path).resolve().relative_to(ROOT).as_posix()}


def test_a_deployment_uploads_what_a_task_needs_and_nothing_else(tmp_path: Path) -> None:
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git repository, so nothing lists the files of the project")
    needed = set().union(*(local_files(merge.bundle_job(target)) for target in TARGETS))
    assert needed == {"resources/requirements.txt"}
    assert uploaded(tmp_path, listing.stdout.splitlines()) == needed


def test_a_deployment_uploads_the_files_that_a_user_adds(tmp_path: Path) -> None:
    own = ["notebooks/explore.ipynb", "notebooks/warm_up.py", "queries/rows.sql", "resources/more.txt"]
    assert uploaded(tmp_path, [*own, "docs/new.md", "tests/test_new.py", "docs/images/new.png"]) == set(own)


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
    assert problem.startswith("databricks.yml, target prod, job ml_pipeline: ") and message in problem


def test_two_sizes_from_two_files_are_reported(copy: Path) -> None:
    job = copy / "resources" / "ml_pipeline.job.yml"
    size = "job_clusters: [{job_cluster_key: spark, new_cluster: {num_workers: 4}}]"
    change(job, "      tasks:\n", f"      {size}\n      tasks:\n")
    (problem,) = rules.job_problems()  # dev sets one kind of size, twice
    assert "target prod, job ml_pipeline: cluster spark has both num_workers and autoscale." in problem


def test_sync_check_fails_if_the_job_is_wrong(shell: Callable[..., Result], project: Path) -> None:
    override(
        project, "tasks:\n            - task_key: train\n              depends_on:\n                - task_key: trian"
    )
    result = shell("ml-pipelines", "sync", "--check", cwd=project, PYTHONPATH=str(project))
    assert (result.code, result.err) == (
        1,
        "databricks.yml, target prod, job ml_pipeline: task train depends on trian, which is not a task.\n",
    )


# -- serverless


@pytest.mark.slow
def test_the_documented_change_to_serverless_works(shell: Callable[..., Result], copy: Path) -> None:
    section = (ROOT / "docs" / "bundle.md").read_text().partition("## Serverless")[2].partition("\n## ")[0]
    (command,) = re.findall(r"```\n(sed .*?)```", section, re.DOTALL)
    (block,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    subprocess.run(["sh", "-ec", command], cwd=copy, check=True)
    for name in merge.JOBS.values():
        job = copy / "resources" / f"{name}.job.yml"
        job.write_text(job.read_text() + block)
    synced = shell("ml-pipelines", "sync", cwd=copy, PYTHONPATH=str(copy))
    assert synced.code == 0, synced.text
    for target, pipeline in itertools.product(TARGETS, merge.JOBS):
        merged = merge.bundle_job(target, pipeline=pipeline)
        assert merged.get("job_clusters") == []
        assert {
            tuple(sorted(task.keys() & {"job_cluster_key", "libraries", "environment_key"})) for task in merged["tasks"]
        } == {("environment_key",)}
        (environment,) = merged["environments"]
        assert environment["spec"]["dependencies"] == ["../dist/*.whl", "-r ./requirements.txt"]
        assert local_files(merged) == {"resources/requirements.txt"}
    assert rules.job_problems() == []
    again = shell("ml-pipelines", "sync", "--check", cwd=copy, PYTHONPATH=str(copy))
    assert (again.code, again.text) == (0, "")
