"""The data contract: pandera checks the written tables against the columns that `contract` in conf declares.

Pandera checks one column at a time, in all tables together, so memory holds at most one column.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from ml_pipelines.config.schema import Column, ColumnType
from ml_pipelines.data import tables
from ml_pipelines.data.origin import Origin
from ml_pipelines.text import listed, quoted, shown

if TYPE_CHECKING:
    import polars as pl
    from pandera.errors import SchemaError

EXAMPLES = 5  # number of rows that a violation shows
PLURALS = {
    ColumnType.number: "numbers",
    ColumnType.integer: "integers",
    ColumnType.boolean: "booleans",
    ColumnType.text: "text",
}


@dataclass(frozen=True)
class Example:
    """A row that breaks a rule."""

    table: str
    value: Any
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Violation:
    """One rule that a column breaks. `rule` is its key in conf, or `column` if a table lacks the column."""

    column: str
    rule: str
    problem: str
    count: int = 0  # values that break the rule
    rows: int = 0  # rows in all tables
    examples: tuple[Example, ...] = ()

    def describe(self, key: str | None, origin: Origin) -> str:
        """Return one line: the column, the count, and an example with its value in the key column `key`."""
        column = origin.also(self.column)
        if not self.examples:
            return f"column {column} {self.problem}"
        example = self.examples[0]
        parts = [] if self.rule == "nullable" else [quoted(example.value)]
        parts += [f"{key} {shown(example.row[key])}"] if key and key in example.row and key != self.column else []
        shown_example = f" ({', '.join(parts)})" if parts else ""
        return f"column {column}: {self.count:,} of {self.rows:,} values {self.problem}{shown_example}"


def find_violations(contract: Mapping[str, Column], written: Mapping[str, tables.Table]) -> list[Violation]:
    """Check all tables together, and return the rules that they break.

    Columns that the contract doesn't declare are not checked.
    """
    scans = {name: tables.scan_table(table) for name, table in written.items()} if contract else {}
    return [violation for name, declared in contract.items() for violation in _column_violations(name, declared, scans)]


def _column_violations(name: str, declared: Column, scans: Mapping[str, pl.LazyFrame]) -> Iterator[Violation]:
    import pandera.polars as pa
    import polars as pl
    from pandera.config import ValidationDepth, config_context  # config_context overrides PANDERA_* variables
    from pandera.errors import SchemaErrors

    cells = pl.DataFrame()  # stays empty if a table lacks the column
    if all(name in scan.collect_schema() for scan in scans.values()):
        parts = pl.concat([scan.select(name) for scan in scans.values()], how="vertical_relaxed")
        cells = parts.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None)).collect()
    dtype = cells.schema.get(name)
    accepted = _accepted_dtypes(declared.type)
    column = pa.Column(
        dtype if dtype in accepted else accepted[0],
        _value_checks(declared) if dtype in accepted else [],
        nullable=declared.nullable,
        unique=declared.unique,
    )
    try:
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            pa.DataFrameSchema({name: column}).validate(cells, lazy=True)
    except SchemaErrors as errors:
        for error in errors.schema_errors:
            yield from _violation(name, declared, error, cells, scans)


def _accepted_dtypes(kind: ColumnType) -> list[Any]:
    """Return the Polars types that fit a declared type. Integers can be floats, because prepare_data writes floats."""
    import polars as pl

    if kind in (ColumnType.text, ColumnType.boolean):
        return [pl.String if kind is ColumnType.text else pl.Boolean]
    return [pl.Float64, pl.Float32, pl.Int64, pl.Int32, pl.Int16, pl.Int8]


def _value_checks(declared: Column) -> list[Any]:
    """Return the pandera checks of a column's values. Each check has the name of its key in conf."""
    import polars as pl
    from pandera.polars import Check, PolarsData

    def whole(data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) == pl.col(data.key).floor())

    limits: dict[str, Any] = {"n_failure_cases": EXAMPLES}  # without this limit, pandera keeps every wrong value
    checks = [Check(whole, name="type", **limits)] if declared.type is ColumnType.integer else []
    checks += [Check.ge(declared.min, name="min", **limits)] if declared.min is not None else []
    checks += [Check.le(declared.max, name="max", **limits)] if declared.max is not None else []
    return checks + ([Check.isin(declared.categories, name="categories", **limits)] if declared.categories else [])


