"""From a source's raw rows to rows a model can learn from: named, typed, with a 0/1 label. All in Spark.

Everything is looked at in one pass over the rows, and judged before anything is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_pipelines.config import Data, Treatment
from ml_pipelines.errors import BadData
from ml_pipelines.sources import Raw

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

FLOAT32_MAX = 3.4028234663852886e38  # what scikit-learn's trees accept at most
INTEGER = ("tinyint", "smallint", "int", "bigint")
NUMERIC = (*INTEGER, "float", "double", "decimal", "boolean")
CLASSES_SHOWN = 20
COLUMNS_AT_ONCE = 200  # Sail plans an aggregate of n columns in n^2 time


@dataclass(frozen=True)
class Profile:
    """What one column of the source holds."""

    name: str
    dtype: str  # Spark's simple name
    present: int  # cells that are not missing
    numbers: int  # of these, the ones that are numbers
    largest: float  # of these, without their sign


@dataclass(frozen=True)
class Ingested:
    """Typed rows, and what was decided to get them: logged as columns.json."""

    frame: DataFrame
    renamed: dict[str, str]
    treatments: dict[str, Treatment]
    label_mapping: dict[str, int]

    def decisions(self) -> dict[str, Any]:
        """Return the decisions as JSON."""
        kinds = {name: treatment.value for name, treatment in self.treatments.items()}
        return {"renamed": self.renamed, "features": kinds, "label": self.label_mapping}


def ingest(raw: Raw, data: Data) -> Ingested:
    """Return `raw` with clean column names, numbers as float or double, categories as string, the label as 0 or 1.

    Raises:
        BadData: the source is not what the configuration says, or nothing a classifier can learn from.
    """
    _check_columns(raw.frame.columns, data)
    names = standard_names(raw.frame.columns)
    frame = _with_nulls(raw.frame.toDF(*names.values()), data.null_values)
    label, key = names[data.label], names.get(data.key or "")
    dropped = {names[name] for name in data.drop}
    declared = {names[name]: treatment for name, treatment in data.columns.items()}
    features = [name for name in frame.columns if name not in {label, key, *dropped}]
    if not features:
        raise BadData(f"The source has no feature: only {', '.join(raw.frame.columns)}, of which none is left.")

    rows, profiles, key_nulls = _profile(frame, features, key)
    if rows < 2:
        raise BadData(f"The source has {rows} rows; a model needs rows to learn from and rows to be tested on.")
    if key_nulls:
        raise BadData(f"data.key: {key_nulls} of {rows} rows have no {data.key}. Mend them, or set data.key=null.")
    treatments = {p.name: treat(p, declared.get(p.name), raw.text, rows) for p in profiles}
    for profile in profiles:
        if treatments[profile.name] is Treatment.number:
            _check_numbers(frame, profile)
    mapping, is_positive = _label(frame, label, data, rows)
    columns = [_key(frame, key, str(data.key))] if key else []
    columns += [_typed(frame, name, treatments[name]) for name in features]
    columns.append(is_positive.cast("int").alias(label))
    renamed = {old: new for old, new in names.items() if old != new}
    return Ingested(frame.select(*columns), renamed, treatments, mapping)


def standard_names(columns: Sequence[str]) -> dict[str, str]:
    """Return column -> its name in our tables: letters, digits and underscores of the original.

    Delta refuses blanks and `,;{}()=` in names, and other readers more. Letters are those of any script.

    Raises:
        BadData: two columns that would have one name, or differ only by case.
    """
    names = {name: re.sub(r"\W+", "_", name.lstrip("\ufeff")).strip("_") or "column" for name in columns}
    seen: dict[str, str] = {}
    for name in columns:
        if (twin := seen.setdefault(names[name].lower(), name)) is not name:
            raise BadData(f"Columns {twin!r} and {name!r} would have one name, {names[name]!r}. Rename one of them.")
    return names


def treat(profile: Profile, declared: Treatment | None, text: bool, rows: int) -> Treatment:
    """Return what a column becomes: as declared, else by its type; of a CSV, a number where most cells are one.

    Raises:
        BadData: a type that is no feature, numbers stored as text, a column without any value.
    """
    kind = profile.dtype.split("(")[0]
    if profile.present == 0:
        raise BadData(f"Column {profile.name} is empty in all {rows} rows. Add it to data.drop.")
    if kind not in (*NUMERIC, "string") and (declared is not Treatment.category or kind[:4] not in ("date", "time")):
        raise BadData(
            f"Column {profile.name} is of type {profile.dtype}, which is no feature. Add it to data.drop"
            + (f", or set data.columns.{profile.name}=category." if kind[:4] in ("date", "time") else ".")
        )
    if declared:
        return declared
    if kind != "string":
        return Treatment.number
    if not text and profile.numbers == profile.present:
        raise BadData(
            f"Column {profile.name} holds numbers stored as text. Say what they are: "
            f"data.columns.{profile.name}=number (an amount) or category (a code)."
        )
    return Treatment.number if text and profile.numbers > profile.present / 2 else Treatment.category


def _check_columns(columns: Sequence[str], data: Data) -> None:
    repeated = sorted({name for name in columns if list(columns).count(name) > 1})
    if repeated:
        raise BadData(f"The source has two columns {', '.join(repeated)}. Rename one of them.")
    wanted = {"data.label": [data.label], "data.key": [data.key] if data.key else []}
    wanted |= {"data.drop": data.drop, "data.columns": list(data.columns)}
    for option, names in wanted.items():
        for name in names:
            if name not in columns:
                hint = " Set data.key=null if there is none." if option == "data.key" else ""
                raise BadData(f"{option}: the source has no column {name!r}. Its columns: {', '.join(columns)}.{hint}")


def _with_nulls(frame: DataFrame, markers: Sequence[str]) -> DataFrame:
    """Return the frame with NaN, and the text markers of "missing", as null."""
    from pyspark.sql import functions as F

    columns = []
    for name, dtype in frame.dtypes:
        column = frame[name]
        if dtype == "string":
            trimmed = F.trim(column)
            columns.append(F.when(~trimmed.isin("", *markers), trimmed).alias(name))  # Sail's CSV has no "" but null
        elif dtype in ("float", "double"):
            columns.append(F.when(column.isNotNull() & ~F.isnan(column), column).alias(name))
        else:
            columns.append(column)
    return frame.select(*columns)


def _number(frame: DataFrame, name: str, dtype: str) -> Column:
    """Return the column as a number, null where a text isn't one. Text like `1d` or `0x1` is none."""
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
    """Return the number of rows, a profile of each feature, and the number of rows without a key."""
    from pyspark.sql import functions as F

    dtypes, profiles, found = dict(frame.dtypes), [], {}
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
        found = cells.agg(*sums).collect()[0].asDict()
        profiles += [
            Profile(name, dtypes[name], found[f"present_{i}"], found[f"numbers_{i}"], found[f"largest_{i}"] or 0.0)
            for i, name in enumerate(names)
        ]
    return found["rows"], profiles, found["rows"] - found["keys"]


