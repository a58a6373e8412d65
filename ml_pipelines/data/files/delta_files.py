"""Delta tables as a source: their files must exist, and be where the engine finds them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ml_pipelines.data import engines, tables
from ml_pipelines.errors import BadData
from ml_pipelines.system.processes import on_databricks

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession


def read_delta(spark: SparkSession, uri: str, local: Path | None, version: int | None) -> DataFrame:
    """Return the rows of a Delta table.

    Args:
        spark: the session.
        uri: the path or URI of the table.
        local: the table's folder if it is on this machine. Only then its files are checked.
        version: the version to read; None is the newest.

    Raises:
        BadData: files of this version are gone, or the engine can't find them.
    """
    if local:
        table = tables.open_table(str(local), version)
        paths = _paths_of(table)
        _refuse_clone(spark, local, paths)
        _check_paths(local, table.version(), paths)
    reader = spark.read.format("delta")
    return (reader if version is None else reader.option("versionAsOf", version)).load(uri)


def path_hint(uri: str) -> str:
    """Return a hint for the message that a table can't be read: the character in its path that Sail can't open."""
    unsafe = re.search(r"[^\w/.:@+=&~-]", uri, re.ASCII)
    return f" (Sail can't open a Delta table if its path has {unsafe[0]!r}: rename it)" if unsafe else ""


def _paths_of(table: DeltaTable) -> list[str]:
    return [str(path) for path in table.get_add_actions().column("path").to_pylist()]


def _refuse_clone(spark: SparkSession, local: Path, paths: Sequence[str]) -> None:
    elsewhere = [path for path in paths if re.match(r"/|[a-z0-9]+:/", path, re.IGNORECASE)]
    if elsewhere and engines.is_connect(spark) and not on_databricks():
        raise BadData(
            f"{local} is a shallow clone: its rows are in files of another table, such as {elsewhere[0]}. "
            "The engine Sail can't read it. Set spark.engine=jvm, or make a deep clone."
        )


def check_files_exist(local: Path, version: int | None) -> None:
    """Check that a version of a local table has its files. Files in an object store are not checked.

    Raises:
        BadData: files are gone.
    """
    table = tables.open_table(str(local), version)
    _check_paths(local, table.version(), _paths_of(table))


def _check_paths(local: Path, version: int, paths: Sequence[str]) -> None:
    on_disk = [path for path in paths if not re.match(r"(?!file:)[a-z0-9]+:/", path)]
    files = (Path(local, re.sub("^file:/+", "/", unquote(path))) for path in on_disk)
    if missing := [file for file in files if not file.exists()]:
        newest = tables.open_table(str(local), None).version()
        advice = "Set data.source.version to a later version, or null" if newest > version else "Restore them"
        raise BadData(
            f"{local} has lost {len(missing)} of the {len(paths)} files of version {version}, such as "
            f"{missing[0].name}. Perhaps VACUUM has deleted them. {advice}. The newest version is {newest}."
        )
