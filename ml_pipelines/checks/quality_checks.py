"""The gate's checks: pure functions of facts about the model. verdicts.py has the verdicts.

A check's parameters before the `*` are facts: facts.py has a property of the same name for each. The parameters after
the `*` are settings: conf has their values below `steps.model_qa.params.checks.<name of the check>`. The annotation of
a setting is its range: `int` is at least 1, `Share` is from 0 to 1, and the types below have ranges of their own. A
check fails if its value is NaN.

Margins are in the unit of the kind of problem: 1 for an AUC, the baseline's RMSE for an RMSE (`Problem.unit`).
"""

from __future__ import annotations

import inspect
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from ml_pipelines.authoring.rules import Limits, Share
from ml_pipelines.checks import promotion
from ml_pipelines.checks.drift import Comparison, moved, rows_needed
from ml_pipelines.checks.promotion import Champion
from ml_pipelines.checks.slices import Slice, judge
from ml_pipelines.checks.verdicts import (
    FAILED,
    NOT_COMPARED,
    PASSED,
    UNDECIDED,
    WARNED,
    Check,
    Sample,
    at_most,
    most_serious,
    needed_text,
    not_above,
    not_below,
    only_warning,
    within,
)
from ml_pipelines.config.schema import Crown
from ml_pipelines.problems.calibration import Calibration, events_needed
from ml_pipelines.problems.intervals import FEWEST_EVENTS, Interval
from ml_pipelines.problems.problem import Problem, is_higher_better
from ml_pipelines.text import listed, shown

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

SIMPLER = "Use more rows, or a simpler model: trees with fewer leaves, steps.train.params.options.max_leaf_nodes=7."
RAW_SCORES = (
    "Change steps.train.params.options. If only the order of the scores counts, set "
    "steps.model_qa.params.checks.calibration=null."
)
MOST_SHOWN = 5  # a reason names at most this many columns or slices
TwoOrMore = Annotated[int, Limits(low=2)]
Bins = Annotated[int, Limits(low=1, high=1000)]
Gap = Annotated[float, Limits(low=-1, high=1)]  # a difference of two metrics in the unit of margins
NotNegative = Annotated[float, Limits(low=0)]
Factor = Annotated[float, Limits(low=1)]
Slope = Annotated[float, Limits(low=0.01, high=1)]


CHECKS: dict[str, Callable[..., Check]] = {}
# A model becomes champion only if those of these checks that are turned on pass. Other undecided checks are only shown.
DECISIVE = ("min_auc", "beats_baseline", "champion")


def check(function: Callable[..., Check]) -> Callable[..., Check]:
    """Register the function as a check that conf can turn on by its name."""
    CHECKS[function.__name__] = function
    return function


def unproven(results: Mapping[str, Check], champion: Champion | None) -> dict[str, Check]:
    """Return the decisive checks that neither passed nor failed. They keep the model from becoming champion.

    The check `champion` is also among them if the model can't be compared with the champion.
    """
    skipped = {"champion": NOT_COMPARED} if champion and not champion.is_this else {}
    return {
        name: check
        for name, check in results.items()
        if name in DECISIVE and check.verdict in (UNDECIDED, skipped.get(name))
    }


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
    """Pass if the model has a signature: the names and types of its columns."""
    return Check(
        None, None, PASSED if has_signature else FAILED, f"the model has {'a' if has_signature else 'no'} signature"
    )


@check
def min_auc(headline: Interval, test_headline: float, sample: Sample, *, threshold: Share) -> Check:
    """Pass if the AUC on the test table is clearly high enough, and agrees with the predictions of step evaluate."""
    if not math.isclose(headline.value, test_headline, abs_tol=1e-9):
        reason = f"evaluate returned the auc {test_headline}, but the auc of its predictions is {headline.value}"
        return Check(None, threshold, FAILED, reason)
    advice = "Use more rows, other features or another estimator."
    return not_below("test auc", headline, threshold, sample, advice)


@check
def beats_baseline(baseline_gain: Interval, sample: Sample, problem: Problem) -> Check:
    """Pass if the loss is clearly below that of the baseline, which gives each row the training table's mean label."""
    what = f"{problem.LOSS} of the baseline minus that of the model"
    advice = "Use more rows, other features or other options."
    if baseline_gain.low == baseline_gain.high == 0:
        return Check(0.0, 0.0, FAILED, f"the model's {problem.LOSS} is that of the baseline in each row", advice)
    return not_below(what, baseline_gain, 0, sample, advice)


