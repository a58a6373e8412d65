"""Failures of a workspace: each gives one line and an exit code, and leaves nothing running."""

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from conftest import FAST, ROOT, Result
from emulator import Workspace
from emulator.runs import FINAL

import driver
from ml_pipelines.databricks import bounded_http, remote, specs, volume
from ml_pipelines.databricks import workspace as api

pytestmark = pytest.mark.slow

Drive = Callable[..., Result]
FAULTS = "/Shared/faults"


@pytest.fixture
def drive(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    """Run driver.py's first step in this process, as its command does, without the caches of an earlier test."""
    for function in (api._client, specs._runtimes_and_nodes, volume.upload_wheel):
        function.cache_clear()
    monkeypatch.setattr(api, "RETRY_S", 2)
    yield partial(run)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    api._client.cache_clear()


def run(*arguments: str, only: str = "prepare_data") -> Result:
    options = ["--profile=dev", f"--set={FAST},experiment_name={FAULTS}", f"--only={only}"]
    result = CliRunner().invoke(driver.main, [*options, *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


def nothing_runs(workspace: Workspace) -> bool:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(FAULTS)
    running = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'") if experiment else []
    return not running and all(run.state.life in FINAL for run in workspace.jobs.runs.values())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "ANSWER_S", 2.0)
    monkeypatch.setattr(bounded_http, "LONGEST_PAUSE_S", 1)
    monkeypatch.setattr(remote, "POLL_S", 0.3)


# -- before anything is created


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("page", "it answers with a web page. Is this the workspace's address, or does a proxy ask to sign in?"),
        ("list", "it answers with something that is not a JSON object: '[]'"),
        ("huge", "an answer of more than 32 MB"),
        ("drip", "doesn't answer a request for the signed-in user: no complete answer within 2 s"),
        ("pause", "doesn't answer a request for the signed-in user: Wait."),
    ],
)
def test_an_odd_answer_is_one_line_before_anything_is_created(
    drive: Drive, impatient: None, workspace: Workspace, fault: str, message: str
) -> None:
    before, began = len(workspace.jobs.runs), time.monotonic()
    workspace.faults.add(fault, "scim")
    result = drive()
    assert (result.code, result.err.count("\n")) == (4, 1) and message in result.err, result.text
    assert len(workspace.jobs.runs) == before and time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("fault", "where", "message"),
    [
        ("401", "scim", "doesn't accept the sign-in (pat): expired or wrong. Run `databricks auth login"),
        ("403", "get-by-name", "Experiment /Shared/faults: no permission. You need CAN EDIT on it or on its folder"),
        ("403", "fs/directories", "Volume /Volumes/ml_artifacts/dev/testing: no permission. You need READ VOLUME and"),
        ("403", "fs/files", "/Volumes/ml_artifacts/dev/testing/code/"),
        ("403", "spark-versions", "the list of runtimes and node types: no permission"),
    ],
)  # fmt: skip
def test_a_missing_permission_is_reported_before_anything_is_created(
    drive: Drive, workspace: Workspace, fault: str, where: str, message: str
) -> None:
    before, experiment = len(workspace.jobs.runs), mlflow.MlflowClient().get_experiment_by_name(FAULTS)
    workspace.faults.add(fault, where)
    result = drive()
    assert (result.code, result.err.count("\n")) == (2, 1) and message in result.err, result.text
    workspace.faults.clear()
    assert len(workspace.jobs.runs) == before and nothing_runs(workspace)
    assert "pipeline_run" not in result.out
    assert (mlflow.MlflowClient().get_experiment_by_name(FAULTS) is None) == (experiment is None)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("experiment_name=faults", "experiment_name: faults is not a workspace path"),
        ("data.volume_name=none_such", "Volume /Volumes/ml_artifacts/dev/none_such: not found in http"),
        ("data.delta_prefix.databricks=/Volumes", "/Volumes/dev/testing is not a Volume"),
        ("spark.engine=sail", "spark.engine: sail"),
        ("compute.spark=local", "compute.spark: local is this machine"),
        ("compute.spark=0923-164208-nosuch", "cluster 0923-164208-nosuch (0923-164208-nosuch): not found in http"),
        (
            f"data.source.kind=file,data.source.path={ROOT}/README.md",
            "README.md is on this machine. Put it on a Volume",
        ),
    ],
)
def test_a_wrong_setting_is_reported_before_anything_is_created(
    drive: Drive, workspace: Workspace, assignment: str, message: str
) -> None:
    before = len(workspace.jobs.runs)
    result = drive(f"--set={assignment}")
    assert (result.code, result.err.count("\n")) == (2, 1) and message in result.err, result.text
    assert len(workspace.jobs.runs) == before and nothing_runs(workspace)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "spark_version",
            "99.9.x-cpu-ml-scala2.13",
            "has no runtime 99.9.x-cpu-ml-scala2.13. The newest ML runtimes are ",
        ),
        (
            "node_type_id",
            "Standard_DS3_v2",
            "has no node type Standard_DS3_v2; each cloud has its own. Set node_type_id to one of: m6i",
        ),
        ("autoscale", {"min_workers": 1, "max_workers": 2}, "it has both num_workers and autoscale"),
    ],
)
def test_a_cluster_spec_that_the_workspace_refuses_is_reported_before_anything_is_created(
    drive: Drive, tmp_path: Path, key: str, value: object, message: str
) -> None:
    spec = json.loads((ROOT / "resources/clusters/dev/spark.json").read_text()) | {key: value}
    (tmp_path / "mine.json").write_text(json.dumps(spec))
    result = drive(f"--set=compute.spark={tmp_path}/mine.json")
    assert (result.code, result.err.count("\n")) == (2, 1) and message in result.err and "mine.json: " in result.err


@pytest.mark.parametrize("backend", ["databricks-jobs", "databricks", "inline"])
def test_a_model_of_somebody_else_is_reported_before_anything_is_created(
    drive: Drive, workspace: Workspace, backend: str
) -> None:
    name = f"ml_artifacts.dev.asked_by_{backend.replace('-', '_')}"
    mlflow.MlflowClient(registry_uri="databricks-uc").create_registered_model(name)
    workspace.catalog.owners[name] = "alice@example.com"
    before = len(workspace.jobs.runs)
    result = drive(f"--backend={backend}", f"--set=registry.model={name}", only="model_qa")
    assert (result.code, result.err.count("\n")) == (2, 1), result.text
    message = f"registry.model: {name} belongs to alice@example.com, and only a model's owner may set its aliases"
    assert message in result.err and "pipeline_run" not in result.out
    assert len(workspace.jobs.runs) == before and nothing_runs(workspace)


@pytest.mark.parametrize(
    ("variable", "value", "code", "message"),
    [
        ("DATABRICKS_TOKEN", "", 2, "Can't sign in to Databricks: "),
        ("DATABRICKS_TOKEN", "wrong", 2, "doesn't accept the sign-in"),
        (
            "DATABRICKS_HOST",
            "http://127.0.0.1:9",
            4,
            "http://127.0.0.1:9 doesn't answer a request for the signed-in user",
        ),
        ("MLFLOW_TRACKING_URI", "databricks://none_such", 2, "Can't sign in to Databricks: "),
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9", 2, "which a cluster can't reach"),
    ],
)
def test_a_wrong_host_token_or_store_is_reported_in_one_line(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, code: int, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    result = drive()
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1) and message in result.err, result.text


# -- when the step is submitted, and after


@pytest.mark.parametrize(
    ("fault", "where", "code", "message"),
    [
        ("403", "jobs/runs/submit", 2, "no permission. You need permission to submit job runs and create clusters"),
        ("403", "mlflow/runs/create", 2, "no permission. You need CAN EDIT on the experiment"),
        ("503", "runs/submit", 4, "doesn't answer a request for Job run ml-pipelines dev 01_prepare_data"),
        ("cluster", "prepare_data", 4, "its cluster did not start: Task prepare_data failed"),
        ("library", "prepare_data", 4, "a library was not installed: Task prepare_data failed"),
        ("skip", "", 4, "Databricks skipped its run, so nothing was executed"),
    ],
)
def test_a_run_that_fails_on_databricks_reports_why_and_leaves_nothing_running(
    drive: Drive, workspace: Workspace, fault: str, where: str, code: int, message: str
) -> None:
    workspace.faults.add(fault, where, times=1 if fault == "403" else None)
    result = drive("--set=steps.prepare_data.retries=0")
    assert result.code == code and message in result.text, result.text
    workspace.faults.clear()
    assert nothing_runs(workspace)


