"""Finds and mends a local store whose project was moved, renamed or copied.

The sqlite file beside MLproject holds absolute paths of artifacts, models and tables. After a move, MLflow would write
new artifacts to the old folder. In a copy, it would write to the folder of the original.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ml_pipelines.errors import ConfigError, StepFailed, message_of
from ml_pipelines.system import locks, paths
from ml_pipelines.tracking import records, schema

# The columns of MLflow's tables that hold paths. A store of another version of MLflow may lack some of them.
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("logged_model_params", "param_value"),
    ("logged_model_tags", "tag_value"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("tags", "value"),
    ("params", "value"),
    ("model_version_tags", "value"),
    ("input_tags", "value"),
    ("datasets", "dataset_source"),  # JSON with the key `path`
)
COMMAND = "python -m ml_pipelines ml-pipelines relocate"  # works too if bin/ml-pipelines names the old folder


@dataclass(frozen=True)
class Relocation:
    """What `relocate` changed: (table, column) -> number of paths."""

    database: Path
    old: Sequence[Path]
    new: Path
    changed: Counter[tuple[str, str]]
    copy: Path | None  # the store as it was before


def check_places(uri: str) -> None:
    """Check that the local store's paths lead to this project. Other stores are not checked.

    Raises:
        ConfigError: the project was moved, renamed or copied.
    """
    database = paths.sqlite_file(paths.sqlite_uri())
    if paths.sqlite_file(uri) != database or not database.is_file():
        return
    if old := _old_folders(database):
        raise ConfigError(
            f"This project was moved or copied: its MLflow store has paths below {', '.join(map(str, old))}. "
            f"Correct them: cd {shlex.quote(str(paths.root()))} && {COMMAND}"
        )


def relocate(dry_run: bool = False) -> Relocation:
    """Copy the local store, and replace the old folder in all its paths by this project's folder.

    Args:
        dry_run: only count the paths.

    Raises:
        StepFailed: the store can't be read or written.
        Unreachable: another process keeps the store locked.
    """
    uri, new = paths.sqlite_uri(), paths.root()
    database = paths.sqlite_file(uri)
    changed: Counter[tuple[str, str]] = Counter()
    if not database.is_file():
        return Relocation(database, [], new, changed, None)
    with locks.alone_at(uri):
        copy, old = None, _old_folders(database)
        if not old:
            return Relocation(database, [], new, changed, None)
        try:
            if not dry_run:
                copy = schema.copy(database, "before-relocate")
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("BEGIN" if dry_run else "BEGIN IMMEDIATE")
                for table, column, row, path in _new_paths(connection, old, new):
                    changed[table, column] += 1
                    if not dry_run:
                        update = f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?'  # noqa: S608  # names in COLUMNS
                        connection.execute(update, (path, row))
                connection.commit()
        except (sqlite3.Error, OSError) as error:
            raise StepFailed(f"The MLflow store {database} can't be changed: {message_of(error)}") from error
    return Relocation(database, old, new, changed, copy)


def _old_folders(database: Path) -> list[Path]:
    """Return the project's earlier folders, which the artifact locations of its experiments name."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
    except sqlite3.Error:  # not a store yet, or damaged: MLflow reports it when it opens the file
        return []
    found = {folder for name, location in rows if (folder := _old_folder(str(name), str(location), paths.root()))}
    return sorted(found, key=lambda folder: len(folder.parts), reverse=True)  # a folder comes before those above it


def _old_folder(experiment: str, location: str, project: Path) -> Path | None:
    """Return the project's old folder if an experiment's artifacts are in `<old folder>/mlruns`, else None.

    The artifacts can also be in a folder that a person chose, or in the working directory of the MLflow that created
    the experiment. Such a folder is the project's old one only if this project has artifacts of the experiment too.
    """
    folder, mark, name = str(paths.local_path(location) or "").rpartition("/mlruns/")
    if not mark or not folder or Path(folder).resolve() == project:
        return None
    beside_store = name == paths.slug(experiment)  # Store.experiment_id creates experiments in this way
    is_other_project = not _exists(Path(folder)) or _exists(Path(folder, "MLproject"))
    is_old = _exists(project / "mlruns" / name) or (beside_store and is_other_project)
    return Path(folder) if is_old else None


def _exists(path: Path) -> bool:
    """Return whether a path exists; False if this user may not look."""
    with suppress(OSError):
        return path.exists()
    return False


def _new_paths(connection: sqlite3.Connection, old: Sequence[Path], new: Path) -> Iterator[tuple[str, str, int, str]]:
    """Yield (table, column, row, new value) for each value that has a path below an old folder."""
    for table, column in COLUMNS:
        names = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
        if column not in names:
            continue
        query = f'SELECT rowid, "{column}" FROM "{table}" WHERE "{column}" LIKE \'%/%\''  # noqa: S608
        for row, value in connection.execute(query).fetchall():
            moved = _moved_source(value, old, new) if table == "datasets" else _moved(value, old, new)
            if moved != value:
                yield table, column, int(row), moved


def _moved(value: str, old: Sequence[Path], new: Path) -> str:
    """Return a path or `file://` URI below the project's new folder if it is below an old one, else return `value`."""
    for folder in old:
        for before, after in (
            (str(folder), str(new)),
            (f"file://{folder}", f"file://{new}"),
            (f"file://{quote(str(folder))}", f"file://{quote(str(new))}"),
        ):
            is_moved_already = after.startswith(f"{before}/") and f"{value}/".startswith(f"{after}/")
            if value.startswith(f"{before}/") and not is_moved_already:
                return after + value[len(before) :]
    return value


def _moved_source(value: str, old: Sequence[Path], new: Path) -> str:
    """Return the source of a dataset, which is JSON, with its path below the new folder."""
    source = records.parse_json(value)
    if not isinstance(source, dict) or not isinstance(path := source.get("path"), str):
        return value
    moved = _moved(path, old, new)
    return value if moved == path else json.dumps({**source, "path": moved})
