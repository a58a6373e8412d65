"""`driver.py --profile dev` on the emulated workspace: five steps, each on its own cluster, as a user starts them."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from conftest import FAST, ROOT, Result
from emulator import Workspace
from mlflow.entities import Run

pytestmark = pytest.mark.slow

NAME = "/Shared/ml-pipelines-dev"
DEV = ("python", "driver.py", "--profile=dev", f"--set={FAST}")
STEPS = ["01_prepare_data", "02_train", "03_evaluate", "04_feature_importance", "05_model_qa"]


Shell = Callable[..., Result]


@pytest.fixture
def shell(workspace: Workspace) -> Shell:
    """Run a command as the workspace's user does."""

    def run(*command: str, **environment: str) -> Result:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, **workspace.env, "PATH": path, **environment}
        result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
        return Result(result.returncode, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="module")
def pipeline_result(started_workspace: Workspace) -> Result:
    """Return the result of one complete pipeline run, as a person sees it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in started_workspace.env.items():
            patch.setenv(name, value)
        process = subprocess.run([sys.executable, *DEV[1:]], cwd=ROOT, capture_output=True, text=True, timeout=400)
    return Result(process.returncode, process.stdout, process.stderr)


def runs_of(parent: str) -> tuple[Run, dict[str, Run]]:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(NAME).experiment_id
    (run,) = (run for run in client.search_runs([experiment]) if run.info.run_id.startswith(parent))
    below = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    return run, {child.info.run_name: child for child in below}


def pipeline_of(result: Result) -> str:
    return re.findall(r"pipeline_run (\w+) ", result.out)[-1]


@pytest.mark.timeout(500)
def test_five_steps_succeed_each_on_its_own_cluster(pipeline_result: Result, workspace: Workspace) -> None:
    assert (pipeline_result.code, pipeline_result.err) == (0, ""), pipeline_result.text
    assert sorted(re.findall(r"✓ (\w+)", pipeline_result.out)) == STEPS
    remote = [int(run_id) for run_id in re.findall(r"\| run (\d+) ·", pipeline_result.out)]
    executions = {execution.task_key: execution for execution in workspace.executed if execution.job_run_id in remote}
    assert len({execution.cluster_id for execution in executions.values()}) == 5
    assert {
        key: (execution.spec["node_type_id"], execution.spec["num_workers"]) for key, execution in executions.items()
    } == {
        "prepare_data": ("m6i.xlarge", 2),
        **dict.fromkeys(["train", "evaluate", "feature_importance", "model_qa"], ("r6i.xlarge", 0)),
    }


def test_the_store_shows_one_parent_and_five_children_with_their_tables_and_logs(
    pipeline_result: Result, workspace: Workspace
) -> None:
    parent, children = runs_of(pipeline_of(pipeline_result))
    assert parent.info.status == "FINISHED" and sorted(children) == STEPS
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    tags = children["01_prepare_data"].data.tags
    uri = tags["output.train_uri"]
    assert uri.startswith("/Volumes/ml_artifacts/dev/testing/") and workspace.files.local(uri).is_dir()
    assert children["02_train"].data.params["train_uri"] == uri
    assert tags["databricks.run_page"] == f"{workspace.host}/run/{tags['databricks.run_id']}"
    names = {item.path for item in mlflow.MlflowClient().list_artifacts(children["02_train"].info.run_id)}
    assert {"databricks.log", "train.log"} <= names


def test_the_driver_prints_the_page_of_a_run_and_each_change_of_its_state(pipeline_result: Result) -> None:
    lines = [
        line.partition("|")[2].strip() for line in pipeline_result.out.splitlines() if line.startswith("    train |")
    ]
    assert re.fullmatch(r"run \d+ · http://\S+/run/\d+", lines[0])
    assert lines[-2:] == ["RUNNING", "TERMINATED SUCCESS"]


def test_the_wheel_is_uploaded_once_and_installed_with_the_pins(pipeline_result: Result, workspace: Workspace) -> None:
    runs = [workspace.jobs.find(run).as_dict() for run in re.findall(r"\| run (\d+) ·", pipeline_result.out)]
    libraries, *others = [run["tasks"][0]["libraries"] for run in runs]
    assert len(others) == 4 and all(other == libraries for other in others)
    assert workspace.files.local(libraries[-1]["whl"]).is_file()
    packages = {library["pypi"]["package"].partition("==")[0] for library in libraries[:-1]}
    assert packages >= {"mlflow", "polars", "deltalake"} and not packages & {"pyspark", "pysail", "delta-spark"}


def test_a_killed_driver_is_resumed_without_submitting_twice(
    pipeline_result: Result, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed, start = threading.Event(), workspace.clusters.start
    monkeypatch.setattr(workspace.clusters, "start", lambda spec: start(spec) if followed.wait(200) else None)
    before = len(workspace.jobs.runs)
    driver = begin("--only=train", "--set=steps.train.params.options.max_leaf_nodes=5", until="train | PENDING")
    driver.kill()
    driver.communicate()
    (remote,) = list(workspace.jobs.runs)[before:]
    pipeline = pipeline_of(Result(0, driver.output, ""))  # type: ignore[attr-defined]
    continued = ("driver.py", "--profile=dev", f"--resume={pipeline}", "--only=train")
    plan = subprocess.run([sys.executable, *continued, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert plan.returncode == 0 and "'max_leaf_nodes': 5" in plan.stdout, plan.stdout + plan.stderr
    driver = begin("--set=max_parallel=1", until=f"train | run {remote} ·", command=continued)
    followed.set()  # the task's cluster starts only now, however long the second driver took to start
    rest, error = driver.communicate(timeout=200)
    result = Result(driver.returncode, driver.output + rest, error)  # type: ignore[attr-defined]
    assert result.code == 0, result.text
    assert f"train | run {remote} ·" in result.out and "taken over" in result.out
    assert re.findall(r"^    (\S+ .* -> .*)$", result.out, re.MULTILINE) == ["max_parallel 2 -> 1"]
    assert list(workspace.jobs.runs)[before:] == [remote]
    parent, children = runs_of(pipeline_of(result))
    assert [(name, run.info.status) for name, run in children.items()] == [("02_train", "FINISHED")]
    assert parent.data.params["set"].endswith("options.max_leaf_nodes=5,max_parallel=1")


def test_ctrl_c_cancels_the_run_on_databricks_and_reports_it(pipeline_result: Result, workspace: Workspace) -> None:
    before = len(workspace.jobs.runs)
    driver = begin("--only=train", until="train | PENDING")
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    (remote,) = list(workspace.jobs.runs)[before:]
    assert driver.returncode == 130 and "stopped by signal 2" in err
    assert re.search(rf"run {remote} is (being )?cancelled", out), out
    assert workspace.jobs.find(remote).wait(30).result == "CANCELED"
    parent, children = runs_of(pipeline_of(Result(0, driver.output, "")))  # type: ignore[attr-defined]
    assert {parent.info.status, *(run.info.status for run in children.values())} == {"KILLED"}


def begin(*arguments: str, until: str, command: tuple[str, ...] = DEV[1:]) -> subprocess.Popen[str]:
    """Start driver.py, wait until it prints `until`, and return it; its `output` is the text so far."""
    driver = subprocess.Popen(
        [sys.executable, *command, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert driver.stdout
    driver.output = ""  # type: ignore[attr-defined]
    for line in driver.stdout:
        driver.output += line  # type: ignore[attr-defined]
        if until in line:
            return driver
    raise AssertionError(driver.output + driver.communicate()[1])  # type: ignore[attr-defined]


# -- with mlflow run


CLUSTER = "resources/clusters/dev/single_node.json"
MLFLOW = ("mlflow", "run", "-e", "train", "--experiment-name", NAME, "--backend-config", CLUSTER)


def test_mlflow_run_finds_the_backend_by_its_name(pipeline_result: Result, shell: Shell, workspace: Workspace) -> None:
    parent, _ = runs_of(pipeline_of(pipeline_result))
    parameters = ["-P", f"pipeline_run_id={parent.info.run_id}", "-P", f"set={FAST}"]
    result = shell(*MLFLOW, *parameters, "--backend", "databricks-jobs", ".")
    assert result.code == 0 and re.search(r"✓ 02_train .*auc", result.out), result.text
    assert workspace.executed[-1].spec["num_workers"] == 0


def test_mlflow_run_without_inputs_is_refused_before_anything_is_submitted(shell: Shell, workspace: Workspace) -> None:
    before = len(workspace.jobs.runs)
    result = shell(*MLFLOW, "--backend", "databricks-jobs", ".")
    assert result.code == 1 and "Step train needs train_uri" in result.err
    assert len(workspace.jobs.runs) == before


def test_mlflows_own_backend_runs_main_on_one_cluster(shell: Shell, workspace: Workspace) -> None:
    project_zip = ROOT / "project.zip"
    assert shell("make", "-s", "-o", ".venv/.ready", "project.zip").code == 0
    try:
        spark = "resources/clusters/dev/spark.json"
        options = ["--experiment-name", NAME, "-P", "profile=dev", "-P", f"set={FAST}", "-P", "force=all"]
        result = shell(
            "mlflow",
            "run",
            str(project_zip),
            "-e",
            "main",
            "--backend",
            "databricks",
            "--backend-config",
            spark,
            *options,
            MLFLOW_LOGGING_LEVEL="INFO",  # only at this level MLflow prints the job run
        )
    finally:
        project_zip.unlink()
    remote = int(re.findall(r"job run with ID (\d+)", result.text)[0])
    state = workspace.jobs.find(remote).wait(200)
    log = workspace.run_page(remote)
    assert state.result == "SUCCESS", log
    assert sorted(re.findall(r"✓ (\w+)", log)) == STEPS and "· inline ·" in log
    assert [execution.task_key for execution in workspace.executed if execution.job_run_id == remote] == ["main"]


def test_driver_waits_for_mlflows_own_backend(pipeline_result: Result, shell: Shell) -> None:
    result = shell(*DEV, "--only=train", "--backend=databricks")
    assert result.code == 0 and re.search(r"✓ 02_train .*auc", result.out), result.text
