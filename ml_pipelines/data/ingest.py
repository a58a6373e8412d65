"""Turns the raw rows of a source into rows for a model: clean names, types, a label of 0 and 1. Spark does the work.

Each column is profiled and checked before anything is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_pipelines.config.schema import Data, Treatment
from ml_pipelines.data.sources import Raw
from ml_pipelines.data.tables import FLOAT32_MAX
from ml_pipelines.errors import BadData

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

INTEGER = ("tinyint", "smallint", "int", "bigint")
NUMERIC = (*INTEGER, "float", "double", "decimal", "boolean")
CLASSES_SHOWN = 20
COLUMNS_AT_ONCE = 200  # Sail's planning time grows with the square of the number of columns


@dataclass(frozen=True)
class Profile:
    """Statistics of one column of the source."""

    name: str
    dtype: str  # Spark's simple name
    present: int  # cells with a value
    numbers: int  # cells with a number
    largest: float  # the largest absolute value of the numbers


@dataclass(frozen=True)
class Ingested:
    """Typed rows, and how each column was converted."""

    frame: DataFrame
    renamed: dict[str, str]
    treatments: dict[str, Treatment]
    label_mapping: dict[str, int]

    def decisions(self) -> dict[str, Any]:
        """Return the conversions as JSON, for the artifact columns.json."""
        kinds = {name: treatment.value for name, treatment in self.treatments.items()}
        return {"renamed": self.renamed, "features": kinds, "label": self.label_mapping}


def ingest(raw: Raw, data: Data) -> Ingested:
    """Return `raw` with clean column names, numbers as float or double, categories as string, the label as 0 or 1.

    Raises:
        BadData: the source doesn't fit the configuration, or a classifier can't learn from it.
    """
    _check_columns(raw.frame.columns, data)
    names = standard_names(raw.frame.columns)
    frame = _with_nulls(raw.frame.toDF(*names.values()), data.null_values)
    label, key = names[data.label], names.get(data.key or "")
    dropped = {names[name] for name in data.drop}
    declared = {names[name]: treatment for name, treatment in data.columns.items()}
    features = [name for name in frame.columns if name not in {label, key, *dropped}]
    if not features:
        raise BadData(
            f"The source has no features. Its columns ({', '.join(raw.frame.columns)}) are the label, the key, or in "
            "data.drop. Take a column out of data.drop, or use another source."
        )

    rows, profiles, key_nulls = _profile(frame, features, key)
    if rows < 2:
        raise BadData(f"The source has too few rows: {rows}. A model needs rows for training and for testing.")
    if key_nulls:
        raise BadData(f"data.key: {key_nulls} of {rows} rows have no {data.key}. Fill it in, or set data.key=null.")
    treatments = {p.name: choose_treatment(p, declared.get(p.name), raw.text, rows) for p in profiles}
    for profile in profiles:
        if treatments[profile.name] is Treatment.number:
            _check_numbers(frame, profile)
    mapping, is_positive = _label(frame, label, data, rows)
    columns = [_key(frame, key, str(data.key))] if key else []
    columns += [_typed(frame, name, treatments[name]) for name in features]
    columns.append(is_positive.cast("int").alias(label))
    renamed = {old: new for old, new in names.items() if old != new}
    return Ingested(frame.select(*columns), renamed, treatments, mapping)


def standard_name(column: str) -> str:
    """Return the name that a column of the source gets in our tables."""
    return standard_names([column])[column]


def standard_names(columns: Sequence[str]) -> dict[str, str]:
    """Return source column -> its name in our tables. The name has only letters of any script, digits and underscores.

    Delta tables can't have blanks and `,;{}()=` in names, and some readers accept even fewer characters.

    Raises:
        BadData: two columns would get the same name, or names that differ only in case.
    """
    names = {name: re.sub(r"\W+", "_", name.lstrip("\ufeff")).strip("_") or "column" for name in columns}
    seen: dict[str, str] = {}
    for name in columns:
        if (twin := seen.setdefault(names[name].lower(), name)) is not name:
            raise BadData(
                f"Columns {twin!r} and {name!r} would get the same name, {names[name]!r}. Rename one of them."
            )
    return names


def choose_treatment(profile: Profile, declared: Treatment | None, text: bool, rows: int) -> Treatment:
    """Return whether a column becomes a number or a category: as `declared`, or by its type if `declared` is None.

    In a CSV (`text`), a column becomes a number if most of its cells are numbers.

    Raises:
        BadData: the type can't be a feature, numbers are stored as text, or the column has no value.
    """
    kind = profile.dtype.split("(")[0]
    if profile.present == 0:
        raise BadData(f"Column {profile.name} is empty in all {rows} rows. Add it to data.drop.")
    if kind not in (*NUMERIC, "string") and (declared is not Treatment.category or kind[:4] not in ("date", "time")):
        raise BadData(
            f"Column {profile.name} has type {profile.dtype}, which can't be a feature. Add it to data.drop"
            + (f", or set data.columns.{profile.name}=category." if kind[:4] in ("date", "time") else ".")
        )
    if declared:
        return declared
    if kind != "string":
        return Treatment.number
    if not text and profile.numbers == profile.present:
        raise BadData(
            f"Column {profile.name} has numbers stored as text. "
            f"Set data.columns.{profile.name} to number (for amounts) or category (for codes)."
        )
    return Treatment.number if text and profile.numbers > profile.present / 2 else Treatment.category


def _check_columns(columns: Sequence[str], data: Data) -> None:
    repeated = sorted({name for name in columns if list(columns).count(name) > 1})
    if repeated:
        raise BadData(f"The source has two columns named {', '.join(repeated)}. Rename one of them.")
    configured = {"data.label": [data.label], "data.key": [data.key] if data.key else []}
    configured |= {"data.drop": data.drop, "data.columns": list(data.columns)}
    for option, names in configured.items():
        for name in names:
            if name not in columns:
                known = ", ".join(columns)
                advice = {
                    "data.label": f"Set data.label to one of: {known}.",
                    "data.key": f"Set data.key to one of: {known}, or to null if rows have no key.",
                }.get(option, f"The columns of the source are: {known}.")
                raise BadData(f"{option}: the source has no column {name!r}. {advice}")


def _with_nulls(frame: DataFrame, markers: Sequence[str]) -> DataFrame:
    """Return the frame with null instead of NaN, blank text and the `markers` of missing values."""
    from pyspark.sql import functions as F

    columns = []
    for name, dtype in frame.dtypes:
        column = frame[name]
        if dtype == "string":
            trimmed = F.trim(column)
            columns.append(F.when(~trimmed.isin("", *markers), trimmed).alias(name))  # Sail reads "" in a CSV as null
        elif dtype in ("float", "double"):
            columns.append(F.when(column.isNotNull() & ~F.isnan(column), column).alias(name))
        else:
            columns.append(column)
    return frame.select(*columns)


def _number(frame: DataFrame, name: str, dtype: str) -> Column:
    """Return the column as a number. Text that isn't a decimal number, such as `1d` or `0x1`, becomes null."""
    from pyspark.sql import functions as F

    if dtype == "string":
        plain = frame[name].rlike(r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\z|^[+-]?[iI]nf(inity)?\z")
        finite = F.when(plain & ~F.lower(frame[name]).contains("inf"), frame[name]).try_cast("double")
        sign = F.when(frame[name].startswith("-"), float("-inf")).otherwise(float("inf"))
        return F.when(plain & F.lower(frame[name]).contains("inf"), sign).otherwise(finite)
    if dtype.split("(")[0] not in NUMERIC:
        return F.lit(None).cast("double")
    return frame[name].cast("float" if dtype == "float" else "double")


def _profile(frame: DataFrame, features: Sequence[str], key: str | None) -> tuple[int, list[Profile], int]:
    """Return the number of rows, the profile of each feature, and the number of rows without a key."""
    from pyspark.sql import functions as F

    dtypes, profiles, totals = dict(frame.dtypes), [], {}
    for start in range(0, len(features), COLUMNS_AT_ONCE):
        names = features[start : start + COLUMNS_AT_ONCE]
        cells = frame.select(
            (frame[key] if key else F.lit(1)).isNotNull().alias("keyed"),
            *(frame[name].isNotNull().alias(f"present_{i}") for i, name in enumerate(names)),
            *(_number(frame, name, dtypes[name]).alias(f"number_{i}") for i, name in enumerate(names)),
        )
        sums = [F.count(F.lit(1)).alias("rows"), F.count_if("keyed").alias("keys")]
        for i in range(len(names)):
            sums.append(F.count_if(f"present_{i}").alias(f"present_{i}"))
            sums.append(F.count(f"number_{i}").alias(f"numbers_{i}"))
            sums.append(F.max(F.abs(f"number_{i}")).alias(f"largest_{i}"))
        totals = cells.agg(*sums).collect()[0].asDict()
        profiles += [
            Profile(name, dtypes[name], totals[f"present_{i}"], totals[f"numbers_{i}"], totals[f"largest_{i}"] or 0.0)
            for i, name in enumerate(names)
        ]
    return totals["rows"], profiles, totals["rows"] - totals["keys"]


def _check_numbers(frame: DataFrame, profile: Profile) -> None:
    """Raise BadData if a number column has text, infinite values, or values beyond float32."""
    from pyspark.sql import functions as F

    column, number = frame[profile.name], _number(frame, profile.name, profile.dtype)
    if profile.numbers < profile.present:
        bad, problem = column.isNotNull() & number.isNull(), "not numbers"
        advice = f"Correct them, add the text to data.null_values, or set data.columns.{profile.name}=category."
    elif profile.largest == float("inf"):
        bad, problem = F.abs(number) == profile.largest, "infinite"
        advice = "Correct them, or add the column to data.drop."
    elif profile.largest > FLOAT32_MAX:
        bad, problem = F.abs(number) > FLOAT32_MAX, "beyond the range of a 32-bit float, 3.4e38"
        advice = "Rescale the column, or add it to data.drop."
    else:
        return
    cells = frame.where(bad).select(column.cast("string"))
    shown = ", ".join(repr(row[0]) for row in cells.limit(3).collect())
    count = f"{cells.count()} of {profile.present} values"
    raise BadData(f"Column {profile.name}: {count} are {problem} ({shown}). {advice}")


def _typed(frame: DataFrame, name: str, treatment: Treatment) -> Column:
    if treatment is Treatment.category:
        return _text(frame, name).alias(name)
    return _number(frame, name, dict(frame.dtypes)[name]).alias(name)


def _text(frame: DataFrame, name: str) -> Column:
    """Return the column as text. Whole floats lose their `.0`, because engines format floats like 1e7 differently."""
    from pyspark.sql import functions as F

    column = frame[name]
    if dict(frame.dtypes)[name] not in ("float", "double"):
        return column.cast("string")
    whole = (column == F.floor(column)) & (F.abs(column) < 2**53)
    return F.when(whole, column.cast("bigint").cast("string")).otherwise(column.cast("string"))


def _key(frame: DataFrame, name: str, original: str) -> Column:
    """Return the key as bigint or text. Its hash decides the split, so its type must not vary between engines."""
    kind = dict(frame.dtypes)[name].split("(")[0]
    if kind in INTEGER:
        return frame[name].cast("bigint").alias(name)
    if kind not in (*NUMERIC, "string") and kind[:4] not in ("date", "time"):
        raise BadData(
            f"data.key: column {original} has type {kind}, which can't be a key. "
            "Choose another column, or set data.key=null."
        )
    return _text(frame, name).alias(name)


def _label(frame: DataFrame, label: str, data: Data, rows: int) -> tuple[dict[str, int], Column]:
    """Return label value -> class (0 or 1), and a column that is true for the positive class."""
    from pyspark.sql import functions as F

    dtype = dict(frame.dtypes)[label].split("(")[0]
    if dtype not in (*NUMERIC, "string"):
        raise BadData(
            f"Label {label} has type {dtype}, but classes must be numbers, booleans or text. "
            "Convert the column, or set data.label to another."
        )
    casts = {"string": "string", "boolean": "boolean", **dict.fromkeys(INTEGER, "bigint")}
    column = frame[label].cast(casts.get(dtype, "double"))
    counted = frame.groupBy(column.alias("value")).count()
    missing = sum(row["count"] for row in counted.where("value is null").collect())
    if missing:
        raise BadData(
            f"Label {label}: {missing} of {rows} rows have no label (null, NaN or a marker in data.null_values). "
            "Remove these rows from the source."
        )
    values = [row["value"] for row in counted.limit(CLASSES_SHOWN + 1).collect()]
    negative, positive = label_classes(label, values, data.positive)
    return {_show(negative): 0, _show(positive): 1}, column == F.lit(positive)


def label_classes(label: str, values: Sequence[Any], positive: str | None) -> tuple[Any, Any]:
    """Return the label's negative value and its positive value.

    If `positive` is None, the positive value is the last in sorted order. Examples of the order: no < yes, 0 < 1.

    Raises:
        BadData: the label doesn't have two classes, or `positive` is not one of them.
    """
    values = sorted(values, key=lambda v: (_as_number(v) is None, _as_number(v) or 0, str(v).casefold(), str(v)))
    shown = [_show(value) for value in values]
    if len(values) == 1:
        raise BadData(
            f"Label {label} has only one class, {shown[0]}, but a classifier needs two. Add rows of the other class."
        )
    if len(values) > CLASSES_SHOWN:
        raise BadData(
            f"Label {label} has more than {CLASSES_SHOWN} values ({', '.join(shown[:3])}, ...), so it looks like a "
            "continuous number or free text. Set data.label to a column with two classes."
        )
    if len(values) > 2:
        raise BadData(
            f"Label {label} has {len(values)} classes ({', '.join(shown)}), but this pipeline needs two. "
            "Merge classes, or set data.label to another column."
        )
    if positive in ("True", "False") and positive not in shown:
        positive = positive.lower()  # the configuration stores YAML's true as "True"
    if positive is not None and positive not in shown:
        raise BadData(
            f"data.positive: label {label} has no value {positive!r}. Set data.positive to {shown[0]} or {shown[1]}."
        )
    return (values[1], values[0]) if positive == shown[0] else (values[0], values[1])


def _as_number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _show(value: object) -> str:
    """Return a label's value in the form that conf uses: 1, not 1.0; true, not True."""
    if isinstance(value, bool):
        return json.dumps(value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
