"""Sources of rows, as Spark DataFrames: synthetic data, a file, a table of a catalog, a sample of real data."""

from __future__ import annotations

import atexit
import math
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ml_pipelines.config.schema import FileFormat, Sample, Source, SourceKind
from ml_pipelines.data import locations
from ml_pipelines.data.columns import check_width
from ml_pipelines.data.files import csv_files, delta_files, parquet_files, text_files
from ml_pipelines.errors import BadData, message_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


# The error conditions with which Databricks refuses to read old versions, or the history, of a table with a row filter
# or a column mask.
NO_TIME_TRAVEL = re.compile(r"(ROW_LEVEL_SECURITY|COLUMN_MASK)\w*_NOT_SUPPORTED|FGAC_TIME_TRAVEL_NOT_SUPPORTED")
POLICY = "has a row filter or a column mask, so Databricks reads it at no version but the newest"


class Raw(NamedTuple):
    """Unchanged rows of a source.

    `text` is true for a CSV: all cells are text, and their types are unknown. `local` is true for Parquet files and a
    version of a Delta table on this machine: every query reads the same rows from them, and quickly.
    """

    frame: DataFrame
    text: bool = False
    local: bool = False


def read_source(
    spark: SparkSession,
    source: Source,
    seed: int,
    dropped: AbstractSet[str] = frozenset(),
    folder: Path | None = None,
    max_columns: int = sys.maxsize,
) -> Raw:
    """Return the rows of `source`.

    Args:
        spark: the session.
        source: the source.
        seed: the seed of synthetic rows.
        dropped: the columns in `data.drop`. Nobody needs their values, so they can have types that no engine reads.
        folder: a folder for copies of files that engines read differently. It must exist until the rows are written.
            None: a folder that is deleted when this process ends.
        max_columns: the most columns that the source may have.

    Raises:
        BadData: the file or table is missing, empty, not in the declared format, or has too many columns.
    """
    if source.kind is SourceKind.synthetic:
        check_width(len(synthetic_columns(source.features)), max_columns)
        return Raw(synthetic_rows(spark, source.rows, source.features, seed))
    if source.kind is SourceKind.sample:
        return Raw(_sample(spark, source.name))
    if source.kind is SourceKind.table:
        raw = Raw(_table(spark, source))
    else:
        raw = _file(spark, source, dropped, max_columns, folder or _temporary_folder())
    check_width(len(raw.frame.columns), max_columns)
    return raw


@cache
def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="ml-pipelines-source-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def synthetic_rows(spark: SparkSession, rows: int, features: int, seed: int) -> DataFrame:
    """Return rows with `id`, features `f0`... (nearly normal, mean 0, deviation 1) and `label` (0 or 1).

    Each number comes from a hash of the row's id, so every engine returns the same bits. A feature is the sum of six
    uniform numbers of 21 bits (Irwin-Hall), centred and scaled. This needs only integers and one multiplication.
    Logarithms and cosines (Box-Muller) would differ between engines.

    The score z of a row is a weighted sum of its features, plus f0 * f1. The probability of label 1 is the algebraic
    sigmoid of the score: (1 + z / sqrt(1 + z^2)) / 2.
    """
    from pyspark.sql import functions as F

    def bits(k: int) -> Column:
        return F.xxhash64(F.col("id"), F.lit(seed), F.lit(k)).bitwiseAND(F.lit(2**63 - 1))

    def nearly_normal(k: int) -> Column:
        parts = [
            F.shiftright(bits(half), shift).bitwiseAND(F.lit(2**21 - 1))
            for half in (2 * k, 2 * k + 1)
            for shift in (0, 21, 42)
        ]
        total = parts[0] + parts[1] + parts[2] + parts[3] + parts[4] + parts[5]
        return ((total + F.lit(3.0)) / F.lit(2.0**21) - F.lit(3.0)) * F.lit(math.sqrt(2))

    names = synthetic_columns(features)[1:-1]
    numbers = spark.range(rows).select("id", *(nearly_normal(i).alias(name) for i, name in enumerate(names)))
    weight = random.Random(seed)  # noqa: S311  (test data, not a secret)
    terms = [F.lit(4 * weight.gauss(0, 1) / (1 + i)) * F.col(name) for i, name in enumerate(names)]
    if features > 1:
        terms.append(F.col("f0") * F.col("f1"))  # an interaction, which trees can learn and linear models can't
    while len(terms) > 1:  # add the terms in pairs: a chain of many terms would be nested too deeply for Spark Connect
        terms = [left + right for left, right in zip_longest(terms[::2], terms[1::2], fillvalue=F.lit(0.0))]
    score = terms[0]
    chance = (F.lit(1.0) + score / F.sqrt(F.lit(1.0) + score * score)) / F.lit(2.0)
    uniform = F.shiftright(bits(2 * features), 10) / F.lit(2.0**53)
    return numbers.select("*", (uniform < chance).cast("int").alias("label"))


def synthetic_columns(features: int) -> list[str]:
    """Return the names of the columns of synthetic rows."""
    return ["id", *(f"f{i}" for i in range(features)), "label"]


def _sample(spark: SparkSession, name: Sample) -> DataFrame:
    """Return a table that scikit-learn's package contains: `id` (the row's number), its features, and `label`.

    The label of a table with classes is the name of the class, for example `malignant`.
    """
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name.value}")(as_frame=True)
    frame = bunch.data.assign(label=bunch.target)
    if "target_names" in bunch:
        frame["label"] = bunch.target.map(dict(enumerate(map(str, bunch.target_names))))
    frame.insert(0, "id", range(len(frame)))
    return spark.createDataFrame(frame)


