"""Writes, checks and reads Delta tables. Spark writes them, and Polars reads them at a fixed version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ml_pipelines.data import engines, locations
from ml_pipelines.errors import BadData, StepFailed, message_of
from ml_pipelines.system import folders

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame

# Options that turn off features which some Delta readers don't support. Without the options, these readers would read
# the tables wrongly or not at all.
WRITE_OPTIONS = {
    "delta.enableDeletionVectors": "false",
    "delta.checkpointPolicy": "classic",
    "delta.columnMapping.mode": "none",
}
# Sail writes files of this many bytes for each column, and at most so many in all. While it writes a file, it keeps the
# file and a hash table of each column's values in memory. Writing is fast if these tables fit into a processor's cache.
COLUMN_SIZE, FILE_SIZE = 128 << 10, 16 << 20
READABLE = {"timestampNtz", "deletionVectors"}  # features of other programs' tables that Polars reads correctly

SCORED_AT = "scored_at"  # the column of a scored table that says when a row was scored; no digest includes it
# The other columns of a scored table that are not scalars: the columns that moved a row's score.
OWN_COLUMNS = {SCORED_AT: "timestamp", "reasons": "array<struct<name:string,value:double>>"}
SCALARS = ("bigint", "int", "smallint", "tinyint", "double", "float", "boolean", "string")


@dataclass(frozen=True)
class Table:
    """A Delta table at one version, with the rows and digest that the writing step recorded."""

    uri: str
    version: int
    rows: int | None = None  # None: no step recorded them
    digest: str | None = None


def write_table(frame: DataFrame, uri: str) -> Table:
    """Write `frame` as a Delta table, and return the table with its number of rows and its digest.

    The table replaces rows that a failed attempt left at `uri`.

    Raises:
        BadData: a column has a type that can't be a feature.
        StepFailed: the engine can't write the table, or the written table needs more of a Delta reader than
            `WRITE_OPTIONS` allow.
    """
    dtypes = frame.dtypes
    for name, dtype in dtypes:
        if dtype not in SCALARS and (name, dtype) not in OWN_COLUMNS.items():
            raise BadData(
                f"Column {name} has type {dtype}, which can't be a feature. "
                "Convert it to a number or a string before you write it."
            )
    file_size = min(FILE_SIZE, COLUMN_SIZE * len(dtypes))
    options = {**WRITE_OPTIONS, "targetFileSize": str(file_size)}  # an option of Sail, which other engines ignore
    try:
        _with_plain_text(frame, dtypes).write.format("delta").mode("overwrite").options(**options).save(uri)
    except Exception as error:  # Spark, a user's function in the query plan and the file system can raise any error
        raise StepFailed(f"Table {uri} can't be written: {message_of(error, 250)}") from error
    written = open_table(uri, None)
    if features := _reader_features(written):
        raise StepFailed(
            f"The engine wrote table {uri} with {', '.join(sorted(features))}, which some Delta readers don't support. "
            "Turn these features off in the engine's settings."
        )
    _set_comments(written, frame)
    rows, digest = measure_table(uri, written.version())
    return Table(uri, written.version(), rows, digest)


def _set_comments(table: DeltaTable, frame: DataFrame) -> None:
    """Copy the comments of the frame's columns to the table if the engine did not: Sail writes them elsewhere."""
    comments = {field.name: field.metadata["comment"] for field in frame.schema if "comment" in field.metadata}
    written = {field.name: field.metadata.get("comment") for field in table.schema().fields}
    for name, comment in comments.items():
        if written[name] != comment:
            table.alter.set_column_metadata(name, {"comment": comment})


def _with_plain_text(frame: DataFrame, dtypes: Sequence[tuple[str, str]]) -> DataFrame:
    """Return the frame with the default type of text in all text columns.

    What a Python function returned over Spark Connect has the type `string collate UTF8_BINARY`. It means the same, but
    Spark would write this name into the Delta table, and deltalake and Polars can't read it.
    """
    from pyspark.sql import functions as F

    if not engines.is_connect(frame.sparkSession):
        return frame
    columns = {name: F.col(f"`{name}`") for name, _ in dtypes}
    return frame.select(
        *(columns[name].cast(kind).alias(name) if "string" in kind else columns[name] for name, kind in dtypes)
    )


