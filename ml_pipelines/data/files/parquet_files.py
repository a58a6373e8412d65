"""Local Parquet files: the same columns, types and rows on every engine.

Engines read some types and layouts of folders differently, or not at all. If that matters for a source, one pass copies
the needed columns with plain types. Other sources are not copied.
"""

from __future__ import annotations

import re
import tempfile
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ml_pipelines.data import locations
from ml_pipelines.data.columns import check_width
from ml_pipelines.data.files import parquet_types
from ml_pipelines.errors import BadData, StepFailed, message_of
from ml_pipelines.text import listed, shown

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"  # the value in a folder's name=value if the column has no value
# Files are copied in batches of rows. A batch has at most this many cells, and at most BATCH rows.
CELLS = 2**22
BATCH = 2**16


@dataclass(frozen=True)
class Files:
    """The Parquet files of a source, with their Arrow schemas and the values that their folders' names hold."""

    root: Path
    schemas: Mapping[Path, pa.Schema]
    partitions: Mapping[Path, Mapping[str, str | None]]

    @property
    def partition_names(self) -> list[str]:
        """The columns whose values are in the folders' names. They replace columns of the same name in the files."""
        return list(next(iter(self.partitions.values())))

    @cached_property
    def columns(self) -> dict[str, dict[pa.DataType, Path]]:
        """Column -> each of the column's types, with the first file in which the column has this type."""
        found: dict[str, dict[pa.DataType, Path]] = {}
        for file, schema in self.schemas.items():
            for field in schema:
                if field.name not in self.partitions[file]:
                    found.setdefault(field.name, {}).setdefault(field.type, file)
        return found

    @property
    def all_columns(self) -> list[str]:
        """The columns of the files, and those whose values are in the folders' names."""
        return list(dict.fromkeys([*self.columns, *self.partition_names]))

    @property
    def are_alike(self) -> bool:
        """Whether all files have the same columns in the same order."""
        return len({tuple(schema.names) for schema in self.schemas.values()}) == 1

    @property
    def are_regular(self) -> bool:
        """Whether all engines find the same files and the same values in the folders' names."""
        if not self.partition_names:
            return not any(map(locations.is_pattern, self.schemas))
        folders = {file.relative_to(self.root).parent.parts for file in self.schemas}
        names = {tuple(folder.partition("=")[0] for folder in parts) for parts in folders}
        signs = r"(?:[^=*?\[\]{}#\\%\x80-\U0010ffff]|%[0-7][0-9A-Fa-f])+"  # engines read other characters differently
        valued = all(re.fullmatch(f"{signs}={signs}", folder) for parts in folders for folder in parts)
        inside = any(name in schema.names for name in self.partition_names for schema in self.schemas.values())
        links = any(file.resolve() != self.root.resolve() / file.relative_to(self.root) for file in self.schemas)
        return len(names) == 1 and valued and not inside and not links


def read_parquet(
    spark: SparkSession, local: Path, dropped: AbstractSet[str], max_columns: int, folder: Path
) -> DataFrame:
    """Return the rows of a Parquet file or folder. Folders with names such as `year=2026` give a text column `year`.

    A column that only some files have is null in the rows of the others. If engines can't read a dropped column alike,
    all its values are null.

    Args:
        spark: the session.
        local: the file or folder.
        dropped: the columns in `data.drop`, whose values nobody needs.
        max_columns: the most columns that the source may have.
        folder: a folder for copies of files. The copies must exist until the rows are written.

    Raises:
        BadData: a file is not Parquet, a needed column can't be read, or there are too many columns.
    """
    import pyarrow as pa
    from pyspark.sql import functions as F

    files = _open_files(local)
    check_width(len(files.all_columns), max_columns)
    ignored = {name for name, kinds in files.columns.items() if name in dropped and not _is_plain(kinds)}
    kinds = {name: kinds for name, kinds in files.columns.items() if name not in ignored}
    if not kinds:
        raise BadData(f"{local} has no column that can be read. Take a column out of data.drop, or use another source.")
    kept = {name: parquet_types.column_type(name, kinds[name]) for name in kinds}
    text = dict.fromkeys(files.partition_names, pa.string())
    reader = spark.read
    if ignored or not files.are_alike or not all(map(_is_plain, kinds.values())):
        reader = reader.schema(parquet_types.spark_schema({**kept, **text}))
    if not files.are_regular or any(
        parquet_types.engine_type(kind) != kept[name] for name in kept for kind in kinds[name]
    ):
        frame = reader.parquet(*_copied(files, kept, folder))
    else:
        frame = reader.parquet(*([str(local)] if text else map(str, files.schemas)))
        for name in text:  # make missing values null, because Sail returns HIVE_NULL as a value
            quoted = F.col(f"`{name.replace('`', '``')}`")
            frame = frame.withColumn(name, F.when(quoted != F.lit(HIVE_NULL), quoted))
    return frame.select("*", *(F.lit(None).cast("string").alias(name) for name in ignored)) if ignored else frame


