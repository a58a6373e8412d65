"""Confidence intervals of the metrics of two classes; the AUC has its own module.

- Average precision: infinitesimal jackknife (Efron, Estimation and accuracy after model selection, 2014) on the scale
  of log-odds, as Boyd, Eng and Page advise (Area under the precision-recall curve, 2013). Student's t has
  Satterthwaite's degrees of freedom (1946), at most those of the events.
- Log loss and Brier score: the mean over rows. The interval is symmetric in the logarithm, because the few rows of the
  rarer class have much weight in the mean (`loss_interval`).
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
    loss_interval,
    mean_interval,
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
        "log_loss": loss_interval(losses(label, score), level, of_row, events),
        "brier": loss_interval((score - label) ** 2, level, of_row, events),
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


def log_odds(label: Array, score: Array, level: float, keys: Array | None = None) -> Interval:
    """Return the log of the ratio of observed to expected odds of class 1, with its interval (delta method)."""
    observed, expected = float(label.mean()), float(score.mean())
    if not 0 < expected < 1:
        return Interval(math.nan, math.nan, math.nan, level)
    value = math.log(observed / (1 - observed)) - math.log(expected / (1 - expected))
    parts = (label - observed) / (observed * (1 - observed)) - (score - expected) / (expected * (1 - expected))
    spread = mean_interval(parts, level, keys)
    return Interval(value, value + spread.low, value + spread.high, level)


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
