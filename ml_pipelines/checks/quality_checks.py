"""The gate's checks: pure functions of facts about the model. A check passes, fails, or is skipped if it can't decide.

The parameters before the `*` are facts, with their names in facts.py. The parameters after the `*` are settings. Their
values are in conf, below `steps.model_qa.params.checks.<name of the check>`. Their annotations limit the values: `int`
is a count, at least 1; `float` is any finite number; `Share` is from 0 to 1. A check fails if its value is NaN.
"""

from __future__ import annotations

import inspect
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from ml_pipelines.authoring.rules import Limits, Share
from ml_pipelines.checks.names import brief
from ml_pipelines.problems.roc_auc import Difference, Interval, area, interval

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Array = np.ndarray[Any, np.dtype[Any]]

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
VALUES = 20  # a number column with more distinct values is sliced by quarters
TwoOrMore = Annotated[int, Limits(low=2)]


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    value: float | None
    threshold: float | None
    verdict: str
    reason: str


@dataclass(frozen=True)
class Champion:
    """The champion, scored on this test table. `problem` is the reason if its model can't score the table."""

    name: str
    version: int
    run_id: str
    auc: Interval | None
    difference: Difference | None  # the challenger's AUC minus the champion's
    problem: str = ""


CHECKS: dict[str, Callable[..., Check]] = {}


def check(function: Callable[..., Check]) -> Callable[..., Check]:
    """Register the function as a check that conf can turn on by its name."""
    CHECKS[function.__name__] = function
    return function


def facts_of(name: str) -> list[str]:
    """Return the names of the facts that a check takes."""
    parameters = inspect.signature(CHECKS[name]).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]


def settings_of(name: str) -> dict[str, Any]:
    """Return the settings of a check: name -> annotation."""
    function = CHECKS[name]
    parameters = inspect.signature(function).parameters.values()
    settings = {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}
    # Resolve only the annotations of settings. The annotations of facts name packages that import slowly.
    return get_type_hints(SimpleNamespace(__annotations__=settings), vars(sys.modules[function.__module__]), None, True)


# -- the checks


@check
def signature(has_signature: bool) -> Check:
    """The model has a signature: the names and types of its columns."""
    return Check(
        None, None, PASSED if has_signature else FAILED, f"the model has {'a' if has_signature else 'no'} signature"
    )


@check
def min_auc(auc: Interval, test_auc: float, *, threshold: float) -> Check:
    """The AUC on the test table is high enough, and agrees with evaluate's predictions."""
    if not math.isclose(auc.value, test_auc, abs_tol=1e-9):
        return Check(None, threshold, FAILED, f"test_auc is {test_auc}, but the AUC of the predictions is {auc.value}")
    return _at_least(f"test auc ({auc.level:.0%} interval {auc.low:.3f} to {auc.high:.3f})", auc.value, threshold)


@check
def train_test_gap(auc: Interval, train_auc: float, *, threshold: float) -> Check:
    """The AUC on the training table is not much higher than on the test table."""
    return _at_most("training auc minus test auc", train_auc - auc.value, threshold)


@check
def calibration(label: Array, score: Array, *, threshold: float, bins: int) -> Check:
    """Scores are probabilities: of the rows with score 0.3, 30 % are of class 1."""
    return _at_most(f"expected calibration error over {bins} bins", calibration_error(label, score, bins), threshold)


@check
def single_column(single_aucs: Mapping[str, float], *, threshold: float) -> Check:
    """No single column predicts the label almost perfectly."""
    name, value = _largest(single_aucs)
    return _at_most(f"auc of {brief(name)} alone", value, threshold)


