"""The area under the ROC curve with its variance, and the difference of two on the same rows.

DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or more correlated ROC curves (Biometrics, 1988), by
the fast algorithm of Sun and Xu (IEEE Signal Processing Letters, 2014): from ranks, so in n log n time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Interval:
    """An AUC, and the ends of its confidence interval of `level`."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Difference:
    """How much larger one AUC is than another on the same rows; `p_value`: of so small a one, were they equal."""

    value: float
    p_value: float


def interval(label: Array, score: Array, level: float) -> Interval:
    """Return the AUC of scores, with its confidence interval cut at 0 and 1. NaN without rows of both classes."""
    from statistics import NormalDist

    value, placements = _placements(label, score)
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(_variance(placements))
    return Interval(value, max(value - reach, 0.0), min(value + reach, 1.0), level)  # in this order NaN stays NaN


def compare(label: Array, score: Array, other: Array) -> Difference:
    """Return how much larger the AUC of `score` is than that of `other`, of the same rows.

    The test is one-sided, paired, of whether it is smaller. Where the two never differ in a rank there is no variance:
    then the p-value is 1, or 0 where it is smaller all the same.
    """
    from statistics import NormalDist

    (one, ours), (two, theirs) = _placements(label, score), _placements(label, other)
    variance = _variance((ours[0] - theirs[0], ours[1] - theirs[1]))
    if variance == 0:
        return Difference(one - two, float(one >= two))
    return Difference(one - two, NormalDist().cdf((one - two) / math.sqrt(variance)))


def area(label: Array, score: Array) -> float:
    """Return the AUC of scores: the chance that a row of class 1 has a higher one than a row of class 0."""
    return _placements(label, score)[0]


def _placements(label: Array, score: Array) -> tuple[float, tuple[Array, Array]]:
    """Return the AUC; and for each row of class 1, then of class 0, its share of the other class on its right side."""
    import numpy as np

    positive, negative = score[label == 1], score[label == 0]
    m, n = len(positive), len(negative)
    if not (m and n) or not np.isfinite(score).all():
        nothing = np.full(1, np.nan)
        return math.nan, (nothing, nothing)
    ranks = _midranks(np.concatenate([positive, negative]))
    above = (ranks[:m] - _midranks(positive)) / n
    below = 1 - (ranks[m:] - _midranks(negative)) / m
    return float(above.mean()), (above, below)


def _variance(placements: tuple[Array, Array]) -> float:
    """Return the AUC's variance; NaN where a class has one row."""
    return math.fsum(float(part.var(ddof=1)) / len(part) if len(part) > 1 else math.nan for part in placements)


def _midranks(values: Array) -> Array:
    """Return ranks from 1; equal values share the mean of theirs."""
    import numpy as np

    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks
