"""A contract proposed from the tables of a pipeline run, as YAML to paste into a profile."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ml_pipelines import contract, ingest, lineage, tables, tracking
from ml_pipelines.config import Column, ColumnType, Config
from ml_pipelines.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

CATEGORIES = 20  # of a text column with more values, none are listed
SLACK = 0.1  # of a number's range: so much wider on each side is the proposed one
NOTE = """\
# Proposed from pipeline run {run}: {train:,} train and {test:,} test rows. A draft: you know more than these rows.
# Ranges are a tenth wider than found, on each side; categories are those found; missing may be what was missing."""


def of_run(config: Config, run: str | None) -> str:
    """Return a contract for the tables of a pipeline run (the latest, where none is given), as a block for a profile.

    Raises:
        ConfigError: there is no such run, or none that has tables.
        BadData: its tables are damaged, or not here.
    """
    import polars as pl

    tracking.connect(config)
    experiment, names = tracking.experiment_id(config.experiment_name), ("train_uri", "test_uri")
    if run is None:
        run = lineage.latest_with(set(names), experiment, config.profile)
    run = lineage.find_pipeline_run(run, experiment)
    producers = lineage.producers(run)
    if not producers.keys() >= set(names):
        raise ConfigError(f"Pipeline run {run} has no tables: its prepare_data didn't finish. Name another.")
    written = [table for name in names if (table := lineage.table_of(producers[name], name))]
    label, key = (name and ingest.standard_names([name])[name] for name in (config.data.label, config.data.key))
    train, test = (tables.read(table, None, key) for table in written)
    proposed = propose(pl.concat([train, test], how="vertical_relaxed"), str(label), key)
    return "\n".join([NOTE.format(run=run[:8], train=train.height, test=test.height), to_yaml(proposed)])


def propose(frame: pl.DataFrame, label: str, key: str | None) -> dict[str, Column]:
    """Return a contract that the rows fulfil, with slack: it is a draft for a person, who knows more than the rows.

    A number's range is wider than the one found by a tenth on each side, rounded outwards, and doesn't cross 0 where
    the values don't. Categories are listed where they are few, and have no slack. A column may be missing where it
    was. A key that is unique stays so, and has no range.
    """
    return {column.name: _proposed(column, label, key) for column in frame}


def _proposed(column: pl.Series, label: str, key: str | None) -> Column:
    present = column.fill_nan(None).drop_nulls() if column.dtype.is_float() else column.drop_nulls()
    kind = _kind(column.dtype)
    draft = Column(kind, nullable=len(present) < len(column))
    if column.name == key:
        return dataclasses.replace(draft, unique=bool(present.is_unique().all()))
    if column.name == label:
        return dataclasses.replace(draft, min=0.0, max=1.0)
    if present.is_empty():
        return draft
    if kind in (ColumnType.number, ColumnType.integer):
        low, high = _widened(float(present.min()), float(present.max()))  # type: ignore[arg-type]
        return dataclasses.replace(draft, min=low, max=high)
    if kind is not ColumnType.text or present.n_unique() > CATEGORIES or present.str.contains("${", literal=True).any():
        return draft  # `${` would be an interpolation
    return dataclasses.replace(draft, categories=present.unique().sort().to_list())


def _kind(dtype: pl.DataType) -> ColumnType:
    if dtype.is_numeric():
        return ColumnType.integer if dtype.is_integer() else ColumnType.number
    return ColumnType.boolean if str(dtype) == "Boolean" else ColumnType.text


def _widened(low: float, high: float) -> tuple[float, float]:
    slack = SLACK * ((high - low) or abs(high) or 1.0)
    digits = 1 - math.floor(math.log10(slack))
    step = 10.0**-digits
    wide_low, wide_high = math.floor((low - slack) / step), math.ceil((high + slack) / step)
    bounds = min(low, round(wide_low * step, digits)), max(high, round(wide_high * step, digits))
    return (0.0 if low >= 0 > bounds[0] else bounds[0]), (0.0 if high <= 0 < bounds[1] else bounds[1])


def to_yaml(columns: Mapping[str, Column]) -> str:
    """Return the contract as a block for a profile, a line a column."""
    return "\n".join(
        ["contract:", *(f"  {contract.flow(name)}: {contract.line(column)}" for name, column in columns.items())]
    )