@check
def train_test_gap(
    headline: Interval, train_headline: float, unit: float, problem: Problem, *, threshold: Gap
) -> Check:
    """Warn if the metric on the training table is much better than on the test table. This never refuses a model."""
    name = problem.HEADLINE
    if is_higher_better(problem):
        what, gap = f"training {name} minus test {name}", train_headline - headline.value
    else:
        what = f"test {name} minus training {name}, as a share of the baseline's {name},"
        gap = (headline.value - train_headline) / unit
    return only_warning(at_most(what, gap, threshold, SIMPLER))


@check
def calibration(
    calibrated: Callable[[int], Calibration], *, ratio: Factor, slope: Slope, error: NotNegative, bins: Bins
) -> Check:
    """Pass if scores are probabilities: of the rows with score 0.3, about 30 % are of class 1.

    The check judges three intervals, and fails if one of them lies outside of its range. calibration.py in problems
    defines the three numbers.

    Args:
        calibrated: number of bins -> the three intervals.
        ratio: the range of the ratio is from 1 / ratio to ratio.
        slope: the range of the slope is from slope to 1 / slope.
        error: the largest error, as a part of the share of the rarer class.
        bins: the number of bins of the error.
    """
    table, noun = calibrated(bins), "test rows of the rarer class"
    if not math.isnan(table.ratio.value) and table.events < FEWEST_EVENTS:
        needed = needed_text(events_needed(ratio, table.ratio.level), noun)
        return Check(None, ratio, UNDECIDED, f"{table.events} {noun} are too few for an interval{needed}")
    what = "ratio of observed to expected rows of the rarer class"
    sample = Sample(table.events, noun, None)
    judged = [within(what, table.ratio, 1 / ratio, ratio, sample, RAW_SCORES)]
    if not math.isnan(table.slope.value):
        judged.append(within("calibration slope", table.slope, slope, 1 / slope, sample, RAW_SCORES))
    if not math.isnan(table.error.value):
        what = "calibration error beyond chance, as a part of the rarer class's share,"
        judged.append(not_above(what, table.error, error, sample, RAW_SCORES))
    return most_serious(judged)


@check
def single_column(
    singles: Mapping[str, float], removal: Callable[[str], str], problem: Problem, *, threshold: Share
) -> Check:
    """Pass if no single column predicts the label almost perfectly."""
    name, value = _largest(singles)
    advice = f"If the column gives the label away, {removal(name)}."
    return at_most(f"{problem.SINGLE} of {shown(name)} alone", value, threshold, advice)


@check
def importance(
    importances: Mapping[str, float],
    removal: Callable[[str], str],
    unit: float,
    problem: Problem,
    *,
    threshold: Share,
    least: Share,
) -> Check:
    """Pass if the model depends on several columns. Not compared if each importance is below `least` units."""
    name, value = _largest(importances)
    if len(importances) == 1:
        return Check(None, threshold, NOT_COMPARED, f"{shown(name)} is the only column")
    if value < least * unit:
        verb = "lowers" if is_higher_better(problem) else "raises"
        most = f"{least * unit:.3g}; the most is {value:.3g}, for {shown(name)}"
        reason = f"shuffling any column {verb} the {problem.HEADLINE} by less than {most}"
        return Check(None, threshold, NOT_COMPARED, reason)
    share = value / math.fsum(max(0.0, loss) for loss in importances.values())
    advice = f"If the column must not decide alone, {removal(name)}."
    return at_most(f"share of {shown(name)} in the importance of all columns", share, threshold, advice)


@check
def worst_slice(slices: Sequence[Slice], *, threshold: Share, ratio: Factor) -> Check:
    """Pass if no slice (rows with one value of a declared column) is clearly and much worse than others.

    slices.py says what a slice is compared with. "Clearly" means that the interval of the difference excludes 0. "Much
    worse" means a headline metric that is worse by more than `threshold` units, or observed odds of class 1 that differ
    from those that the scores predict by more than the factor `ratio`, in either direction. The check's value is the
    number of comparisons in which a slice is clearly and much worse.
    """
    if not slices:
        return Check(None, 0, NOT_COMPARED, "no slices are declared")
    judged = [slice_ for slice_ in slices if not slice_.problem]
    unjudged = [f"{shown(slice_.name)} ({slice_.problem})" for slice_ in slices if slice_.problem]
    few = f"too few rows to judge {_first(unjudged)}" if unjudged else ""
    if not judged:
        return Check(None, 0, UNDECIDED, few)
    results = [result for slice_ in judged for result in judge(slice_, threshold, ratio)]
    results.sort(key=lambda result: result[1], reverse=True)
    what = {FAILED: "clearly worse", UNDECIDED: "too little evidence for", PASSED: f"{len(judged)} slices are judged"}
    verdict = next(verdict for verdict in what if verdict == PASSED or any(result[0] == verdict for result in results))
    texts = [text for result, _, text in results if result == verdict]
    reason = f"{what[verdict]}: {_first(texts)}" if verdict != PASSED else what[verdict]
    advice = "Use more rows of these slices, or features that matter in them." if verdict == FAILED else ""
    return Check(len(texts) if verdict == FAILED else 0, 0, verdict, "; ".join(filter(None, [reason, few])), advice)


