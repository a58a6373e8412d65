"""Checks the names of a source's columns before a pipeline run starts, so that a wrong name costs no run."""

from __future__ import annotations

from collections.abc import Sequence

from ml_pipelines.config.schema import Data, FileFormat, Source, SourceKind
from ml_pipelines.data import locations, sources, tables
from ml_pipelines.data.columns import check_columns
from ml_pipelines.data.files import csv_files, parquet_files

MOST_FILES = 100  # a folder with more Parquet files is left to the step: each file has a schema of its own


def check_header(data: Data) -> None:
    """Check the columns that the configuration names, if the source's columns are known without an engine.

    They are known for synthetic rows and for files and Delta tables on this machine. All other sources are left to the
    step, which makes the same check.

    Raises:
        BadData: the source has no such column, its header is malformed, or it can't be opened.
    """
    columns = _columns(data.source, data.max_columns)
    if columns is not None:
        check_columns(columns, data)


def _columns(source: Source, max_columns: int) -> Sequence[str] | None:
    if source.kind is SourceKind.synthetic:
        return sources.synthetic_columns(source.features)
    if source.kind is not SourceKind.file:
        return None
    kind, local = sources.file_format(source), locations.locate_source(source)[1]
    if local is None:
        return None
    if kind is FileFormat.delta:
        return [field.name for field in tables.open_table(str(local), source.version).schema().fields]
    files = locations.data_files(local)
    if kind is FileFormat.csv:
        return csv_files.read_header(files[0], source, max_columns)
    return parquet_files.read_columns(local) if len(files) <= MOST_FILES else None
