"""The area under the ROC curve with its confidence interval, and the difference of two areas on the same rows.

Method: DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or more correlated ROC curves (Biometrics,
1988). Algorithm: Sun and Xu (IEEE Signal Processing Letters, 2014). The algorithm uses ranks, and takes n log n time.
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
    """An AUC with its confidence interval; `level` is 0.95 for an interval of 95 %."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Difference:
    """The first AUC minus the second AUC, on the same rows. `p_value` tests whether the first is smaller."""

    value: float
    p_value: float


def interval(label: Array, score: Array, level: float) -> Interval:
    """Return the AUC with its confidence interval, limited to 0 to 1. If a class has no rows, all numbers are NaN."""
    from statistics import NormalDist

    value, placements = _placements(label, score)
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(_variance(placements))
    # `value` comes first, so that NaN stays NaN: max(0.0, NaN) is 0.0.
    return Interval(value, max(value - reach, 0.0), min(value + reach, 1.0), level)


def compare(label: Array, score: Array, other: Array) -> Difference:
    """Return the AUC of `score` minus the AUC of `other`, on the same rows.

    The test is paired and one-sided: is the AUC of `score` smaller than the AUC of `other`? If the difference has no
    variance, the p-value is 0 for a smaller AUC, else 1.
    """
    from statistics import NormalDist

    (one, ours), (two, theirs) = _placements(label, score), _placements(label, other)
    variance = _variance((ours[0] - theirs[0], ours[1] - theirs[1]))
    if variance == 0:
        return Difference(one - two, float(one >= two))
    return Difference(one - two, NormalDist().cdf((one - two) / math.sqrt(variance)))


def area(label: Array, score: Array) -> float:
    """Return the AUC of scores: the chance that a row of class 1 has a higher score than a row of class 0."""
    return _placements(label, score)[0]


def _placements(label: Array, score: Array) -> tuple[float, tuple[Array, Array]]:
    """Return the AUC, and the placements of the rows of class 1 and of class 0.

    The placement of a row is the share of the other class's rows that score on the correct side of this row.
    """
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
    """Return the variance of the AUC, or NaN if a class has only one row."""
    return math.fsum(float(part.var(ddof=1)) / len(part) if len(part) > 1 else math.nan for part in placements)


def _midranks(values: Array) -> Array:
    """Return ranks from 1; equal values share their mean rank."""
    import numpy as np

    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks
