"""A project that was moved, renamed or copied: driver.py refuses it, and `ml-pipelines relocate` mends its store."""

import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from conftest import FAST, ROOT, Result, Store

import driver
from ml_pipelines.cli import main
from ml_pipelines.system import paths

Home = Callable[[Path], Store]
Shell = Callable[..., Result]
MODEL = "models:/local_pipeline_experiment@champion"


@pytest.fixture(scope="module")
def made(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a project with one finished pipeline run in its local store."""
    folder = tmp_path_factory.mktemp("made") / "first"
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copy(ROOT / "MLproject", folder)
    with pytest.MonkeyPatch.context() as patch:
        live_in(folder, patch)
        result = drive()
    assert result.code == 0, result.text
    return folder


@pytest.fixture
def home(store: Store, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a function that makes this process work in a project's folder, with the local store."""
    return lambda folder: live_in(folder, monkeypatch)


def live_in(folder: Path, patch: pytest.MonkeyPatch) -> Store:
    patch.setattr(paths, "root", lambda: folder)
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder / ".data")


def drive(*arguments: str) -> Result:
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # the last command of this process has set it for its children
    result = CliRunner().invoke(driver.main, [f"--set={FAST}", "--backend=inline", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


def relocate(*arguments: str) -> str:
    result = CliRunner().invoke(main.commands, ["relocate", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the files below a folder, without the lock, with their sizes and times."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def paths_in(database: Path) -> str:
    """Return all texts of a sqlite file."""
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(connection.iterdump())


def moved(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return the old and the new folder of a project that was moved."""
    old, new = tmp_path / "before", tmp_path / "after"
    shutil.copytree(made, old)
    database = old / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:  # make `old` the folder in which the run was made
        script = "\n".join(connection.iterdump()).replace(str(made), str(old))
    database.unlink()
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(script)
    old.rename(new)
    return old, new


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--force"]])
def test_a_moved_project_is_refused_in_one_line_before_anything_is_written(
    made: Path, home: Home, tmp_path: Path, arguments: list[str]
) -> None:
    old, new = moved(made, tmp_path)
    home(new)
    before = files(new)
    result = drive(*arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert f"its MLflow store has paths below {old}. Correct them: " in result.err
    assert result.err.endswith(f"cd {new} && python -m ml_pipelines ml-pipelines relocate\n")
    assert not old.exists()
    assert files(new) == before


@pytest.mark.slow
def test_a_moved_project_works_as_before_once_its_store_is_mended(made: Path, home: Home, tmp_path: Path) -> None:
    old, new = moved(made, tmp_path)
    store = home(new)
    before = files(new)
    listing = relocate("--dry-run")
    assert re.search(r"^ +\d+  paths would change in ", listing, re.MULTILINE)
    assert files(new) == before
    mended = relocate()
    assert mended.splitlines()[:-1] == listing.splitlines()[:-1]
    assert mended.startswith(f"{old} -> {new}\n")
    for column in ("experiments.artifact_location", "runs.artifact_uri", "logged_models.artifact_location",
                   "model_versions.storage_location", "tags.value", "datasets.dataset_source"):  # fmt: skip
        assert column in mended
    assert paths_in(new / "mlflow.db.before-relocate").count(f"{old}/") > 0
    assert f"'{old}/" not in paths_in(new / "mlflow.db")
    assert "Nothing to do" in relocate()
    assert f"nothing has changed since pipeline run {store.parent().info.run_id}" in drive().out
    mlflow.set_tracking_uri(store.uri)
    assert mlflow.pyfunc.load_model(MODEL)
    result = drive("--set=steps.train.params.options.max_iter=4")
    assert result.code == 0 and "= 01_prepare_data" in result.out, result.text
    assert Path(store.child("train").info.artifact_uri).is_relative_to(new)
    assert not old.exists()


@pytest.mark.slow
def test_a_copy_writes_only_into_itself(made: Path, home: Home, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    before = files(made)
    store = home(copy)
    result = drive("--force")
    assert (result.code, result.err.count("\n")) == (2, 1) and f"has paths below {made}. " in result.err
    relocate()
    assert drive("--force").code == 0
    assert store.child("prepare_data").data.tags["output.train_uri"].startswith(f"{copy}/")
    assert files(made) == before
    home(made)
    again = drive()
    assert "Up to date" in again.out, again.out


def test_a_folder_that_a_person_chose_for_artifacts_is_left_alone(migrated: Path, home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "conf", folder / "conf")
    store = home(folder)
    shutil.copy(migrated, folder / "mlflow.db")
    (tmp_path / "big").mkdir()
    chosen = [tmp_path / "big" / "mlruns" / "a", tmp_path / "b", "s3://bucket/mlruns/c", ROOT / "mlruns" / "12"]
    for name, place in zip("abcd", chosen, strict=True):  # MLflow, in the folder ROOT, would choose the last place
        store.client.create_experiment(name, artifact_location=str(place))
    assert drive("--dry-run").code == 0
    assert "Nothing to do" in relocate()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_every_spelling_of_a_path_is_corrected(migrated: Path, home: Home, tmp_path: Path, scheme: str) -> None:
    old, new = tmp_path / "my project", tmp_path / "my project" / "inner"
    (new / "mlruns" / "a").mkdir(parents=True)
    shutil.copy(migrated, new / "mlflow.db")
    store = home(new)
    spelled = f"{scheme}{old}".replace(" ", "%20" if scheme else " ")
    experiment = store.client.create_experiment("a", artifact_location=f"{spelled}/mlruns/a")
    run = store.client.create_run(experiment).info.run_id
    for name, value in {"output.train_uri": f"{old}/t", "other": f"{old}-2/t", "moved": f"{new}/t"}.items():
        store.client.set_tag(run, name, value)
    relocate()
    corrected = f"{scheme}{new}".replace(" ", "%20" if scheme else " ")
    assert store.client.get_experiment(experiment).artifact_location == f"{corrected}/mlruns/a"
    mended = store.client.get_run(run)
    assert mended.info.artifact_uri == f"{corrected}/mlruns/a/{run}/artifacts"
    assert mended.data.tags["output.train_uri"] == f"{new}/t"
    assert mended.data.tags["other"] == f"{old}-2/t" and mended.data.tags["moved"] == f"{new}/t"


def test_a_store_that_cannot_be_changed_stays_as_it_is(made: Path, home: Home, tmp_path: Path) -> None:
    _, new = moved(made, tmp_path)
    home(new)
    with closing(sqlite3.connect(new / "mlflow.db")) as connection:
        connection.execute("CREATE TRIGGER refuse BEFORE UPDATE ON datasets BEGIN SELECT RAISE(ABORT, 'no'); END")
        connection.commit()
    before = paths_in(new / "mlflow.db")
    result = CliRunner().invoke(main.commands, ["relocate"])
    assert "can't be changed: no" in str(result.exception)
    assert paths_in(new / "mlflow.db") == before


@pytest.mark.slow
def test_the_printed_command_mends_a_renamed_project(small: Path, shell: Shell, tmp_path: Path) -> None:
    def python(*command: str) -> Result:
        return shell("env", "-u", "MLFLOW_TRACKING_URI", "sh", "-c", " ".join(command), cwd=folder)

    folder = small
    assert python("python", "driver.py").code == 0
    folder = small.rename(small.with_name("renamed"))
    refusal = python("python", "driver.py")
    assert refusal.code == 2
    command = refusal.err.partition("Correct them: ")[2].strip()
    mended = python(command)
    assert mended.code == 0, mended.text
    result = python("python", "driver.py")
    assert result.code == 0 and "Up to date" in result.out, result.text
    assert not small.exists()
