"""The target of scoring: a table that scored batches are added to. A batch is in it once, however often it is added."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_pipelines.config.schema import Score, TargetSchema
from ml_pipelines.data.tables import Table
from ml_pipelines.data.target_tables import DeltalakeTarget, Schema, Scored, SparkTarget, TargetTable
from ml_pipelines.errors import BadData, ConfigError, PipelineError, StepFailed
from ml_pipelines.system import paths
from ml_pipelines.text import listed, quoted, shown

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SPARKS_OWN = ("jvm", "databricks")  # engines with Delta Lake's own writer
ATTEMPTS = 20  # how often a batch is added again after other writers changed the table
# A type of a batch -> the types of a target that hold all its values.
WIDER = {
    "tinyint": ("smallint", "int", "bigint", "float", "double"),
    "smallint": ("int", "bigint", "float", "double"),
    "int": ("bigint", "double"),
    "float": ("double",),
}


@dataclass(frozen=True)
class Changes:
    """How the columns of a batch differ from those of its target."""

    new: tuple[str, ...]  # columns that the target lacks
    absent: tuple[str, ...]  # columns that the batch lacks
    narrower: Schema  # column -> the target's type, which holds all values of the batch's type

    def __bool__(self) -> bool:
        return bool(self.new or self.absent or self.narrower)

    def __str__(self) -> str:
        parts = {"new in the batch": self.new, "missing in the batch": self.absent}
        parts |= {"of a narrower type in the batch": tuple(self.narrower)}
        return "; ".join(f"{what}: {listed(names)}" for what, names in parts.items() if names)


@dataclass(frozen=True)
class Added:
    """The result of adding a batch to the target."""

    is_new: bool  # whether these rows were added now
    changes: Changes | None  # how the target's columns differed, if rows were added to a table that existed
    problem: str | None = None  # what the target has instead of these rows


def is_path(target: str) -> bool:
    """Return whether `score.target` is a path or URI, not the name of a catalog's table."""
    return "/" in target


def location(target: str) -> str:
    """Return the name of a catalog's table, a URI, or an absolute path. Relative paths start at the project."""
    if not is_path(target) or ("://" in target and not target.startswith("file://")):
        return target
    return str(paths.root() / Path(target.removeprefix("file://")).expanduser())


def find_target(score: Score, engine: str, spark: SparkSession) -> TargetTable | None:
    """Return the table that `score.target` names, or None if it is not set. The table need not exist yet.

    Raises:
        ConfigError: the engine can't use a target of this form, or the path has something other than a Delta table.
    """
    if score.target is None:
        return None
    if not is_path(score.target) and engine != "databricks":
        raise ConfigError(
            f"score.target: {quoted(score.target)} is a table of a catalog, which needs spark.engine=databricks. "
            "Here, set score.target to a path or URI: one with a slash, such as ./scores."
        )
    if engine == "databricks" and is_path(score.target) and not re.match(r"/|\w+://", score.target):
        raise ConfigError(
            f"score.target: {quoted(score.target)} is relative, and a cluster has no folder of the project. "
            "Set it to catalog.schema.table, to a path in a Volume, or to a URI."
        )
    name = location(score.target)
    folder = Path(name)
    is_local = is_path(score.target) and "://" not in name and folder.exists()
    if is_local and not (folder.is_dir() and ((folder / "_delta_log").is_dir() or not any(folder.iterdir()))):
        raise ConfigError(f"score.target: {name} is not a Delta table. Set it to a table, or to a new folder.")
    if engine in SPARKS_OWN:
        return SparkTarget(spark, name, is_path(score.target))
    return DeltalakeTarget(name)


def check_batch(target: TargetTable, columns: Schema, batch_id: str, policy: TargetSchema) -> None:
    """Check that a batch with these columns can be added to the target, or is in it already.

    Raises:
        BadData: the columns differ, and `policy` or the types of the columns don't allow that.
    """
    if target.open() and not target.is_recorded(batch_id):
        find_changes(target.name, target.columns, columns, policy)


