"""Whether scores are probabilities: three numbers with intervals that are also correct with few events.

The events are the rows of the rarer class, so that a rate of 97 % is judged like a rate of 3 %.

- Ratio: the number of events over the number that the scores expect. Its interval is symmetric in the logarithm.
- Slope: the slope of a logistic regression of the events on the scores' log-odds (Cox, Two further applications of a
  model for binary regression, Biometrika, 1958). Below 1 the scores are too extreme, above 1 too moderate.
- Error: the expected calibration error (Naeini et al. 2015) over bins with equally many rows, without the part that is
  chance. This part is the mean error of scores that are true probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_pipelines.problems.intervals import FEWEST_EVENTS, Interval, count_events, reach_of, sum_variance

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Calibration:
    """How well scores agree with the labels of a table.

    With too few events, only the ratio has a value, and there is no interval. If a score is not a probability, all
    numbers are NaN. The slope is NaN too if the scores are all equal, or separate the classes without a mistake.
    """

    events: int  # rows of the rarer class; if keys repeat, keys with such a row
    ratio: Interval
    slope: Interval
    error: Interval  # without the part that is chance, divided by the share of events


def calibration(label: Array, score: Array, bins: int, level: float, keys: Array | None = None) -> Calibration:
    """Return the ratio, the slope and the error of scores.

    Args:
        label: the class of each row, 0 or 1.
        score: the probability of class 1 of each row.
        bins: the number of bins of the error. Rows with equal scores share a bin.
        level: the level of the intervals.
        keys: the key of each row, as a number from 0. Rows with the same key are not independent. None means that all
            rows are independent.
    """
    import numpy as np

    if 2 * label.sum() > len(label):
        label, score = 1 - label, 1 - score
    events = count_events(label, keys)
    keys = np.arange(len(label)) if keys is None else keys
    nothing = Interval(math.nan, math.nan, math.nan, level)
    if not ((score >= 0) & (score <= 1)).all():
        return Calibration(events, nothing, nothing, nothing)
    if events < FEWEST_EVENTS:
        return Calibration(events, Interval(_quotient(label, score), math.nan, math.nan, level), nothing, nothing)
    return Calibration(
        events,
        _ratio(label, score, level, keys, events),
        _slope(label, score, level, keys, events),
        _error(label, score, bins, level, keys),
    )


def events_needed(ratio: float, level: float) -> int | None:
    """Return how many events the check needs if the ratio is 1: then its interval is from 1 / ratio to ratio.

    Return None if no number of events is enough.
    """
    return math.ceil((reach_of(level) / math.log(ratio)) ** 2) if ratio > 1 else None


def _ratio(label: Array, score: Array, level: float, keys: Array, events: int) -> Interval:
    value = _quotient(label, score)
    if math.isinf(value):
        return Interval(value, math.nan, math.nan, level)
    error = math.sqrt(sum_variance(label / label.sum() - score / score.sum(), keys))
    factor = math.exp(reach_of(level, events) * error)
    return Interval(value, value / factor, value * factor, level)


def _quotient(label: Array, score: Array) -> float:
    observed, expected = float(label.sum()), float(score.sum())
    return observed / expected if expected else math.inf


def _slope(label: Array, score: Array, level: float, keys: Array, events: int) -> Interval:
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit, logit

    least = 0.5 / len(score)  # this many rows can't tell a smaller probability from 0
    odds = logit(np.clip(score, least, 1 - least))
    ones, zeros = odds[label == 1], odds[label == 0]
    if ones.min() >= zeros.max() or zeros.min() >= ones.max():
        return Interval(math.nan, math.nan, math.nan, level)
    spread = float(odds.std())
    columns = np.column_stack([np.ones(len(odds)), (odds - odds.mean()) / spread])

    def hessian(weights: Array) -> Array:
        chance = expit(columns @ weights)
        return np.asarray((columns * (chance * (1 - chance))[:, None]).T @ columns / len(label))

    fit = minimize(
        lambda weights: float(np.mean(np.logaddexp(0, columns @ weights) - label * (columns @ weights))),
        np.array([logit(label.mean()), 0.0]),
        jac=lambda weights: columns.T @ (expit(columns @ weights) - label) / len(label),
        hess=hessian,
        method="trust-exact",
        options={"gtol": 1e-8},
    )
    inverse = np.linalg.pinv(hessian(fit.x))[1]
    influence = (label - expit(columns @ fit.x)) * (columns @ inverse) / len(label)
    # With few events, the regression's variance is correct. If the regression does not fit or keys repeat, the variance
    # of the rows is. Use the larger one.
    error = math.sqrt(max(float(inverse[1]) / len(label), sum_variance(influence, keys)))
    value, reach = float(fit.x[1]), reach_of(level, events) * error
    return Interval(value / spread, (value - reach) / spread, (value + reach) / spread, level)


def _error(label: Array, score: Array, bins: int, level: float, keys: Array) -> Interval:
    import numpy as np

    place = np.searchsorted(np.quantile(score, np.arange(1, bins) / bins), score, side="right")
    rows, events, sums = np.bincount(place), np.bincount(place, label), np.bincount(place, score)
    rows, events, sums = (numbers[rows > 0] for numbers in (rows, events, sums))
    residual = label - score
    plain = sum_variance(residual, np.arange(len(residual)))
    effect = (
        math.sqrt(max(1.0, sum_variance(residual, keys) / plain)) if plain else 1.0
    )  # how much repeated keys widen the interval
    by_chance = effect * float(_mean_distance(rows, np.minimum(sums / rows, 1)).sum())
    variances = [float((numbers * (1 - numbers / rows)).sum()) for numbers in (events, sums)]
    reach = reach_of(level) * effect * math.sqrt(max(variances))
    value, total = float(np.abs(events - sums).sum()) - by_chance, float(label.sum())
    return Interval(value / total, (value - reach) / total, (value + reach) / total, level)


def _mean_distance(rows: Array, chance: Array) -> Array:
    """Return the mean distance of a binomial number from its mean (de Moivre 1730)."""
    import numpy as np
    from scipy.special import gammaln, xlog1py, xlogy

    above = np.minimum(np.floor(rows * chance) + 1, rows)
    ways = gammaln(rows + 1) - gammaln(above + 1) - gammaln(rows - above + 1)
    distance: Array = 2 * above * (1 - chance) * np.exp(ways + xlogy(above, chance) + xlog1py(rows - above, -chance))
    return distance


def tenths(truth: Array, score: Array) -> dict[str, Array]:
    """Sort the rows by score, and return the mean score, the mean label and the number of rows of each tenth.

    Rows with the same score are in the same tenth.
    """
    import numpy as np

    tenth = np.searchsorted(np.quantile(score, np.linspace(0.1, 0.9, 9)), score, side="right")
    rows, positives, sums = np.bincount(tenth), np.bincount(tenth, truth), np.bincount(tenth, score)
    filled = rows > 0
    return {
        "predicted": sums[filled] / rows[filled],
        "observed": positives[filled] / rows[filled],
        "rows": rows[filled],
    }
