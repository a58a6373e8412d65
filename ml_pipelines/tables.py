"""Delta tables: written by Spark, read by Polars, always at a version, and checked at both ends."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ml_pipelines.errors import BadData, StepFailed

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame

# Features that a plain Delta reader may lack, off: deletion vectors and column mapping are read wrongly or not at all.
WRITE_OPTIONS = {
    "delta.enableDeletionVectors": "false",
    "delta.checkpointPolicy": "classic",
    "delta.columnMapping.mode": "none",
}
READABLE = {"timestampNtz", "deletionVectors"}  # what Polars reads rightly, where someone else wrote it
SCALARS = ("bigint", "int", "smallint", "tinyint", "double", "float", "boolean", "string")


@dataclass(frozen=True)
class Table:
    """A Delta table at one version, as its producer recorded it."""

    uri: str
    version: int
    rows: int | None = None  # None: its producer isn't known
    digest: str | None = None


def write(frame: DataFrame, uri: str) -> Table:
    """Write `frame` as a new Delta table, or over what a failed try left, and return what was really written.

    Raises:
        BadData: a column whose type is no feature's.
        StepFailed: it can't be written, or the engine gave it reader features, though it was told not to.
    """
    for name, dtype in frame.dtypes:
        if dtype not in SCALARS:
            raise BadData(
                f"Column {name} is of type {dtype}, which is no feature. "
                "Make it a number or a string before it is written."
            )
    try:
        frame.write.format("delta").mode("overwrite").options(**WRITE_OPTIONS).save(uri)
    except Exception as error:  # of Spark, of a user's own code in the plan, of the file system
        raise StepFailed(f"Table {uri} can't be written: {' '.join(str(error).split())[:250]}") from error
    written = _open(uri, None)
    if features := _reader_features(written):
        raise StepFailed(f"Table {uri} was written with {', '.join(sorted(features))}, which not every reader knows.")
    rows, digest = measure(uri, written.version())
    return Table(uri, written.version(), rows, digest)


def check_protocol(uri: str, version: int | None = None) -> int:
    """Return the version (the newest, where none is given) of a table that `read` understands.

    Raises:
        BadData: no Delta table, no such version, or one that needs features which would be read wrongly.
    """
    table = _open(uri, version)
    if features := _reader_features(table) - READABLE:
        raise BadData(
            f"Table {uri} uses {', '.join(sorted(features))}, which Polars doesn't read rightly. "
            "Write it again with delta.columnMapping.mode=none and delta.checkpointPolicy=classic."
        )
    return table.version()


def _open(uri: str, version: int | None) -> DeltaTable:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        return DeltaTable(uri, version=version)
    except (DeltaError, OSError, ValueError) as error:
        at = "" if version is None else f" at version {version}"
        raise BadData(f"Table {uri}{at} can't be opened: {' '.join(str(error).split())[:200]}") from error


def _reader_features(table: DeltaTable) -> set[str]:
    """Return what a reader of the table must know beyond plain Delta."""
    protocol = table.protocol()
    features = set(protocol.reader_features or [])
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    if protocol.min_reader_version > 1 and not (features or protocol.reader_features == []):
        features.add(f"reader version {protocol.min_reader_version}")
    return features


def readable(uri: str) -> bool:
    """Return whether this machine can read the table: what stands on a Volume is a file on a cluster only."""
    return not uri.startswith("/Volumes/") or Path(uri).exists()


@cache
def measure(uri: str, version: int) -> tuple[int, str]:
    """Return the number of rows, and a digest of names, types and content that doesn't depend on the rows' order.

    The digest sums two hashes of each row, so it is as strong against accidents as 128 bits are, and no
    protection against intent. Polars' hash is stable within a version of Polars, which is why that is in it.

    Raises:
        BadData: the table is damaged.
    """
    import polars as pl

    with _reading(uri, version):
        table = pl.scan_delta(uri, version=version)
        schema = table.collect_schema()
        row = pl.struct(sorted(schema.names()))
        sums = (row.hash(seed).sum().alias(str(seed)) for seed in (0, 1))
        rows, *hashes = table.select(pl.len(), *sums).collect(engine="streaming").row(0)
    text = repr((pl.__version__, sorted((name, str(dtype)) for name, dtype in schema.items()), rows, *hashes))
    return rows, hashlib.sha256(text.encode()).hexdigest()[:32]


def verify(table: Table) -> None:
    """Read the whole table and compare it with what its producer recorded, where that is known.

    Raises:
        BadData: it is damaged, or holds other rows.
    """
    rows, digest = measure(table.uri, table.version)
    if (table.rows or rows, table.digest or digest) != (rows, digest):
        raise BadData(
            f"Table damaged: {table.uri} at version {table.version} holds {rows:,} rows that are not the "
            f"{table.rows:,} its producer wrote (their digest differs). Run the step that wrote it again."
        )


def files(uri: str, version: int | None) -> str:
    """Return a digest of a table by its log: its id, its version, and the names, sizes and times of its files.

    The version is among them since a commit may change what is read, and no file: a deletion vector, a new name of
    a column. What a reader needs to know is not asked: Spark reads tables that Polars doesn't.
    """
    table = _open(uri, version)
    actions = table.get_add_actions()
    columns = (actions.column(name).to_pylist() for name in ("path", "size_bytes", "modification_time"))
    return hashlib.sha256(
        repr((table.metadata().id, table.version(), sorted(zip(*columns, strict=True)))).encode()
    ).hexdigest()


def remove(table: Table) -> None:
    """Remove a table from this machine's disk, with the folders above it that are empty then; one elsewhere stays."""
    if "://" not in table.uri:
        shutil.rmtree(table.uri)
        with suppress(OSError):  # the first that isn't empty
            for folder in Path(table.uri).parents:
                folder.rmdir()