def read_columns(local: Path) -> list[str]:
    """Return the names of all columns of a Parquet file or folder. No row is read.

    Raises:
        BadData: a file is not Parquet, or has two columns of one name.
    """
    return _open_files(local).all_columns


def _is_plain(kinds: Mapping[pa.DataType, Path]) -> bool:
    """Return whether a column has one type in all files, and every engine reads this type even without a schema."""
    return len(kinds) == 1 and all(map(parquet_types.is_plain, kinds))


def _open_files(local: Path) -> Files:
    import pyarrow as pa
    from pyarrow import parquet

    schemas = {}
    for file in locations.data_files(local):
        try:
            schemas[file] = _schema(parquet.read_metadata(file))
        except (pa.ArrowException, OSError) as error:
            raise BadData(f"{file} is not a Parquet file: {message_of(error)}") from error
        if repeated := [name for name, count in Counter(schemas[file].names).items() if count > 1]:
            raise BadData(f"{file} has two columns named {listed(repeated)}. Rename one of them.")
    partitions = {file: _folder_values(file, local) for file in schemas}
    first = next(iter(schemas))
    for file, values in partitions.items():
        if set(values) != set(partitions[first]):
            raise BadData(
                f"{first} and {file} lie in different kinds of folders: name=value gives "
                f"{listed(partitions[first]) or 'no column'} and {listed(values) or 'no column'}. "
                "Put all files into folders of the same names."
            )
    return Files(local, schemas, partitions)


def _schema(metadata: Any) -> pa.Schema:
    """Return the Arrow schema that the writer stored in the file, or else the schema that follows from Parquet's types.

    Sail uses the stored schema for all types, pyarrow only for some.
    """
    import pyarrow as pa

    schema = metadata.schema.to_arrow_schema()
    with suppress(KeyError, ValueError, pa.ArrowException):
        declared = pa.ipc.read_schema(pa.py_buffer(b64decode((metadata.metadata or {})[b"ARROW:schema"])))
        if declared.names == schema.names:
            return declared
    return schema


def _folder_values(file: Path, local: Path) -> dict[str, str | None]:
    """Return column -> value of the folders name=value between the source and a file. None: the value is missing."""
    folders = file.relative_to(local).parent.parts if file != local else ()
    pairs = (folder.partition("=") for folder in folders if "=" in folder)
    return {unquote(name): None if value in ("", HIVE_NULL) else unquote(value) for name, _, value in pairs}


def _copied(files: Files, kept: Mapping[str, pa.DataType], folder: Path) -> Sequence[str]:
    """Copy the kept columns of all files into `folder` with plain types; return the paths of the copies."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([*kept.items(), *((name, pa.string()) for name in files.partition_names)])
    rows = max(1, min(BATCH, CELLS // len(schema)))
    folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="parquet-", dir=folder))
    copies = []
    for i, (file, source) in enumerate(files.schemas.items()):
        copies.append(str(folder / f"part-{i:05}.parquet"))
        present = [name for name in kept if name in source.names]
        with _copying(file, folder), parquet.ParquetWriter(copies[-1], schema) as writer:
            for batch in _batches(file, present, rows):
                values = files.partitions[file]
                columns = [
                    pa.repeat(pa.scalar(values[field.name], pa.string()), len(batch))
                    if field.name in values
                    else _cast(file, field, batch.column(field.name))
                    if field.name in present
                    else pa.nulls(len(batch), field.type)
                    for field in schema
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))
    return copies


@contextmanager
def _copying(file: Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StepFailed(
            f"{file} can't be copied to {folder}: {message_of(error)}. Set TMPDIR to a folder with more space."
        ) from error


def _batches(file: Path, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(file)
        yield from opened.iter_batches(rows, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise BadData(f"{file} is damaged: {message_of(error)}") from error


def _cast(file: Path, field: pa.Field, column: pa.Array) -> pa.Array:
    import pyarrow as pa

    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.cast(field.type, safe=not pa.types.is_timestamp(field.type))
    except pa.ArrowException as error:
        raise BadData(
            f"Column {shown(field.name)} of {file} can't be read as {field.type}: {message_of(error)}. "
            "Write all files with one type, or add the column to data.drop."
        ) from error