def find_changes(name: str, existing: Schema, columns: Schema, policy: TargetSchema) -> Changes:
    """Return how the columns of a batch differ from the existing columns of the target `name`.

    Raises:
        BadData: `policy` is `refuse` and they differ, or a column has a type that the target's type can't hold.
    """
    if wrong := list(_incompatible(existing, columns)):
        raise BadData(
            f"score.target: the batch doesn't fit into {name}: {'; '.join(wrong[:3])}. Set score.target to a new table."
        )
    changes = Changes(
        tuple(column for column in columns if column not in existing),
        tuple(column for column in existing if column not in columns),
        {column: existing[column] for column, kind in columns.items() if existing.get(column, kind) != kind},
    )
    if changes and policy is TargetSchema.refuse:
        raise BadData(
            f"score.target: the columns of {name} differ from the batch's: {changes}. Set score.target to a new table, "
            "or set score.target_schema=widen to add the new columns and to leave missing ones empty."
        )
    return changes


def _incompatible(existing: Schema, columns: Schema) -> Iterator[str]:
    spelled = {column.lower(): column for column in existing}
    for column, kind in columns.items():
        theirs = spelled.get(column.lower(), column)
        if theirs != column:
            yield f"column {shown(column)} is spelled {shown(theirs)} in the target"
        elif (wanted := existing.get(column, kind)) != kind and wanted not in WIDER.get(kind, ()):
            yield f"column {shown(column)} has type {kind}, but {wanted} in the target"


def add_batch(target: TargetTable, table: Table, batch_id: str, policy: TargetSchema) -> Added:
    """Add the rows of a scored table to the target, unless the target has this batch. Return what the target has now.

    Args:
        target: the target.
        table: the scored table.
        batch_id: the batch.
        policy: what happens if the columns differ.

    Raises:
        BadData: the columns differ, and `policy` or the types of the columns don't allow that.
        StepFailed: the target can't be read or written, or other writers change it all the time.
    """
    scored, changes, appended = target.at(table.uri), None, False
    scored.open()
    for _ in range(ATTEMPTS):
        if not target.open():
            target.create(table)
        elif target.is_recorded(batch_id):
            break
        else:
            changes = find_changes(target.name, target.columns, scored.columns, policy)
            if appended := target.append(table, batch_id, changes.narrower, bool(changes.new)):
                break
    else:
        raise StepFailed(f"score.target: other writers changed {target.name} {ATTEMPTS} times meanwhile. Run it again.")
    target.open()
    found, own = target.find(batch_id), scored.find(batch_id)
    if appended and found == own:  # Spark can pass over a batch, and then finds other rows, or none
        return Added(True, changes)
    return Added(False, None, _problem(found, own, batch_id))


def _problem(found: list[Scored], own: list[Scored], batch_id: str) -> str | None:
    """Return in one sentence how the target's rows of a batch differ from this run's; None if at most the time does."""
    if not found:
        return (
            f"batch {shown(batch_id)} was added to it before, but its rows are deleted. To add them again, set "
            "score.batch_id to another name."
        )
    if [each[:2] for each in found] == [each[:2] for each in own] and _rows(found) == _rows(own):
        return None
    models = listed(dict.fromkeys(f"{each.model} version {each.version}" for each in found))
    return (
        f"it has {_rows(found):,} rows of batch {shown(batch_id)}, scored by {models}. The {_rows(own):,} rows of this "
        "run were not added. To add them too, set score.batch_id to another name."
    )


def _rows(scored: list[Scored]) -> int:
    return sum(each.rows for each in scored)


def has_batch(name: str, batch_id: str) -> bool:
    """Return whether a target at a path or URI has rows of a batch. For a catalog's table, return False."""
    if not is_path(name):
        return False
    target = DeltalakeTarget(name)
    try:
        return bool(target.open() and target.find(batch_id))
    except (PipelineError, OSError):
        return False