@check
def importance(importances: Mapping[str, float], *, threshold: float, least: float) -> Check:
    """The model does not depend on one column only. Skipped if no column loses `least` of AUC."""
    name, value = _largest(importances)
    if len(importances) == 1:
        return Check(None, threshold, SKIPPED, f"{brief(name)} is the only column")
    if value < least:
        return Check(
            None,
            threshold,
            SKIPPED,
            f"no column costs {least} of auc if shuffled; the largest loss is {value:.3g}, for {brief(name)}",
        )
    share = value / math.fsum(max(0.0, loss) for loss in importances.values())
    return _at_most(f"share of {brief(name)} in the importance of all columns", share, threshold)


@check
def worst_slice(auc: Interval, slices: Sequence[Mapping[str, Any]], *, threshold: float) -> Check:
    """No declared slice has a much lower AUC than the whole table."""
    if not slices:
        return Check(None, threshold, SKIPPED, "no slices are declared, or no slice has enough rows")
    worst = min(slices, key=lambda row: float(row["auc"]))
    return _at_most(
        f"test auc minus the auc of the slice {brief(worst['slice'])} ({worst['rows']:,} rows)",
        auc.value - worst["auc"],
        threshold,
    )


@check
def drift(train_test: Sequence[Mapping[str, Any]], *, threshold: float, p_value: Share) -> Check:
    """The distribution of no column differs between the training table and the test table.

    With few rows, PSI can be large by chance. So a column counts only if the p-value of its test is below `p_value`
    divided by the number of columns (Bonferroni), or if its test has no p-value.
    """
    moved = [row for row in train_test if row["p_value"] is None or row["p_value"] < p_value / len(train_test)]
    if not moved:
        return Check(0.0, threshold, PASSED, "no column moved more than by chance")
    name, value = _largest({row["column"]: row["psi"] for row in moved})
    return _at_most(f"population stability index of {brief(name)}", value, threshold)


@check
def champion(champion: Champion | None, *, level: Share) -> Check:
    """The challenger is not significantly worse than the champion on the same rows (DeLong's paired one-sided test)."""
    if champion is None:
        return Check(None, level, SKIPPED, "the model has no champion yet")
    version = f"version {champion.version}"
    if champion.difference is None or champion.auc is None:
        return Check(None, level, SKIPPED, f"the champion, {version}, can't score this table: {champion.problem}")
    aucs = f"auc {champion.auc.value:.3f}, difference {champion.difference.value:+.3f}"
    return _at_least(f"p-value against the champion, {version} ({aucs}),", champion.difference.p_value, level)


@check
def stability(refit: Callable[[int, int], float], *, seeds: TwoOrMore, rows: TwoOrMore, threshold: float) -> Check:
    """The test AUC hardly depends on the seed. The model is fitted again with `seeds` seeds, on `rows` rows."""
    import numpy as np

    spread = float(np.std([refit(seed, rows) for seed in range(seeds)], ddof=1))
    return _at_most(f"standard deviation of test auc over {seeds} seeds", spread, threshold)


@check
def latency(predict: Callable[[int], object], *, rows: int, repeats: int, threshold: float) -> Check:
    """The median time of `repeats` predictions of `rows` rows is at most `threshold` milliseconds."""
    from statistics import median

    def milliseconds() -> float:
        started = time.perf_counter()
        predict(rows)
        return 1000 * (time.perf_counter() - started)

    return _at_most(f"time for {rows} rows in milliseconds", median(milliseconds() for _ in range(repeats)), threshold)


# -- the numbers that they compare


def calibration_error(label: Array, score: Array, bins: int) -> float:
    """Return the expected calibration error (Naeini et al. 2015), with bins of equal width, weighted by rows."""
    import numpy as np

    if not np.isfinite(score).all():
        return math.nan
    place = np.minimum((score * bins).astype(int), bins - 1)
    gaps = np.bincount(place, score - label, bins)
    return float(np.abs(gaps).sum() / len(label))


