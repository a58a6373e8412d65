"""The table that scored batches are added to, as deltalake or Spark reads and writes it.

Both record the batch's id as a Delta transaction (`txn` in the table's log) in the commit that adds the rows. So of two
writers that add the same batch at once, one adds it, and the other one learns that it came second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ml_pipelines.data import tables
from ml_pipelines.data.tables import SCORED_AT, Table
from ml_pipelines.errors import BadData, StepFailed, message_of

if TYPE_CHECKING:
    from datetime import datetime

    from pyspark.sql import DataFrame, DataFrameReader, SparkSession

TXN_VERSION = 1  # a batch never gets another version, so that its id alone decides
GROUPS = ("model_name", "model_version", SCORED_AT)
Schema = Mapping[str, str]  # column -> its type as Spark writes it, such as bigint

# What Spark says if there is no table, and if another writer was faster.
_ABSENT = re.compile(r"PATH_NOT_FOUND|PATH_DOES_NOT_EXIST|TABLE_OR_VIEW_NOT_FOUND|MISSING_DELTA_TABLE|No commit files")
_CONFLICT = re.compile(r"\[\w*(DELTA_CONCURRENT|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED|ALREADY_EXISTS)")


class Scored(NamedTuple):
    """Rows of one batch that were scored together."""

    model: str
    version: int  # of the model
    at: datetime
    rows: int


class TargetTable(Protocol):
    """A table that batches are added to."""

    name: str

    def at(self, uri: str) -> TargetTable:
        """Return the table at a path or URI, as an object of the same class (deltalake or Spark reads it)."""

    def open(self) -> bool:
        """Open the newest version. Return False if there is no table."""

    @property
    def columns(self) -> Schema:
        """The columns of the opened table."""

    def create(self, table: Table) -> None:
        """Create the table without rows, with the columns of a scored table, unless another writer was faster."""

    def find(self, batch_id: str) -> list[Scored]:
        """Return how many rows of a batch the opened table has, for each model version and time of scoring."""

    def is_recorded(self, batch_id: str) -> bool:
        """Return whether the opened table has, or had, the rows of a batch."""

    def append(self, table: Table, batch_id: str, casts: Schema, widen: bool) -> bool:
        """Add the rows of a scored table. Return False if another writer changed the opened table meanwhile.

        Args:
            table: the scored table.
            batch_id: its batch.
            casts: column -> the type of the opened table, if the scored table has a narrower one.
            widen: whether the table gets the columns that only the scored table has.
        """


class DeltalakeTarget:
    """A table at a path or URI that deltalake writes: for Sail, which ignores Spark's option `txnAppId`."""

    def __init__(self, uri: str) -> None:
        self.name = uri
        self._table: Any = None  # a DeltaTable, once `open` was called

    def at(self, uri: str) -> DeltalakeTarget:
        """See TargetTable."""
        return DeltalakeTarget(uri)

    def open(self) -> bool:
        """See TargetTable. `append` notices what other writers have committed since."""
        from deltalake import DeltaTable

        if not DeltaTable.is_deltatable(self.name):
            return False
        self._table = tables.open_table(self.name, None)
        return True

    @property
    def columns(self) -> Schema:
        """See TargetTable."""
        from pyspark.sql.types import StructType

        schema = StructType.fromJson(json.loads(self._table.schema().to_json()))
        return {field.name: field.dataType.simpleString() for field in schema.fields}

    def create(self, table: Table) -> None:
        """See TargetTable. All columns allow nulls, so that a later batch can lack them."""
        from deltalake import DeltaTable, Field, Schema
        from deltalake.exceptions import DeltaError

        fields = tables.open_table(table.uri, table.version).schema().fields
        columns = Schema([Field(field.name, field.type, nullable=True) for field in fields])
        try:
            DeltaTable.create(self.name, columns)
        except (DeltaError, OSError) as error:
            if not DeltaTable.is_deltatable(self.name):
                raise StepFailed(f"score.target: {self.name} can't be created: {message_of(error)}") from error

    def find(self, batch_id: str) -> list[Scored]:
        """See TargetTable. Statistics in the Delta log let Polars skip the files of other batches."""
        import polars as pl

        if not {"batch_id", *GROUPS} <= {field.name for field in self._table.schema().fields}:
            return []
        rows = pl.scan_delta(self._table).filter(pl.col("batch_id") == batch_id)
        try:
            found = rows.group_by(GROUPS).len().sort(SCORED_AT).collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise BadData(f"Table {self.name} can't be read: {message_of(error)}") from error
        return [Scored(*row) for row in found.rows()]

    def is_recorded(self, batch_id: str) -> bool:
        """See TargetTable."""
        return self._table.transaction_version(batch_id) is not None or bool(self.find(batch_id))

    def append(self, table: Table, batch_id: str, casts: Schema, widen: bool) -> bool:
        """See TargetTable. deltalake casts columns that are narrower, and leaves missing ones empty."""
        from deltalake import CommitProperties, QueryBuilder, Transaction, write_deltalake
        from deltalake.exceptions import CommitFailedError, DeltaError

        source = tables.open_table(table.uri, table.version)
        commit = CommitProperties(app_transactions=[Transaction(batch_id, TXN_VERSION)])
        try:
            rows = QueryBuilder().register("scored", source).execute("select * from scored")  # a stream of batches
            write_deltalake(self._table, rows, mode="append", schema_mode="merge", commit_properties=commit)
        except CommitFailedError as error:
            if tables.open_table(self.name, None).version() > self._table.version():
                return False
            raise self._failed(error) from error
        except (DeltaError, OSError, ValueError) as error:
            raise self._failed(error) from error
        return True

    def _failed(self, error: Exception) -> StepFailed:
        return StepFailed(f"score.target: no rows can be added to {self.name}: {message_of(error)}")


