"""The bundle's job on the emulated workspace: created as merged for dev, started with run_now, repaired."""

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import mlflow
import pytest
from building import build, sources
from conftest import FAST, ROOT
from databricks.sdk import WorkspaceClient
from emulator import Workspace
from emulator.runs import Run
from mlflow.entities import Run as MlflowRun

from ml_pipelines.bundle import merge
from ml_pipelines.config import loading

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CODE = "/Volumes/ml_artifacts/dev/testing/code/bundle"
NUMBERS = itertools.count()
STEPS = list(loading.load("local").pipeline_steps)
Start = Callable[..., Run]

# Replaces the steps: each task writes its name, and parallel tasks wait for each other.
TINY = """
import sys, time
from pathlib import Path


def main():
    folder, key, *others = sys.argv[1].split(",")
    Path(folder).mkdir(exist_ok=True)
    Path(folder, key).touch()
    end = time.monotonic() + 60
    while not all(Path(folder, other).exists() for other in others):
        assert time.monotonic() < end, f"{key} waited in vain for {others}"
        time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build(sources(folder), folder)


@pytest.fixture
def client(workspace: Workspace) -> WorkspaceClient:
    return WorkspaceClient()


def deploy(client: WorkspaceClient, wheel: Path) -> dict[str, Any]:
    """Return dev's job as `databricks bundle deploy` creates it: with local files uploaded and their paths replaced."""
    uploads = {
        "../dist/*.whl": f"{CODE}/{next(NUMBERS)}/{wheel.name}",
        "./requirements.txt": f"{CODE}/requirements.txt",
    }
    for source, path in zip([wheel, ROOT / "resources" / "requirements.txt"], uploads.values(), strict=True):
        client.files.upload(path, io.BytesIO(source.read_bytes()), overwrite=True)
    text = json.dumps(merge.bundle_job("dev"))
    for name, path in uploads.items():
        text = text.replace(json.dumps(name), json.dumps(path))
    return dict(json.loads(text))


@pytest.fixture
def start(workspace: Workspace, client: WorkspaceClient) -> Start:
    """Create a job and run it to its end."""

    def run(job: dict[str, Any], **parameters: str) -> Run:
        job_id = client.api_client.do("POST", "/api/2.2/jobs/create", body=job)["job_id"]
        run_id = client.jobs.run_now(job_id, job_parameters=parameters).run_id
        workspace.jobs.find(run_id).wait(800)
        return workspace.jobs.find(run_id)

    return run


def results(run: Run) -> dict[str, str | None]:
    return {key: run.latest(key).state.result for key in run.tasks}


def log(run: Run, task: str) -> str:
    return run.latest(task).log.read_text()


def pipeline_run(run: Run) -> MlflowRun:
    """Return the one pipeline run of a job run."""
    query = f"tags.job_run_id = '{run.run_id}'"
    (pipeline,) = mlflow.search_runs(search_all_experiments=True, filter_string=query, output_format="list")
    return pipeline


def below(parent: MlflowRun) -> dict[str, str]:
    """Return name -> status of the step runs below a pipeline run."""
    query = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    runs = mlflow.search_runs(search_all_experiments=True, filter_string=query, output_format="list")
    return {str(run.info.run_name): run.info.status for run in runs}


NAMES = ["01_prepare_data", "02_train", "03_evaluate", "04_feature_importance", "05_model_qa"]


def test_the_steps_run_on_their_clusters_below_one_pipeline_run(
    workspace: Workspace, client: WorkspaceClient, start: Start, wheel: Path
) -> None:
    run = start(deploy(client, wheel), set=FAST)
    assert set(results(run).values()) == {"SUCCESS"}, "\n".join(log(run, key) for key in run.tasks)
    parent = pipeline_run(run)
    assert parent.info.status == "FINISHED" and parent.data.tags["profile"] == "dev"
    assert below(parent) == dict.fromkeys(NAMES, "FINISHED")
    assert "✓ 05_model_qa" in log(run, "close_pipeline")

    executions = [execution for execution in workspace.executed if execution.job_run_id == run.run_id]
    assert [execution.task_key for execution in executions][:2] == ["prepare_data", "train"]
    assert [execution.task_key for execution in executions][4:] == ["model_qa", "close_pipeline"]
    specs = {
        name: json.loads((ROOT / f"resources/clusters/dev/{name}.json").read_text())
        for name in loading.load("dev").compute
    }
    assert {execution.task_key: execution.spec for execution in executions} == {
        **dict.fromkeys([*STEPS, "close_pipeline"], specs["single_node"]),
        "prepare_data": specs["spark"],
    }
    clusters = {execution.task_key: execution.cluster_id for execution in executions}
    assert len(set(clusters.values())) == 3 and clusters["evaluate"] != clusters["feature_importance"]


