"""The result of a check, how a number or an interval is judged against a bound, and the verdict of the whole gate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ml_pipelines.problems.intervals import Interval

# undecided: too little evidence; the reason says how many rows would be enough.
# not compared: nothing to compare with; the reason says why.
# warned: a check that never refuses a model has found something.
PASSED, FAILED, UNDECIDED, NOT_COMPARED, WARNED = "passed", "failed", "undecided", "not compared", "warned"
REFUSED = "refused"  # only the gate: a check failed, and on_failure is `fail`


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    value: float | None
    threshold: float | None
    verdict: str
    reason: str
    advice: str = ""  # what to do if the check failed or warned


@dataclass(frozen=True)
class Sample:
    """The size of a test table: its number of independent rows, or its number of keys if keys repeat.

    `noun` says in words what is counted. `least` is about how many of them an interval needs, None if unknown.
    `evidence` says what an interval can have too few of.
    """

    count: int
    noun: str
    least: int | None
    evidence: str = "events"


def gate_verdict(results: Mapping[str, Check], unproven: Mapping[str, Check], on_failure: str) -> str:
    """Return the verdict of the whole gate: refused, warned, undecided or passed.

    Args:
        results: check -> its result.
        unproven: the decisive checks among them that neither passed nor failed.
        on_failure: what a failed check does: `fail` refuses the model, `warn` only warns.
    """
    if any(check.verdict == FAILED for check in results.values()):
        return REFUSED if on_failure == "fail" else WARNED
    return UNDECIDED if unproven else PASSED


def only_warning(check: Check) -> Check:
    """Return the check with the verdict `warned` if it failed. A value that is not finite still fails."""
    return replace(check, verdict=WARNED) if check.verdict == FAILED and check.value is not None else check


def not_below(what: str, interval: Interval, bound: float, sample: Sample, advice: str = "") -> Check:
    """Judge an interval that must not lie below a bound.

    The check passes if the whole interval is at or above the bound, fails if the whole interval is below it, and is
    undecided in between, or without an interval.

    Args:
        what: what was measured, for the reason.
        interval: the measured value with its interval.
        bound: the bound.
        sample: what was measured. The reason of an undecided check says how large a sample would be enough.
        advice: what to do if the check fails.
    """
    return _judged(what, interval, bound, sample, advice, 1)


def not_above(what: str, interval: Interval, bound: float, sample: Sample, advice: str = "") -> Check:
    """Judge an interval that must not lie above a bound. The arguments are those of `not_below`."""
    return _judged(what, interval, bound, sample, advice, -1)


def within(what: str, interval: Interval, low: float, high: float, sample: Sample, advice: str) -> Check:
    """Judge an interval that must lie from `low` to `high`. The other arguments are those of `not_below`."""
    below = not_below(what, interval, low, sample, advice)
    above = not_above(what, interval, high, sample, advice)
    if below.verdict == above.verdict == PASSED:
        ends = interval_text(interval.low, interval.high, interval.level, ".3g")
        return Check(interval.value, high, PASSED, f"{what} is {interval.value:.3g} ({ends}), from {low:g} to {high:g}")
    return below if below.verdict == FAILED or above.verdict == PASSED else above


def most_serious(checks: Sequence[Check]) -> Check:
    """Return one check for several: failed if one failed, else undecided if one is undecided, else passed.

    The reason joins the reasons of all checks with this verdict. The first of them gives value, threshold and advice.
    """
    verdict = next(verdict for verdict in (FAILED, UNDECIDED, PASSED) if verdict in {check.verdict for check in checks})
    chosen = [check for check in checks if check.verdict == verdict]
    return replace(chosen[0], reason="; ".join(check.reason for check in chosen))


def interval_text(low: float, high: float, level: float, form: str = ".3f", evidence: str = "events") -> str:
    """Return an interval in words. `form` is the format of its ends; they are NaN if there is too little `evidence`."""
    if math.isnan(low):
        return f"too few {evidence} for an interval"
    return f"{level:.0%} interval {low:{form}} to {high:{form}}"


def at_least(what: str, value: float, threshold: float, advice: str = "") -> Check:
    return _compared(what, value, threshold, value >= threshold, ("at least", "below"), advice)


def at_most(what: str, value: float, threshold: float, advice: str = "") -> Check:
    return _compared(what, value, threshold, value <= threshold, ("at most", "above"), advice)


def rows_needed(value: float, end: float, bound: float, rows: int) -> int | None:
    """Return how many rows would put the end of an interval on the bound, if the value stayed as it is.

    The width of an interval shrinks with the square root of the rows. The result is None if there is no interval, or if
    the value lies on the bound.
    """
    if math.isnan(end) or math.isclose(value, bound, abs_tol=1e-9):
        return None
    return math.ceil(rows * ((value - end) / (value - bound)) ** 2)


def needed_text(needed: int | None, noun: str) -> str:
    """Return how many rows are needed, in words, to add to a reason; `noun` is their name."""
    if needed is None:
        return ""
    digits = max(0, len(str(needed)) - 2)
    about = math.ceil(needed / 10**digits) * 10**digits  # two significant digits: it is an estimate
    return f"; about {about:,} {noun} would be enough"


def _compared(what: str, value: float, threshold: float, holds: bool, relations: tuple[str, str], advice: str) -> Check:
    if not math.isfinite(value):
        return Check(None, threshold, FAILED, f"{what} is {value}, which is not a finite number")
    if not math.isfinite(threshold):
        return Check(
            value, threshold, FAILED, f"{what} is {value:.3g}; the threshold {threshold} is not a finite number"
        )
    relation = relations[0] if holds else f"{relations[1]} the threshold of"
    reason = f"{what} is {_rounded(value, threshold)}, {relation} {threshold}"
    return Check(value, threshold, PASSED if holds else FAILED, reason, "" if holds else advice)


def _rounded(value: float, threshold: float) -> str:
    """Return the value with three significant digits, or with more if it would look equal to the threshold."""
    texts = [f"{value:.{digits}g}" for digits in range(3, 18)]
    return next(text for text in texts if abs(float(text) - value) <= abs(value - threshold) / 10)


def _judged(what: str, interval: Interval, bound: float, sample: Sample, advice: str, sign: int) -> Check:
    if not (math.isfinite(interval.value) and math.isfinite(bound)):
        return _compared(what, interval.value, bound, False, ("", ""), advice)
    value, shown = interval.value, _rounded(interval.value, bound)
    ends = interval_text(interval.low, interval.high, interval.level, ".3g", sample.evidence)
    relations = ("not below", "below") if sign > 0 else ("not above", "above")
    nearest, farthest = (interval.low, interval.high) if sign > 0 else (interval.high, interval.low)
    if sign * nearest >= sign * bound:
        return Check(value, bound, PASSED, f"{what} is {shown} ({ends}), {relations[0]} {bound:g}")
    if sign * farthest < sign * bound:
        return Check(value, bound, FAILED, f"{what} is {shown} ({ends}), {relations[1]} {bound:g}", advice)
    deciding = nearest if sign * value >= sign * bound else farthest  # the end that more rows would move past the bound
    needed = sample.least if math.isnan(deciding) else rows_needed(value, deciding, bound, sample.count)
    return Check(
        value,
        bound,
        UNDECIDED,
        f"{what} is {shown} ({ends}), too little evidence for {bound:g}{needed_text(needed, sample.noun)}",
    )
