"""Secrets: given with a command, in an address, or from the environment. None is shown or stored."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result, Store, change, rows
from mlflow.entities import ViewType

from ml_pipelines import text
from ml_pipelines.config.loading import load
from ml_pipelines.errors import ConfigError, SecretGiven, one_line
from ml_pipelines.system import paths
from ml_pipelines.tracking import opening

VALUE = "tok-5f3a9c81"
Drive = Callable[..., Result]
Shell = Callable[..., Result]


@pytest.mark.slow
@pytest.mark.parametrize("parameter", ["-Pset=mlflow.password=hunter2", "-Ppassword=hunter2", "-Pdb_token=hunter2"])
@pytest.mark.parametrize("entry_point", ["main", "train"])
def test_the_run_is_deleted_and_the_message_says_to_change_the_secret(
    store: Store, shell: Shell, entry_point: str, parameter: str
) -> None:
    result = shell("mlflow", "run", ".", "-e", entry_point, parameter)
    assert result.code == 1
    warnings = [line for line in result.text.splitlines() if "looks like a secret" in line]
    assert len(warnings) == 1
    assert "MLflow had stored the secret: change it." in warnings[0]
    assert "hunter2" not in warnings[0]
    assert store.runs() == []
    [deleted_run] = store.client.search_runs(["0"], run_view_type=ViewType.DELETED_ONLY)
    assert f"mlflow gc --run-ids {deleted_run.info.run_id}" in warnings[0]


def test_a_secret_on_our_own_command_line_is_refused_and_not_stored(store: Store, shell: Shell) -> None:
    result = shell("python", "driver.py", "--password=hunter2")
    assert result.code == 2
    assert "password looks like a secret" in result.err and "hunter2" not in result.text
    assert "MLflow" not in result.err


@pytest.mark.parametrize("value", ["hunter2", "[hunter2", "${hunter2}", "hunter2: 1", "[" * 99 + "hunter2"])
def test_a_secret_is_not_shown_whatever_its_value_is(shell: Shell, value: str) -> None:
    result = shell("python", "driver.py", f"--set=mlflow.password={value}")
    assert result.code == 2
    assert "mlflow.password looks like a secret" in result.err and "hunter2" not in result.text


@pytest.fixture
def from_environment(project: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project whose profile takes a marker of missing values and the key from an environment variable."""
    monkeypatch.setattr(text, "_secrets", set())
    monkeypatch.setenv("MINE", VALUE)
    monkeypatch.setattr(paths, "root", lambda: project)
    config = project / "conf" / "config.yaml"
    change(config, "  null_values: [", '  null_values: ["${oc.env:MINE}", ')
    change(config, "  key: id ", "  key: ${oc.env:MINE} ")
    return project


def stored(store: Store) -> list[str]:
    """Return the files of the store, and of its runs' artifacts, that contain the secret."""
    folder = Path(store.uri.removeprefix("sqlite:///")).parent
    files = [path for path in folder.rglob("*") if path.is_file() and "project" not in path.parts]
    assert len(files) > 3
    return [str(path) for path in files if VALUE.encode() in path.read_bytes()]


@pytest.mark.parametrize("key", ["id", ""])
def test_a_value_from_the_environment_is_neither_shown_nor_stored(
    from_environment: Path, store: Store, drive: Drive, tmp_path: Path, key: str
) -> None:
    source = tmp_path / "rows.csv"
    source.write_text(rows(300))
    result = drive(
        "--only=prepare_data",
        f"--set=data.source.kind=file,data.source.path={source}",
        *([f"--set=data.key={key}"] if key else []),
    )
    assert result.code == (0 if key else 3), result.text  # the source has no column of this name
    assert VALUE not in result.text and ("***" in result.text or key)
    assert bool(store.runs()) is bool(key)  # without its column, no run starts
    assert not key or stored(store) == []


@pytest.mark.slow
def test_another_value_from_the_environment_is_a_change(
    from_environment: Path, store: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drive("--only=prepare_data", "--set=data.key=id").code == 0
    monkeypatch.setenv("MINE", "tok-another-one")
    result = drive("--to=prepare_data", "--set=data.key=id")
    assert result.code == 0 and "setting data.null_values" in result.out, result.text
    assert "tok-" not in result.text and "***" in result.out


@pytest.mark.parametrize("start", ["http://me:", "s3://KEY:", "http://", "sc://host/;token="])
def test_an_address_with_credentials_is_refused_where_it_would_be_logged(start: str) -> None:
    with pytest.raises(SecretGiven, match=r"mlflow\.tracking_uri: the address has a password or a token") as error:
        load("local", [f"mlflow.tracking_uri='{start}hunter22@host/x'"])
    assert "hunter22" not in str(error.value)


def test_a_prefix_of_tables_with_credentials_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "root", lambda: project)
    monkeypatch.setenv("MINE", "s3://KEY:hunter22@bucket")  # pragma: allowlist secret
    change(project / "conf" / "config.yaml", "{local: .data/delta,", "{local: '${oc.env:MINE}',")
    with pytest.raises(ConfigError, match=r"data\.delta_prefix\.local: the paths of tables become tags"):
        load("local")


def test_the_password_of_a_tracking_address_is_not_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hunter22@127.0.0.1:9/mlflow")  # pragma: allowlist secret
    with pytest.raises(ConfigError) as error:
        opening.open_store(load("local"))
    assert "postgresql://me:***@127.0.0.1:9/mlflow" in one_line(error.value)
    assert "hunter22" not in one_line(error.value)
