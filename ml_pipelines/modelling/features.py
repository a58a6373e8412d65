"""Functions that several steps share: split a table into features and label, score a table, fit a model again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_pipelines.data.cells import FLOAT32_MAX, canonical
from ml_pipelines.errors import BadData
from ml_pipelines.modelling.estimators import set_seed
from ml_pipelines.text import shown

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from ml_pipelines.problems.problem import Problem


def split_label(
    frame: pl.DataFrame, label: str, features: Sequence[str], problem: Problem
) -> tuple[pl.DataFrame, pl.Series]:
    """Check a table, and return its features and its label, with the type that the kind of problem takes.

    Raises:
        BadData: the table has no rows, the label does not fit the kind of problem, or a feature has a type or values
            that no estimator takes.
    """
    if frame.is_empty():
        raise BadData("The table has 0 rows.")
    target = frame[label]
    if target.null_count():
        raise BadData(f"Label {label}: {target.null_count()} of {frame.height} rows have no value.")
    target = problem.check_label(target)
    for name in features:
        _check_feature(frame[name])
    return frame.select(features), target


def _check_feature(column: pl.Series) -> None:
    if column.null_count() == len(column):
        raise BadData(
            f"Feature {shown(column.name)} is empty in all {len(column)} rows. Add its "
            "column of the source to data.drop."
        )
    kind = column.dtype
    if not (kind.is_integer() or kind.is_float() or str(kind) in ("String", "Boolean")):
        raise BadData(
            f"Feature {shown(column.name)} is of type {kind}; only integers, floats, booleans and text can be features."
        )
    if column.dtype.is_float():
        wrong = column.is_not_null() & ((column.abs() > FLOAT32_MAX) | column.is_nan())
        if bad := int(wrong.sum()):
            raise BadData(
                f"Feature {shown(column.name)}: {bad} of {len(column)} values are infinite, NaN or beyond the range of "
                f"a 32-bit float. The first is {column.filter(wrong)[0]}."
            )


def score_table(model: Any, features: pl.DataFrame, problem: Problem) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the model's score of each row, shape (rows,).

    Raises:
        BadData: a column is text but the model learned it as a number, or the reverse.
    """
    check_types(model, {column.name: str(column.dtype) == "String" for column in features})
    return problem.score_of(model, features)


def check_types(model: Any, is_text: Mapping[str, bool]) -> None:
    """Check that each column is text or a number, as it was when the model was fitted.

    Without this check, the encoder would treat all values of a number column as unseen categories of a text column.

    Args:
        model: a fitted model.
        is_text: feature -> whether it is text.

    Raises:
        BadData: a column is text but the model learned it as a number, or the reverse.
    """
    words = {True: "text", False: "a number"}
    # steps/train.py makes scikit-learn pipelines with a step `encode`. Other models are not checked.
    encoder = getattr(model, "named_steps", {}).get("encode")
    for kind, _, names in encoder.transformers_ if encoder else []:
        for name in names if kind in ("category", "number") else []:
            if is_text[name] != (kind == "category"):
                now, before = words[is_text[name]], words[not is_text[name]]
                raise BadData(f"Column {shown(name)} is {now}, but the model learned it as {before}.")


def value_ranges(features: pl.DataFrame) -> dict[str, tuple[float, float]]:
    """Return number column -> its smallest and its largest value."""
    numbers = [column for column in features if column.dtype.is_numeric()]
    return {column.name: (float(column.min()), float(column.max())) for column in numbers}  # type: ignore[arg-type]


def key_codes(keys: pl.Series) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a number from 0 for each key. Equal keys have equal numbers, however they are spelled."""
    codes: np.ndarray[Any, np.dtype[Any]] = canonical(keys.to_arrow()).dictionary_encode().indices.to_numpy()
    return codes


def refit(model: Any, features: pl.DataFrame, label: pl.Series, seed: int) -> Any:
    """Return a copy of a scikit-learn pipeline, fitted on the rows of `features` and `label`.

    The copy's estimator gets the seed if it takes one.
    """
    from sklearn.base import clone

    copy = clone(model)
    set_seed(copy[-1], seed)
    return copy.fit(features, label.to_numpy())
