"""Finds data warnings: properties of the tables that are suspicious but allowed. No warning stops a run."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ml_pipelines.config.overrides import column_key, drop_setting
from ml_pipelines.data.origin import Origin
from ml_pipelines.text import quoted, shown

if TYPE_CHECKING:
    import polars as pl

ALIKE = 100  # a column without repeated values is suspicious if it has at least this many values
RARE = 0.01  # a class is rare if its share of the rows is smaller than this
# A date, perhaps with a time: 2024-01-31, 31.01.2024, 1/31/24
DATE = r"^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{1,2}/\d{1,2}/\d{2})([T ].*)?$"


@dataclass(frozen=True)
class DataWarning:
    """One warning: its kind, its column in the source (None for the whole table), and its message."""

    kind: str
    column: str | None
    message: str


def find_warnings(
    train: pl.LazyFrame,
    test: pl.LazyFrame,
    features: Sequence[str],
    label: str,
    origin: Origin,
    declared: Collection[str] = (),
) -> list[DataWarning]:
    """Return the warnings about both tables. Polars streams the tables a few times, so memory use stays small.

    Args:
        train: the training table.
        test: the test table.
        features: the names of the features in the tables.
        label: the name of the label in the tables.
        origin: the names that the source has for the columns and the classes.
        declared: the columns in `data.columns`, by their names in the source.
    """
    return [
        *_class_warnings(train, label, len(features), origin),
        *_column_warnings(train.select(features), origin, declared),
        *_overlap_warnings(train.select(features), test.select(features)),
    ]


def find_unnamed(columns: Sequence[str], text: bool, dropped: Sequence[str]) -> list[DataWarning]:
    """Return a warning for each feature whose column has no name of its own, such as the index of a pandas table.

    Args:
        columns: the features by their names in the source.
        text: whether the source is a CSV, where `_c0` stands for a name that the header lacks.
        dropped: the columns in `data.drop`.
    """
    warnings = []
    for name in columns:
        if text and re.fullmatch(r"_c\d+", name):
            problem = "has no name in the header. The first column of a pandas export often has none: it is the index"
        elif re.fullmatch(r"__index_level_\d+__", name):
            problem = "is the index of a pandas table"
        else:
            continue
        message = f"Column {name} {problem}. If it numbers the rows, set {drop_setting(name, dropped)}."
        warnings.append(DataWarning("unnamed", name, message))
    return warnings


def warning_table(warnings: Sequence[DataWarning]) -> pl.DataFrame:
    """Return the warnings as a table: kind, column, message."""
    import polars as pl

    return pl.DataFrame([asdict(warning) for warning in warnings], schema={"kind": str, "column": str, "message": str})


def _class_warnings(train: pl.LazyFrame, label: str, features: int, origin: Origin) -> Iterator[DataWarning]:
    import polars as pl

    rows, ones = train.select(pl.len(), pl.col(label).sum()).collect().row(0)
    rare = min(ones, rows - ones)
    if features > rows:
        yield DataWarning("wide", None, f"The table has more features ({features:,}) than training rows ({rows:,}).")
    if origin.classes and rare < RARE * rows:
        message = f"Only {rare:,} of {rows:,} training rows have {origin.rows_of(1 if ones == rare else 0)}."
        yield DataWarning("imbalance", origin.label, message)


def _column_warnings(train: pl.LazyFrame, origin: Origin, declared: Collection[str]) -> Iterator[DataWarning]:
    """Yield a warning for each constant column, for dates, and for text or whole numbers without repetition."""
    import polars as pl
    from polars import selectors as cs

    aggregates = {"min": pl.all().min(), "max": pl.all().max(), "rows": pl.all().count()}
    floats = cs.float()
    aggregates["dates"] = cs.string().str.contains(DATE).all()
    aggregates["whole"] = ((floats == floats.floor()) & (floats.abs() < 2**53)).all()  # larger floats are always whole
    totals = train.select(each.name.suffix(f" {name}") for name, each in aggregates.items())
    total = totals.collect(engine="streaming").row(0, named=True)
    candidates = []
    for name in train.collect_schema():
        value, source = total[f"{name} min"], origin.source(name)
        if value == total[f"{name} max"]:
            message = f"Column {shown(source)} is constant: each row has the value {quoted(value)} or no value."
            if value is None:
                message = (
                    f"Column {shown(source)} has no value in the training table. Fill it, or {origin.removal(name)}."
                )
            yield DataWarning("constant", source, message)
        elif total.get(f"{name} dates") and source not in declared:
            message = (
                f"Column {shown(source)} has dates. Each date became a category, so the model can't use new dates."
            )
            keep = f" To keep them so, set {column_key(source)}=category." if name in origin.sources else ""
            yield DataWarning("dates", source, f"{message} To leave them out, {origin.removal(name)}.{keep}")
        elif total[f"{name} rows"] >= ALIKE and total.get(f"{name} whole", True):
            candidates.append(name)
    distinct = train.select(pl.col(candidates).drop_nulls().n_unique()).collect(engine="streaming")
    for name in candidates:
        if distinct[name].item() == total[f"{name} rows"]:
            message = f"Column {origin.name(name)} has a different value in each row. If it is an id,"
            yield DataWarning("id-like", origin.source(name), f"{message} {origin.removal(name)}.")


def _overlap_warnings(train: pl.LazyFrame, test: pl.LazyFrame) -> Iterator[DataWarning]:
    """Yield a warning if test rows have the same features as training rows: the model has seen these rows."""
    import polars as pl

    trained, tested = (frame.select(pl.struct(pl.all()).hash().alias("row")) for frame in (train, test))
    count = tested.join(trained.unique(), on="row", how="semi").select(pl.len()).collect(engine="streaming").item()
    if count:
        yield DataWarning("in-both", None, f"Test rows with the same features as a training row: {count:,}.")
