"""The rule by which a model replaces the champion. Both score the same rows; intervals of their difference decide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from ml_pipelines.checks.verdicts import (
    FAILED,
    NOT_COMPARED,
    PASSED,
    UNDECIDED,
    Check,
    Sample,
    interval_text,
    needed_text,
    rows_needed,
)
from ml_pipelines.config.schema import Crown, ProblemKind
from ml_pipelines.problems.intervals import Difference, Interval
from ml_pipelines.problems.problem import Problem, is_higher_better, problem_of

BY_HAND = "Only a person can make this model champion (ml-pipelines promote)."
ADVICE = "Keep the champion, or use more rows, other features or other options."
# The loss may rise by this much for each unit of `margin`, as a share of the baseline's loss: with a margin of
# 0.01, by 5 %. A share of the baseline's loss means the same for rare and for frequent events.
LOSS_PER_MARGIN = 5


@dataclass(frozen=True)
class Champion:
    """The champion, compared with another model on the test rows that neither can have trained on.

    `rows` is the number of these rows; None means all rows of the test table. `problem` says why the models are not
    compared. `kind` is the kind of problem, and `unit` is its unit of margins on these rows.
    """

    name: str
    version: int
    run_id: str
    headline: Interval | None = None
    difference: Difference | None = None  # the other model's headline metric minus the champion's
    loss_gain: Interval | None = None  # the champion's loss minus the other model's
    baseline_loss: float = math.nan  # the loss of a model that gives each row the training table's mean label
    sample: Sample | None = None
    problem: str = ""
    rows: int | None = None
    is_this: bool = False  # the other model is the champion itself
    kind: str = ProblemKind.binary.value
    unit: float = 1.0


def judge(champion: Champion | None, crown: Crown, margin: float) -> Check:
    """Judge whether a model may replace the champion.

    The advantage is by how much the model's headline metric is better than the champion's, in the unit of margins: the
    difference in AUC, or the difference in RMSE as a share of the baseline's RMSE.

    - `better`: the interval of the advantage lies above 0.
    - `not_worse`: the advantage is not below 0, and its interval lies above minus the margin. Without the first
      condition, the metric could get worse step by step, by a series of small losses.
    - Both rules also limit the rise of the loss: to LOSS_PER_MARGIN times the margin times the baseline's loss.

    The check fails if the metric is clearly worse, or if the loss has clearly risen by more than this limit. Its value
    is the advantage.
    """
    threshold = 0.0 if crown is Crown.better else -margin
    if champion is None:
        return Check(None, threshold, NOT_COMPARED, "the model has no champion yet")
    version = f"version {champion.version}"
    if champion.is_this:
        return Check(None, threshold, NOT_COMPARED, f"this model is the champion, {version}")
    headline, difference, gain, sample = champion.headline, champion.difference, champion.loss_gain, champion.sample
    if headline is None or difference is None or gain is None or sample is None:
        reason = f"not compared with the champion, {version}: {champion.problem} {BY_HAND}"
        return Check(None, threshold, NOT_COMPARED, reason)
    kind = problem_of(champion.kind)
    if not (math.isfinite(difference.value) and math.isfinite(gain.value)):
        values = f"{kind.HEADLINE} difference {difference.value}, {kind.LOSS} difference {-gain.value}"
        return Check(None, threshold, FAILED, f"{values} against the champion, {version}: not a finite number", ADVICE)
    advantage = difference.advantage(is_higher_better(kind), champion.unit)
    bound = f"{margin:g}" if is_higher_better(kind) else f"{margin * champion.unit:{kind.form(headline.value)}}"
    verdict, why = _judge_headline(advantage, crown, margin, bound, sample)
    loss, loss_reason = _judge_loss(gain, champion.baseline_loss, margin, sample)
    champions = f"{kind.HEADLINE} {headline.value:{kind.form(headline.value)}}"
    reason = f"{difference_text(champion)}, against the champion, {version} ({champions}){rows_text(champion)}: {why}"
    if loss != PASSED:
        reason += f"; {kind.LOSS} {_loss_text(gain, kind.form(champion.baseline_loss))}: {loss_reason}"
    verdict = next((word for word in (FAILED, UNDECIDED) if word in (verdict, loss)), PASSED)
    return Check(advantage.value, threshold, verdict, reason, ADVICE if verdict == FAILED else "")


def difference_text(champion: Champion) -> str:
    """Return in words how far the headline metric is from the champion's, with the interval of the difference."""
    difference, headline, kind = champion.difference, champion.headline, problem_of(champion.kind)
    if difference is None or headline is None:
        return ""
    form = f"+{kind.form(headline.value)}"
    ends = interval_text(difference.low, difference.high, headline.level, form, kind.EVIDENCE)
    return f"{kind.HEADLINE} {difference.value:{form}}, {ends}"


