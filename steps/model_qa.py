"""The quality gate: run the checks that conf declares, register a model that passes, and refuse one that fails."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ml_pipelines.authoring import rules
from ml_pipelines.authoring.context import Outputs, StepContext, Version
from ml_pipelines.checks.drift import drift_report
from ml_pipelines.checks.facts import Facts
from ml_pipelines.checks.promotion import Champion, difference_text, judge, rows_text, selection_text
from ml_pipelines.checks.quality_checks import CHECKS, facts_of, settings_of, unproven
from ml_pipelines.checks.table_facts import GateInputs
from ml_pipelines.checks.verdicts import FAILED, NOT_COMPARED, PASSED, REFUSED, UNDECIDED, WARNED, Check, gate_verdict

# The champion's numbers in qa_report.json, below the name of the headline metric. A difference is this model's value
# minus the champion's.
CHAMPION_NUMBERS = (
    *("low", "high", "difference", "difference_low", "difference_high", "p_value"),
    *("loss_difference", "loss_difference_low", "loss_difference_high"),
)


@dataclass(frozen=True)
class Params:
    """The checks of the quality gate.

    Args:
        checks: check -> its settings; null turns the check off.
        on_failure: what a failed check does: `fail` refuses the model, `warn` only warns.
        level: the confidence level of the intervals.
        slices: columns. Rows with the same value form a slice with its own metrics.
        slice_rows: slices with fewer rows are not judged.
    """

    checks: dict[str, Any]
    on_failure: str = "fail"
    level: float = 0.95
    slices: list[str] = field(default_factory=list)
    slice_rows: int = 100

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown check, settings that a check does not take, or another wrong value."""
        rules.one_of("on_failure", self.on_failure, ("fail", "warn"))
        rules.inside("level", self.level, 0, 1)
        rules.no_duplicates("slices", self.slices)
        rules.at_least("slice_rows", self.slice_rows, 1)
        rules.known_keys("checks", self.checks, CHECKS)
        for name, settings in self.checks.items():
            if settings is not None:
                rules.settings(f"checks.{name}", settings, settings_of(name))


def run_checks(params: Params, facts: Facts) -> dict[str, Check]:
    """Run the checks that are turned on; return check -> result."""
    return {
        name: CHECKS[name](*(getattr(facts, fact) for fact in facts_of(name)), **settings)
        for name, settings in params.checks.items()
        if settings is not None and name not in facts.problem.OFF
    }


def run(
    step: StepContext[Params],
    *,
    train_uri: str,
    test_uri: str,
    train_run_id: str,
    evaluate_run_id: str,
    feature_importance_run_id: str,
    test_headline: float,
) -> Outputs:
    """Log the report and the drift, then register or refuse the model."""
    params = step.params
    inputs = GateInputs(train_uri, test_uri, train_run_id, evaluate_run_id, feature_importance_run_id, test_headline)
    facts = Facts(step, inputs, params.level, params.slices, params.slice_rows)
    results = run_checks(params, facts)
    failed, undecided = _named(results, FAILED), _named(results, UNDECIDED)
    pending = unproven(results, facts.champion)
    verdict = gate_verdict(results, pending, params.on_failure)
    models = step.count_models(train_run_id, facts.rows_digest)  # shown, but not a part of any verdict
    step.log_json(report(verdict, results, facts, inputs, models), "qa_report.json")
    if "drift" in results:
        step.log_json(drift_report(facts.train_test, facts.since_champion, params.checks["drift"]), "drift.json")
    champion_line = against(facts.champion, results)
    count = [f"{models:,} models were judged on these test rows"] if models > 1 else []
    step.summary(" · ".join([counts(results), *champion_line, *shown_problems(results), *count]))
    checks = {"failed_checks": failed, "undecided_checks": undecided}
    step.log_tags({"verdict": verdict, **{tag: ", ".join(names) or "none" for tag, names in checks.items()}})
    if verdict == REFUSED:
        step.refuse(" ".join(failed.values()))
    else:
        tables, rule = {"train": train_uri, "test": test_uri}, partial(may_replace, step, facts, train_run_id)
        metric, value = facts.problem.HEADLINE, facts.headline.value
        step.register(train_run_id, verdict, (metric, value), facts.headline_of, rule, tables, list(pending))
    return {"qa_complete": True, "qa_passed": verdict == PASSED}


