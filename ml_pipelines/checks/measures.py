"""Numbers that the quality checks compare with their thresholds, from labels, scores and columns of the test table."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ml_pipelines.problems.roc_auc import area, interval

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Array = np.ndarray[Any, np.dtype[Any]]

VALUES = 20  # a number column with more distinct values than this has four slices, its quarters


def single_auc(column: pl.Series, label: pl.Series) -> float:
    """Return the AUC of one column, used as the score. A number column gets at least 0.5: its sign doesn't matter.

    Missing numbers rank lowest. The score of a text is the share of class 1 among rows with the same text. The shares
    come from every second row of each class, and the AUC from the other rows. If both came from the same rows, a text
    that differs in each row would seem to predict the label perfectly.
    """
    import polars as pl

    if column.dtype != pl.String:
        missing, positive = column.null_count(), int(label.sum())
        ranks = (column.cast(pl.Float64).rank() + missing).fill_null((missing + 1) / 2)
        above = float(ranks.filter(label == 1).sum()) - positive * (positive + 1) / 2  # U of Mann and Whitney
        value = above / (positive * (len(label) - positive))
        return max(value, 1 - value)
    rows = pl.DataFrame({"value": column, "label": label}).with_columns(
        known=pl.int_range(pl.len()).over("label") % 2 == 0
    )
    shares = rows.filter("known").group_by("value").agg(share=pl.col("label").mean())
    scored = rows.filter(~pl.col("known")).join(shares, on="value", how="left", nulls_equal=True, maintain_order="left")
    return area(scored["label"].to_numpy(), scored["share"].fill_null(rows["label"].mean()).to_numpy())


def slices_of(
    column: pl.Series, label: Array, score: Array, level: float, least: int, keys: Array | None = None
) -> list[dict[str, Any]]:
    """Return one row for each slice with at least `least` rows: the slice's name, number of rows, AUC and interval.

    Each value of the column is a slice. The slices of a number column with many values are its quarters. A slice with
    only one class has no AUC, and is left out. The ends of an interval are None if the slice has too few events.
    """
    import polars as pl

    if column.dtype.is_numeric() and column.n_unique() > VALUES:
        column = _quarters(column)
    values = column.cast(pl.String).fill_null("missing")
    slices = []
    for value in values.unique().sort():
        of_value = (values == value).to_numpy()
        auc = interval(label[of_value], score[of_value], level, None if keys is None else keys[of_value])
        if of_value.sum() >= least and math.isfinite(auc.value):
            row = {"slice": f"{column.name}={value}", "rows": int(of_value.sum())}
            low, high = (end if math.isfinite(end) else None for end in (auc.low, auc.high))
            slices.append({**row, "auc": auc.value, "low": low, "high": high})
    return slices


def _quarters(column: pl.Series) -> pl.Series:
    """Return the name of the quarter that each number is in, for example `above 3.5`. Missing numbers stay missing."""
    import numpy as np
    import polars as pl

    edges = np.unique(np.quantile(column.drop_nulls().to_numpy(), [0.25, 0.5, 0.75]))
    inner = (f"{low:.6g} to {high:.6g}" for low, high in pairwise(edges))
    names = np.array([f"up to {edges[0]:.6g}", *inner, f"above {edges[-1]:.6g}"])
    quarters = pl.Series(column.name, names[np.searchsorted(edges, column.to_numpy())])
    return quarters.set(column.is_null(), None)
