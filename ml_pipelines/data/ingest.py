"""Turns the raw rows of a source into rows for a model: clean names, types, a label of 0 and 1, or a number.

Spark profiles each column before it converts the cells, so no table is written if a column is wrong. The converted rows
are staged as temporary Parquet files, so later queries don't convert the cells again. Local files of numbers are not
staged: it takes less time to convert their numbers again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ml_pipelines.config.schema import Data, MissingLabel, Treatment
from ml_pipelines.data import cells, numeric
from ml_pipelines.data.columns import (
    NUMERIC,
    Profile,
    check_columns,
    check_numbers,
    choose_treatment,
    is_time,
    key_type,
    kind_of,
    rounding_warnings,
    standard_names,
)
from ml_pipelines.data.data_warnings import DataWarning, find_unnamed
from ml_pipelines.data.features import schema_of, send_by_value, staged
from ml_pipelines.data.label import CLASSES_SHOWN, Classes, Number, choose_label
from ml_pipelines.data.sources import Raw
from ml_pipelines.errors import BadData
from ml_pipelines.text import listed, shown

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from ml_pipelines.data.features import MapRows


@dataclass(frozen=True)
class Ingested:
    """Typed rows, and how each column was converted."""

    frame: DataFrame
    renamed: dict[str, str]
    treatments: dict[str, Treatment]
    types: dict[str, str]
    label: Classes | Number
    roles: Mapping[str, Any]
    warnings: list[DataWarning]

    def decisions(self) -> dict[str, Any]:
        """Return the conversions as JSON, for the artifact columns.json. Scoring repeats them."""
        kinds = {name: treatment.value for name, treatment in self.treatments.items()}
        return {
            "renamed": self.renamed,
            "features": kinds,
            "problem": self.label.problem.value,
            "label": self.label.mapping,
            "label_name": self.label.label,
            self.label.record: str(self.label),
            "types": self.types,
            **self.roles,
        }


def ingest(raw: Raw, data: Data, staging: str) -> Ingested:
    """Return `raw` with clean column names, numbers as float or double, and categories as string.

    The label becomes 0 or 1, or a number, as `choose_label` says.

    Args:
        raw: the rows of the source.
        data: the roles of the columns, and how the source spells missing values and numbers.
        staging: the path or URI of a new Parquet folder for the converted rows, if they are staged.

    Raises:
        BadData: the source doesn't fit the configuration, or a model can't learn from it.
    """
    check_columns(raw.frame.columns, data)
    names = standard_names(raw.frame.columns)
    kept = [name for name in raw.frame.columns if name not in data.drop]
    features = [name for name in kept if name not in (data.label, data.key)]
    if not features:
        raise BadData(
            f"The source has no features. Its columns ({listed(raw.frame.columns)}) are the label, the key, or in "
            "data.drop. Take a column out of data.drop, or use another source."
        )
    dtypes = dict(raw.frame.dtypes)
    _check_types(dtypes, data)
    # Rename the columns first, because Sail can't pass a column with a name such as `a.b` to Python.
    frame = raw.frame.toDF(*names.values()).drop(*(names[name] for name in data.drop))
    spelling = cells.Spelling(tuple(data.null_values), data.source.decimal, data.source.thousands)

    query = _Query(frame, kept.index(data.label), spelling, data.missing_label is MissingLabel.drop)
    named = {name: names[name] for name in kept}
    numbers = numeric.profile(frame, named, dtypes, data) if numeric.is_numeric(dtypes, data) else None
    profiles, label_counts = numbers or _profile(query, named, dtypes)
    _check_complete(profiles, data)
    examples = partial(find_cells, query.map, spelling=spelling)
    treatments = {}
    for name in features:
        find = partial(examples, kept.index(name))
        treatments[name] = choose_treatment(profiles[name], data.columns.get(name), raw.text, find)
        if treatments[name] is Treatment.number:
            check_numbers(profiles[name], find)
    find = partial(examples, kept.index(data.label))
    label = choose_label(profiles[data.label], label_counts, data.problem, data.positive, find)

    types = {name: _type(profiles[name], treatment) for name, treatment in treatments.items()}
    key = {data.key: key_type(profiles[data.key].kind)} if data.key else {}
    label_type = "int" if label.mapping else _type(profiles[data.label], Treatment.number)
    all_types = {**key, **types, data.label: label_type}
    schema = schema_of({names[name]: kind for name, kind in all_types.items()})
    if numbers:
        converted = [(names[name], dtypes[name], kind) for name, kind in all_types.items()]
        rows = numeric.convert(frame, converted, label.mapping)
    else:
        columns = [(names[name], kept.index(name), kind) for name, kind in all_types.items()]
        run = partial(cells.convert, columns=columns, spelling=spelling, classes=label.mapping)
        rows = query.map(run, schema)
    as_numbers = [profiles[name] for name, treatment in treatments.items() if treatment is Treatment.number]
    return Ingested(
        rows if numbers and raw.local else staged(rows, schema, staging),
        {old: new for old, new in names.items() if old != new},
        {names[name]: treatment for name, treatment in treatments.items()},
        {names[name]: kind for name, kind in types.items()},
        label,
        {
            "sources": {names[name]: name for name in features},
            "key": data.key,
            "dropped": list(data.drop),
            "null_values": list(data.null_values),
        },
        [
            *_dropped_rows(query, profiles[data.label]),
            *find_unnamed(features, raw.text, data.drop),
            *rounding_warnings(as_numbers),
        ],
    )


@dataclass(frozen=True)
class _Query:
    """The rows to ingest."""

    frame: DataFrame
    label: int  # the position of the label
    spelling: cells.Spelling
    only_labelled: bool  # whether rows without a label are left out

    def map(self, run: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]], schema: Any) -> DataFrame:
        """Return what a function of `cells` yields for these rows."""
        send_by_value()
        if self.only_labelled:
            run = partial(cells.of_labelled_rows, run=run, label=self.label, spelling=self.spelling)
        return self.frame.mapInArrow(run, schema)


def _dropped_rows(query: _Query, label: Profile) -> Iterator[DataWarning]:
    """Yield a warning with the number of rows that have no label and are left out."""
    if query.only_labelled and (rows := query.frame.count()) > label.rows:
        count = f"{rows - label.rows:,} of {rows:,} rows have no {shown(label.source)}"
        yield DataWarning("unlabelled", label.source, f"{count} and were dropped (data.missing_label=drop).")


def _profile(query: _Query, names: dict[str, str], dtypes: dict[str, str]) -> tuple[dict[str, Profile], dict[str, int]]:
    """Return a dict: source column -> its profile, and a dict: value of the label -> its number of rows.

    The second dict has at least CLASSES_SHOWN + 1 values if the label has more than CLASSES_SHOWN. `names` is column of
    the source -> its name in our tables, for the columns of `query`.
    """
    counts, values = count_cells(query.map, query.label, query.spelling, len(names))
    pairs = zip(names.items(), counts, strict=True)
    return {source: Profile(source, name, dtypes[source], *count) for (source, name), count in pairs}, values


def count_cells(
    map_rows: MapRows, label: int | None, spelling: cells.Spelling, columns: int
) -> tuple[list[list[int]], dict[str, int]]:
    """Return the `cells.STATISTICS` of each of `columns` columns, and a dict: value of the label -> its number of rows.

    Args:
        map_rows: applies a function of `cells` to the rows, like `DataFrame.mapInArrow`.
        label: the position of the label; None: the dict is empty.
        spelling: how the source spells numbers and missing values.
        columns: the number of columns.
    """
    from pyspark.sql import functions as F

    run = partial(cells.profile, label=label, spelling=spelling, most=CLASSES_SHOWN + 1)
    schema = "position long, value string, " + ", ".join(f"{name} long" for name in cells.STATISTICS)
    sums = [F.sum(name).alias(name) for name in cells.STATISTICS]
    totals = map_rows(run, schema).groupBy("position", "value").agg(*sums).collect()
    counts = {row["position"]: [row[name] for name in cells.STATISTICS] for row in totals if row["value"] is None}
    none = [0] * len(cells.STATISTICS)  # the counts of a source without rows
    return [counts.get(i, none) for i in range(columns)], {
        row["value"]: row["rows"] for row in totals if row["value"] is not None
    }


def _check_types(dtypes: dict[str, str], data: Data) -> None:
    """Raise BadData if the type of the key column can't be a key, or the type of the label can't be a label."""
    key, label = (kind_of(dtypes[name]) if name else "" for name in (data.key, data.label))
    if data.key and key not in (*NUMERIC, "string") and not is_time(key):
        raise BadData(
            f"data.key: column {shown(data.key)} has type {dtypes[data.key]}, which can't be a key. "
            "Choose another column, or set data.key=null."
        )
    if label not in (*NUMERIC, "string"):
        raise BadData(
            f"Label {shown(data.label)} has type {dtypes[data.label]}, but a label must be numbers, booleans or text. "
            "Convert the column, or set data.label to another."
        )


def _check_complete(profiles: dict[str, Profile], data: Data) -> None:
    """Raise BadData if there are too few rows, or rows without a key or a label."""
    label = profiles[data.label]
    if label.rows < 2:
        raise BadData(f"The source has too few rows: {label.rows}. A model needs rows for training and for testing.")
    if data.key and (missing := label.rows - profiles[data.key].present):
        raise BadData(
            f"data.key: {missing} of {label.rows} rows have no {shown(data.key)}. Fill it in, or set data.key=null."
        )
    if missing := label.rows - label.present:
        raise BadData(
            f"Label {shown(data.label)}: {missing} of {label.rows} rows have no label (null, NaN or a marker in "
            "data.null_values). Correct them, or set data.missing_label=drop to leave these rows out."
        )


def find_cells(map_rows: MapRows, position: int, problem: str, spelling: cells.Spelling) -> list[str]:
    """Return at most three different cells of a column with this problem (see `cells.bad_cells`)."""
    find = partial(cells.bad_cells, position=position, problem=problem, spelling=spelling)
    rows = map_rows(find, "cell string").distinct().orderBy("cell").limit(3).collect()
    return [row["cell"] for row in rows]


def _type(profile: Profile, treatment: Treatment) -> str:
    if treatment is Treatment.category:
        return "string"
    return "float" if profile.kind == "float" else "double"
