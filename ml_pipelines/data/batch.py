"""Reads a batch: new rows to score, converted as training converted its source (`Recipe`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING

from ml_pipelines.config.schema import BadCells, Source
from ml_pipelines.data import cells
from ml_pipelines.data.columns import NUMERIC, Profile, is_time, key_type, kind_of, spelling_advice, standard_name
from ml_pipelines.data.data_warnings import DataWarning
from ml_pipelines.data.features import Recipe, send_by_value, typed_rows
from ml_pipelines.data.ingest import count_cells, find_cells
from ml_pipelines.data.sources import Raw
from ml_pipelines.errors import BadData
from ml_pipelines.text import listed, quoted, shown

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

LISTED = 3  # the most columns whose bad cells a message shows
UNKNOWN = "void"  # Spark's type of a column that has only nulls


@dataclass(frozen=True)
class Batch:
    """The rows of a batch: the key if the model has one, the features, and the label (as text) if the batch has it."""

    frame: DataFrame
    rows: int
    warnings: list[DataWarning]


def read_batch(raw: Raw, recipe: Recipe, source: Source, bad_cells: BadCells, staging: str) -> Batch:
    """Return the batch with the same columns and types that training gave its tables.

    Args:
        raw: the rows of the source.
        recipe: how training converted its source.
        source: the settings of the source, which say how it spells numbers.
        bad_cells: what happens to text in a number column.
        staging: the path or URI of a new Parquet folder for the converted rows.

    Raises:
        BadData: the batch has no rows, lacks a column or a key, or has cells that the model can't use.
    """
    send_by_value()
    columns = find_columns(raw.frame.columns, recipe)
    kinds = dict(zip(raw.frame.columns, (kind_of(kind) for _, kind in raw.frame.dtypes), strict=True))
    names = list(columns.values())
    _check_types({ours: kinds[theirs] for ours, theirs in columns.items()}, columns, recipe)
    # Rename by position, because Sail can't pass a column with a name such as `a.b` to Python.
    numbered = {theirs: f"column_{i}" for i, theirs in enumerate(raw.frame.columns)}
    frame = raw.frame.toDF(*numbered.values()).select(*(numbered[name] for name in names))
    spelling = cells.Spelling(recipe.null_values, source.decimal, source.thousands)
    counts, _ = count_cells(frame.mapInArrow, None, spelling, len(names))
    dtypes = dict(raw.frame.dtypes)
    profiles = {
        ours: Profile(theirs, ours, dtypes[theirs], *counts[i]) for i, (ours, theirs) in enumerate(columns.items())
    }
    rows = counts[0][0]
    if not rows:
        raise BadData("The batch has 0 rows, so there is nothing to score. Check score.source.")
    key, label = recipe.key_column, standard_name(recipe.label)
    if key and (missing := rows - profiles[key].present):
        raise BadData(f"{missing} of {rows} rows have no key {shown(columns[key])}. Fill it in, or remove these rows.")
    find = partial(find_cells, frame.mapInArrow, spelling=spelling)
    numbers = {name: profiles[name] for name, kind in recipe.types.items() if kind != "string"}
    text = list(_bad_cells(numbers, names, find))
    if text and bad_cells is BadCells.fail:
        more = f" and {len(text) - LISTED} more columns" if len(text) > LISTED else ""
        raise BadData(
            f"The model learned numbers, but the batch has text: {'; '.join(text[:LISTED])}{more}. Correct them, or "
            "set score.bad_cells=missing to score these cells as missing."
        )
    types = {key: key_type(kinds[columns[key]])} if key else {}
    types |= {**recipe.types, **({label: "canonical"} if label in columns else {})}
    positions = {ours: i for i, ours in enumerate(columns)}
    typed = [(name, positions[name], kind) for name, kind in types.items()]
    return Batch(
        typed_rows(frame.mapInArrow, typed, spelling, {}, staging),
        rows,
        [
            *_extra(raw.frame.columns, names, recipe),
            *(DataWarning("bad_cells", "", f"{problem} were scored as missing") for problem in text),
            *_empty(profiles, recipe),
        ],
    )


def find_columns(columns: Sequence[str], recipe: Recipe) -> dict[str, str]:
    """Return our name -> the batch's name of each column that the recipe needs, and of the label if the batch has it.

    A column of the batch may have the name of training's source, or our name. The source's name wins.

    Raises:
        BadData: a needed column is missing, or occurs twice.
    """
    label = standard_name(recipe.label)
    needed = {**({standard_name(recipe.key): recipe.key} if recipe.key else {}), **recipe.sources}
    candidates: dict[str, list[str]] = {}
    for column in columns:
        candidates.setdefault(standard_name(column), []).append(column)
    chosen: dict[str, str] = {}
    for ours, theirs in {**needed, label: recipe.label}.items():
        same = [column for column in candidates.get(ours, []) if column == theirs] or candidates.get(ours, [])
        if len(same) > 1:
            raise BadData(
                f"The batch has {listed(same)}, and each can be the column {shown(theirs)}. Keep one of them."
            )
        chosen |= {ours: same[0]} if same else {}
    if missing := [theirs for ours, theirs in needed.items() if ours not in chosen]:
        unused = [column for column in columns if column not in chosen.values()]
        near = {name: get_close_matches(name, unused, 1) for name in missing}
        names = [shown(name) + (f" (is it {quoted(near[name][0])}?)" if near[name] else "") for name in missing]
        raise BadData(
            f"The batch lacks {len(missing)} of {len(needed)} columns that the model needs: {', '.join(names)}. "
            "Add them, or rename the columns."
        )
    return chosen


def _check_types(kinds: Mapping[str, str], columns: Mapping[str, str], recipe: Recipe) -> None:
    """Raise BadData if a column has a type that training would have refused."""
    for name, kind in kinds.items():
        as_text = recipe.types.get(name, "string") == "string"
        if kind not in (*NUMERIC, "string", UNKNOWN) and not (as_text and is_time(kind)):
            what = "a text, a number or a time" if as_text else "a number"
            raise BadData(f"Column {shown(columns[name])} has type {kind}, but the model needs {what}. Convert it.")


def _bad_cells(numbers: Mapping[str, Profile], names: Sequence[str], find: partial[list[str]]) -> Iterator[str]:
    """Yield for each number column with text how many cells have text, with examples.

    Raises:
        BadData: a number is infinite, or beyond a 32-bit float.
    """
    for profile in numbers.values():
        position, name = names.index(profile.source), shown(profile.source)
        if wrong := profile.infinite + profile.beyond:
            cell = find(position, "infinite" if profile.infinite else "beyond")[0]
            raise BadData(
                f"Column {name}: {wrong} of {profile.present} values are infinite or beyond the range of a 32-bit "
                f"float ({shown(cell)}). Correct them."
            )
        if bad := profile.present - profile.numbers:
            examples = find(position, "text")
            advice = f"; {spelling_advice(examples)}" if profile.marked else ""
            yield f"{bad} of {profile.present} values of {name} ({', '.join(map(quoted, examples))}{advice})"


def _extra(columns: Sequence[str], used: Sequence[str], recipe: Recipe) -> Iterator[DataWarning]:
    dropped = {standard_name(name) for name in recipe.dropped}
    extra = [name for name in columns if name not in used and standard_name(name) not in dropped]
    if extra:
        yield DataWarning("extra", "", f"The model does not use {len(extra)} of the batch's columns: {listed(extra)}")


def _empty(profiles: Mapping[str, Profile], recipe: Recipe) -> Iterator[DataWarning]:
    for name in recipe.types:
        if not profiles[name].present:
            source = profiles[name].source
            yield DataWarning("empty", source, f"Column {shown(source)} is missing in all {profiles[name].rows} rows")
