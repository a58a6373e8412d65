"""The data contract: what `contract` in conf declares of columns, checked by pandera on the tables as written.

One column of all tables is looked at at a time, so that memory holds no more than that.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from ml_pipelines import tables
from ml_pipelines.config import Column, ColumnType

if TYPE_CHECKING:
    import polars as pl
    from pandera.errors import SchemaError

EXAMPLES = 5  # rows shown of a violation


@dataclass(frozen=True)
class Example:
    """A row that breaks a rule."""

    table: str
    value: Any
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Violation:
    """A rule that a column breaks: its key in conf, or `column` for a column that isn't there."""

    column: str
    rule: str
    what: str
    count: int = 0
    rows: int = 0
    examples: tuple[Example, ...] = ()

    def say(self, key: str | None) -> str:
        """Say it in one line: column, count, and an example with its key."""
        if not self.examples:
            return f"column {self.column} {self.what}"
        shown = self.examples[0]
        parts = [] if self.rule == "nullable" else [repr(shown.value)]
        parts += [f"{key} {shown.row[key]}"] if key and key in shown.row and key != self.column else []
        example = f" ({', '.join(parts)})" if parts else ""
        return f"column {self.column}: {self.count:,} of {self.rows:,} values {self.what}{example}"


def check(contract: Mapping[str, Column], written: Mapping[str, tables.Table]) -> list[Violation]:
    """Return what the tables, taken as one, break. A column that isn't declared may hold anything."""
    scans = {name: tables.scan(table) for name, table in written.items()} if contract else {}
    return [broken for name, declared in contract.items() for broken in _violations(name, declared, scans)]


def _violations(name: str, declared: Column, scans: Mapping[str, pl.LazyFrame]) -> Iterator[Violation]:
    import pandera.polars as pa
    import polars as pl
    from pandera.config import ValidationDepth, config_context  # a variable of the environment can't turn it off
    from pandera.errors import SchemaErrors

    cells = pl.DataFrame()  # without the column, unless all tables have it
    if all(name in scan.collect_schema() for scan in scans.values()):
        parts = pl.concat([scan.select(name) for scan in scans.values()], how="vertical_relaxed")
        cells = parts.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None)).collect()
    found = cells.schema.get(name)
    accepted = _dtypes(declared.type)
    column = pa.Column(
        found if found in accepted else accepted[0],
        _checks(declared) if found in accepted else [],
        nullable=declared.nullable,
        unique=declared.unique,
    )
    try:
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            pa.DataFrameSchema({name: column}).validate(cells, lazy=True)
    except SchemaErrors as errors:
        for error in errors.schema_errors:
            yield from _violation(name, declared, error, cells, scans)


def _dtypes(kind: ColumnType) -> list[Any]:
    """Return the types that a declared one may have in a table. Numbers of a source are floats there, whole or not."""
    import polars as pl

    if kind in (ColumnType.text, ColumnType.boolean):
        return [pl.String if kind is ColumnType.text else pl.Boolean]
    return [pl.Float64, pl.Float32, pl.Int64, pl.Int32, pl.Int16, pl.Int8]


def _checks(declared: Column) -> list[Any]:
    """Return the checks of a column's values; each bears the name of its key in conf."""
    import polars as pl
    from pandera.polars import Check, PolarsData

    def whole(data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) == pl.col(data.key).floor())

    limits: dict[str, Any] = {"n_failure_cases": EXAMPLES}  # else pandera keeps every one
    checks = [Check(whole, name="type", **limits)] if declared.type is ColumnType.integer else []
    checks += [Check.ge(declared.min, name="min", **limits)] if declared.min is not None else []
    checks += [Check.le(declared.max, name="max", **limits)] if declared.max is not None else []
    return checks + ([Check.isin(declared.categories, name="categories", **limits)] if declared.categories else [])


def _violation(
    name: str, declared: Column, error: SchemaError, cells: pl.DataFrame, scans: Mapping[str, pl.LazyFrame]
) -> Iterator[Violation]:
    """Yield what pandera found, with its rows; nothing where it holds missing values against a rule for values."""
    from pandera.constants import CHECK_OUTPUT_KEY
    from pandera.errors import SchemaErrorReason as Reason

    own = {
        Reason.COLUMN_NOT_IN_DATAFRAME: "column",
        Reason.WRONG_DATATYPE: "type",
        Reason.SERIES_CONTAINS_NULLS: "nullable",
        Reason.SERIES_CONTAINS_DUPLICATES: "unique",
    }
    rule = own.get(error.reason_code) or str(error.check.name)
    if rule == "column":
        known = ", ".join(next(iter(scans.values())).collect_schema().names())
        yield Violation(name, rule, f"is not there; the columns are {known}", 0, 0)
        return
    broken = cells[name].is_null() if rule == "nullable" else cells[name].is_not_null()
    if error.check_output is not None:
        broken &= ~error.check_output[CHECK_OUTPUT_KEY]
    rows = broken.arg_true()
    if len(rows):
        examples = tuple(_example(row, cells[name][row], scans) for row in rows.head(EXAMPLES))
        yield Violation(name, rule, _words(declared, cells.schema[name])[rule], len(rows), cells.height, examples)


def _words(declared: Column, found: Any) -> dict[str, str]:
    wrong = "" if found in _dtypes(declared.type) else f", but {found}"
    return {
        "type": f"are no {declared.type.value}{wrong}",
        "nullable": "are missing",
        "unique": "are there more than once",
        "min": f"are below {_plain(declared.min)}",
        "max": f"are above {_plain(declared.max)}",
        "categories": f"are none of {', '.join(declared.categories[:5])}{', ...' if declared.categories[5:] else ''}",
    }


def _plain(limit: float | None) -> str:
    return "" if limit is None else f"{limit:.15g}"


def _example(row: int, value: Any, scans: Mapping[str, pl.LazyFrame]) -> Example:
    """Return the row of the tables below each other, and whose it is."""
    import polars as pl

    for name, scan in scans.items():
        rows = int(scan.select(pl.len()).collect().item())
        if row < rows:
            return Example(name, value, scan.slice(row, 1).collect().row(0, named=True))
        row -= rows
    raise IndexError(row)


def summary(violations: Sequence[Violation], key: str | None) -> str:
    """Say the first violation, how many there are, and what to do."""
    more = f", and {len(violations) - 1:,} more" if violations[1:] else ""
    said = f"The contract is broken: {violations[0].say(key)}{more}."
    return f"{said} Mend the data, or `contract` in conf; all of it is in contract_violations.json of this run."


def report(violations: Sequence[Violation]) -> pl.DataFrame:
    """Return the violations as a table of text, one row an example."""
    import polars as pl

    rows = [
        {"column": v.column, "rule": v.rule, "what": v.what, "count": v.count, "rows": v.rows, **_cells(example)}
        for v in violations
        for example in v.examples or (None,)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _cells(example: Example | None) -> dict[str, str | None]:
    if example is None:
        return {"table": None, "value": None, "row": None}
    row = json.dumps(dict(example.row), ensure_ascii=False, default=str)
    return {"table": example.table, "value": str(example.value), "row": row}


def line(column: Column) -> str:
    """Return a column's declaration as a line of YAML, without what is the default."""
    declared = {field.name: getattr(column, field.name) for field in dataclasses.fields(column)}
    said = {name: value for name, value in declared.items() if not (value is None or value is False or value == [])}
    for name in ("min", "max"):
        if name in said and float(said[name]).is_integer() and abs(said[name]) < 2**53:
            said[name] = int(said[name])
    return flow({**said, "type": column.type.value})


def flow(value: Any) -> str:
    """Return a value as YAML of one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")
