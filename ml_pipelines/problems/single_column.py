"""How well one column alone predicts the label, for the check `single_column`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Array = np.ndarray[Any, np.dtype[Any]]

BINS = 32  # the bins of a number column with many values, in `single_auc` and `single_r2`
ROWS_A_VALUE = 10  # a number column with fewer rows for each distinct value gets bins


def single_auc(column: pl.Series, label: pl.Series) -> float:
    """Return the AUC of one column alone, whatever the form of its relation to the label.

    The score of a row is the share of class 1 among other rows with the same value, or in the same bin. A number column
    with many values has BINS bins of about equally many rows. Missing cells are a value of their own.

    The shares of one half of the rows score the other half, and vice versa. If a row's share came from its own half, a
    text that differs in each row would seem to predict the label perfectly.

    Bins are too coarse for a rare class. So for a number column, the result is the AUC of the numbers, or of the
    numbers times -1, if it is higher than the AUC of the bins.
    """
    import numpy as np

    codes, truth = _codes(column), label.to_numpy()
    half = np.empty(len(truth), int)
    for class_ in (0, 1):
        half[truth == class_] = np.arange((truth == class_).sum()) % 2
    size, part = codes.max() + 1, codes + half * (codes.max() + 1)
    positives = np.bincount(part, truth, 2 * size).reshape(2, size)
    rows = np.bincount(part, minlength=2 * size).reshape(2, size)
    shares = np.divide(positives, rows, out=np.full(rows.shape, truth.mean()), where=rows > 0)
    areas = [_area_of_bins(shares[1 - i], positives[i], rows[i] - positives[i]) for i in (0, 1)]
    value = float(np.mean([one for one in areas if math.isfinite(one)] or [0.5]))
    return max(value, _monotone_auc(column, truth)) if column.dtype.is_numeric() else value


def single_r2(column: pl.Series, label: pl.Series) -> float:
    """Return the share of the label's variance that one column alone explains (R2), at least 0.

    The prediction for a row is the mean label among other rows with the same value, or in the same bin, as in
    `single_auc`. Bins are too coarse for an exact relation. So for a number column, the result is the squared
    correlation with the label, of the values or of their ranks, if that is higher than the R2 of the bins.
    """
    import numpy as np

    codes, truth = _codes(column), label.to_numpy().astype(float)
    total = float(((truth - truth.mean()) ** 2).sum())
    if not total:
        return math.nan
    half = np.empty(len(truth), int)
    half[np.argsort(truth, kind="stable")] = np.arange(len(truth)) % 2  # so that both halves have like labels
    size, part = codes.max() + 1, codes + half * (codes.max() + 1)
    sums = np.bincount(part, truth, 2 * size).reshape(2, size)
    rows = np.bincount(part, minlength=2 * size).reshape(2, size)
    means = np.divide(sums, rows, out=np.full(rows.shape, truth.mean()), where=rows > 0)
    value = max(0.0, 1 - float(((truth - means[1 - half, codes]) ** 2).sum()) / total)
    return max(value, _linear_r2(column, label)) if column.dtype.is_numeric() else value


def _linear_r2(column: pl.Series, label: pl.Series) -> float:
    """Return the squared correlation of a number column with the label, of values or ranks; 0 if a cell is missing."""
    import polars as pl

    pairs = pl.DataFrame({"x": column.cast(pl.Float64).fill_nan(None), "y": label.cast(pl.Float64)}).drop_nulls()
    if pairs.height < len(column):
        return 0.0
    methods = (pl.corr("x", "y"), pl.corr("x", "y", method="spearman"))
    found = [pairs.select(method).item() for method in methods]
    return max((r * r for r in found if r is not None and math.isfinite(r)), default=0.0)


def _codes(column: pl.Series) -> Array:
    """Return a number for each row's value or bin: 0 if the cell is missing, else from 1 on."""
    import numpy as np
    import polars as pl

    if column.dtype.is_numeric():
        column = column.cast(pl.Float64).fill_nan(None)
        values = column.drop_nulls().sort().to_numpy()
        if len(values) and np.count_nonzero(np.diff(values)) >= len(values) / ROWS_A_VALUE:
            edges = np.unique(values[[len(values) * i // BINS for i in range(1, BINS)]])
            places: Array = np.searchsorted(edges, column.fill_null(0.0).to_numpy(), "right") + 1
            return np.where(column.is_null(), 0, places)
    codes: Array = column.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()
    return codes


def _area_of_bins(score: Array, positive: Array, negative: Array) -> float:
    """Return the AUC of rows in bins, from each bin's score and row counts by class; NaN if a class has no rows."""
    import numpy as np

    place = np.unique(score, return_inverse=True)[1]
    ones, zeros = np.bincount(place, positive), np.bincount(place, negative)
    pairs = ones.sum() * zeros.sum()
    return float(ones @ (np.cumsum(zeros) - zeros / 2)) / pairs if pairs else math.nan


def _monotone_auc(column: pl.Series, truth: Array) -> float:
    """Return the AUC of a number or of its negative, whichever is higher. Missing cells rank lowest."""
    import numpy as np
    import polars as pl

    known = column.cast(pl.Float64).fill_nan(None)
    missing, positive = known.null_count(), int(truth.sum())
    ranks = (known.rank() + missing).fill_null((missing + 1) / 2).to_numpy()
    above = float(ranks @ truth) - positive * (positive + 1) / 2  # U of Mann and Whitney
    value = above / (positive * (len(truth) - positive))
    return float(np.maximum(value, 1 - value))
