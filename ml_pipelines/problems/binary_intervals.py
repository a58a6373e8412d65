"""Confidence intervals of the metrics of two classes; the AUC has its own module.

- Average precision: infinitesimal jackknife (Efron, Estimation and accuracy after model selection, 2014) on the scale
  of log-odds, as Boyd, Eng and Page advise (Area under the precision-recall curve, 2013). Student's t has
  Satterthwaite's degrees of freedom (1946), at most those of the events.
- Log loss and Brier score: the mean over rows. The interval is symmetric in the logarithm, because the few rows of the
  rarer class have much weight in the mean. The upper end is Hall's if that is higher (On the removal of skewness by
  transformation, 1992): large losses are rare.
- Accuracy, precision, recall: shares of rows.
- F1: F1 is 2 J / (1 + J) with J = true positives / (true positives + both kinds of errors). J is a share of rows, and
  its interval gives that of F1 (Lam, Gopal and Qian, Confidence intervals for the F1 score, 2024).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ml_pipelines.problems import roc_auc
from ml_pipelines.problems.intervals import (
    FEWEST_EVENTS,
    Interval,
    count_events,
    reach_of,
    share_interval,
    sum_variance,
    wilson,
)

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


def intervals(
    label: Array, score: Array, predicted: Array, level: float, keys: Array | None = None
) -> dict[str, Interval]:
    """Return metric -> its value with its interval. A metric that is not defined is left out.

    With fewer than FEWEST_EVENTS rows of a class, the ends of all intervals are NaN.

    Args:
        label: the class of each row, 0 or 1.
        score: the probability of class 1 of each row.
        predicted: the predicted class of each row, 0 or 1.
        level: the level of the intervals.
        keys: the key of each row, as a number from 0. Rows with the same key are not independent. None means that all
            rows are independent.
    """
    import numpy as np

    events = count_events(label, keys)
    of_row = np.arange(len(label)) if keys is None else keys
    positive, flagged = label == 1, predicted == 1
    hit = positive & flagged
    shares = {
        "accuracy": (positive == flagged, np.ones(len(label), bool)),
        "precision": (hit, flagged),
        "recall": (hit, positive),
        "f1": (hit, positive | flagged),
    }
    found = {
        "auc": roc_auc.interval(label, score, level, keys),
        "average_precision": _average_precision(label, score, level, of_row, events),
        "log_loss": _loss(losses(label, score), level, of_row, events),
        "brier": _loss((score - label) ** 2, level, of_row, events),
    }
    for name, (hits, rows) in shares.items():
        if rows.any():
            found[name] = share_interval(hits[rows], level, of_row[rows])
    if "f1" in found:
        part = found["f1"]
        value, low, high = (2 * x / (1 + x) for x in (part.value, part.low, part.high))
        found["f1"] = Interval(value, low, high, level)
    if events >= FEWEST_EVENTS:
        return found
    return {name: Interval(number.value, math.nan, math.nan, level) for name, number in found.items()}


def losses(label: Array, score: Array) -> Array:
    """Return the log loss of each row. As in scikit-learn, a score of 0 or 1 is moved inwards by a tiny number."""
    import numpy as np

    tiny = np.finfo(float).eps
    score = np.clip(score, tiny, 1 - tiny)
    return -np.log(np.where(label == 1, score, 1 - score))


def _loss(parts: Array, level: float, keys: Array, events: int) -> Interval:
    """Return the mean of numbers that are not negative, with an interval symmetric in the logarithm, or higher."""
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


def _average_precision(label: Array, score: Array, level: float, keys: Array, events: int) -> Interval:
    import numpy as np
    from scipy.special import expit, logit

    if not (events and np.isfinite(score).all()):
        return Interval(math.nan, math.nan, math.nan, level)
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # the last row of each score
    place = np.searchsorted(-score[order][ends], -score)  # of each row among the scores
    true_positives, predicted = np.cumsum(label[order])[ends].astype(float), ends + 1.0
    hits, precision = np.diff(true_positives, prepend=0.0), true_positives / predicted
    positives = true_positives[-1]
    value = float(hits @ precision / positives)
    if value >= 1 - 1e-12:
        return Interval(value, wilson(1.0, events, level)[0], 1.0, level)
    # How much one more row with a score changes the precision at this score and at all lower scores.
    slope = hits / predicted**2 / positives
    gains, losses = (np.cumsum(x[::-1])[::-1] for x in (slope * (predicted - true_positives), slope * true_positives))
    parts = np.where(label == 1, ((precision - value) / positives + gains)[place], -losses[place])
    squares = np.bincount(keys, parts) ** 2
    fourth = float(squares @ squares)  # few rows can carry the variance
    freedom = min(events - 1, float(squares.sum()) ** 2 / fourth) if fourth else events - 1
    reach = reach_of(level, freedom + 1) * math.sqrt(sum_variance(parts, keys)) / (value * (1 - value))
    middle = float(logit(value))
    return Interval(value, float(expit(middle - reach)), float(expit(middle + reach)), level)
