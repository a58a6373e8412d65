"""MLflow, jobs and files use one workspace, whatever profiles and variables say. No request is sent here."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow.utils.databricks_utils import get_databricks_host_creds

import driver
from ml_pipelines.config.loading import load
from ml_pipelines.databricks import workspace
from ml_pipelines.errors import ConfigError
from ml_pipelines.tracking import opening

RECEIVED: list[str] = []


class Refusing(BaseHTTPRequestHandler):
    """Records each request, and refuses it."""

    def log_message(self, *_: object) -> None:
        RECEIVED.append(self.requestline)


def _start() -> str:
    """Start a server that refuses everything, and return its address: the SDK asks each host for its metadata."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


QA, OTHER = _start(), _start()
PROFILES = f"""[DEFAULT]
host = http://127.0.0.2:9
token = default
[qa]
host = {QA}
token = of-qa
[other]
host = {OTHER}/
token = of-other
[again]
host = {QA}/
token = of-qa
"""
VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "DATABRICKS_HOST", "DATABRICKS_TOKEN",
             "DATABRICKS_CONFIG_PROFILE", "DATABRICKS_RUNTIME_VERSION")  # fmt: skip


@pytest.fixture(autouse=True)
def signed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # restored at the end, whatever `select` sets
        monkeypatch.delenv(name)
    (tmp_path / "databrickscfg").write_text(PROFILES)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "databrickscfg"))
    monkeypatch.setattr(workspace, "RETRY_S", 1)
    workspace._client.cache_clear()
    yield
    workspace._client.cache_clear()


def test_the_profiles_tracking_uri_chooses_the_workspace_of_jobs_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """--set mlflow.tracking_uri=databricks://qa wins over DATABRICKS_CONFIG_PROFILE, for MLflow and for us."""
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "other")
    workspace.select(load("dev", ["mlflow.tracking_uri=databricks://qa"]))
    assert workspace.host() == QA
    assert get_databricks_host_creds("databricks://qa").host == QA


def test_another_choice_in_the_same_process_is_another_client() -> None:
    for profile, address in (("qa", QA), ("other", OTHER)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"databricks://{profile}")
            workspace.select(load("dev", []))
            assert workspace.host() == address


@pytest.mark.parametrize(
    ("variables", "settings", "named"),
    [
        ({"MLFLOW_TRACKING_URI": "databricks://qa"}, [], "MLFLOW_TRACKING_URI"),
        ({}, ["mlflow.tracking_uri=databricks://qa"], "mlflow.tracking_uri"),
        ({"DATABRICKS_CONFIG_PROFILE": "qa"}, [], "DATABRICKS_CONFIG_PROFILE"),
    ],
)
def test_a_host_that_overrules_the_profile_is_refused(
    variables: dict[str, str], settings: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**variables, "DATABRICKS_HOST": OTHER, "DATABRICKS_TOKEN": "of-other"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error:
        workspace.select(load("dev", settings))
    assert f"{named} names the profile qa of {QA}, but DATABRICKS_HOST is {OTHER}." in str(error.value)
    assert "unset DATABRICKS_HOST" in str(error.value) and "of-other" not in str(error.value)


def test_the_driver_refuses_two_workspaces_before_it_sends_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", OTHER)
    monkeypatch.setenv("DATABRICKS_TOKEN", "of-other")
    RECEIVED.clear()
    result = CliRunner().invoke(driver.main, ["--profile=dev", "--set=mlflow.tracking_uri=databricks://qa"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert f"mlflow.tracking_uri names the profile qa of {QA}, but DATABRICKS_HOST is {OTHER}" in result.stderr
    assert RECEIVED == []


def test_a_token_that_overrules_the_profile_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "DATABRICKS_CONFIG_PROFILE": "qa",
        "DATABRICKS_TOKEN": "of-other",
        "DATABRICKS_HOST": f"{QA}/",
    }.items():
        monkeypatch.setenv(name, value)
    workspace.select(load("dev", []))
    out = capsys.readouterr().out
    assert out == "DATABRICKS_TOKEN overrules the profile qa, which DATABRICKS_CONFIG_PROFILE names.\n"


@pytest.mark.parametrize(("registry", "refused"), [("other", True), ("qa", False), ("again", False)])
def test_the_registry_must_be_in_the_same_workspace(
    registry: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks://qa")
    config = load("dev", [f"mlflow.registry_uri=databricks-uc://{registry}"])
    if not refused:
        workspace.select(config)
        return
    with pytest.raises(ConfigError, match=f"databricks-uc://other is in {OTHER}, but runs and jobs are in {QA}"):
        workspace.select(config)


@pytest.mark.parametrize(
    ("content", "uri", "message"),
    [
        (PROFILES, "databricks://scope:prefix", "names a secret scope, which only MLflow can read. Name a profile."),
        ("no section\n", "databricks://qa", "The sign-in profiles can't be read: File contains no section headers."),
        (PROFILES, "databricks://nowhere", "has no nowhere profile configured"),
    ],
)
def test_a_sign_in_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, uri: str, message: str
) -> None:
    (tmp_path / "databrickscfg").write_text(content)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError) as error:
        workspace.select(load("dev", []))
        workspace.host()
    assert message in str(error.value)


def test_on_a_cluster_the_store_is_that_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster has no sign-in profiles, and the driver passes --set on to it."""
    settings = ["mlflow.tracking_uri=databricks://qa,mlflow.registry_uri=databricks-uc://qa"]
    config = load("dev", settings)
    assert (opening.store_uri(config), opening.registry_uri(config)) == ("databricks://qa", "databricks-uc://qa")
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    assert (opening.store_uri(config), opening.registry_uri(config)) == ("databricks", "databricks-uc")


def test_a_registry_without_a_store_in_a_workspace_chooses_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # a tracking server
    workspace.select(load("dev", ["mlflow.registry_uri=databricks-uc://other"]))
    assert workspace.host() == OTHER.rstrip("/")
