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

    `p_value` tests whether the first is worse. With too little evidence for an interval, `low` and `high` are NaN.
    """

    value: float
    p_value: float
    low: float
    high: float

    def advantage(self, higher_is_better: bool, unit: float) -> Difference:
        """Return how much better the first model is, divided by `unit`. A negative value means that it is worse."""
        ends = (self.low, self.high) if higher_is_better else (-self.high, -self.low)
        value = self.value if higher_is_better else -self.value
        return Difference(value / unit, self.p_value, ends[0] / unit, ends[1] / unit)


def mean_interval(values: Array, level: float, keys: Array | None = None) -> Interval:
    """Return the mean of one number for each row, with its interval by Student's t.

    Args:
        values: shape (rows,). If one is not finite, all numbers are NaN.
        level: the level of the interval.
        keys: the key of each row, as a number from 0. Rows with the same key are not independent: the interval uses the
            cluster-robust variance, and its degrees of freedom are the number of keys minus 1. None means that all rows
            are independent.
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


def loss_interval(parts: Array, level: float, keys: Array, events: int) -> Interval:
    """Return the mean of numbers that are not negative, with an interval that is symmetric on the log scale.

    If Hall's upper end is higher (On the removal of skewness by transformation, 1992), the interval has that upper end:
    large losses are rare.

    Args:
        parts: one number for each row, shape (rows,).
        level: the level of the interval.
        keys: the key of each row, as a number from 0; rows with the same key are not independent.
        events: the number of independent observations, for the degrees of freedom of Student's t.
    """
    import numpy as np

    value = float(parts.mean())
    if not value > 0 or math.isinf(value):
        return Interval(value, math.nan, math.nan, level)
    variance = sum_variance(parts - value, keys)
    error, reach = math.sqrt(variance) / len(parts), reach_of(level, events)
    factor = math.exp(reach * error / value)
    high = value * factor
    sums = np.bincount(keys, parts - value)
    skew = float((sums**3).sum()) / variance**1.5 if variance else 0.0  # of the mean
    if skew > 0:
        high = max(high, value + 3 / skew * (1 + float(np.cbrt(skew * (reach + skew / 6) - 1))) * error)
    return Interval(value, value / factor, high, level)


def share_interval(hits: Array, level: float, keys: Array) -> Interval:
    """Return the share of rows that are hits, with Wilson's interval.

    If the rows of a key are alike, the interval counts fewer rows: the number of independent rows that would have the
    same variance.

    Args:
        hits: whether each row is a hit, shape (rows,), at least one row.
        level: the level of the interval.
        keys: the key of each row, as a number from 0; rows with the same key are not independent.
    """
    import numpy as np

    value, rows = float(hits.mean()), len(hits)
    sizes = np.bincount(keys)
    alike = float((sizes**2).sum()) / rows  # the effect if all rows of a key are alike, whatever the number of its rows
    plain = sum_variance(hits - value, np.arange(rows))
    # The effect can be larger than `alike`: of the rows predicted as class 1, keys of this class have more than others.
    effect = max(sum_variance(hits - value, keys) / plain, 1.0) if plain else alike
    if alike > 1:  # the variance comes from the keys
        effect *= (reach_of(level, count_events(hits, keys)) / reach_of(level)) ** 2
    low, high = wilson(value, rows / effect, level)
    return Interval(value, min(low, value), max(high, value), level)  # rounding can move an end past the value


def wilson(share: float, rows: float, level: float) -> tuple[float, float]:
    """Return the ends of Wilson's interval (1927) of a share of independent rows."""
    z = reach_of(level) ** 2 / rows
    middle, half = share + z / 2, math.sqrt(z * share * (1 - share) + z * z / 4)
    return (middle - half) / (1 + z), (middle + half) / (1 + z)


def count_events(label: Array, keys: Array | None = None) -> int:
    """Return the size of the smaller class: its number of rows or, if keys repeat, of keys with a row of the class."""
    import numpy as np

    keys = np.arange(len(label)) if keys is None else keys
    return min(len(np.unique(keys[label == class_])) for class_ in (0, 1))


def sum_variance(parts: Array, keys: Array) -> float:
    """Return the variance of the sum of centred parts of all rows. The parts of a key are not independent."""
    import numpy as np

    sums = np.bincount(keys, parts)
    count = int((np.bincount(keys) > 0).sum())
    return float(sums @ sums) * count / max(1, count - 1)


def reach_of(level: float, events: float | None = None) -> float:
    """Return the half-width of an interval in standard errors. With few `events`, it is larger (Student's t)."""
    from statistics import NormalDist

    if events is None:
        return NormalDist().inv_cdf((1 + level) / 2)
    from scipy.special import stdtrit

    return float(stdtrit(max(1, events - 1), (1 + level) / 2))