def test_branches_run_in_parallel(workspace: Workspace, client: WorkspaceClient, start: Start, tmp_path: Path) -> None:
    info = "ml_pipelines-1.0.dist-info"
    files = {
        "tiny.py": TINY,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: ml-pipelines\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    job = deploy(
        client,
        _pack(tmp_path, files, [task["python_wheel_task"]["entry_point"] for task in merge.bundle_job("dev")["tasks"]]),
    )
    awaited_tasks = {"evaluate": ["feature_importance"], "feature_importance": ["evaluate"]}
    for task in job["tasks"]:
        key = task["task_key"]
        task["python_wheel_task"]["parameters"] = [",".join([f"{CODE}/met", key, *awaited_tasks.get(key, [])])]
    run = start(job)
    assert set(results(run).values()) == {"SUCCESS"}, log(run, "evaluate")


def _pack(folder: Path, files: dict[str, str], scripts: list[str]) -> Path:
    path = folder / "ml_pipelines-1.0-py3-none-any.whl"
    points = "".join(f"{script} = tiny:main\n" for script in scripts)
    with ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr("ml_pipelines-1.0.dist-info/entry_points.txt", f"[console_scripts]\n{points}")
    return path


def test_a_failed_evaluate_skips_model_qa_and_the_last_task_fails_the_pipeline_run(
    client: WorkspaceClient, start: Start, wheel: Path
) -> None:
    job = deploy(client, wheel)
    (evaluate,) = (task for task in job["tasks"] if task["task_key"] == "evaluate")
    evaluate["python_wheel_task"]["parameters"].append("--test-uri=/Volumes/ml_artifacts/dev/testing/nowhere")
    run = start(job, set=FAST)
    assert results(run) == {
        "prepare_data": "SUCCESS",
        "train": "SUCCESS",
        "evaluate": "FAILED",
        "feature_importance": "SUCCESS",
        "model_qa": "UPSTREAM_FAILED",
        "close_pipeline": "FAILED",
    }
    assert run.state.result == "FAILED"
    parent = pipeline_run(run)
    assert (parent.info.status, parent.data.tags["failed_step"]) == ("FAILED", "evaluate")
    assert below(parent) == {name: "FAILED" if name == "03_evaluate" else "FINISHED" for name in NAMES[:-1]}
    for task in ("evaluate", "close_pipeline"):
        output = client.jobs.get_run_output(run.latest(task).run_id)
        assert str(output.error).startswith("BadData: 03_evaluate: ") and "nowhere" in str(output.error)


def test_a_repair_continues_the_same_pipeline_run(
    workspace: Workspace, client: WorkspaceClient, start: Start, wheel: Path
) -> None:
    workspace.faults.add("library", "evaluate", times=1)
    run = start(deploy(client, wheel), set=FAST)
    assert run.state.result == "FAILED"
    parent = pipeline_run(run)
    assert (parent.info.status, "03_evaluate" in below(parent)) == ("FAILED", False)
    first_run_ids = {execution.run_id for execution in workspace.executed}

    client.jobs.repair_run(run.run_id, rerun_all_failed_tasks=True)
    assert run.wait(800).result == "SUCCESS"
    repaired_run = pipeline_run(run)
    assert (repaired_run.info.run_id, repaired_run.info.status) == (parent.info.run_id, "FINISHED")
    assert below(repaired_run) == dict.fromkeys(NAMES, "FINISHED") and "failed_step" not in repaired_run.data.tags
    repaired_tasks = [
        execution.task_key
        for execution in workspace.executed
        if execution.job_run_id == run.run_id and execution.run_id not in first_run_ids
    ]
    assert repaired_tasks == ["evaluate", "model_qa", "close_pipeline"]
