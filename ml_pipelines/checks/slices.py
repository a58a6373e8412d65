"""Judges slices of the test table: rows with one value of a column, or in one quarter of a number column.

- The headline metric of a slice is compared with the champion's on the same rows. Without a champion it is compared
  with the mean metric within the column's other slices; an AUC is weighted by the pairs of rows of both classes. The
  AUC over all other rows would not be fair: over all rows the column itself tells rows apart, and within a slice it
  can't.
- A quarter of a number is compared with the champion only: its rows are alike by construction.
- The calibration of a slice is the ratio of the observed odds of class 1 to those that the scores expect, divided by
  the same ratio for all other rows. Odds treat both classes alike; for a rare class they are nearly its share
  of the rows. A predicted number has no odds.
- Intervals are adjusted for the number of comparisons (Holm 1979): comparisons that are clear drop out, and the others
  are adjusted for the number that remains. The interval of a difference joins both intervals (Zou and Donner,
  Statistics in Medicine, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from ml_pipelines.checks.verdicts import FAILED, PASSED, UNDECIDED, needed_text, rows_needed
from ml_pipelines.config.schema import ProblemKind
from ml_pipelines.problems.intervals import Interval
from ml_pipelines.problems.problem import Problem, is_higher_better, problem_of
from ml_pipelines.text import shown

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Array = np.ndarray[Any, np.dtype[Any]]

Compare = Callable[[float], Interval]  # level -> interval
T = TypeVar("T")
VALUES = 20  # a number column with more distinct values than this has four slices, its quarters
UNJUDGED = 20  # the report lists this many unjudged slices of a column, the largest, and joins the others into one
OTHERS = "the column's other slices"


@dataclass(frozen=True)
class Predictions:
    """The predictions on the test table, one entry for each row.

    `champion` has the champion's scores: NaN for rows on which it is not compared, and None if it is never compared.
    """

    label: Array
    score: Array
    predicted: Array  # the predicted class
    keys: Array | None = None  # the key as a number from 0; None if no key repeats
    champion: Array | None = None
    version: str = ""  # the champion's name in words
    kind: str = ProblemKind.binary.value
    unit: float = 1.0  # the unit of margins

    @property
    def problem(self) -> Problem:
        """The kind of problem."""
        return problem_of(self.kind)


@dataclass(frozen=True)
class Slice:
    """A slice with its metrics, and its differences from the champion or from other rows.

    The intervals `difference` and `factor` are adjusted for the number of comparisons. They are None if the slice can't
    be compared. `problem` says why the slice is not judged, and is empty if it is judged. `counts` are those of
    `Problem.slice_counts`.
    """

    name: str
    rows: int
    problem: str = ""
    headline: Interval | None = None
    difference: Interval | None = None  # the headline metric minus that of `against`
    against: str = ""
    factor: Interval | None = None  # observed over expected odds of class 1, divided by the same ratio for other rows
    counts: Mapping[str, int] = field(default_factory=dict)
    kind: str = ProblemKind.binary.value
    unit: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the slice for qa_report.json. Numbers that are not finite become null."""
        values = {**asdict(self), problem_of(self.kind).HEADLINE: self.headline and asdict(self.headline)}
        counts = values.pop("counts")
        content = {name: value for name, value in values.items() if name not in ("headline", "kind", "unit")}
        return {name: _finite(v) if isinstance(v, dict) else v for name, v in (content | counts).items()}


def measure(columns: Sequence[pl.Series], table: Predictions, level: float, least: int) -> list[Slice]:
    """Return the slices of columns of the test table.

    A slice is judged if it has `least` rows and enough evidence: 10 rows of each class, or 30 rows of a regression.
    Missing cells are a slice of their own.

    Args:
        columns: the columns, with one cell for each prediction.
        table: the predictions.
        level: the level of the intervals.
        least: the fewest rows of a judged slice.
    """
    slices: list[Slice] = []
    comparisons: dict[tuple[int, str], Compare] = {}
    for column in columns:
        measured, compare = _slices(column, table, level, least)
        comparisons |= {(len(slices) + place, what): function for (place, what), function in compare.items()}
        slices += measured
    for (place, what), interval in adjusted(comparisons, level).items():
        if what == "headline":
            slices[place] = replace(slices[place], difference=interval)
        else:
            slices[place] = replace(slices[place], factor=_mapped(interval, math.exp))
    return slices