def _check_numbers(frame: DataFrame, profile: Profile) -> None:
    """Raise BadData where a column that is to be a number holds text, infinity, or what float32 can't hold."""
    from pyspark.sql import functions as F

    column, number = frame[profile.name], _number(frame, profile.name, profile.dtype)
    if profile.numbers < profile.present:
        bad, what = column.isNotNull() & number.isNull(), "no numbers"
        advice = f"Mend them, add the text to data.null_values, or set data.columns.{profile.name}=category."
    elif profile.largest == float("inf"):
        bad, what, advice = F.abs(number) == profile.largest, "infinite", "Mend them, or drop the column."
    elif profile.largest > FLOAT32_MAX:
        bad, what = F.abs(number) > FLOAT32_MAX, "beyond what a 32-bit float holds (3.4e38)"
        advice = "Rescale the column, or drop it."
    else:
        return
    cells = frame.where(bad).select(column.cast("string"))
    shown = ", ".join(repr(row[0]) for row in cells.limit(3).collect())
    raise BadData(f"Column {profile.name}: {cells.count()} of {profile.present} values are {what} ({shown}). {advice}")


def _typed(frame: DataFrame, name: str, treatment: Treatment) -> Column:
    if treatment is Treatment.category:
        return _text(frame, name).alias(name)
    return _number(frame, name, dict(frame.dtypes)[name]).alias(name)