def single_auc(column: pl.Series, label: pl.Series) -> float:
    """Return the AUC if one column is the score. A number column gets at least 0.5: its sign doesn't matter.

    Missing numbers rank lowest. The score of a text is the share of class 1 among rows with the same text. The shares
    come from every second row of each class, and the AUC from the other rows. Otherwise a text that differs in each
    row would seem to predict the label perfectly.
    """
    import polars as pl

    if column.dtype != pl.String:
        missing, positive = column.null_count(), int(label.sum())
        ranks = (column.cast(pl.Float64).rank() + missing).fill_null((missing + 1) / 2)
        above = float(ranks.filter(label == 1).sum()) - positive * (positive + 1) / 2  # Mann and Whitney's U
        value = above / (positive * (len(label) - positive))
        return max(value, 1 - value)
    rows = pl.DataFrame({"value": column, "label": label}).with_columns(
        known=pl.int_range(pl.len()).over("label") % 2 == 0
    )
    shares = rows.filter("known").group_by("value").agg(share=pl.col("label").mean())
    scored = rows.filter(~pl.col("known")).join(shares, on="value", how="left", nulls_equal=True, maintain_order="left")
    return area(scored["label"].to_numpy(), scored["share"].fill_null(rows["label"].mean()).to_numpy())


def slices_of(column: pl.Series, label: Array, score: Array, level: float, least: int) -> list[dict[str, Any]]:
    """Return the AUC with its interval for each value of a column that has at least `least` rows.

    A number with many values is sliced by its quarters. A slice with one class has no AUC, and is left out.
    """
    import polars as pl

    if column.dtype.is_numeric() and column.n_unique() > VALUES:
        column = _quarters(column)
    values = column.cast(pl.String).fill_null("missing")
    slices = []
    for value in values.unique().sort():
        of_value = (values == value).to_numpy()
        auc = interval(label[of_value], score[of_value], level)
        if of_value.sum() >= least and math.isfinite(auc.value):
            row = {"slice": f"{column.name}={value}", "rows": int(of_value.sum())}
            slices.append({**row, "auc": auc.value, "low": auc.low, "high": auc.high})
    return slices


def _quarters(column: pl.Series) -> pl.Series:
    """Return the quarter of each number, as text."""
    import numpy as np
    import polars as pl

    edges = np.unique(np.quantile(column.drop_nulls().to_numpy(), [0.25, 0.5, 0.75]))
    inner = (f"{low:.6g} to {high:.6g}" for low, high in pairwise(edges))
    names = np.array([f"up to {edges[0]:.6g}", *inner, f"above {edges[-1]:.6g}"])
    quarters = pl.Series(column.name, names[np.searchsorted(edges, column.to_numpy())])
    return quarters.set(column.is_null(), None)


def _largest(values: Mapping[str, float]) -> tuple[str, float]:
    """Return the name of the largest value, and the value. NaN counts as the largest, so that the check fails."""
    return max(values.items(), key=lambda item: (math.isnan(item[1]), item[1]))


def _at_least(what: str, value: float, threshold: float) -> Check:
    return _compared(what, value, threshold, value >= threshold, "at least", "below")


def _at_most(what: str, value: float, threshold: float) -> Check:
    return _compared(what, value, threshold, value <= threshold, "at most", "above")


def _compared(what: str, value: float, threshold: float, holds: bool, passed: str, failed: str) -> Check:
    if not math.isfinite(value):
        return Check(None, threshold, FAILED, f"{what} is {value}, which is not a finite number")
    if not math.isfinite(threshold):
        return Check(
            value, threshold, FAILED, f"{what} is {value:.3g}; the threshold {threshold} is not a finite number"
        )
    relation = passed if holds else f"{failed} the threshold of"
    reason = f"{what} is {_rounded(value, threshold)}, {relation} {threshold}"
    return Check(value, threshold, PASSED if holds else FAILED, reason)


def _rounded(value: float, threshold: float) -> str:
    """Return the value with three significant digits, or with more if it would look equal to the threshold."""
    texts = [f"{value:.{digits}g}" for digits in range(3, 18)]
    return next(text for text in texts if abs(float(text) - value) <= abs(value - threshold) / 10)
