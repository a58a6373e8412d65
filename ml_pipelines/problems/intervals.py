"""A number with its confidence interval, the difference of two models, and the interval of a mean over rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

# With fewer rows of a class there is no interval. Where keys repeat, the keys with a row of the class are counted.
FEWEST_EVENTS = 10


@dataclass(frozen=True)
class Interval:
    """A number with its confidence interval; `level` is 0.95 for an interval of 95 %.

    With too little evidence for an interval, `low` and `high` are NaN.
    """

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Difference:
    """The first model's metric minus the second model's, on the same rows, with its confidence interval.

    `p_value` tests whether the first is smaller. With too little evidence for an interval, `low` and `high` are NaN.
    """

    value: float
    p_value: float
    low: float
    high: float


def mean_interval(values: Array, level: float, keys: Array | None = None) -> Interval:
    """Return the mean of a number of each row, with an interval by Student's t.

    Args:
        values: shape (rows,). If one is not finite, all numbers are NaN.
        level: the level of the interval.
        keys: the key of each row, as a number from 0. Rows with the same key are not independent: the interval has the
            cluster-robust variance, and as many degrees of freedom as there are keys, less one. None: all rows are.
    """
    import numpy as np
    from scipy.special import stdtrit

    value = float(values.mean()) if len(values) and np.isfinite(values).all() else math.nan
    sums = values - value if keys is None else np.bincount(keys, values - value)
    count = len(values) if keys is None else int((np.bincount(keys) > 0).sum())
    if math.isnan(value) or count < 2:
        return Interval(value, math.nan, math.nan, level)
    error = math.sqrt(float(sums @ sums) * count / (count - 1)) / len(values)
    reach = float(stdtrit(count - 1, (1 + level) / 2)) * error
    return Interval(value, value - reach, value + reach, level)