def _text(frame: DataFrame, name: str) -> Column:
    """Return the column as text. A whole float without its `.0`: engines write 1e7 each in their own way."""
    from pyspark.sql import functions as F

    column = frame[name]
    if dict(frame.dtypes)[name] not in ("float", "double"):
        return column.cast("string")
    whole = (column == F.floor(column)) & (F.abs(column) < 2**53)
    return F.when(whole, column.cast("bigint").cast("string")).otherwise(column.cast("string"))


def _key(frame: DataFrame, name: str, original: str) -> Column:
    """Return the key as a whole number or as text: a hash of it decides the split, so its type must not vary."""
    kind = dict(frame.dtypes)[name].split("(")[0]
    if kind in INTEGER:
        return frame[name].cast("bigint").alias(name)
    if kind not in (*NUMERIC, "string") and kind[:4] not in ("date", "time"):
        raise BadData(f"data.key: {original} is of type {kind}, which is no key. Choose another, or set data.key=null.")
    return _text(frame, name).alias(name)


def _label(frame: DataFrame, label: str, data: Data, rows: int) -> tuple[dict[str, int], Column]:
    """Return label value -> class, and the column that is true for the positive one."""
    from pyspark.sql import functions as F

    dtype = dict(frame.dtypes)[label].split("(")[0]
    if dtype not in (*NUMERIC, "string"):
        raise BadData(f"Label {label} is of type {dtype}; classes are numbers, booleans or text.")
    same = {"string": "string", "boolean": "boolean", **dict.fromkeys(INTEGER, "bigint")}
    column = frame[label].cast(same.get(dtype, "double"))
    counted = frame.groupBy(column.alias("value")).count()
    missing = sum(row["count"] for row in counted.where("value is null").collect())
    if missing:
        raise BadData(
            f"Label {label}: {missing} of {rows} rows have none (null, NaN or a data.null_values marker). "
            "Drop these rows."
        )
    values = [row["value"] for row in counted.limit(CLASSES_SHOWN + 1).collect()]
    negative, positive = label_classes(label, values, data.positive)
    return {_show(negative): 0, _show(positive): 1}, column == F.lit(positive)


def label_classes(label: str, values: Sequence[Any], positive: str | None) -> tuple[Any, Any]:
    """Return the label's negative and positive value: `positive`, else the later in sorted order (no < yes, 0 < 1).

    Raises:
        BadData: one class, more than two, or a `positive` that is none of them.
    """
    values = sorted(values, key=lambda v: (_as_number(v) is None, _as_number(v) or 0, str(v).casefold(), str(v)))
    shown = [_show(value) for value in values]
    if len(values) == 1:
        raise BadData(f"Label {label} has one class, {shown[0]}; a classifier needs two.")
    if len(values) > CLASSES_SHOWN:
        raise BadData(
            f"Label {label} has more than {CLASSES_SHOWN} values ({', '.join(shown[:3])}, ...): it looks continuous, "
            "or like a text. A label has two classes."
        )
    if len(values) > 2:
        raise BadData(f"Label {label} has {len(values)} classes ({', '.join(shown)}); this pipeline is for two.")
    if positive in ("True", "False") and positive not in shown:
        positive = positive.lower()  # YAML's true, which the configuration holds as Python's text of it
    if positive is not None and positive not in shown:
        raise BadData(f"data.positive: label {label} has the values {shown[0]} and {shown[1]}, not {positive!r}.")
    return (values[1], values[0]) if positive == shown[0] else (values[0], values[1])


def _as_number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _show(value: object) -> str:
    """Return a label's value as a person writes it in conf: 1 rather than 1.0, true rather than True."""
    if isinstance(value, bool):
        return json.dumps(value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