@contextmanager
def _reading(uri: str, version: int) -> Iterator[None]:
    """Turn what a reader says of a damaged table into one line."""
    import polars as pl

    damaged = f"Table damaged: {uri} at version {version}"
    try:
        for file, size in _local_files(uri, version):
            if file.stat().st_size != size:
                raise BadData(f"{damaged}: {file.name} has {file.stat().st_size:,} bytes, not {size:,}.")
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadData(f"{damaged}: {' '.join(str(error).split())[:200]}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # Polars' panics are no Exceptions
            raise
        raise BadData(f"{damaged} can't be read.") from error


def _local_files(uri: str, version: int) -> Iterator[tuple[Path, int]]:
    """Yield the files of a local table, with the sizes they should have: Polars panics at a shorter one."""
    if "://" not in uri:
        actions = _open(uri, version).get_add_actions()
        for path, size in zip(*(actions.column(name).to_pylist() for name in ("path", "size_bytes")), strict=True):
            if "://" not in path:
                yield Path(uri, unquote(path)), size


def scan(table: Table) -> pl.LazyFrame:
    """Return the table at its version, not read yet. For what this process has just written: nothing is checked."""
    import polars as pl

    return pl.scan_delta(table.uri, version=table.version)


def read(table: Table, columns: Sequence[str] | None, key: str | None) -> pl.DataFrame:
    """Return the table's rows at its version, only `columns`, in an order that is the same in every run.

    Files of a table have random names, so its rows come in any order; a model's last digits depend on it.

    Raises:
        BadData: a column is missing, or the table isn't what its producer recorded.
    """
    import polars as pl

    check_protocol(table.uri, table.version)
    with _reading(table.uri, table.version):
        scan = pl.scan_delta(table.uri, version=table.version)
        names = scan.collect_schema().names()
        if lost := [name for name in columns or [] if name not in names]:
            raise BadData(f"Table {table.uri} has no column {', '.join(lost)}. Its columns: {', '.join(names)}.")
        wanted = list(dict.fromkeys(columns or names))
        keyed = key is not None and key in names
        frame = scan.select(list(dict.fromkeys([*wanted, str(key)] if keyed else wanted))).collect()
    if table.rows not in (None, frame.height):
        raise BadData(
            f"Table damaged: {table.uri} at version {table.version} has {frame.height:,} rows, "
            f"its producer wrote {table.rows:,}."
        )
    unique = keyed and bool(frame[str(key)].is_unique().all())
    return frame.sort(str(key) if unique else frame.columns).select(wanted)


def column_names(table: Table) -> list[str]:
    """Return the table's columns at its version, without reading rows."""
    import polars as pl

    check_protocol(table.uri, table.version)
    return pl.scan_delta(table.uri, version=table.version).collect_schema().names()