def rows_text(champion: Champion) -> str:
    """Return an addition to a text: how many rows the models are compared on; empty for the whole test table."""
    return "" if champion.rows is None else f", on the {champion.rows:,} test rows that neither model has seen"


def selection_text(models: int, kind: Problem, headline: Interval) -> str:
    """Return in words how far choosing the best of several models overstates its metric; empty for a single model.

    All models were judged on the same test rows. Counted in standard errors, the best of n independent estimates is on
    average too good by the mean of the largest of n standard normal numbers (Blom 1958). Similar models share their
    errors, so it is less for them.
    """
    if models < 2:
        return ""
    normal = NormalDist()
    errors = normal.inv_cdf((models - 0.375) / (models + 0.25))
    label, higher = kind.METRICS[kind.HEADLINE]
    text = (
        f"{models:,} models were judged on these test rows. The choice of the best can make its {label} too "
        f"{'high' if higher else 'low'}, by up to "
    )
    text += f"about {errors:.1f} standard errors"
    if math.isnan(headline.low):
        return f"{text}."
    moved = errors * (headline.high - headline.low) / (2 * normal.inv_cdf((1 + headline.level) / 2))
    return f"{text} ({moved:{kind.form(headline.value)}})."


def _judge_headline(advantage: Difference, crown: Crown, margin: float, bound: str, sample: Sample) -> tuple[str, str]:
    """Return the verdict on the advantage, and its reason. `bound` is the margin as the reason shows it."""
    value, low, high = advantage.value, advantage.low, advantage.high
    better = crown is Crown.better
    if high < 0:
        return FAILED, "clearly worse"
    if low > 0 or (not better and value >= 0 and low >= -margin):
        return PASSED, "clearly better" if low > 0 else f"not worse, with a margin of {bound}"
    if value < 0:
        why, needed = "worse, though not clearly", rows_needed(value, high, 0, sample.count)
    elif better:
        why, needed = "too little evidence that it is better", rows_needed(value, low, 0, sample.count)
    else:
        why = f"too little evidence that it is not worse by more than {bound}"
        needed = rows_needed(value, low, -margin, sample.count)
    return UNDECIDED, why + needed_text(sample.least if math.isnan(low) else needed, sample.noun)


def _judge_loss(gain: Interval, baseline_loss: float, margin: float, sample: Sample) -> tuple[str, str]:
    """Return the verdict on the difference in loss, and its reason."""
    allowed = LOSS_PER_MARGIN * margin * baseline_loss
    if gain.low >= -allowed:
        return PASSED, ""
    if gain.high < -allowed:
        return FAILED, f"clearly higher by more than {allowed:.3g}"
    deciding = gain.low if gain.value >= -allowed else gain.high
    needed = sample.least if math.isnan(gain.low) else rows_needed(gain.value, deciding, -allowed, sample.count)
    why = f"too little evidence that it is not higher by more than {allowed:.3g}"
    return UNDECIDED, why + needed_text(needed, sample.noun)


def _loss_text(gain: Interval, form: str) -> str:
    """Return the model's loss minus the champion's, with its interval in words."""
    return f"{-gain.value:+{form}}, {interval_text(-gain.high, -gain.low, gain.level, f'+{form}')}"
