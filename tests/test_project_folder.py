"""Tests of the project in folders with unusual names, without git: set it up and run a step."""

import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Result, Store

NAMES = ["my project", "50%", "a#b", "it's", "café", "(x) & $HOME"]
# Stands in for `python -m venv`: an environment whose installers do nothing, so that the test needs no network.
VENV = """#!/bin/sh
mkdir -p .venv/bin
printf '#!/bin/sh\\nexit 0\\n' | tee .venv/bin/pip > .venv/bin/uv
printf '#!/bin/sh\\nexec "%s" "$@"\\n' "{python}" > .venv/bin/python
chmod +x .venv/bin/*
"""
Shell = Callable[..., Result]


@pytest.fixture
def moved(project: Path) -> Callable[[str], Path]:
    """Return a function that renames the copy of the project."""
    return lambda name: project.rename(project.with_name(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_make_setup_creates_the_environment_once_and_the_store_beside_the_project(
    moved: Callable[[str], Path], shell: Shell, store: Store, tmp_path: Path, name: str
) -> None:
    folder, python = moved(name), tmp_path / "python"
    python.write_text(VENV.format(python=sys.executable))
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    result = shell("make", "setup", f"PYTHON={python}", cwd=folder)
    assert result.code == 0, result.text
    assert (folder / "mlflow.db").stat().st_size > 0
    assert (folder / ".venv" / ".ready").exists()
    assert "Nothing to be done" in shell("make", "setup", f"PYTHON={python}", cwd=folder).out
    assert store.runs() == []  # MLFLOW_TRACKING_URI of the test names another store


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["forkserver", "local"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_runs_and_is_recorded_beside_the_project(
    moved: Callable[[str], Path], shell: Shell, store: Store, tmp_path: Path, name: str, backend: str
) -> None:
    folder = moved(name)
    tables = f"--set=data.delta_prefix.local={tmp_path / 'delta'},data.source.rows=400"
    command = [sys.executable, "driver.py", "--only=prepare_data", f"--backend={backend}", tables]
    result = shell("env", "-u", "MLFLOW_TRACKING_URI", *command, cwd=folder)
    if "#" in name and backend == "local":
        assert result.code == 2
        assert result.err.count("\n") == 1
        assert f"MLflow's backend local can't run a project in {folder}" in result.err
        return
    assert result.code == 0, result.text
    assert (folder / "mlflow.db").stat().st_size > 0
    assert list((folder / "mlruns").rglob("prepare_data.log"))
    assert {path.name for path in tmp_path.iterdir()} == {name, "delta", "mlflow.db"}


def test_a_folder_whose_name_mlflow_would_decode_is_refused(
    store: Store, drive: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "feature%2Fx"
    folder.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    result = drive("--only=prepare_data")
    assert result.code == 2
    assert (
        f"The MLflow store {folder}/mlflow.db: MLflow would read %2F in this path as another character." in result.err
    )
    assert {path.name for path in tmp_path.iterdir()} == {"feature%2Fx", "mlflow.db"}


def test_a_sqlite_file_that_cannot_be_opened_is_not_tried_for_long(
    store: Store, drive: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.db import utils

    pauses: list[float] = []
    # The module gets a `time` of its own: other threads of this process sleep too.
    monkeypatch.setattr(utils, "time", SimpleNamespace(sleep=pauses.append))
    database = Path(store.uri.removeprefix("sqlite:///"))
    database.unlink()
    database.mkdir()
    assert drive("--only=prepare_data").code == 2
    assert sum(pauses) < 2