def _table(spark: SparkSession, source: Source) -> DataFrame:
    reader = spark.read if source.version is None else spark.read.option("versionAsOf", source.version)
    try:
        return _opened(lambda: reader.table(_quoted(str(source.table))), f"data.source.table: {source.table}")
    except BadData as error:
        if not NO_TIME_TRAVEL.search(str(error)):
            raise
        raise BadData(f"data.source.version: {source.table} {POLICY}. Remove data.source.version.") from error


def pin_table_version(spark: SparkSession, source: Source) -> tuple[Source, str]:
    """Return the source with the newest version of its catalog table, so that lineage names the version that is read.

    The second value is empty, or says why the version stays unknown: the table is a view, it has a row filter or a
    column mask, or the engine is Sail, which has no history of tables.
    """
    if source.kind is not SourceKind.table or source.version is not None:
        return source, ""
    from pyspark.errors import PySparkException

    try:
        newest = spark.sql(f"DESCRIBE HISTORY {_quoted(str(source.table))} LIMIT 1").collect()
        version = int(newest[0]["version"])
        _ = spark.read.option("versionAsOf", version).table(_quoted(str(source.table))).schema
    except PySparkException as error:
        policy = NO_TIME_TRAVEL.search(str(error))
        return source, POLICY if policy else f"has no history that this engine can read: {message_of(error, 80)}"
    return replace(source, version=version), ""


def _quoted(table: str) -> str:
    """Return the name of a table with each part in backticks. Without them, a hyphen is a minus to Spark."""
    return ".".join(f"`{part}`" for part in table.split("."))


def _file(spark: SparkSession, source: Source, dropped: AbstractSet[str], max_columns: int, folder: Path) -> Raw:
    uri, local = locations.locate_source(source)
    kind = file_format(source)
    if kind is FileFormat.csv:
        if local is None:
            return Raw(_opened(lambda: csv_files.read_remote_csv(spark, uri, source), uri), text=True)
        return Raw(_opened(lambda: csv_files.read_csv(spark, local, source, max_columns, folder), uri), text=True)
    if kind is FileFormat.parquet:
        if local is None:
            return Raw(_opened(lambda: spark.read.parquet(uri), uri))
        frame = _opened(lambda: parquet_files.read_parquet(spark, local, dropped, max_columns, folder), uri)
        return Raw(frame, local=True)
    name = f"{uri}{delta_files.path_hint(uri)}"
    frame = _opened(lambda: delta_files.read_delta(spark, uri, local, source.version), name)
    return Raw(frame, local=local is not None and source.version is not None)


def may_have_text(source: Source, dropped: Collection[str]) -> bool:
    """Return whether a source may have text outside its `dropped` columns.

    The result is False for synthetic data, and for one Parquet file of numbers. Other sources are not opened.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if source.kind is not SourceKind.file:
        return source.kind is not SourceKind.synthetic
    try:
        schema = parquet.read_schema(locations.locate_source(source)[1])
    except (BadData, OSError, TypeError, pa.ArrowException):  # not such a file; `read_source` refuses what is wrong
        return True
    is_ = pa.types
    kinds = [field.type for field in schema if field.name not in dropped]
    return not all(is_.is_integer(kind) or is_.is_floating(kind) or is_.is_boolean(kind) for kind in kinds)


def _opened(load: Callable[[], DataFrame], name: str) -> DataFrame:
    """Return the frame from `load`, and raise BadData if the source can't be opened.

    Spark Connect does not open the source until this function reads the names of the columns.
    """
    from pyspark.errors import PySparkException

    try:
        frame = load()
        _ = frame.schema
    except PySparkException as error:
        raise BadData(f"{name} can't be read: {message_of(error)}") from error
    return frame


def file_format(source: Source) -> FileFormat:
    """Return the format of a file source: as declared, else by its suffix.

    Raises:
        BadData: the file is missing, its suffix is unknown, it belongs to a Delta, Hudi or Iceberg table but would be
            read as a plain file, or it is declared as delta but is not a Delta table.
    """
    uri, local = locations.locate_source(source)
    is_delta = local is not None and (local / "_delta_log").is_dir()
    if local and (not is_delta or source.format not in (FileFormat.auto, FileFormat.delta)):
        locations.refuse_table_files(local)
    if source.format is FileFormat.delta and local and not is_delta:
        raise BadData(f"{local} is not a Delta table: it has no _delta_log. Set data.source.format to csv or parquet.")
    if source.format is not FileFormat.auto:
        return source.format
    named = locations.data_files(local)[0] if local and local.is_dir() and not is_delta else Path(uri)
    suffix = named.suffix.lower()
    if suffix in text_files.SUFFIXES:
        suffix = named.with_suffix("").suffix.lower() or suffix
    if is_delta:
        suffix = ".delta"
    known = {".csv": FileFormat.csv, ".parquet": FileFormat.parquet, ".delta": FileFormat.delta}
    if suffix not in known:
        raise BadData(
            f"data.source.path: {uri} ends in {suffix or 'no suffix'}. Set data.source.format to csv, parquet or delta."
        )
    return known[suffix]
