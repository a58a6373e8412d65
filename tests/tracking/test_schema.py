"""Tests of a sqlite store that another version of MLflow made."""

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from alembic import command
from conftest import Result, Store, drive_in
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

from ml_pipelines.cli import main
from ml_pipelines.config import loading
from ml_pipelines.errors import ConfigError
from ml_pipelines.tracking import opening, schema

Drive = Callable[..., Result]


def revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def database_of(store: Store) -> Path:
    return Path(store.uri.removeprefix("sqlite:///"))


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with the schema before the newest one."""
    path = tmp_path_factory.mktemp("older") / "mlflow.db"
    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{path}")
    InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, f"{utils._get_latest_schema_revision()}-1")
    engine.dispose()
    return path


@pytest.fixture
def old_store(older: Path, store: Store) -> Store:
    shutil.copy(older, database_of(store))
    return store


def test_the_newest_revision_is_the_one_that_mlflow_knows() -> None:
    assert schema._revisions()[0] == utils._get_latest_schema_revision()


def test_a_run_migrates_an_older_store_and_names_the_copy_first(
    old_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    database = database_of(old_store)
    before = revision(database)
    opening.open_store(loading.load("local"))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "older MLflow" in line)
    copy = Path(re.search(r"The copy for the older version is (.*)\.$", line)[1])  # type: ignore[index]
    assert revision(database) == utils._get_latest_schema_revision()
    assert (copy.parent, revision(copy)) == (database.parent, before)


@pytest.mark.parametrize("command_line", [["driver.py", "--dry-run"], ["report"], ["contract"], ["clean", "--delete"]])
def test_a_command_that_only_reads_does_not_migrate(old_store: Store, command_line: list[str]) -> None:
    database = database_of(old_store)
    content = database.read_bytes()
    if command_line[0] == "driver.py":
        result = drive_in(old_store, *command_line[1:])
        assert result.code == 2
        text = result.err
    else:
        with pytest.raises(ConfigError) as error:
            main.commands(command_line, standalone_mode=False)
        text = str(error.value)
    assert f"The MLflow store {database} is of an older MLflow, and this command does not change it." in text
    assert database.read_bytes() == content
    assert {path.name for path in database.parent.iterdir()} <= {"mlflow.db", "mlflow.db.lock"}


def test_the_store_of_a_newer_mlflow_is_refused_with_the_right_advice(store: Store, drive: Drive) -> None:
    with closing(sqlite3.connect(database_of(store))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'feedbeef0001'")
    result = drive("--only=prepare_data")
    assert result.code == 2
    expected = (
        f"was written by a newer MLflow than the installed MLflow {mlflow.__version__} (its schema is feedbeef0001)."
    )
    assert expected in result.err
    assert "mlflow db upgrade" not in result.err


def test_a_copy_is_never_overwritten(old_store: Store) -> None:
    database = database_of(old_store)
    first, second = (schema.copy(database, "abc") for _ in range(2))
    assert (first.name, second.name) == ("mlflow.db.abc", "mlflow.db.abc-2")
