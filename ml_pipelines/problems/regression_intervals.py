"""Confidence intervals of the metrics of a regression.

- RMSE and MAE: the mean of the squared or absolute errors (`loss_interval`); the RMSE is the root of the first.
- MAPE: the mean of the relative errors (`loss_interval`).
- R2: the delta method on the scale of log(1 - R2), which is the difference of two logarithms of means.
- Median absolute error: an interval of the share of rows below it, with its ends turned into quantiles of the errors
  (Woodruff, Confidence intervals for medians and other position measures, 1952).
- Difference of two RMSE: the delta method on the paired squared errors, with Student's t.

All of them add up what the rows of a key contribute, so that rows with the same key need not be independent.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ml_pipelines.problems.intervals import Difference, Interval, loss_interval, mean_interval, reach_of, sum_variance

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

FEWEST_ROWS = 30  # with fewer rows there is no interval. Where keys repeat, the keys are counted.


def intervals(label: Array, score: Array, level: float, keys: Array | None = None) -> dict[str, Interval]:
    """Return metric -> its value with its interval. MAPE is left out unless all labels are positive.

    With fewer than FEWEST_ROWS rows, or if a score is not finite, the ends of all intervals are NaN.

    Args:
        label: the label of each row.
        score: the prediction of each row.
        level: the level of the intervals.
        keys: the key of each row, as a number from 0. Rows with the same key are not independent. None means that all
            rows are independent.
    """
    import numpy as np

    rows = count_rows(label, keys)
    of_row = np.arange(len(label)) if keys is None else keys
    errors = np.abs(label - score)
    found = {
        "rmse": rmse(label, score, level, keys),
        "mae": loss_interval(errors, level, of_row, rows),
        "median_absolute_error": _median(errors, level, of_row, rows),
        "r2": _r2(label, score, level, of_row, rows),
    }
    if (label > 0).all():
        found["mape"] = loss_interval(errors / label, level, of_row, rows)
    return found if rows >= FEWEST_ROWS else {name: _without_ends(number) for name, number in found.items()}


def rmse(label: Array, score: Array, level: float, keys: Array | None = None) -> Interval:
    """Return the RMSE with its interval. The arguments are those of `intervals`."""
    import numpy as np

    rows = count_rows(label, keys)
    squares = loss_interval((label - score) ** 2, level, np.arange(len(label)) if keys is None else keys, rows)
    low, high = math.sqrt(squares.low) if squares.low >= 0 else math.nan, math.sqrt(squares.high)
    found = Interval(math.sqrt(squares.value), low, high, level)
    return found if rows >= FEWEST_ROWS else _without_ends(found)


def compare(label: Array, score: Array, other: Array, level: float, keys: Array | None = None) -> Difference:
    """Return the RMSE of `score` minus the RMSE of `other`, on the same rows, with an interval of this level.

    The test is paired and one-sided: is the RMSE of `score` larger than that of `other`? If the difference has no
    variance, the p-value is 0 for a larger RMSE, else 1. `keys` means the same as in `intervals`.
    """
    from scipy.special import stdtr

    ours, theirs = (label - score) ** 2, (label - other) ** 2
    roots = math.sqrt(ours.mean()), math.sqrt(theirs.mean())
    value = roots[0] - roots[1]
    rows = count_rows(label, keys)
    if not math.isfinite(value) or rows < 2:
        return Difference(value, math.nan, math.nan, math.nan)
    if not any(roots):
        return Difference(value, 1.0, value, value)
    # A root of 0 has no derivative. The difference is then the root of the other model's mean, whose derivative this is
    # too, but for the factor 2.
    halves = (2 * roots[0], 2 * roots[1]) if all(roots) else (sum(roots), sum(roots))
    spread = mean_interval(ours / halves[0] - theirs / halves[1], level, keys)
    reach = (spread.high - spread.low) / 2
    error = reach / reach_of(level, rows)
    p_value = float(stdtr(rows - 1, -value / error)) if error else float(value <= 0)
    ends = (value - reach, value + reach) if rows >= FEWEST_ROWS else (math.nan, math.nan)
    return Difference(value, p_value, *ends)


def count_rows(label: Array, keys: Array | None = None) -> int:
    """Return the number of rows or, if keys repeat, of keys."""
    import numpy as np

    return len(label) if keys is None else len(np.unique(keys))


def _r2(label: Array, score: Array, level: float, keys: Array, rows: int) -> Interval:
    errors, squares = (label - score) ** 2, (label - label.mean()) ** 2
    loss, total = float(errors.mean()), float(squares.mean())
    if not (loss > 0 and total > 0 and math.isfinite(loss)):
        return Interval(1 - loss / total if total else math.nan, math.nan, math.nan, level)
    parts = errors / loss - squares / total
    reach = reach_of(level, rows) * math.sqrt(sum_variance(parts, keys)) / len(label)
    rest = loss / total
    return Interval(1 - rest, 1 - rest * math.exp(reach), 1 - rest * math.exp(-reach), level)


def _median(errors: Array, level: float, keys: Array, rows: int) -> Interval:
    import numpy as np

    value = float(np.median(errors))
    if not math.isfinite(value):
        return Interval(value, math.nan, math.nan, level)
    spread = math.sqrt(sum_variance((errors <= value) - (errors <= value).mean(), keys)) / len(errors)
    reach = reach_of(level, rows) * spread
    low, high = (float(np.quantile(errors, min(max(0.5 + end, 0.0), 1.0))) for end in (-reach, reach))
    return Interval(value, low, high, level)


def _without_ends(number: Interval) -> Interval:
    return Interval(number.value, math.nan, math.nan, number.level)