def adjusted(comparisons: Mapping[T, Compare], level: float) -> dict[T, Interval]:
    """Return the interval of each comparison, adjusted for their number.

    If nothing differs, the chance that any interval excludes 0 is at most 1 - `level`.
    """
    clear: dict[T, Interval] = {}
    while left := {name: compare for name, compare in comparisons.items() if name not in clear}:
        intervals = {name: compare(1 - (1 - level) / len(left)) for name, compare in left.items()}
        found = {name: interval for name, interval in intervals.items() if interval.low > 0 or interval.high < 0}
        if not found:
            return clear | intervals
        clear |= found
    return clear


def judge(slice_: Slice, threshold: float, ratio: float) -> Iterator[tuple[str, float, str]]:
    """Yield the verdict, the value and the reason of each comparison of a judged slice.

    A comparison fails if the slice is clearly worse, and by more than the bound: a headline metric that is worse by
    `threshold` units, or odds that differ from the expected ones by the factor `ratio`. It passes if the interval
    excludes so large a difference.
    """
    if slice_.difference and slice_.headline:
        problem = problem_of(slice_.kind)
        higher, form = is_higher_better(problem), problem.form(slice_.headline.value)
        loss = _mirrored(slice_.difference) if higher else slice_.difference
        ends = f"adjusted interval {loss.low:{form}} to {loss.high:{form}}"
        value = f"{problem.HEADLINE} {slice_.headline.value:{form}}"
        text = f"{value} is {loss.value:{form}} {'below' if higher else 'above'} that of {slice_.against} ({ends})"
        yield _verdict(slice_, _mapped(loss, lambda number: number / slice_.unit), threshold, text)
    if slice_.factor:
        factor, logs = slice_.factor, _mapped(slice_.factor, _log)
        ends = f"adjusted interval {factor.low:.3g} to {factor.high:.3g}"
        text = (
            f"the odds of class 1 are {factor.value:.3g} times the expected ones, relative to all other rows ({ends})"
        )
        harm = _mirrored(logs) if logs.value < 0 else logs
        yield _verdict(slice_, harm, math.log(ratio), text, opposite=-harm.low)


def _verdict(
    slice_: Slice, harm: Interval, bound: float, text: str, opposite: float = -math.inf
) -> tuple[str, float, str]:
    """Return the result of one comparison for `judge`.

    `harm` is the interval of the harmful difference. If a difference in the opposite direction is harmful too,
    `opposite` is how far the interval reaches in that direction.
    """
    what = f"{shown(slice_.name)} ({slice_.rows:,} rows): {text}"
    if not math.isfinite(harm.value):
        return FAILED, harm.value, f"{what}, not a finite number"
    if harm.value > bound and harm.low > 0:
        return FAILED, harm.value, what
    if max(harm.high, opposite) <= bound:
        return PASSED, harm.value, what
    end, limit = (harm.low, 0.0) if harm.value > bound else (harm.high, bound)
    return (
        UNDECIDED,
        harm.value,
        what + needed_text(rows_needed(harm.value, end, limit, slice_.rows), "rows of this slice"),
    )