def _violation(
    name: str, declared: Column, error: SchemaError, cells: pl.DataFrame, scans: Mapping[str, pl.LazyFrame]
) -> Iterator[Violation]:
    """Yield the violation that a pandera error describes. Missing values break only the rule `nullable`."""
    from pandera.constants import CHECK_OUTPUT_KEY
    from pandera.errors import SchemaErrorReason as Reason

    rules = {
        Reason.COLUMN_NOT_IN_DATAFRAME: "column",
        Reason.WRONG_DATATYPE: "type",
        Reason.SERIES_CONTAINS_NULLS: "nullable",
        Reason.SERIES_CONTAINS_DUPLICATES: "unique",
    }
    rule = rules.get(error.reason_code) or str(error.check.name)
    if rule == "column":
        columns = listed(next(iter(scans.values())).collect_schema().names())
        yield Violation(name, rule, f"is missing; the columns are {columns}", 0, 0)
        return
    broken = cells[name].is_null() if rule == "nullable" else cells[name].is_not_null()
    if error.check_output is not None:
        broken &= ~error.check_output[CHECK_OUTPUT_KEY]
    rows = broken.arg_true()
    if len(rows):
        examples = tuple(_example(row, cells[name][row], scans) for row in rows.head(EXAMPLES))
        yield Violation(name, rule, _problem(rule, declared, cells.schema[name]), len(rows), cells.height, examples)


def _problem(rule: str, declared: Column, dtype: Any) -> str:
    actual = "" if dtype in _accepted_dtypes(declared.type) else f" but {dtype}"
    return {
        "type": f"are not {PLURALS[declared.type]}{actual}",
        "nullable": "are missing",
        "unique": "occur more than once",
        "min": f"are below {_plain(declared.min)}",
        "max": f"are above {_plain(declared.max)}",
        "categories": f"are not among {listed(declared.categories, most=5)}",
    }[rule]


def _plain(limit: float | None) -> str:
    return "" if limit is None else f"{limit:.15g}"


def _example(row: int, value: Any, scans: Mapping[str, pl.LazyFrame]) -> Example:
    """Return row number `row` of the concatenated tables, with the name of its table."""
    import polars as pl

    for name, scan in scans.items():
        rows = int(scan.select(pl.len()).collect().item())
        if row < rows:
            return Example(name, value, scan.slice(row, 1).collect().row(0, named=True))
        row -= rows
    raise IndexError(row)


def violation_summary(violations: Sequence[Violation], key: str | None, origin: Origin) -> str:
    """Return the error message: the first violation, the number of others, and what to do."""
    more = f", and {len(violations) - 1:,} more" if violations[1:] else ""
    return (
        f"The data breaks the contract: {violations[0].describe(key, origin)}{more}. "
        "Correct the data, or `contract` in conf. contract_violations.json of this run lists all violations."
    )


def violation_table(violations: Sequence[Violation]) -> pl.DataFrame:
    """Return the violations as a table of text, with one row for each example."""
    import polars as pl

    rows = [
        {"column": v.column, "rule": v.rule, "problem": v.problem, "count": v.count, "rows": v.rows, **_cells(example)}
        for v in violations
        for example in v.examples or (None,)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _cells(example: Example | None) -> dict[str, str | None]:
    if example is None:
        return {"table": None, "value": None, "row": None}
    row = json.dumps(dict(example.row), ensure_ascii=False, default=str)
    return {"table": example.table, "value": str(example.value), "row": row}


def column_yaml(column: Column) -> str:
    """Return the declaration of a column as one line of YAML. Keys with a default value are left out."""
    values = {field.name: getattr(column, field.name) for field in dataclasses.fields(column)}
    shown = {name: value for name, value in values.items() if not (value is None or value is False or value == [])}
    for name in ("min", "max"):
        if name in shown and float(shown[name]).is_integer() and abs(shown[name]) < 2**53:
            shown[name] = int(shown[name])
    return inline_yaml({**shown, "type": column.type.value})


def inline_yaml(value: Any) -> str:
    """Return a value as one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")
