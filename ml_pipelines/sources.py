"""Sources of rows, as Spark DataFrames: synthetic, a file, a catalog's table, a sample of real data."""

from __future__ import annotations

import csv
import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
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
    return _opened(lambda: reader.table(str(source.table)), f"data.source.table: {source.table}")


def pinned(spark: SparkSession, source: Source) -> Source:
    """Return a catalog's table at the version that is its newest now, so that what is read is what lineage names.

    Sail has no history of tables: there, and where a table has none (a view), the version stays unknown.
    """
    if source.kind is not SourceKind.table or source.version is not None:
        return source
    from pyspark.errors import PySparkException

    try:
        newest = spark.sql(f"DESCRIBE HISTORY {_quoted(str(source.table))} LIMIT 1").collect()
    except PySparkException:
        return source
    return replace(source, version=int(newest[0]["version"]))


def _quoted(table: str) -> str:
    return ".".join(f"`{part}`" for part in table.split("."))


def _file(spark: SparkSession, source: Source) -> Raw:
    uri, local = locate(source)
    kind = file_format(source)
    if kind is FileFormat.csv:
        return Raw(_csv(spark, uri, local, source.separator), text=True)
    if kind is FileFormat.parquet:
        hint = _check_parquet(local) if local else ""
        return Raw(_opened(lambda: spark.read.parquet(uri), f"{uri}{hint}"))
    delta = spark.read.format("delta")
    delta = delta if source.version is None else delta.option("versionAsOf", source.version)
    odd = re.search(r"[^\w/.:@+=&~-]", uri, re.ASCII)
    hint = f" (Sail opens no Delta table below a name with {odd[0]!r}: rename it)" if odd else ""
    return Raw(_opened(lambda: delta.load(uri), f"{uri}{hint}"))


def _csv(spark: SparkSession, uri: str, local: Path | None, separator: str) -> DataFrame:
    """Return all columns as text, named by position: each engine has its own way with blank and repeated names."""
    reader = spark.read.options(header=True, sep=separator, quote='"', escape='"', multiLine=True)
    if local is None:
        return _opened(lambda: reader.csv(uri), uri)
    header = _check_csv(local, separator)
    columns = ", ".join(f"_c{i} STRING" for i in range(len(header)))
    frame = _opened(lambda: reader.schema(columns).csv(uri), uri)
    return frame.toDF(*header)


def _opened(load: Callable[[], DataFrame], name: str) -> DataFrame:
    """Return what `load` returns, once its columns are known: Spark Connect opens nothing before."""
    from pyspark.errors import PySparkException

    try:
        frame = load()
        _ = frame.schema
    except PySparkException as error:
        raise BadData(f"{name} can't be read: {' '.join(str(error).split())[:200]}") from error
    return frame


def locate(source: Source) -> tuple[str, Path | None]:
    """Return what Spark is to read of a file source, and the same as a local path where it is one.

    Raises:
        BadData: there is nothing at a local path, or it is empty.
    """
    path = str(source.path)
    is_uri = "://" in path and not path.startswith("file://")
    if is_uri or (path.startswith("/Volumes/") and not Path("/Volumes").is_dir()):  # a Volume, seen from elsewhere
        return path, None
    local = paths.root() / Path(path.removeprefix("file://")).expanduser()
    if not local.exists():
        raise BadData(f"data.source.path: {local} does not exist. A relative path is taken from {paths.root()}.")
    if not any(local.iterdir()) if local.is_dir() else local.stat().st_size == 0:
        raise BadData(f"data.source.path: {local} is empty.")
    if re.search(r"[*?\[\]{}]", str(local)):
        raise BadData(
            f"data.source.path: Spark takes * ? [ ] {{ }} in {local} for a pattern. Rename the file or folder."
        )
    return str(local), local