def _slices(
    column: pl.Series, table: Predictions, level: float, least: int
) -> tuple[list[Slice], dict[tuple[int, str], Compare]]:
    """Return the slices of a column, and their comparisons: (slice's place, headline or calibration) -> comparison."""
    import numpy as np

    names, codes, is_cut = _groups(column)
    problem = table.problem
    counts = np.bincount(codes, minlength=len(names))
    evidence = problem.evidence_by_group(codes, table.label, len(names))
    for code in np.flatnonzero((counts >= least) & (evidence >= problem.FEWEST)):  # count keys if keys repeat
        evidence[code] = _evidence(np.flatnonzero(codes == code), table)
    is_judged = (counts >= least) & (evidence >= problem.FEWEST)
    parts = {names[code]: np.flatnonzero(codes == code) for code in np.flatnonzero(is_judged)}
    headline = cache(lambda name, level: _headline(parts[name], table, level))
    slices: list[Slice] = []
    comparisons: dict[tuple[int, str], Compare] = {}
    for place, (name, rows) in enumerate(parts.items()):
        of_name = {
            "headline": None if is_cut else _headline_comparison(name, parts, table, headline),
            "calibration": _calibration_comparison(rows, table),
        }
        against = OTHERS if of_name["headline"] else ""
        if paired := _champion_comparison(rows, table):
            against, of_name["headline"] = table.version, paired
        comparisons |= {(place, what): compare for what, compare in of_name.items() if compare}
        why = "" if any(of_name.values()) else f"the other rows have too few {problem.EVIDENCE} to compare it with"
        slices.append(_measured(name, rows, table, headline(name, level), against, why))
    unjudged = sorted(np.flatnonzero(~is_judged), key=lambda code: -counts[code])
    rate = float(problem.evidence(table.label)) / len(table.label)
    for code in unjudged[:UNJUDGED]:
        why = _why_unjudged(problem, int(counts[code]), int(evidence[code]), rate, least)
        slices.append(Slice(names[code], int(counts[code]), why, kind=table.kind))
    if more := unjudged[UNJUDGED:]:
        name = f"{len(more):,} other values of {column.name}"
        slices.append(Slice(name, int(counts[more].sum()), "each has too few rows", kind=table.kind))
    return slices, comparisons


def _groups(column: pl.Series) -> tuple[list[str], Array, bool]:
    """Return the names of a column's slices, the number of each row's slice, and whether they are quarters."""
    import numpy as np
    import polars as pl

    is_cut = column.dtype.is_numeric() and column.n_unique() > VALUES
    values = (_quarters(column) if is_cut else column).cast(pl.String)
    known = values.drop_nulls().unique().sort()
    codes = values.rank("dense").fill_null(len(known) + 1).to_numpy() - 1
    missing = [f"{column.name} is missing"] if values.null_count() else []  # unlike `column=value`
    return [*(f"{column.name}={value}" for value in known), *missing], codes.astype(np.int64), is_cut


def _quarters(column: pl.Series) -> pl.Series:
    """Return the name of the quarter that each number is in, for example `above 3.5`. Missing numbers stay missing."""
    import numpy as np
    import polars as pl

    edges = np.unique(np.quantile(column.drop_nulls().to_numpy(), [0.25, 0.5, 0.75]))
    inner = (f"{low:.6g} to {high:.6g}" for low, high in pairwise(edges))
    names = np.array([f"up to {edges[0]:.6g}", *inner, f"above {edges[-1]:.6g}"])
    quarters = pl.Series(column.name, names[np.searchsorted(edges, column.to_numpy())])
    return quarters.set(column.is_null(), None)


def _why_unjudged(problem: Problem, rows: int, evidence: int, rate: float, least: int) -> str:
    """Return why a slice can't be judged, and about how many rows it needs. `rate`: evidence per row of the table."""
    share = evidence / rows or rate
    needed = max(least, math.ceil(problem.FEWEST / share)) if share else None
    few = problem.HAS_CLASSES and evidence < problem.FEWEST  # otherwise the evidence is the rows
    what = f"{evidence} {problem.EVIDENCE}, {problem.FEWEST} are needed" if few else f"{rows:,} rows"
    return f"{what}{needed_text(needed, 'rows of this slice')}"


