"""Judge the model by the checks that conf declares: register it where it passes, refuse it where it doesn't."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ml_pipelines.context import Outputs, StepContext
from steps.checks import CHECKS, FAILED, SKIPPED, Check, Rival, asked_by
from steps.facts import Facts, Judged


@dataclass(frozen=True)
class Params:
    """Check -> its settings (null: off); whether a failed one stops the pipeline; intervals of `level`; the slices."""

    checks: dict[str, Any]
    on_failure: str = "fail"
    level: float = 0.95
    slices: list[str] = field(default_factory=list)
    slice_rows: int = 100

    def __post_init__(self) -> None:
        """Raise ValueError for what the types can't say."""
        if self.on_failure not in ("fail", "warn"):
            raise ValueError(f"on_failure is fail or warn, not {self.on_failure}")
        if not 0 < self.level < 1:
            raise ValueError(f"level {self.level} is not between 0 and 1")
        for name, settings in self.checks.items():
            if name not in CHECKS:
                near = get_close_matches(name, CHECKS, 1)
                raise ValueError(f"there is no check {name}{f', did you mean {near[0]}?' if near else ''}")
            _, wanted = asked_by(name)
            if settings is not None and (not isinstance(settings, Mapping) or set(settings) != set(wanted)):
                raise ValueError(f"checks.{name} takes {', '.join(wanted) or 'no settings, {}'}")
            for key, value in (settings or {}).items():
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ValueError(f"checks.{name}.{key}: {value!r} is no number")


def judge(params: Params, facts: Facts) -> dict[str, Check]:
    """Return check -> what it found, of the checks that are on."""
    asked = {name: settings for name, settings in params.checks.items() if settings is not None}
    return {
        name: CHECKS[name](*(getattr(facts, fact) for fact in asked_by(name)[0]), **settings)
        for name, settings in asked.items()
    }


def run(
    step: StepContext[Params],
    *,
    train_uri: str,
    test_uri: str,
    train_run_id: str,
    evaluate_run_id: str,
    feature_importance_run_id: str,
    test_auc: float,
) -> Outputs:
    """Log the report and the drift, then register the model, or refuse it."""
    params = step.params
    judged = Judged(train_uri, test_uri, train_run_id, evaluate_run_id, feature_importance_run_id, test_auc)
    facts = Facts(step, judged, params.level, params.slices, params.slice_rows)
    found = judge(params, facts)
    failed = {name: f"{name}: {check.reason}" for name, check in found.items() if check.verdict == FAILED}
    verdict = "passed" if not failed else "refused" if params.on_failure == "fail" else "warned"
    step.log_json(report(verdict, found, facts, judged), "qa_report.json")
    if "drift" in found:
        step.log_json({"train_test": facts.train_test, "champion": facts.since_champion}, "drift.json")
    skipped = sum(check.verdict == SKIPPED for check in found.values())
    asked = len(found) - skipped
    step.summary(f"passed {asked - len(failed)} of {asked}" + (f", {skipped} skipped" if skipped else ""))
    step.log_tags({"verdict": verdict, "failed_checks": ", ".join(failed) or "none"})
    if verdict == "refused":
        step.refuse("; ".join(failed.values()))
    else:
        step.register(train_run_id, verdict, facts.auc.value, facts.area_of, {"train": train_uri, "test": test_uri})
    return {"qa_complete": True, "qa_passed": not failed}


def report(verdict: str, found: dict[str, Check], facts: Facts, judged: Judged) -> dict[str, Any]:
    """Return what qa_report.json holds; what is no finite number is null there."""
    return {
        "verdict": verdict,
        "checks": [{"check": name, **dataclasses.asdict(check)} for name, check in found.items()],
        "auc": _finite(dataclasses.asdict(facts.auc)),
        "slices": facts.slices,
        "champion": facts.champion and _champion(facts.champion),
        "judged": {**dataclasses.asdict(judged), **_finite({"test_auc": judged.test_auc})},
    }


def _champion(rival: Rival) -> dict[str, Any]:
    """Return the champion's part of the report: its own AUC, and how much larger the challenger's is."""
    who = {"name": rival.name, "version": rival.version, "run_id": rival.run_id}
    if rival.auc is None or rival.difference is None:
        return {**who, **dict.fromkeys(("auc", "low", "high", "difference", "p_value"))}
    numbers = {"auc": rival.auc.value, "low": rival.auc.low, "high": rival.auc.high}
    return {**who, **_finite({**numbers, "difference": rival.difference.value, "p_value": rival.difference.p_value})}


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}