@check
def drift(since_champion: Comparison, *, threshold: NotNegative, missing: Share, p_value: Share) -> Check:
    """Warn if a column has moved from the champion's training table to the training table of this model.

    drift.py says when a column has moved. Only a person knows whether newer data are worse, so the check never fails.
    If the rows are too few to show a PSI of `threshold`, the check is undecided. Its value is the number of columns
    that have moved.
    """
    if since_champion.problem:
        return Check(None, 0, NOT_COMPARED, f"not compared: {since_champion.problem}{_other_columns(since_champion)}")
    rows = since_champion.rows
    limits = {"threshold": threshold, "missing": missing, "p_value": p_value}
    columns = [(row, parts) for row in rows if (parts := moved(row, **limits))]
    columns.sort(key=lambda column: -(column[0]["psi"] or 0))
    what = f"{len(columns)} of {len(rows)} columns moved since the champion's training table"
    others = _other_columns(since_champion)
    if columns:
        texts = [f"{shown(row['column'])} ({', '.join(_move(row, part) for part in parts)})" for row, parts in columns]
        advice = "If these data are right, nothing needs to change. If not, mend the source."
        return Check(len(columns), 0, WARNED, f"{what}: {_first(texts)}{others}", advice)
    if needed := rows_needed(rows, since_champion.sizes, threshold=threshold, p_value=p_value):
        few = f"too few rows to see a population stability index of {threshold:g}"
        return Check(0, 0, UNDECIDED, f"{what}{others}, but {few}{needed_text(needed, 'rows in each table')}")
    return Check(0, 0, PASSED, f"{what}{others}")


def _first(texts: Sequence[str]) -> str:
    """Return the first texts with commas between them, and how many more there are."""
    more = f" and {len(texts) - MOST_SHOWN} more" if len(texts) > MOST_SHOWN else ""
    return ", ".join(texts[:MOST_SHOWN]) + more


def _move(row: Mapping[str, Any], part: str) -> str:
    """Return in words how a column has moved; `part` is a result of drift.moved."""
    if part == "missing":
        return f"missing {row['missing_reference']:.3g} to {row['missing_current']:.3g}"
    return f"psi {row['psi']:.3g}" if part == "values" else "a number in only one table"


def _other_columns(comparison: Comparison) -> str:
    """Return which columns only one table has, to add to a reason."""
    sides = (("only in the champion's table", comparison.only_before), ("only in this table", comparison.only_now))
    return "".join(f"; {side}: {listed(names, most=MOST_SHOWN)}" for side, names in sides if names)


@check
def champion(champion: Champion | None, crown: Crown, *, margin: Share) -> Check:
    """Pass if the model is not worse than the champion on the same rows (with registry.crown=better: is better)."""
    return promotion.judge(champion, crown, margin)


@check
def stability(
    refit: Callable[[int, int], float],
    unit: float,
    problem: Problem,
    *,
    seeds: TwoOrMore,
    rows: TwoOrMore,
    threshold: NotNegative,
) -> Check:
    """Pass if the metric hardly depends on the seed. The model is fitted again with `seeds` seeds, on `rows` rows."""
    import numpy as np

    spread = float(np.std([refit(seed, rows) for seed in range(seeds)], ddof=1)) / unit
    name = problem.HEADLINE
    share = "" if is_higher_better(problem) else f", as a share of the baseline's {name},"
    return at_most(f"standard deviation of test {name} over {seeds} seeds{share}", spread, threshold, SIMPLER)


@check
def latency(predict: Callable[[int], object], *, rows: int, repeats: int, threshold: NotNegative) -> Check:
    """Pass if the median time of `repeats` predictions of `rows` rows is at most `threshold` milliseconds."""
    from statistics import median

    def milliseconds() -> float:
        started = time.perf_counter()
        predict(rows)
        return 1000 * (time.perf_counter() - started)

    time_ms = median(milliseconds() for _ in range(repeats))
    return at_most(f"time for {rows} rows in milliseconds", time_ms, threshold, "Use a smaller model.")


def _largest(values: Mapping[str, float]) -> tuple[str, float]:
    """Return the name of the largest value, and the value. NaN counts as the largest, so that the check fails."""
    return max(values.items(), key=lambda item: (math.isnan(item[1]), item[1]))
