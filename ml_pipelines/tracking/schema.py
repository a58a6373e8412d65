"""The database schema of a sqlite store.

MLflow migrates a store of an older MLflow without asking. After that, the older MLflow can't open the store.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from ml_pipelines.errors import ConfigError
from ml_pipelines.system import events, paths


def prepare(uri: str, may_migrate: bool) -> None:
    """Check the schema of a sqlite store before MLflow opens it, and migrate an older one after making a copy.

    Args:
        uri: the tracking URI. This function does nothing unless it names an existing sqlite file with tables.
        may_migrate: whether the caller may change the store.

    Raises:
        ConfigError: MLflow would open another path, a newer MLflow wrote the store, or the store must be migrated but
            `may_migrate` is false.
    """
    if not uri.startswith("sqlite:///"):
        return
    database = paths.sqlite_file(uri)
    if code := re.search(r"%[0-9A-Fa-f]{2}", str(database)):
        raise ConfigError(
            f"The MLflow store {database}: MLflow would read {code[0]} in this path as another character. Rename the "
            "folder, or set MLFLOW_TRACKING_URI to a sqlite file in another folder."
        )
    if not (revision := _revision(database)):
        return
    newest, known = _revisions()
    if revision == newest:
        return
    installed = f"MLflow {version('mlflow')}"
    if revision not in known:
        raise ConfigError(
            f"The MLflow store {database} was written by a newer MLflow than the installed {installed} (its schema is "
            f"{revision}). Install that version, or choose another store: --set mlflow.tracking_uri=..."
        )
    if not may_migrate:
        raise ConfigError(
            f"The MLflow store {database} is of an older MLflow, and this command does not change it. "
            f"The next pipeline run keeps a copy and migrates it to {installed}."
        )
    saved = copy(database, revision)
    events.report(
        events.Notice(
            f"The MLflow store {database} is of an older MLflow and is migrated to {installed}. "
            f"The copy for the older version is {saved}."
        )
    )
    _migrate(uri)


def _revision(database: Path) -> str | None:
    """Return the revision of the schema, or None if the file has no tables yet or can't be read.

    If the file can't be read, MLflow reports the reason when it opens the file later.
    """
    if not database.is_file() or database.stat().st_size == 0:
        return None
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return None
    return str(row[0]) if row else None


@cache
def _revisions() -> tuple[str, set[str]]:
    """Return the newest schema revision of the installed MLflow, and all schema revisions that this MLflow knows.

    This function reads the text of MLflow's migration files, because importing alembic takes long.
    """
    spec = find_spec("mlflow")
    if not (spec and spec.origin):
        raise ConfigError("MLflow is not installed. Run `make setup`.")
    texts = [file.read_text() for file in Path(spec.origin).parent.glob("store/db_migrations/versions/*.py")]
    known = {match[1] for text in texts for match in re.finditer(r'^revision = "(\w+)"', text, re.MULTILINE)}
    replaced = {match[1] for text in texts for match in re.finditer(r'^down_revision = "(\w+)"', text, re.MULTILINE)}
    (newest,) = known - replaced
    return newest, known


def copy(database: Path, label: str) -> Path:
    """Copy the store to a new file in the same folder, whose name ends in `label`, and return the path of the copy."""
    names = (f"{database.name}.{label}{suffix}" for suffix in ("", *(f"-{number}" for number in range(2, 1_000))))
    path = next(path for name in names if not (path := database.with_name(name)).exists())
    with (
        closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(path)) as target,
    ):
        source.backup(target)
    path.chmod(database.stat().st_mode)
    return path


def _migrate(uri: str) -> None:
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(uri)
    utils._upgrade_db(engine)
    engine.dispose()
