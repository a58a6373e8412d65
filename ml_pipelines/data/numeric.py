"""Profiles and converts a source of numbers with Spark's own functions, which need no Python workers.

The results are the same as those of `cells`. A source needs `cells` if it has text, or numbers that `profile` refuses,
such as infinite ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ml_pipelines.config.schema import Data, MissingLabel, Treatment
from ml_pipelines.data.cells import EXACT, FLOAT32_MAX, canonical
from ml_pipelines.data.columns import INTEGER, Profile, kind_of
from ml_pipelines.data.label import CLASSES_SHOWN

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

FLOATS = ("float", "double")
MOST_COLUMNS = 200  # Sail's time to plan a query grows with the square of the number of columns


def is_numeric(dtypes: Mapping[str, str], data: Data) -> bool:
    """Return whether `profile` and `convert` can handle the source's columns that are not in data.drop.

    The key must be an integer. Each other column must be a number or a boolean, and become a number.
    `dtypes` is column of the source -> Spark's name of its type.
    """
    kinds = {name: kind_of(dtype) for name, dtype in dtypes.items() if name not in data.drop}
    return (
        len(kinds) <= MOST_COLUMNS
        and all(kind in (*INTEGER, *FLOATS, "boolean") for kind in kinds.values())
        and (data.key is None or kinds[data.key] in INTEGER)
        and Treatment.category not in data.columns.values()
        and data.missing_label is MissingLabel.fail
    )


def profile(
    frame: DataFrame, names: Mapping[str, str], dtypes: Mapping[str, str], data: Data
) -> tuple[dict[str, Profile], dict[str, int]] | None:
    """Return a dict: source column -> its profile, and a dict: value of the label -> its number of rows.

    The second dict has at least CLASSES_SHOWN + 1 values if the label has more than CLASSES_SHOWN. The result is None
    if a number is infinite, beyond float32, or a whole number that float64 can round. Only `cells` counts such numbers.

    Args:
        frame: the rows of the source, with the names of columns in our tables.
        names: column of the source -> its name in our tables. Other columns are ignored.
        dtypes: column of the source -> Spark's name of its type.
        data: the roles of the columns.
    """
    import pyarrow as pa
    from pyspark.sql import functions as F

    numbers = {source: _number(name, dtypes[source]) for source, name in names.items()}
    sums = [F.count(F.lit(1)), *map(F.count, numbers.values())]
    sums += [F.max(F.abs(number.cast("double"))) for number in numbers.values()]
    rows, *sizes = frame.agg(*(column.alias(f"_{i}") for i, column in enumerate(sums))).collect()[0]
    present, largest = sizes[: len(names)], sizes[len(names) :]
    for source, size in zip(names, largest, strict=True):
        if source != data.key and (size or 0) >= (FLOAT32_MAX if dtypes[source] in FLOATS else EXACT):
            return None
    profiles = {
        source: Profile(source, name, dtypes[source], rows, count, count)
        for (source, name), count in zip(names.items(), present, strict=True)
    }
    label = frame.select(numbers[data.label].alias("value")).where("value is not null")
    counted = label.groupBy("value").count().limit(CLASSES_SHOWN + 1).collect()
    kinds = {"float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_()}
    values = pa.array([value for value, _ in counted], kinds.get(dtypes[data.label], pa.int64()))
    label_counts: Counter[str] = Counter()
    for text, (_, count) in zip(canonical(values).to_pylist(), counted, strict=True):
        label_counts[text] += count
    return profiles, label_counts


def convert(frame: DataFrame, columns: Sequence[tuple[str, str, str]], classes: Mapping[str, int]) -> DataFrame:
    """Return the rows with their columns converted.

    Args:
        frame: the rows, as for `profile`.
        columns: the name, the type and the new type of each column. The new type is `double`, `float` or `bigint`, or
            `int` for the label.
        classes: value of the label, as `cells.canonical` spells it -> 0 or 1.
    """
    return frame.select(
        *(
            (_label(name, dtype, classes) if kind == "int" else _number(name, dtype).cast(kind)).alias(name)
            for name, dtype, kind in columns
        )
    )


def _number(name: str, dtype: str) -> Column:
    """Return a column with null for NaN."""
    from pyspark.sql import functions as F

    return F.when(~F.isnan(F.col(name)), F.col(name)) if dtype in FLOATS else F.col(name)


def _label(name: str, dtype: str, classes: Mapping[str, int]) -> Column:
    from pyspark.sql import functions as F

    if dtype == "boolean":
        return F.when(F.col(name), F.lit(classes["true"])).otherwise(F.lit(classes["false"]))
    low, high = sorted(classes, key=float)
    # Compare by size, because engines disagree whether -0.0 equals 0.0.
    smallest = F.lit(float(low)).cast(dtype if dtype in FLOATS else "double")
    return F.when(F.col(name) > smallest, F.lit(classes[high])).otherwise(F.lit(classes[low]))
