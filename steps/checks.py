"""The gate's checks: each a small pure function of facts about the model, that says yes, no, or that it can't say.

A check's plain parameters are facts, by the names that steps/facts.py gives them; those behind the `*` are settings,
given in conf below `steps.model_qa.params.checks.<its name>`. Only finite numbers are compared: NaN fails.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from steps.delong import Difference, Interval, area, interval

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Array = np.ndarray[Any, np.dtype[Any]]

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
VALUES = 20  # a number of more distinct values is cut into quarters


@dataclass(frozen=True)
class Check:
    """What one check found."""

    value: float | None
    threshold: float | None
    verdict: str
    reason: str


@dataclass(frozen=True)
class Rival:
    """The present champion on the rows of this test table; `problem`: why it can't be judged on them."""

    name: str
    version: int
    run_id: str
    auc: Interval | None
    difference: Difference | None  # the challenger's AUC less the champion's
    problem: str = ""


CHECKS: dict[str, Callable[..., Check]] = {}


def check(function: Callable[..., Check]) -> Callable[..., Check]:
    """Make the function a check of its name, which conf may ask for."""
    CHECKS[function.__name__] = function
    return function


def asked_by(check: str) -> tuple[list[str], list[str]]:
    """Return the names of the facts that a check takes, and of its settings."""
    parameters = inspect.signature(CHECKS[check]).parameters.values()
    settings = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return [p.name for p in parameters if p.name not in settings], settings


# -- the checks


@check
def signature(has_signature: bool) -> Check:
    """The model says what columns it takes and of what types."""
    return Check(
        None, None, PASSED if has_signature else FAILED, f"the model has {'a' if has_signature else 'no'} signature"
    )


@check
def min_auc(auc: Interval, test_auc: float, *, threshold: float) -> Check:
    """The AUC on the test table is high enough, and it is that of evaluate's predictions."""
    if not math.isclose(auc.value, test_auc, abs_tol=1e-9):
        return Check(None, threshold, FAILED, f"test_auc is {test_auc}, the predictions say {auc.value}")
    return _at_least(f"test auc ({auc.level:.0%} interval {auc.low:.4f} to {auc.high:.4f})", auc.value, threshold)


@check
def train_test_gap(auc: Interval, train_auc: float, *, threshold: float) -> Check:
    """The model is not much better on what it has seen than on what it hasn't."""
    return _at_most("auc in training less test auc", train_auc - auc.value, threshold)


@check
def calibration(label: Array, score: Array, *, threshold: float, bins: int) -> Check:
    """Scores are probabilities: of the rows with 0.3, three in ten are of class 1."""
    return _at_most(f"expected calibration error over {bins} bins", calibration_error(label, score, bins), threshold)


@check
def single_column(single_aucs: Mapping[str, float], *, threshold: float) -> Check:
    """No column alone gives the label away."""
    name, value = _largest(single_aucs)
    return _at_most(f"auc of {name} alone", value, threshold)


@check
def importance(importances: Mapping[str, float], *, threshold: float, least: float) -> Check:
    """The model doesn't lean on one column only; where no column costs `least` of AUC, nothing can be said."""
    name, value = _largest(importances)
    if len(importances) == 1:
        return Check(None, threshold, SKIPPED, f"{name} is the only column")
    if value < least:
        return Check(
            None, threshold, SKIPPED, f"no column costs {least} of auc when shuffled: {name} costs {value:.4f}"
        )
    share = value / math.fsum(max(0.0, loss) for loss in importances.values())
    return _at_most(f"share of {name} in all importance", share, threshold)


@check
def worst_slice(auc: Interval, slices: Sequence[Mapping[str, Any]], *, threshold: float) -> Check:
    """No declared slice is judged much worse than the whole."""
    if not slices:
        return Check(None, threshold, SKIPPED, "no slices are declared, or none has rows enough")
    worst = min(slices, key=lambda row: float(row["auc"]))
    return _at_most(
        f"test auc less that of {worst['slice']} ({worst['rows']:,} rows)", auc.value - worst["auc"], threshold
    )


@check
def drift(train_test: Sequence[Mapping[str, Any]], *, threshold: float, p_value: float) -> Check:
    """No column is distributed otherwise in test than in train: by its index, where that is hardly chance.

    The index of few rows is large by chance. So a column counts only where the p-value of its test is below `p_value`
    divided by the number of columns (Bonferroni).
    """
    moved = [row for row in train_test if row["p_value"] is None or row["p_value"] < p_value / len(train_test)]
    if not moved:
        return Check(0.0, threshold, PASSED, "no column has moved more than by chance")
    name, value = _largest({row["column"]: row["psi"] for row in moved})
    return _at_most(f"population stability index of {name}", value, threshold)


@check
def champion(champion: Rival | None, *, level: float) -> Check:
    """The challenger is not worse than the champion on the same rows: DeLong's paired test, one-sided."""
    if champion is None:
        return Check(None, level, SKIPPED, "there is no champion yet")
    who = f"the champion, version {champion.version}"
    if champion.difference is None or champion.auc is None:
        return Check(None, level, SKIPPED, f"{who}, can't be judged on this table: {champion.problem}")
    what = (
        f"p-value of being as good as {who} (auc {champion.auc.value:.4f}, difference {champion.difference.value:+.4f})"
    )
    return _at_least(what, champion.difference.p_value, level)


