"""Sources of rows, as Spark DataFrames: synthetic, a file, a catalog's table, a sample of real data."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ml_pipelines import paths
from ml_pipelines.config import FileFormat, Source, SourceKind
from ml_pipelines.errors import BadData

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


class Raw(NamedTuple):
    """Rows as the source has them. `text`: every cell is text, and says its type only by what it holds."""

    frame: DataFrame
    text: bool = False


def read(spark: SparkSession, source: Source, seed: int) -> Raw:
    """Return the rows of `source`.

    Raises:
        BadData: the file is missing, empty, or not what it says it is.
    """
    if source.kind is SourceKind.synthetic:
        return Raw(synthetic(spark, source.rows, source.features, seed))
    if source.kind is SourceKind.sample:
        return Raw(_sample(spark))
    if source.kind is SourceKind.table:
        return Raw(_table(spark, source))
    return _file(spark, source)


def synthetic(spark: SparkSession, rows: int, features: int, seed: int) -> DataFrame:
    """Return `id`, `f0`... (mean 0, deviation 1, nearly normal) and `label` (0 or 1, more often 1 at a higher score).

    Every number is a hash of the row's id. A feature is the sum of six uniforms of 21 bits (Irwin-Hall), centred
    and scaled: integers and one multiplication, so every engine gives the same bits, which logarithms and
    cosines (Box-Muller) don't. The label's chance is the algebraic sigmoid (1 + z / sqrt(1 + z^2)) / 2, likewise.
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

    names = [f"f{i}" for i in range(features)]
    numbers = spark.range(rows).select("id", *(nearly_normal(i).alias(name) for i, name in enumerate(names)))
    weight = random.Random(seed)  # noqa: S311  (data, no secret)
    score = F.lit(0.0)
    for i, name in enumerate(names):
        score = score + F.lit(4 * weight.gauss(0, 1) / (1 + i)) * F.col(name)
    if features > 1:
        score = score + F.col("f0") * F.col("f1")  # so that a tree has something that a line hasn't
    chance = (F.lit(1.0) + score / F.sqrt(F.lit(1.0) + score * score)) / F.lit(2.0)
    uniform = F.shiftright(bits(2 * features), 10) / F.lit(2.0**53)
    return numbers.select("*", (uniform < chance).cast("int").alias("label"))


def _sample(spark: SparkSession) -> DataFrame:
    """Return scikit-learn's breast cancer table (Street, Wolberg, Mangasarian 1993): 569 rows, 30 features."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.data.assign(label=bunch.target.map(dict(enumerate(bunch.target_names.tolist()))))
    frame.insert(0, "id", range(len(frame)))
    return spark.createDataFrame(frame)


def _table(spark: SparkSession, source: Source) -> DataFrame:
    reader = spark.read if source.version is None else spark.read.option("versionAsOf", source.version)
    return reader.table(str(source.table))


def _file(spark: SparkSession, source: Source) -> Raw:
    uri, local = locate(source)
    kind = file_format(source)
    if kind is FileFormat.csv:
        if local:
            _check_csv(local, source.separator)
        reader = spark.read.options(header=True, sep=source.separator, quote='"', escape='"', multiLine=True)
        return Raw(reader.csv(uri), text=True)
    if kind is FileFormat.parquet:
        if local:
            _check_parquet(local)
        return Raw(spark.read.parquet(uri))
    if local and not (local / "_delta_log").is_dir():
        raise BadData(f"{local} is no Delta table: it has no _delta_log. Set data.source.format to what it is.")
    delta = spark.read.format("delta")
    return Raw((delta if source.version is None else delta.option("versionAsOf", source.version)).load(uri))


def locate(source: Source) -> tuple[str, Path | None]:
    """Return what Spark is to read of a file source, and the same as a local path where it is one.

    Raises:
        BadData: there is nothing at a local path, or it is empty.
    """
    path = str(source.path)
    if "://" in path and not path.startswith("file://"):
        return path, None
    local = paths.root() / Path(path.removeprefix("file://")).expanduser()
    if not local.exists():
        raise BadData(f"data.source.path: {local} does not exist. A relative path is taken from {paths.root()}.")
    if not any(local.iterdir()) if local.is_dir() else local.stat().st_size == 0:
        raise BadData(f"data.source.path: {local} is empty.")
    return str(local), local


def file_format(source: Source) -> FileFormat:
    """Return what a file source is: as declared, else by its suffix.

    Raises:
        BadData: the suffix is none that is known.
    """
    if source.format is not FileFormat.auto:
        return source.format
    uri, local = locate(source)
    suffix = Path(uri).suffix.lower()
    if local and local.is_dir():
        suffix = (
            ".delta" if (local / "_delta_log").is_dir() else next((p.suffix for p in sorted(local.rglob("*.*"))), "")
        )
    known = {".csv": FileFormat.csv, ".parquet": FileFormat.parquet, ".delta": FileFormat.delta}
    if suffix not in known:
        raise BadData(
            f"data.source.path: {uri} ends in {suffix or 'no suffix'}. Set data.source.format to csv, parquet or delta."
        )
    return known[suffix]


def _check_csv(local: Path, separator: str) -> None:
    """Read the CSV once, by a strict reader: Spark drops surplus cells silently and fills up missing ones."""
    import pyarrow as pa
    from pyarrow import csv

    ragged: list[csv.InvalidRow] = []

    def note(row: csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    for file in sorted(local.rglob("*.csv")) if local.is_dir() else [local]:
        parse = csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=note)
        read = csv.ReadOptions(use_threads=False)  # a row's number is known only so
        try:
            with csv.open_csv(file, read_options=read, parse_options=parse) as reader:
                names = reader.schema.names
                convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise BadData(f"{file}: the header names {', '.join(repeated)} twice. Rename one of them.")
            with csv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert) as reader:
                for _ in reader:
                    pass
        except pa.ArrowInvalid as error:
            if ragged:
                row = ragged[0]
                where = f"line {row.number}" if row.number else "a line"
                raise BadData(
                    f"{file}: {where} has {row.actual_columns} cells, the header has {row.expected_columns}: "
                    f"{str(row.text)[:80]!r}. Mend the line, or set data.source.separator."
                ) from error
            raise BadData(f"{file} is no CSV in UTF-8: {' '.join(str(error).split())[:200]}") from error


def _check_parquet(local: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    files = sorted(local.rglob("*.parquet")) if local.is_dir() else [local]
    for file in files:
        try:
            parquet.read_metadata(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise BadData(f"{file} is no Parquet file: {' '.join(str(error).split())[:200]}") from error