def check_protocol(uri: str, version: int | None = None) -> int:
    """Check that `read_table` can read a table at `version` (None: the newest), and return the version.

    Raises:
        BadData: the table or the version doesn't exist, or the table uses features that Polars doesn't read correctly.
    """
    table = open_table(uri, version)
    if features := _reader_features(table) - READABLE:
        raise BadData(
            f"Table {uri} uses {', '.join(sorted(features))}, which Polars doesn't read correctly. "
            "Write it again with delta.columnMapping.mode=none and delta.checkpointPolicy=classic."
        )
    return table.version()


def open_table(uri: str, version: int | None) -> DeltaTable:
    """Return the table at `version` (None: the newest). Raise BadData if there is no such table or version."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        return DeltaTable(uri, version=version)
    except (DeltaError, OSError, ValueError) as error:
        at = "" if version is None else f" at version {version}"
        raise BadData(f"Table {uri}{at} can't be opened: {message_of(error)}") from error


def _reader_features(table: DeltaTable) -> set[str]:
    """Return the features beyond plain Delta that a reader of the table must support."""
    protocol = table.protocol()
    features = set(protocol.reader_features or [])
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    if protocol.min_reader_version > 1 and not (features or protocol.reader_features == []):
        features.add(f"reader version {protocol.min_reader_version}")
    return features


def measure_table(uri: str, version: int) -> tuple[int, str]:
    """Return the number of rows, and a digest of column names, types and content. The order of rows doesn't matter.

    The digest sums a 64-bit hash of each row, and a hash of that hash. It detects accidental damage, but not deliberate
    changes. The digest includes the version of Polars, because another version can hash differently.

    Raises:
        BadData: the table is damaged.
    """
    import polars as pl

    with _reading(uri, version):
        table = pl.scan_delta(uri, version=version)
        columns = table.collect_schema().items()
        schema = pl.Schema({name: kind for name, kind in columns if not _is_scored_at(name, kind)})
        numbers = sorted(name for name, dtype in schema.items() if dtype.is_float())
        weight = pl.sum_horizontal(pl.lit(1, pl.UInt64), *map(_negative_zero, numbers, range(1, len(numbers) + 1)))
        row = table.select((pl.struct(sorted(schema.names())).hash(0) * weight).alias("row"))
        sums = (pl.col("row").sum(), pl.col("row").hash(1).sum().alias("again"))
        rows, *hashes = row.select(pl.len(), *sums).collect(engine="streaming").row(0)
    text = repr((pl.__version__, sorted((name, str(dtype)) for name, dtype in schema.items()), rows, *hashes))
    return rows, hashlib.sha256(text.encode()).hexdigest()[:32]


def _is_scored_at(name: str, kind: pl.DataType) -> bool:
    return name == SCORED_AT and kind.is_temporal()  # a feature is never temporal, whatever its name


def _negative_zero(column: str, weight: int) -> pl.Expr:
    """Return `weight` for each row in which the column is -0.0, else 0.

    Polars hashes -0.0 like 0.0. With the weights, `measure_table` returns different digests for the two.
    """
    import polars as pl

    return (1 / pl.col(column) == float("-inf")).fill_null(value=False).cast(pl.UInt64) * weight


def verify_table(table: Table, measure: Callable[[str, int], tuple[int, str]] = measure_table) -> None:
    """Compare the table on disk with the rows and digest in `table`. Values that are None are not compared.

    Args:
        table: the table, with the rows and digest that the writing step recorded.
        measure: returns the same as `measure_table`, for example from a cache.

    Raises:
        BadData: the table is damaged, or has other rows.
    """
    rows, digest = measure(table.uri, table.version)
    if (table.rows or rows, table.digest or digest) != (rows, digest):
        raise BadData(
            f"Table damaged: {table.uri} at version {table.version} has {rows:,} rows that differ from the "
            f"{table.rows:,} rows that its step wrote (their digests differ). Run the step that wrote it again."
        )


def files_digest(uri: str, version: int | None, digest_of: Callable[[Path], str]) -> str:
    """Return a digest of the table's id, its version and the files in its transaction log.

    If the table is on this machine, the digest includes the content of the files, not only their names and sizes.
    The digest includes the version because some commits change rows without a new file, for example by a renamed
    column. Reader features are not checked, because Spark reads more tables than Polars does.

    Args:
        uri: the table.
        version: its version; None is the newest.
        digest_of: returns the digest of a file's content.

    Raises:
        BadData: a file is missing.
    """
    table = open_table(uri, version)
    actions = table.get_add_actions()
    columns = (actions.column(name).to_pylist() for name in ("path", "size_bytes", "modification_time"))
    files = [file for file, _ in _local_files(uri, table.version())]
    files += [] if "://" in uri else Path(uri).rglob("deletion_vector_*.bin")  # these files say which rows are deleted
    try:
        contents = [digest_of(file) for file in sorted(files)]
    except FileNotFoundError as error:
        raise BadData(
            f"Table {uri} at version {table.version()} is damaged: its file {error.filename} is missing. "
            "Restore the file, or write the table again."
        ) from error
    return hashlib.sha256(
        repr((table.metadata().id, table.version(), sorted(zip(*columns, strict=True)), contents)).encode()
    ).hexdigest()


def remove_table(table: Table, prefix: str) -> None:
    """Delete a table below `prefix`, then the local folders between `prefix` and the table if they are empty.

    The folder `prefix` itself is never deleted.
    """
    if "://" in table.uri:
        locations.remove_remote(table.uri)
    else:
        base, folder = Path(prefix), Path(table.uri)
        folders.remove_below(base, folder)
        while (folder := folder.parent) != base and folders.remove_if_empty(base, folder):
            pass


@contextmanager
def _reading(uri: str, version: int) -> Iterator[None]:
    """Check the sizes of the table's files, and convert the errors of a damaged table into one-line BadData errors."""
    import polars as pl

    damaged = f"Table damaged: {uri} at version {version}"
    try:
        for file, size in _local_files(uri, version):
            if file.stat().st_size != size:
                raise BadData(f"{damaged}: {file.name} has {file.stat().st_size:,} bytes, not {size:,}.")
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadData(f"{damaged}: {message_of(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a panic of Polars is a BaseException
            raise
        raise BadData(f"{damaged} can't be read.") from error


def _local_files(uri: str, version: int) -> Iterator[tuple[Path, int]]:
    """Yield the files of a local table, with their sizes in the transaction log.

    `_reading` compares the sizes first, because Polars panics at a file that is too short.
    """
    if "://" not in uri:
        actions = open_table(uri, version).get_add_actions()
        for path, size in zip(*(actions.column(name).to_pylist() for name in ("path", "size_bytes")), strict=True):
            if ":/" not in path:  # skip a URI: that file belongs to another table, as in a shallow clone
                yield Path(uri, unquote(path)), size


def scan_table(table: Table) -> pl.LazyFrame:
    """Return the table at its version as a LazyFrame. No check is made, so call this only right after the write."""
    import polars as pl

    return pl.scan_delta(table.uri, version=table.version)


def read_table(table: Table, columns: Sequence[str] | None, key: str | None) -> pl.DataFrame:
    """Return the rows of a table at its version, in an order that is the same in every run.

    The order of rows in the files is random, and a model's last digits depend on it. So rows are sorted: by `key` if
    its values are unique, else by all columns.

    Args:
        table: the table. If it has `rows`, the number of rows must match.
        columns: the columns to return; None returns all.
        key: the key column, or None.

    Raises:
        BadData: a column is missing, or the table differs from what the writing step recorded.
    """
    import polars as pl

    check_protocol(table.uri, table.version)
    with _reading(table.uri, table.version):
        scan = pl.scan_delta(table.uri, version=table.version)
        names = scan.collect_schema().names()
        if missing := [name for name in columns or [] if name not in names]:
            raise BadData(f"Table {table.uri} has no column {', '.join(missing)}. Its columns: {', '.join(names)}.")
        selected = list(dict.fromkeys(columns or names))
        keyed = key is not None and key in names
        frame = scan.select(list(dict.fromkeys([*selected, str(key)] if keyed else selected))).collect()
    if table.rows not in (None, frame.height):
        raise BadData(
            f"Table damaged: {table.uri} at version {table.version} has {frame.height:,} rows, but its step "
            f"wrote {table.rows:,}. Run the step that wrote it again."
        )
    unique = keyed and bool(frame[str(key)].is_unique().all())
    return frame.sort(str(key) if unique else frame.columns).select(selected)


def column_names(table: Table) -> list[str]:
    """Return the names of the table's columns at its version. No rows are read."""
    import polars as pl

    check_protocol(table.uri, table.version)
    return pl.scan_delta(table.uri, version=table.version).collect_schema().names()
