"""`driver.py --profile dev` on the emulated workspace: five steps, each on its own cluster, as a user starts them."""

import os
import re
import signal
import subprocess
import sys
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
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="module")
def done(started_workspace: Workspace) -> Result:
    """Return what a person sees of one whole pipeline run."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in started_workspace.env.items():
            patch.setenv(name, value)
        found = subprocess.run([sys.executable, *DEV[1:]], cwd=ROOT, capture_output=True, text=True, timeout=400)
    return Result(found.returncode, found.stdout, found.stderr)


def runs_of(parent: str) -> tuple[Run, dict[str, Run]]:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(NAME).experiment_id
    (run,) = (run for run in client.search_runs([experiment]) if run.info.run_id.startswith(parent))
    below = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    return run, {child.info.run_name: child for child in below}


def pipeline_of(result: Result) -> str:
    return re.findall(r"pipeline_run (\w+) ", result.out)[-1]


@pytest.mark.timeout(500)
def test_five_steps_succeed_each_on_a_cluster_of_its_own(done: Result, workspace: Workspace) -> None:
    assert (done.code, done.err) == (0, ""), done.text
    assert sorted(re.findall(r"✓ (\w+)", done.out)) == STEPS
    remote = [int(run_id) for run_id in re.findall(r"\| run (\d+) ·", done.out)]
    ran = {one.task_key: one for one in workspace.executed if one.job_run_id in remote}
    assert len({one.cluster_id for one in ran.values()}) == 5
    assert {key: (one.spec["node_type_id"], one.spec["num_workers"]) for key, one in ran.items()} == {
        "prepare_data": ("m6i.xlarge", 2),
        **dict.fromkeys(["train", "evaluate", "feature_importance", "model_qa"], ("r6i.xlarge", 0)),
    }


def test_the_store_shows_one_parent_and_five_children_with_their_tables_and_logs(
    done: Result, workspace: Workspace
) -> None:
    parent, children = runs_of(pipeline_of(done))
    assert parent.info.status == "FINISHED" and sorted(children) == STEPS
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    tags = children["01_prepare_data"].data.tags
    uri = tags["output.train_uri"]
    assert uri.startswith("/Volumes/ml_artifacts/dev/testing/") and workspace.files.local(uri).is_dir()
    assert children["02_train"].data.params["train_uri"] == uri
    assert tags["databricks.run_page"] == f"{workspace.host}/run/{tags['databricks.run_id']}"
    names = {item.path for item in mlflow.MlflowClient().list_artifacts(children["02_train"].info.run_id)}
    assert {"databricks.log", "train.log"} <= names


def test_the_page_is_said_at_once_and_each_change(done: Result) -> None:
    said = [line.partition("|")[2].strip() for line in done.out.splitlines() if line.startswith("    train |")]
    assert re.fullmatch(r"run \d+ · http://\S+/run/\d+", said[0])
    assert said[-2:] == ["RUNNING", "TERMINATED SUCCESS"]


def test_the_code_is_uploaded_once_and_pins_stand_beside_it(done: Result, workspace: Workspace) -> None:
    runs = [workspace.jobs.find(run).described() for run in re.findall(r"\| run (\d+) ·", done.out)]
    libraries, *others = [run["tasks"][0]["libraries"] for run in runs]
    assert len(others) == 4 and all(other == libraries for other in others)
    assert workspace.files.local(libraries[0]["whl"]).is_file()
    packages = {library["pypi"]["package"].partition("==")[0] for library in libraries[1:]}
    assert packages >= {"mlflow", "polars", "deltalake"} and not packages & {"pyspark", "pysail", "delta-spark"}


def test_a_driver_that_was_killed_is_resumed_without_submitting_twice(
    done: Result, shell: Shell, workspace: Workspace
) -> None:
    before = len(workspace.jobs.runs)
    driver = begin("--only=train", until="train | RUNNING")
    driver.kill()
    driver.communicate()
    (remote,) = list(workspace.jobs.runs)[before:]
    first = pipeline_of(Result(0, driver.seen, ""))  # type: ignore[attr-defined]
    result = shell(*DEV, "--only=train", f"--resume={first}")
    assert result.code == 0, result.text
    assert f"train | run {remote} ·" in result.out and "taken over" in result.out
    assert list(workspace.jobs.runs)[before:] == [remote]
    _, children = runs_of(pipeline_of(result))
    assert [(name, run.info.status) for name, run in children.items()] == [("02_train", "FINISHED")]


def test_ctrl_c_cancels_what_runs_there_and_says_so(done: Result, workspace: Workspace) -> None:
    before = len(workspace.jobs.runs)
    driver = begin("--only=train", until="train | PENDING")
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    (remote,) = list(workspace.jobs.runs)[before:]
    assert driver.returncode == 130 and "stopped by signal 2" in err
    assert re.search(rf"run {remote} is (being )?cancelled", out), out
    assert workspace.jobs.find(remote).wait(30).result == "CANCELED"
    parent, children = runs_of(pipeline_of(Result(0, driver.seen, "")))  # type: ignore[attr-defined]
    assert {parent.info.status, *(run.info.status for run in children.values())} == {"KILLED"}


def begin(*arguments: str, until: str) -> subprocess.Popen[str]:
    """Start driver.py and return it, with what it `seen` so far, when it has said `until`."""
    command = [sys.executable, *DEV[1:], *arguments]
    driver = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert driver.stdout
    driver.seen = ""  # type: ignore[attr-defined]
    for line in driver.stdout:
        driver.seen += line  # type: ignore[attr-defined]
        if until in line:
            return driver
    raise AssertionError(driver.seen + driver.communicate()[1])  # type: ignore[attr-defined]


# -- by mlflow run


CLUSTER = "resources/clusters/dev/single_node.json"
MLFLOW = ("mlflow", "run", "-e", "train", "--experiment-name", NAME, "--backend-config", CLUSTER)


def test_mlflow_run_takes_the_backend_by_its_name(done: Result, shell: Shell, workspace: Workspace) -> None:
    parent, _ = runs_of(pipeline_of(done))
    asked = ["-P", f"pipeline_run_id={parent.info.run_id}", "-P", f"set={FAST}"]
    result = shell(*MLFLOW, *asked, "--backend", "databricks-jobs", ".")
    assert result.code == 0 and re.search(r"✓ 02_train .*auc", result.out), result.text
    assert workspace.executed[-1].spec["num_workers"] == 0


def test_mlflow_run_without_inputs_is_refused_before_anything_is_submitted(shell: Shell, workspace: Workspace) -> None:
    before = len(workspace.jobs.runs)
    result = shell(*MLFLOW, "--backend", "databricks-jobs", ".")
    assert result.code == 1 and "Step train needs train_uri" in result.err
    assert len(workspace.jobs.runs) == before


def test_mlflows_own_backend_runs_main_on_one_cluster(shell: Shell, workspace: Workspace) -> None:
    zipped = ROOT / "project.zip"
    assert shell("make", "-s", "-o", ".venv/.ready", "project.zip").code == 0
    try:
        spark = "resources/clusters/dev/spark.json"
        asked = ["--experiment-name", NAME, "-P", "profile=dev", "-P", f"set={FAST}", "-P", "force=all"]
        result = shell(
            "mlflow",
            "run",
            str(zipped),
            "-e",
            "main",
            "--backend",
            "databricks",
            "--backend-config",
            spark,
            *asked,
            MLFLOW_LOGGING_LEVEL="INFO",  # it says only so which run it has submitted
        )
    finally:
        zipped.unlink()
    remote = int(re.findall(r"job run with ID (\d+)", result.text)[0])
    state = workspace.jobs.find(remote).wait(200)
    log = workspace.run_page(remote)
    assert state.result == "SUCCESS", log
    assert sorted(re.findall(r"✓ (\w+)", log)) == STEPS and "· inline ·" in log
    assert [one.task_key for one in workspace.executed if one.job_run_id == remote] == ["main"]


def test_driver_waits_for_mlflows_own_backend(done: Result, shell: Shell) -> None:
    result = shell(*DEV, "--only=train", "--backend=databricks")
    assert result.code == 0 and re.search(r"✓ 02_train .*auc", result.out), result.text
