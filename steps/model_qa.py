"""Say yes or no to the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ml_pipelines.context import Outputs, StepContext


@dataclass(frozen=True)
class Params:
    """The test AUC must be at least `min_test_auc`."""

    min_test_auc: float


def check_auc(test_auc: float, minimum: float) -> dict[str, Any]:
    """Return the check's value, threshold, verdict and reason. Only a finite number can pass."""
    passed = math.isfinite(test_auc) and test_auc >= minimum
    reason = f"test_auc {test_auc} is {'at least' if passed else 'not at least'} {minimum}"
    return {
        "check": "min_test_auc",
        "value": str(test_auc),
        "threshold": minimum,
        "passed": passed,
        "reason": reason,
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
    """Log the report, and refuse the model where a check fails."""
    checks = [check_auc(test_auc, step.params.min_test_auc)]
    failed = [check["reason"] for check in checks if not check["passed"]]
    judged = {"train_uri": train_uri, "test_uri": test_uri, "train_run_id": train_run_id}
    judged |= {"evaluate_run_id": evaluate_run_id, "feature_importance_run_id": feature_importance_run_id}
    step.log_json({"passed": not failed, "checks": checks, "judged": judged}, "qa_report.json")
    step.summary(f"passed {len(checks) - len(failed)} of {len(checks)}")
    if failed:
        step.refuse("; ".join(failed))
    return {"qa_complete": True, "qa_passed": not failed}