@check
def stability(refit: Callable[[int, int], float], *, seeds: int, rows: int, threshold: float) -> Check:
    """Fitted again with other seeds on a sample of `rows`, the model is about as good each time."""
    import numpy as np

    spread = float(np.std([refit(seed, rows) for seed in range(seeds)], ddof=1))
    return _at_most(f"deviation of test auc over {seeds} seeds", spread, threshold)


@check
def latency(predict: Callable[[int], object], *, rows: int, repeats: int, threshold: float) -> Check:
    """A prediction of `rows` rows takes, in the median, at most `threshold` milliseconds."""

    from statistics import median

    def milliseconds() -> float:
        started = time.perf_counter()
        predict(rows)
        return 1000 * (time.perf_counter() - started)

    return _at_most(f"milliseconds for {rows} rows", median(milliseconds() for _ in range(repeats)), threshold)


# -- what they compare


def calibration_error(label: Array, score: Array, bins: int) -> float:
    """Return the expected calibration error (Naeini et al. 2015): over bins of equal width, weighted by rows."""
    import numpy as np

    if not np.isfinite(score).all():
        return math.nan
    place = np.minimum((score * bins).astype(int), bins - 1)
    gaps = np.bincount(place, score - label, bins)
    return float(np.abs(gaps).sum() / len(label))


def single_auc(column: pl.Series, label: pl.Series) -> float:
    """Return the AUC of one column as the score, whichever way it points.

    What is missing ranks lowest. A text counts as the share of class 1 among other rows of its value: every second row
    of a class says it, the others are judged by it, or a name that is different in each row would give everything away.
    """
    import polars as pl

    if column.dtype != pl.String:
        missing, positive = column.null_count(), int(label.sum())
        ranks = (column.cast(pl.Float64).rank() + missing).fill_null((missing + 1) / 2)
        above = float(ranks.filter(label == 1).sum()) - positive * (positive + 1) / 2  # Mann and Whitney's U
        value = above / (positive * (len(label) - positive))
        return max(value, 1 - value)
    rows = pl.DataFrame({"value": column, "label": label}).with_columns(
        told=pl.int_range(pl.len()).over("label") % 2 == 0
    )
    shares = rows.filter("told").group_by("value").agg(share=pl.col("label").mean())
    asked = rows.filter(~pl.col("told")).join(shares, on="value", how="left", nulls_equal=True, maintain_order="left")
    return area(asked["label"].to_numpy(), asked["share"].fill_null(rows["label"].mean()).to_numpy())


def slices_of(column: pl.Series, label: Array, score: Array, level: float, least: int) -> list[dict[str, Any]]:
    """Return the AUC and its interval of each value's rows, a number's by quarters; not of fewer than `least` rows."""
    import polars as pl

    if column.dtype.is_numeric() and column.n_unique() > VALUES:
        column = _quarters(column)
    values = column.cast(pl.String).fill_null("missing")
    found = []
    for value in values.unique().sort():
        of_value = (values == value).to_numpy()
        judged = interval(label[of_value], score[of_value], level)
        if of_value.sum() >= least and math.isfinite(judged.value):
            row = {"slice": f"{column.name}={value}", "rows": int(of_value.sum())}
            found.append({**row, "auc": judged.value, "low": judged.low, "high": judged.high})
    return found


def _quarters(column: pl.Series) -> pl.Series:
    """Return of each number the quarter that it is in, as text."""
    import numpy as np
    import polars as pl

    edges = np.unique(np.quantile(column.drop_nulls().to_numpy(), [0.25, 0.5, 0.75]))
    inner = (f"{low:.6g} to {high:.6g}" for low, high in pairwise(edges))
    names = np.array([f"up to {edges[0]:.6g}", *inner, f"above {edges[-1]:.6g}"])
    quarters = pl.Series(column.name, names[np.searchsorted(edges, column.to_numpy())])
    return quarters.set(column.is_null(), None)


def _largest(values: Mapping[str, float]) -> tuple[str, float]:
    """Return the largest value and its name; NaN is larger than any number, since it can't be compared."""
    return max(values.items(), key=lambda item: (math.isnan(item[1]), item[1]))


def _at_least(what: str, value: float, threshold: float) -> Check:
    return _compared(what, value, threshold, value >= threshold, "at least")


def _at_most(what: str, value: float, threshold: float) -> Check:
    return _compared(what, value, threshold, value <= threshold, "at most")


def _compared(what: str, value: float, threshold: float, holds: bool, relation: str) -> Check:
    finite = math.isfinite(value)
    passed = finite and math.isfinite(threshold) and holds
    reason = f"{what} is {value:.6g}, {'' if passed else 'not '}{relation} {threshold}"
    return Check(value if finite else None, threshold, PASSED if passed else FAILED, reason)