def file_format(source: Source) -> FileFormat:
    """Return what a file source is: as declared, else by its suffix.

    Raises:
        BadData: there is nothing there, a suffix that isn't known, or no Delta table where one is declared.
    """
    uri, local = locate(source)
    is_delta = local is not None and (local / "_delta_log").is_dir()
    if source.format is FileFormat.delta and local and not is_delta:
        raise BadData(f"{local} is no Delta table: it has no _delta_log. Set data.source.format to what it is.")
    if source.format is not FileFormat.auto:
        return source.format
    suffix = Path(uri).suffix.lower()
    if local and local.is_dir():
        suffix = ".delta" if is_delta else _files(local)[0].suffix
    known = {".csv": FileFormat.csv, ".parquet": FileFormat.parquet, ".delta": FileFormat.delta}
    if suffix not in known:
        raise BadData(
            f"data.source.path: {uri} ends in {suffix or 'no suffix'}. Set data.source.format to csv, parquet or delta."
        )
    return known[suffix]


def _files(local: Path) -> list[Path]:
    """Return the files of a source: of a folder those that Spark reads, not _SUCCESS or .part-0.crc."""
    if not local.is_dir():
        return [local]
    found = (path for path in sorted(local.rglob("*")) if path.is_file())
    files = [path for path in found if not any(part[0] in "._" for part in path.relative_to(local).parts)]
    if not files:
        raise BadData(f"data.source.path: {local} holds no file of data.")
    return files


def _check_csv(local: Path, separator: str) -> list[str]:
    """Return the names of the columns, after reading every line once.

    Spark drops surplus cells silently, fills up missing ones, and takes what follows an open quote for one cell.
    """
    files = _files(local)
    if any("=" in folder for file in files if file != local for folder in file.relative_to(local).parent.parts):
        raise BadData(f"{local} has columns in its folders' names, which Sail doesn't read of a CSV. Write Parquet.")
    headers = {tuple(_check_csv_file(file, separator)): file for file in files}
    if len(headers) > 1:
        first, second, *_ = headers.values()
        raise BadData(f"{first} and {second} have different headers. All files of a folder need the same.")
    return list(*headers)


def _check_csv_file(file: Path, separator: str) -> list[str]:
    csv.field_size_limit(2**31 - 1)
    line = 0
    header: list[str] = []
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=separator, strict=True)
        try:
            for row in reader:
                if not header:
                    header = _header(row, file)
                elif row and len(row) != len(header):
                    raise BadData(
                        f"{file}: line {line + 1} has {len(row)} cells, the header has {len(header)}: "
                        f"{separator.join(row)[:80]!r}. Mend the line, or set data.source.separator."
                    )
                line = reader.line_num
        except UnicodeDecodeError as error:
            raise BadData(f"{file} is no CSV in UTF-8, somewhere after line {line}: {error.reason}.") from error
        except csv.Error as error:
            wrong = "has a quote that is never closed" if "end of data" in str(error) else f"is malformed: {error}"
            raise BadData(f"{file}: line {line + 1} {wrong}. A quote inside a cell is doubled.") from error
    if not header:
        raise BadData(f"{file} is empty: it has only blank lines.")
    return header


def _header(row: list[str], file: Path) -> list[str]:
    """Return the names in a CSV's first line; a column without one is `_c<position>`, as Spark calls it."""
    names = [name.strip() or f"_c{i}" for i, name in enumerate(row)]
    if "\0" in "".join(names):
        raise BadData(f"{file} is no CSV in UTF-8: it holds zero bytes.")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BadData(f"{file}: the header names {', '.join(repeated)} twice. Rename one of them.")
    if len(names) == 1 and (other := next((mark for mark in ";\t|," if mark in names[0]), None)):
        raise BadData(f"{file} has one column, {names[0]!r}. Set data.source.separator, perhaps to {other!r}.")
    return names


def _check_parquet(local: Path) -> str:
    """Return which columns Spark may fail on: it says no name. Pandas writes such types."""
    import pyarrow as pa
    from pyarrow import parquet

    odd = {}
    for file in _files(local):
        try:
            for field in parquet.read_schema(file):
                if str(field.type).startswith(("dictionary", "timestamp[ns", "halffloat")):
                    odd[field.name] = f"{field.name} ({field.type})"
        except (pa.ArrowInvalid, OSError) as error:
            raise BadData(f"{file} is no Parquet file: {' '.join(str(error).split())[:200]}") from error
    return f" (write {', '.join(odd.values())} as text or a plain type)" if odd else ""
