"""The emulated workspace: sign-in, files, cluster specs, MLflow, Unity Catalog, and faults on request."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from conftest import ROOT, Result
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import AlreadyExists, DatabricksError, NotFound, PermissionDenied, Unauthenticated
from doubling import log_model
from emulator import Workspace
from emulator.clusters import check
from emulator.errors import ApiError
from mlflow.exceptions import MlflowException

from ml_pipelines.tracking.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FILES = "/Volumes/ml_artifacts/dev/testing/files"


@pytest.fixture
def client(workspace: Workspace) -> WorkspaceClient:
    return WorkspaceClient()


def read(name: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "resources" / "clusters" / f"{name}.json").read_text()))


# -- sign-in


def test_the_workspace_names_the_signed_in_user(client: WorkspaceClient, workspace: Workspace) -> None:
    assert client.current_user.me().user_name == workspace.user


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer wrong", "Basic dXNlcjpwYXNz"])
def test_no_request_passes_without_the_token(workspace: Workspace, token: str) -> None:
    for path in ("/api/2.2/jobs/list", "/api/2.0/mlflow/experiments/search", "/anything"):
        assert requests.get(workspace.host + path, headers={"Authorization": token}, timeout=10).status_code == 401


def test_another_host_name_is_refused(workspace: Workspace) -> None:
    headers = {"Authorization": f"Bearer {workspace.token}", "Host": f"evil.example:{workspace.port}"}
    assert requests.get(f"{workspace.host}/api/2.2/jobs/list", headers=headers, timeout=10).status_code == 400


def test_a_request_that_is_not_emulated_fails_and_is_recorded(client: WorkspaceClient, workspace: Workspace) -> None:
    with pytest.raises(DatabricksError, match="the emulator does not implement GET /api/"):
        list(client.secrets.list_scopes())
    assert workspace.unhandled == ["GET /api/2.0/secrets/scopes/list"]
    workspace.unhandled.clear()


# -- files


def test_a_volume_stores_lists_and_deletes_files(client: WorkspaceClient) -> None:
    client.files.upload(f"{FILES}/a b/x.bin", io.BytesIO(b"\0one"), overwrite=False)
    with pytest.raises(AlreadyExists):
        client.files.upload(f"{FILES}/a b/x.bin", io.BytesIO(b"two"), overwrite=False)
    assert client.files.download(f"{FILES}/a b/x.bin").contents.read() == b"\0one"
    assert [entry.name for entry in client.files.list_directory_contents(f"{FILES}/a b")] == ["x.bin"]
    client.files.get_directory_metadata(FILES)
    client.files.delete(f"{FILES}/a b/x.bin")
    with pytest.raises(NotFound):
        client.files.get_metadata(f"{FILES}/a b/x.bin")


@pytest.mark.parametrize("path", ["/Volumes/ml_artifacts/dev/other/x", "/Volumes/nowhere/dev/testing/x"])
def test_an_upload_creates_no_volume(client: WorkspaceClient, path: str) -> None:
    with pytest.raises(NotFound, match=r"Volume '\w+\.dev\.\w+' does not exist"):
        client.files.upload(path, io.BytesIO(b""), overwrite=True)


@pytest.mark.parametrize("path", [f"{FILES}/../../../../../x", "/etc/passwd", "/Volumes"])
def test_no_path_escapes_the_storage(workspace: Workspace, path: str) -> None:
    with pytest.raises(ApiError):
        workspace.files.volume(path)


# -- clusters


def test_runtimes_and_node_types_are_listed(client: WorkspaceClient) -> None:
    specs = [read(f"{profile}/{compute}") for profile in ("dev", "prod") for compute in ("spark", "single_node")]
    assert {item["spark_version"] for item in specs} <= {one.key for one in client.clusters.spark_versions().versions}
    assert {item["node_type_id"] for item in specs} <= {
        one.node_type_id for one in client.clusters.list_node_types().node_types
    }


@pytest.mark.parametrize("name", ["dev/spark", "dev/single_node", "prod/spark", "prod/single_node"])
def test_the_projects_specs_are_accepted(name: str) -> None:
    check(read(name))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dev/spark", {"autoscale": {"min_workers": 1, "max_workers": 2}}, "either num_workers or autoscale"),
        ("dev/spark", {"num_workers": None}, "either num_workers or autoscale"),
        ("dev/spark", {"spark_version": "99.x"}, "Invalid spark version 99.x"),
        ("dev/spark", {"node_type_id": "tiny"}, "Node type tiny"),
        ("dev/spark", {"data_security_mode": "USER_ISOLATION"}, "SINGLE_USER"),
        ("dev/spark", {"aws_attributes": {}}, "At least one EBS volume must be attached"),
        ("dev/single_node", {"spark_conf": {}}, "single node"),
        ("dev/single_node", {"custom_tags": {}}, "single node"),
        ("dev/single_node", {"is_single_node": True}, "CLASSIC_PREVIEW"),
    ],
)
def test_an_invalid_spec_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        check({**read(name), **change})


LAUNCH = "import sys; from emulator.launcher import run_wheel; run_wheel(sys.argv[1], 'train-model', sys.argv[2:])"


@pytest.mark.parametrize("package", ["ml-pipelines", "ml_pipelines"])
def test_a_task_starts_under_both_names_of_the_package(package: str, shell: Callable[..., Result]) -> None:
    done = shell("python", "-c", LAUNCH, package, "--help", PYTHONPATH=str(ROOT / "tests" / "databricks"))
    assert (done.code, "Run the step train." in done.out) == (0, True), done.text


# -- MLflow


def test_mlflows_client_logs_to_the_workspace(workspace: Workspace) -> None:
    with pytest.raises(MlflowException, match="absolute path"):
        mlflow.set_experiment("relative")
    with pytest.raises(MlflowException, match="Parent directory /Nowhere does not exist"):
        mlflow.set_experiment("/Nowhere/x")
    experiment = mlflow.set_experiment(f"/Users/{workspace.user}/of-this-test")
    assert experiment.artifact_location.startswith("file:///")
    with mlflow.start_run() as run:
        mlflow.log_metric("auc", 0.9)
        mlflow.log_text("hello", "notes/hello.txt")
    stored_run = mlflow.MlflowClient(workspace.tracking.address).get_run(run.info.run_id)
    assert (stored_run.info.status, stored_run.data.metrics) == ("FINISHED", {"auc": 0.9})
    assert mlflow.artifacts.load_text(f"{stored_run.info.artifact_uri}/notes/hello.txt") == "hello"


def test_a_secret_in_a_run_of_a_workspace_is_erased_by_databricks_itself(workspace: Workspace) -> None:
    """`mlflow gc` works on a database, which a workspace shows to nobody."""
    store = Store("databricks")
    experiment = mlflow.set_experiment("/Shared/secrets").experiment_id
    run_id = store.client.create_run(experiment).info.run_id
    advice = f"MLflow had stored the secret: change it. Run {run_id} is deleted; Databricks erases it after 30 days."
    assert store.withdraw_secret(run_id).strip() == advice
    assert store.client.get_run(run_id).info.lifecycle_stage == "deleted"


def test_unity_catalog_stores_models_with_aliases(workspace: Workspace) -> None:
    run_id, model_uri = log_model()
    client, name = mlflow.MlflowClient(registry_uri="databricks-uc"), "ml_artifacts.dev.twice"
    mlflow.set_registry_uri("databricks-uc")
    try:
        version = mlflow.register_model(model_uri, name)
        client.set_registered_model_alias(name, "champion", version.version)
        client.set_model_version_tag(name, version.version, "checked", "yes")
        champion = client.get_model_version_by_alias(name, "champion")
        assert (champion.version, champion.run_id, champion.aliases) == ("1", run_id, ["champion"])
        assert client.get_model_version(name, "1").tags == {"checked": "yes"}
        assert [one.version for one in client.search_model_versions(f"name='{name}'")] == ["1"]
        assert mlflow.pyfunc.load_model(f"models:/{name}@champion").predict([4.0]) == [8.0]
        client.delete_registered_model_alias(name, "champion")
        assert client.get_model_version(name, "1").aliases == []
        with pytest.raises(MlflowException, match=r"Schema 'ml_artifacts\.nowhere' does not exist"):
            mlflow.register_model(model_uri, "ml_artifacts.nowhere.twice")
    finally:
        mlflow.set_registry_uri(None)


# -- faults


def test_a_fault_hits_its_requests_as_often_as_declared(workspace: Workspace, client: WorkspaceClient) -> None:
    workspace.faults.add("401", "/jobs/list", times=1)
    with pytest.raises(Unauthenticated):
        list(client.jobs.list())
    assert list(client.jobs.list()) is not None
    workspace.faults.add("403", "/Shared/locked")
    with pytest.raises(MlflowException, match="does not have the permission for /Shared/locked"):
        mlflow.set_experiment("/Shared/locked")
    mlflow.set_experiment("/Shared/open")
    with pytest.raises(PermissionDenied):
        client.workspace.mkdirs("/Shared/locked/below")


@pytest.mark.parametrize("kind", ["429", "503", "drop"])
def test_the_sdk_retries_after_a_transient_fault(workspace: Workspace, client: WorkspaceClient, kind: str) -> None:
    workspace.faults.add(kind, "scim/v2/Me", times=1)
    assert client.current_user.me().user_name == workspace.user
    assert workspace.faults.strike({kind}, "scim/v2/Me") is None


@pytest.mark.parametrize(
    ("kind", "life", "message"),
    [
        ("cluster", "INTERNAL_ERROR", "INSUFFICIENT_INSTANCE_CAPACITY"),
        ("library", "INTERNAL_ERROR", "Library installation failed"),
        ("skip", "SKIPPED", "skipped"),
    ],
)
def test_a_fault_keeps_a_run_from_starting(
    workspace: Workspace, client: WorkspaceClient, kind: str, life: str, message: str
) -> None:
    workspace.faults.add(kind)
    file = {"python_file": f"{FILES}/never.py"}
    body = {"run_name": "never", "new_cluster": read("dev/single_node"), "spark_python_task": file}
    answer = requests.post(
        f"{workspace.host}/api/2.0/jobs/runs/submit",
        json=body,
        headers={"Authorization": f"Bearer {workspace.token}"},
        timeout=10,
    )
    state = workspace.jobs.find(answer.json()["run_id"]).wait(500)  # the very first cluster builds the image
    assert (state.life, state.result) == (life, None if kind == "skip" else "FAILED")
    assert message in state.message
    clusters = {attempt.cluster_id for attempt in workspace.jobs.find(answer.json()["run_id"]).attempts}
    assert not clusters & workspace.clusters.running.keys()  # a cluster ends with its task, whatever happened


# -- started by a person


def test_a_person_starts_and_stops_the_emulator(tmp_path: Path) -> None:
    """The printed variables work when exported; Ctrl-C leaves no process and no file."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests/databricks"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "emulator", "--fault", "429:/jobs/list:1"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        output = "".join(iter(process.stdout.readline, "\n")) + process.stdout.readline()
        values = dict(re.findall(r"^export (\w+)=(\S+)$", output, re.MULTILINE))
        assert values["MLFLOW_TRACKING_URI"] == "databricks"
        headers = {"Authorization": f"Bearer {values['DATABRICKS_TOKEN']}"}
        answers = [
            requests.get(f"{values['DATABRICKS_HOST']}/api/2.2/jobs/list", headers=headers, timeout=10) for _ in "12"
        ]
        assert [answer.status_code for answer in answers] == [429, 200]
        [pages] = re.findall(r"MLflow's pages: (\S+)", output)
        answer = requests.get(f"{values['DATABRICKS_HOST']}/ml/experiments/1", timeout=10, allow_redirects=False)
        assert (
            answer.headers["Location"] == f"{pages}/#/experiments/1"
        )  # the address that MLflow's client prints for a run
        assert "<title>MLflow</title>" in requests.get(pages, timeout=10).text
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(requests.ConnectionError):
        requests.get(pages, timeout=10)
