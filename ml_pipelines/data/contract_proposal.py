"""Proposes a data contract from rows, as YAML to paste into a profile."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ml_pipelines.config.schema import Column, ColumnType
from ml_pipelines.data import contract

if TYPE_CHECKING:
    import polars as pl

CATEGORIES = 20  # a text column with more distinct values gets no categories
SLACK = 0.1  # the proposed range of a number column is wider than its values by this share, on each side


def propose(frame: pl.DataFrame, label: str, key: str | None) -> dict[str, Column]:
    """Return a contract that the rows fulfil, with slack. A person should review the contract: the rows are a sample.

    The range of a number column grows by a tenth on each side, and its ends are rounded outwards. The range crosses 0
    only if the values do. A text column with few distinct values gets exactly these values as categories. A column is
    nullable if a value is missing. The key column has no range. It is unique if no key occurs twice.
    """
    return {column.name: _proposed(column, label, key) for column in frame}


def _proposed(column: pl.Series, label: str, key: str | None) -> Column:
    present = column.fill_nan(None).drop_nulls() if column.dtype.is_float() else column.drop_nulls()
    kind = _kind(column.dtype)
    draft = Column(kind, nullable=len(present) < len(column))
    if column.name == key:
        return dataclasses.replace(draft, unique=bool(present.is_unique().all()))
    if column.name == label and column.dtype.is_integer():  # the classes 0 and 1
        return dataclasses.replace(draft, min=0.0, max=1.0)
    if present.is_empty():
        return draft
    if kind in (ColumnType.number, ColumnType.integer):
        low, high = _widened(float(present.min()), float(present.max()))  # type: ignore[arg-type]
        return dataclasses.replace(draft, min=low, max=high)
    if kind is not ColumnType.text or present.n_unique() > CATEGORIES or present.str.contains("${", literal=True).any():
        return draft  # conf would read `${` in a category as an interpolation
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


def contract_yaml(columns: Mapping[str, Column]) -> str:
    """Return the contract as YAML for a profile in conf/, with one line for each column."""
    lines = (f"  {contract.inline_yaml(name)}: {contract.column_yaml(column)}" for name, column in columns.items())
    return "\n".join(["contract:", *lines])