class SparkTarget:
    """A table at a path or in a catalog, which Spark writes with Delta Lake's own writer: on the JVM and Databricks."""

    def __init__(self, spark: SparkSession, name: str, is_path: bool) -> None:
        self.name = name
        self._spark = spark
        self._is_path = is_path
        self.columns: Schema = {}

    def _read(self, reader: DataFrameReader) -> DataFrame:
        return reader.load(self.name) if self._is_path else reader.table(self.name)

    def at(self, uri: str) -> SparkTarget:
        """See TargetTable."""
        return SparkTarget(self._spark, uri, is_path=True)

    def open(self) -> bool:
        """See TargetTable."""
        from pyspark.errors import PySparkException

        try:
            self.columns = dict(self._read(self._spark.read.format("delta")).dtypes)
        except PySparkException as error:
            if _ABSENT.search(str(error)):
                return False
            raise StepFailed(f"score.target: {self.name} can't be read: {message_of(error)}") from error
        return True

    def create(self, table: Table) -> None:
        """See TargetTable."""
        self._write(self._scored(table).limit(0), "ignore", {})

    def _scored(self, table: Table) -> DataFrame:
        return self._spark.read.format("delta").option("versionAsOf", table.version).load(table.uri)

    def _write(self, frame: DataFrame, mode: str, options: Mapping[str, str]) -> bool:
        """Write the frame. Return False if another writer changed the table meanwhile."""
        writer = frame.write.format("delta").mode(mode).options(**options)
        try:
            writer.save(self.name) if self._is_path else writer.saveAsTable(self.name)
        except Exception as error:  # a conflict is an error of Java, which PySpark passes on as it is
            if _CONFLICT.search(str(error)):
                return False
            raise StepFailed(f"score.target: no rows can be added to {self.name}: {message_of(error)}") from error
        return True

    def find(self, batch_id: str) -> list[Scored]:
        """See TargetTable."""
        from pyspark.sql import functions as F

        if not {"batch_id", *GROUPS} <= self.columns.keys():
            return []
        rows = self._read(self._spark.read.format("delta")).where(F.col("batch_id") == batch_id)
        found = rows.groupBy(*GROUPS).agg(F.count("*").alias("rows")).orderBy(SCORED_AT).collect()
        return [Scored(*row) for row in found]

    def is_recorded(self, batch_id: str) -> bool:
        """See TargetTable. This misses a batch whose rows were deleted; Spark's `append` then skips the batch."""
        return bool(self.find(batch_id))

    def append(self, table: Table, batch_id: str, casts: Schema, widen: bool) -> bool:
        """See TargetTable. Spark silently skips a batch if the table's log already has its `txnAppId`."""
        frame = self._scored(table)
        frame = frame.select(*(frame[name].cast(casts.get(name, kind)) for name, kind in frame.dtypes))
        options = {"txnAppId": batch_id, "txnVersion": str(TXN_VERSION), "mergeSchema": str(widen).lower()}
        return self._write(frame, "append", options)