def test_a_cluster_with_a_transient_failure_is_started_again(drive: Drive, workspace: Workspace) -> None:
    workspace.faults.add("cluster", "prepare_data", times=1)
    result = drive("--set=steps.prepare_data.retries=1")
    assert result.code == 0 and "again in 1 s, try 2 of 2" in result.out, result.text


@pytest.mark.parametrize("fault", ["429", "503", "drop"])
def test_the_driver_waits_for_a_workspace_that_does_not_answer_for_a_while(
    drive: Drive, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(remote, "POLL_S", 0.5)
    workspace.faults.add(fault, "jobs/runs/get?", times=6)
    result = drive()
    assert result.code == 0, result.text
    assert nothing_runs(workspace)


@pytest.mark.parametrize("fault", ["page", "list", "empty", "text-id", "drip", "huge", "pause"])
def test_an_odd_answer_about_a_running_step_is_asked_for_again(
    drive: Drive, impatient: None, workspace: Workspace, fault: str
) -> None:
    workspace.faults.add(fault, "jobs/runs/get?", times=2)
    result = drive()
    assert result.code == 0, result.text
    assert workspace.faults.strike({fault}, "jobs/runs/get?") is None and nothing_runs(workspace)


@pytest.mark.parametrize("fault", ["empty", "text-id", "list"])
def test_an_odd_answer_to_a_submission_fails_the_step_in_one_line(
    drive: Drive, impatient: None, workspace: Workspace, fault: str
) -> None:
    workspace.faults.add(fault, "runs/submit")
    result = drive("--set=steps.prepare_data.retries=0")
    workspace.faults.clear()
    assert result.code == 4 and "a request for Job run ml-pipelines dev 01_prepare_data" in result.text, result.text
    assert "Traceback" not in result.text and nothing_runs(workspace)


def test_an_odd_output_of_a_finished_run_changes_no_result(drive: Drive, workspace: Workspace) -> None:
    workspace.faults.add("list", "runs/get-output")
    assert drive().code == 0


def test_a_lost_workspace_leaves_the_run_running_and_the_driver_says_how_to_follow_it(
    drive: Drive, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "POLL_S", 0.2)
    monkeypatch.setattr(remote, "LOST_S", 1.0)
    workspace.faults.add("drop", "jobs/runs/get?")
    result = drive()
    workspace.faults.clear()
    assert (
        result.code == 4
        and "continues on Databricks. Follow it again: python driver.py --profile dev --resume" in result.err
    )
    before = len(workspace.jobs.runs)
    (first,) = re.findall(r"--resume (\w+)", result.err)
    resumed_result = drive(f"--resume={first}")
    assert resumed_result.code == 0, resumed_result.text  # reattached, or finished in the meantime
    deadline = time.monotonic() + 60  # a step's MLflow run ends a little before the run of its job
    while not nothing_runs(workspace) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(workspace.jobs.runs) == before and nothing_runs(workspace)


def test_a_step_over_its_time_limit_on_databricks_gives_exit_code_124(drive: Drive, workspace: Workspace) -> None:
    result = drive("--set=steps.prepare_data.timeout_s=1")
    assert result.code == 124 and "time limit" in result.text, result.text
    assert nothing_runs(workspace)


def test_bad_data_on_databricks_gives_exit_code_3_and_the_message_of_the_step(
    drive: Drive, workspace: Workspace
) -> None:
    result = drive("--set=data.source.rows=1")
    assert result.code == 3 and "The source has too few rows: 1." in result.out, result.text
    assert nothing_runs(workspace)


def test_mlflows_own_backend_reports_what_a_workspace_without_dbfs_root_needs(
    drive: Drive, workspace: Workspace
) -> None:
    workspace.faults.add("403", "/dbfs/")
    result = drive("--backend=databricks")
    workspace.faults.clear()
    assert result.code == 2 and "DBFS root is disabled" in result.err and "databricks-jobs" in result.err, result.text
    assert nothing_runs(workspace)


def test_mlflows_own_backend_refuses_serverless_and_values_that_need_quotes(drive: Drive) -> None:
    assert (
        "backend databricks needs a new cluster" in drive("--backend=databricks", "--set=compute.spark=serverless").err
    )
    assert (
        "MLflow's backend databricks breaks values that a shell would need in quotes"
        in drive("--backend=databricks", "--set=data.drop=[a]").err
    )