def may_replace(
    step: StepContext[Params], facts: Facts, train_run_id: str, version: Version, champion: Version
) -> bool:
    """Return whether a version may replace another one as champion, by the rule of the check `champion`.

    If the check is off, the answer is always no. If the gate has not compared the two versions (two pipelines ran at
    once), the version's headline metric must also be better. Otherwise each of them could replace the other.
    """
    settings = step.params.checks.get("champion")
    if settings is None:
        return False
    judged = facts.champion is not None and (version.run_id, champion.run_id) == (train_run_id, facts.champion.run_id)
    compared = facts.champion if judged else facts.compare(version, champion)
    check = judge(compared, facts.crown, **settings)
    return check.verdict == PASSED and (judged or (check.value or 0) > 0)


def _named(results: Mapping[str, Check], verdict: str) -> dict[str, str]:
    """Return the checks with a verdict: name -> name, reason and advice."""
    return {
        name: f"{name}: {check.reason}. {check.advice}".strip()
        for name, check in results.items()
        if check.verdict == verdict
    }


def counts(results: Mapping[str, Check]) -> str:
    """Return how many checks have which verdict: `passed 5 of 7, 1 undecided, 2 not compared`."""
    verdicts = [check.verdict for check in results.values()]
    others = [f", {n} {verdict}" for verdict in (UNDECIDED, WARNED, NOT_COMPARED) if (n := verdicts.count(verdict))]
    return f"passed {verdicts.count(PASSED)} of {len(verdicts) - verdicts.count(NOT_COMPARED)}{''.join(others)}"


def shown_problems(results: Mapping[str, Check]) -> list[str]:
    """Return the undecided checks and the warnings for the step's line, each with its reason."""
    return [
        f"{word}: {text.rstrip('.')}"
        for verdict, word in ((UNDECIDED, "undecided"), (WARNED, "warning"))
        for text in _named(results, verdict).values()
    ]


def against(champion: Champion | None, results: Mapping[str, Check]) -> list[str]:
    """Return the headline metric's difference from the champion, with its paired interval, for the step's line.

    The list is empty if the models have no such difference, or if the check `champion` is undecided: the reason of
    the check then has the difference.
    """
    if champion is None or champion.is_this or ("champion" in results and results["champion"].verdict == UNDECIDED):
        return []
    if champion.difference is None:
        return [f"not compared with version {champion.version}: {champion.problem}"]
    if not math.isfinite(champion.difference.value):
        return []
    return [f"{difference_text(champion)}, against version {champion.version}{rows_text(champion)}"]


def report(verdict: str, results: dict[str, Check], facts: Facts, inputs: GateInputs, models: int) -> dict[str, Any]:
    """Return the content of qa_report.json. Numbers that are not finite become null.

    `models` is the number of models that were judged on the same test rows.
    """
    return {
        "verdict": verdict,
        "checks": [{"check": name, **dataclasses.asdict(check)} for name, check in results.items()],
        "problem": facts.kind,
        facts.problem.HEADLINE: _finite(dataclasses.asdict(facts.headline)),
        "intervals": {name: _finite(dataclasses.asdict(number)) for name, number in facts.intervals.items()},
        "slices": [slice_.to_json() for slice_ in facts.slices],
        "champion": facts.champion and _champion(facts.champion, facts.problem.HEADLINE),
        "models_judged": models,
        "selection": selection_text(models, facts.problem, facts.headline),
        "judged": {**dataclasses.asdict(inputs), **_finite({"test_headline": inputs.test_headline})},
    }


def _champion(champion: Champion, metric: str) -> dict[str, Any]:
    """Return the champion's part of the report: its version, its metric, and how the model differs from it."""
    version = {"name": champion.name, "version": champion.version, "run_id": champion.run_id, "rows": champion.rows}
    if champion.headline is None or champion.difference is None or champion.loss_gain is None:
        return {**version, **dict.fromkeys((metric, *CHAMPION_NUMBERS)), "problem": champion.problem}
    headline, difference = champion.headline, champion.difference
    gain = champion.loss_gain
    numbers = [headline.low, headline.high, difference.value, difference.low, difference.high, difference.p_value]
    numbers += [-gain.value, -gain.high, -gain.low]
    numbers_of = {metric: headline.value, **dict(zip(CHAMPION_NUMBERS, numbers, strict=True))}
    return {**version, **_finite(numbers_of)}


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}