def _evidence(rows: Array, table: Predictions) -> int:
    return table.problem.evidence(table.label[rows], _at(table.keys, rows))


def _at(values: Array | None, rows: Array) -> Array | None:
    return None if values is None else values[rows]


def _measured(name: str, rows: Array, table: Predictions, headline: Interval, against: str, problem: str) -> Slice:
    counts = table.problem.slice_counts(table.label[rows], table.predicted[rows])
    return Slice(
        *(name, len(rows), problem, headline),
        against=against,
        counts=counts,
        kind=table.kind,
        unit=table.unit,
    )


def _champion_comparison(rows: Array, table: Predictions) -> Compare | None:
    """Return the comparison of a slice's metric with the champion's on the same rows; None if such rows are too few."""
    import numpy as np

    if table.champion is None:
        return None
    rows = rows[np.isfinite(table.champion[rows])]
    if _evidence(rows, table) < table.problem.FEWEST:
        return None
    label, score, other, keys = table.label[rows], table.score[rows], table.champion[rows], _at(table.keys, rows)

    def compare(level: float) -> Interval:
        difference = table.problem.compare(label, score, other, level, keys)
        return Interval(difference.value, difference.low, difference.high, level)

    return compare


def _headline_comparison(
    name: str, parts: Mapping[str, Array], table: Predictions, headline: Callable[[str, float], Interval]
) -> Compare | None:
    """Return the comparison of a slice's metric with the mean metric of the column's other slices; None without others.

    In this mean, each other slice has the weight `Problem.weight`.
    """
    others = [other for other in parts if other != name]
    if not others:
        return None
    weights = [table.problem.weight(table.label[parts[other]]) for other in others]
    weights = [weight / sum(weights) for weight in weights]

    def compare(level: float) -> Interval:
        found = [headline(other, level) for other in others]
        value = math.fsum(weight * one.value for weight, one in zip(weights, found, strict=True))
        below = math.hypot(*(weight * (one.value - one.low) for weight, one in zip(weights, found, strict=True)))
        above = math.hypot(*(weight * (one.high - one.value) for weight, one in zip(weights, found, strict=True)))
        return _minus(headline(name, level), Interval(value, value - below, value + above, level))

    return compare


def _headline(rows: Array, table: Predictions, level: float) -> Interval:
    return table.problem.headline_interval(table.label[rows], table.score[rows], level, _at(table.keys, rows))


def _minus(one: Interval, other: Interval) -> Interval:
    """Return the difference of two independent numbers with its interval."""
    value = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    return Interval(value, value - below, value + math.hypot(one.high - one.value, other.value - other.low), one.level)


def _calibration_comparison(rows: Array, table: Predictions) -> Compare | None:
    """Return the comparison of a slice's bias with that of all other rows.

    The result is None if the other rows have too little evidence, or if the kind of problem has no such bias.
    """
    import numpy as np

    others = np.delete(np.arange(len(table.label)), rows)
    if not len(others) or _evidence(others, table) < table.problem.FEWEST:
        return None

    def bias(some: Array, level: float) -> Interval | None:
        return table.problem.bias(table.label[some], table.score[some], level, _at(table.keys, some))

    def compare(level: float) -> Interval:
        ours, theirs = bias(rows, level), bias(others, level)
        assert ours and theirs  # noqa: S101  (a kind has a bias for all rows or for none)
        return _minus(ours, theirs)

    return compare if bias(rows, 0.5) else None


def _mirrored(interval: Interval) -> Interval:
    return Interval(-interval.value, -interval.high, -interval.low, interval.level)


def _mapped(interval: Interval, function: Callable[[float], float]) -> Interval:
    """Return the interval of an increasing function of the interval's number."""
    return Interval(function(interval.value), function(interval.low), function(interval.high), interval.level)


def _log(number: float) -> float:
    return math.log(number) if number > 0 else math.nan


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}
