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
from ml_pipelines.config.schema import Crown
from ml_pipelines.problems.intervals import Difference, Interval

BY_HAND = "Only a person can make this model champion (ml-pipelines promote)."
ADVICE = "Keep the champion, or use more rows, other features or other options."
# The log loss may rise by this much for each unit of `margin`, as a share of the baseline's log loss: with a margin of
# 0.01, by 5 %. A share of the baseline's loss means the same for rare and for frequent events.
LOSS_PER_MARGIN = 5


@dataclass(frozen=True)
class Champion:
    """The champion, compared with another model on the test rows that neither can have trained on.

    `rows` is the number of these rows; None means all rows of the test table. `problem` says why the models are not
    compared.
    """

    name: str
    version: int
    run_id: str
    auc: Interval | None = None
    difference: Difference | None = None  # the other model's AUC minus the champion's
    loss_gain: Interval | None = None  # the champion's log loss minus the other model's
    baseline_loss: float = math.nan  # the log loss of a model that gives each row the training table's rate
    sample: Sample | None = None
    problem: str = ""
    rows: int | None = None
    is_this: bool = False  # the other model is the champion itself


def judge(champion: Champion | None, crown: Crown, margin: float) -> Check:
    """Judge whether a model may replace the champion.

    - `better`: the interval of the difference in AUC lies above 0.
    - `not_worse`: the difference is not below 0, and its interval lies above minus the margin. Without the first
      condition, the AUC could fall step by step, by a series of small losses.
    - Both rules also limit the rise of the log loss: to LOSS_PER_MARGIN times the margin times the baseline's log loss.

    The check fails if the AUC is clearly lower, or if the log loss has clearly risen by more than this limit.
    """
    threshold = 0.0 if crown is Crown.better else -margin
    if champion is None:
        return Check(None, threshold, NOT_COMPARED, "the model has no champion yet")
    version = f"version {champion.version}"
    if champion.is_this:
        return Check(None, threshold, NOT_COMPARED, f"this model is the champion, {version}")
    auc, difference, gain, sample = champion.auc, champion.difference, champion.loss_gain, champion.sample
    if auc is None or difference is None or gain is None or sample is None:
        reason = f"not compared with the champion, {version}: {champion.problem} {BY_HAND}"
        return Check(None, threshold, NOT_COMPARED, reason)
    if not (math.isfinite(difference.value) and math.isfinite(gain.value)):
        values = f"auc difference {difference.value}, log loss difference {-gain.value}"
        return Check(None, threshold, FAILED, f"{values} against the champion, {version}: not a finite number", ADVICE)
    area, area_reason = _judge_area(difference, crown, margin, sample)
    loss, loss_reason = _judge_loss(gain, champion.baseline_loss, margin, sample)
    what = f"auc {difference_text(difference, auc.level)}, against the champion, {version} (auc {auc.value:.3f})"
    reason = f"{what}{rows_text(champion)}: {area_reason}"
    if loss != PASSED:
        reason += f"; log loss {_loss_text(gain)}: {loss_reason}"
    verdict = next((word for word in (FAILED, UNDECIDED) if word in (area, loss)), PASSED)
    return Check(difference.value, threshold, verdict, reason, ADVICE if verdict == FAILED else "")


def difference_text(difference: Difference, level: float) -> str:
    """Return the difference from the champion with its interval in words."""
    return f"{difference.value:+.3f}, {interval_text(difference.low, difference.high, level, '+.3f')}"


def rows_text(champion: Champion) -> str:
    """Return an addition to a text: how many rows the models are compared on; empty for the whole test table."""
    return "" if champion.rows is None else f", on the {champion.rows:,} test rows that neither model has seen"


def selection_text(models: int, auc: Interval) -> str:
    """Return by how much the choice among several models can raise the AUC of the best; empty for a single model.

    All models were judged on the same test rows. The best of n independent estimates lies above the truth by the mean
    of the largest of n standard normal numbers (Blom 1958), in standard errors. Similar models share their errors, so
    the number is smaller for them.
    """
    if models < 2:
        return ""
    normal = NormalDist()
    errors = normal.inv_cdf((models - 0.375) / (models + 0.25))
    text = (
        f"{models:,} models were judged on these test rows. The choice of the best can make its AUC too high, by up to "
    )
    text += f"about {errors:.1f} standard errors"
    if math.isnan(auc.low):
        return f"{text}."
    raised = errors * (auc.high - auc.low) / (2 * normal.inv_cdf((1 + auc.level) / 2))
    return f"{text} ({raised:.3f})."


def _judge_area(difference: Difference, crown: Crown, margin: float, sample: Sample) -> tuple[str, str]:
    """Return the verdict on the difference in AUC, and its reason."""
    value, low, high = difference.value, difference.low, difference.high
    better = crown is Crown.better
    if high < 0:
        return FAILED, "clearly worse"
    if low > 0 or (not better and value >= 0 and low >= -margin):
        return PASSED, "clearly better" if low > 0 else f"not worse, with a margin of {margin:g}"
    if value < 0:
        why, needed = "lower, though not clearly", rows_needed(value, high, 0, sample.count)
    elif better:
        why, needed = "too little evidence that it is better", rows_needed(value, low, 0, sample.count)
    else:
        why = f"too little evidence that it is not worse by more than {margin:g}"
        needed = rows_needed(value, low, -margin, sample.count)
    return UNDECIDED, why + needed_text(sample.least if math.isnan(low) else needed, sample.noun)


def _judge_loss(gain: Interval, baseline_loss: float, margin: float, sample: Sample) -> tuple[str, str]:
    """Return the verdict on the difference in log loss, and its reason."""
    allowed = LOSS_PER_MARGIN * margin * baseline_loss
    if gain.low >= -allowed:
        return PASSED, ""
    if gain.high < -allowed:
        return FAILED, f"clearly higher by more than {allowed:.3g}"
    deciding = gain.low if gain.value >= -allowed else gain.high
    needed = sample.least if math.isnan(gain.low) else rows_needed(gain.value, deciding, -allowed, sample.count)
    why = f"too little evidence that it is not higher by more than {allowed:.3g}"
    return UNDECIDED, why + needed_text(needed, sample.noun)


def _loss_text(gain: Interval) -> str:
    """Return the model's log loss minus the champion's, with its interval in words."""
    return f"{-gain.value:+.3f}, {interval_text(-gain.high, -gain.low, gain.level, '+.3f')}"
