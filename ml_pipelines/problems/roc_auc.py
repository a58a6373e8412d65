"""The area under the ROC curve with its confidence interval, and the difference of two areas on the same rows.

- Variance: DeLong, DeLong and Clarke-Pearson (Biometrics, 1988), by ranks (Sun and Xu, 2014), in n log n time.
- Keys that repeat: Obuchowski, Nonparametric analysis of clustered ROC curve data (Biometrics, 1997).
- Interval of an area: method 5 of Newcombe, Confidence intervals for an effect size measure based on the Mann-Whitney
  statistic, part 2 (Statistics in Medicine, 2006), with the observed variance where that is larger.
- Interval of a difference: Zou and Yue, Using confidence intervals to compare several correlated areas under the
  receiver operating characteristic curves (Statistics in Medicine, 2013). It joins the intervals of both areas.
- Test of a difference: Student's t with Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_pipelines.problems.intervals import FEWEST_EVENTS, Difference, Interval

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
    Placements = tuple[Array, Array]  # of the rows of class 1, and of the rows of class 0

BISECTIONS = 60  # halve an interval from 0 to 1 to the precision of a float


class _Spread(NamedTuple):
    """The variance of an AUC or a difference, its degrees of freedom, and the events: the keys of the rarer class."""

    variance: float
    freedom: float
    events: int


def interval(label: Array, score: Array, level: float, keys: Array | None = None) -> Interval:
    """Return the AUC with its confidence interval.

    Args:
        label: the class of each row, 0 or 1.
        score: the score of each row. If one is not finite, or a class has no rows, all numbers are NaN.
        level: the level of the interval.
        keys: the key of each row, as a number from 0. Rows with the same key are not independent. None means that all
            rows are independent.
    """
    value, placements = _placements(label, score)
    ends = (math.nan, math.nan) if math.isnan(value) else _ends(value, placements, _keys_of(label, keys), level)
    return Interval(value, *ends, level)


def compare(label: Array, score: Array, other: Array, level: float, keys: Array | None = None) -> Difference:
    """Return the AUC of `score` minus the AUC of `other`, on the same rows, with an interval of this level.

    The test is paired and one-sided: is the AUC of `score` smaller than the AUC of `other`? If the difference has no
    variance, the p-value is 0 for a smaller AUC, else 1. If a class has rows of one key only, the p-value is NaN.
    `keys` means the same as in `interval`.
    """
    from scipy.special import stdtr

    (one, ours), (two, theirs) = _placements(label, score), _placements(label, other)
    value = one - two
    if math.isnan(value):
        return Difference(value, math.nan, math.nan, math.nan)
    of_class = _keys_of(label, keys)
    spread = _spread((ours[0] - theirs[0], ours[1] - theirs[1]), of_class)
    error = math.sqrt(spread.variance)
    p_value = float(stdtr(spread.freedom, value / error)) if error else float(value >= 0)
    if spread.events < FEWEST_EVENTS:
        return Difference(value, p_value, math.nan, math.nan)
    if _same_order(score, other):
        return Difference(value, p_value, value, value)
    variances = [_spread(placements, of_class).variance for placements in (ours, theirs)]
    both = 2 * math.sqrt(variances[0] * variances[1])
    likeness = min(max((sum(variances) - spread.variance) / both, 0.0), 1.0) if both else 0.0
    low, high = _ends(one, ours, of_class, level)
    their_low, their_high = _ends(two, theirs, of_class, level)
    below, above = _joined(one - low, their_high - two, likeness), _joined(high - one, two - their_low, likeness)
    return Difference(value, p_value, value - below, value + above)


def area(label: Array, score: Array) -> float:
    """Return the AUC of scores: the chance that a row of class 1 has a higher score than a row of class 0."""
    return _placements(label, score)[0]


def _placements(label: Array, score: Array) -> tuple[float, Placements]:
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


def _keys_of(label: Array, keys: Array | None) -> tuple[Array, Array]:
    """Return the keys of the rows of class 1 and of class 0."""
    import numpy as np

    keys = np.arange(len(label)) if keys is None else keys
    return keys[label == 1], keys[label == 0]


def _spread(placements: Placements, keys: tuple[Array, Array]) -> _Spread:
    """Return Obuchowski's variance of an AUC, or of a difference. If no key repeats, it is DeLong's.

    It adds up what the rows of a key contribute. The variance is NaN if a class has rows of one key only.
    """
    import numpy as np

    size = 1 + max(int(part.max()) for part in keys)
    sums = [np.bincount(key, part - part.mean(), size) / len(part) for key, part in zip(keys, placements, strict=True)]
    has_rows = [np.bincount(key, minlength=size) > 0 for key in keys]
    counts = [int(rows.sum()) for rows in has_rows]
    parts = [
        float(total @ total) * count / (count - 1) if count > 1 else math.nan
        for total, count in zip(sums, counts, strict=True)
    ]
    both = int((has_rows[0] | has_rows[1]).sum())
    variance = parts[0] + parts[1] + 2 * float(sums[0] @ sums[1]) * both / max(1, both - 1)
    weight = sum(part**2 / max(1, count - 1) for part, count in zip(parts, counts, strict=True))
    # `variance` comes first, so that NaN stays NaN: max(0.0, NaN) is 0.0.
    return _Spread(max(variance, 0.0), (parts[0] + parts[1]) ** 2 / weight if weight else math.inf, min(counts))


def _design_effect(placements: Placements, keys: tuple[Array, Array], spread: _Spread) -> float:
    """Return by how much repeated keys widen the variance of an AUC: 1 if the rows of a key are independent.

    This is the ratio of Obuchowski's variance to DeLong's. It is at least 1, and at most what it would be if all rows
    of a key were alike. If DeLong's variance is 0 (near an AUC of 1), the function returns this upper limit.
    """
    import numpy as np

    most = max(float((np.bincount(key) ** 2).sum()) / len(key) for key in keys)
    plain = math.fsum(float(part.var(ddof=1)) / len(part) for part in placements)
    return min(max(spread.variance / plain, 1.0), most) if plain else most


def _ends(value: float, placements: Placements, keys: tuple[Array, Array], level: float) -> tuple[float, float]:
    """Return the ends of the interval of an AUC, NaN if there are too few events."""
    from statistics import NormalDist

    spread = _spread(placements, keys)
    if spread.events < FEWEST_EVENTS:
        return math.nan, math.nan
    m, n = (len(part) / _design_effect(placements, keys, spread) for part in placements)
    reach = NormalDist().inv_cdf((1 + level) / 2) ** 2
    if expected := _expected_variance(value, m, n):
        reach *= max(1.0, spread.variance / expected)
    return _end(value, 0.0, m, n, reach), _end(value, 1.0, m, n, reach)


def _joined(ours: float, theirs: float, likeness: float) -> float:
    """Return how far the interval of a difference reaches, from how far the intervals of both AUCs reach."""
    return math.sqrt(max(ours**2 + theirs**2 - 2 * likeness * ours * theirs, 0.0))


def _same_order(score: Array, other: Array) -> bool:
    """Return whether two scores rank all rows alike."""
    import numpy as np

    return np.array_equal(np.unique(score, return_inverse=True)[1], np.unique(other, return_inverse=True)[1])


def _expected_variance(area: float, m: float, n: float) -> float:
    """Return the variance of an AUC by Newcombe's method 5, for m rows of class 1 and n rows of class 0."""
    pairs = (m + n) / 2 - 1
    return area * (1 - area) * (1 + pairs * ((1 - area) / (2 - area) + area / (1 + area))) / (m * n)


def _end(value: float, bound: float, m: float, n: float, reach: float) -> float:
    """Return the end of an AUC's interval on the side of `bound`, which is 0 or 1.

    The end is sqrt(`reach`) standard errors from the AUC. The standard error is the one at the end, not at the AUC.
    """
    inside, outside = value, bound
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        if (middle - value) ** 2 <= reach * _expected_variance(middle, m, n):
            inside = middle
        else:
            outside = middle
    return inside if abs(inside - bound) > 1e-15 else bound


def _midranks(values: Array) -> Array:
    """Return ranks from 1; equal values share their mean rank."""
    import numpy as np

    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks
