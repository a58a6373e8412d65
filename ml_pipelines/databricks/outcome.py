"""How a run there ended, in the words of the person who has to mend it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_pipelines.errors import ConfigError, StepFailed, TimedOut

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import Run, RunOutput

OVER = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")  # life cycle states that don't change any more
# Termination codes (Jobs API 2.2). The first three groups are clusters and libraries, before any code of ours runs.
PASSING = ("CLOUD_FAILURE", "CLUSTER_REQUEST_LIMIT_EXCEEDED", "WORKSPACE_RUN_LIMIT_EXCEEDED")
CLUSTER = (*PASSING, "CLUSTER_ERROR", "INVALID_CLUSTER_REQUEST", "RESOURCE_NOT_FOUND", "DRIVER_ERROR")
REFUSED = ("UNAUTHORIZED_ERROR", "FEATURE_DISABLED", "BUDGET_POLICY_LIMIT_EXCEEDED", "INVALID_RUN_CONFIGURATION")


@dataclass(frozen=True)
class Outcome:
    """What is known of a run that has ended: `passing` is a failure that another try may not meet."""

    result: str  # result state, or the life cycle state where there is none: SKIPPED, INTERNAL_ERROR
    exit_code: int = 0
    cause: str = ""
    code: str = ""
    passing: bool = False


def state(run: Run) -> str:
    """Return what the run does now, or how it ended."""
    found = run.state
    parts = (found.life_cycle_state, found.result_state) if found else ()
    return " ".join(part.value for part in parts if part) or "UNKNOWN"


def ended(run: Run) -> bool:
    """Return whether the run's state is its last: SKIPPED and INTERNAL_ERROR may come without a result."""
    return state(run).split(" ", 1)[0] in OVER


def of(run: Run, error: str | None = None) -> Outcome:
    """Return how the run ended, with what its task raised; of one that hasn't ended, that its time is over."""
    life, _, result = state(run).partition(" ")
    if life not in OVER:
        return Outcome("TIMEDOUT", TimedOut.exit_code, f"still {life} an hour after its time limit: cancelled")
    ends = [task.state.result_state for task in run.tasks or [] if task.state and task.state.result_state]
    result = ends[-1].value if ends else result or life  # the task's own: its run says FAILED where it was TIMEDOUT
    if result == "SUCCESS":
        return Outcome(result)
    details = run.status.termination_details if run.status else None
    code = details.code.value if details and details.code else ""
    states = [run.state, *(task.state for task in reversed(run.tasks or []))]
    said = error or next((one.state_message for one in states if one and one.state_message), "")
    return _failed(result, code, " ".join(str(said).split()).rstrip(".")[:250])


def _failed(result: str, code: str, said: str) -> Outcome:
    why = f": {said}" if said else ""
    if result == "TIMEDOUT":
        return Outcome(result, TimedOut.exit_code, f"took longer than its time limit, timeout_s{why}", code)
    if result == "CANCELED":
        return Outcome(result, StepFailed.exit_code, f"its run there was cancelled{why}", code)
    if result in ("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED") or code == "MAX_CONCURRENT_RUNS_EXCEEDED":
        return Outcome(result, StepFailed.exit_code, f"its run there was skipped, nothing was executed{why}", code)
    if code == "LIBRARY_INSTALLATION_ERROR" or re.search(r"(?i)librar", said):
        hint = "The wheel, or a pin in MLproject, can't be installed on this runtime"
        return Outcome(result, StepFailed.exit_code, f"a library was not installed{why}. {hint}.", code)
    passing = any(one in f"{code} {said}" for one in PASSING)
    if passing or code in CLUSTER or re.search(r"(?i)cluster .*(start|launch|terminat)|quota|node type", said):
        hint = "Quota, node type or policy: change the cluster spec"
        return Outcome(result, StepFailed.exit_code, f"its cluster did not start{why}. {hint}.", code, passing)
    if code in REFUSED:
        return Outcome(result, ConfigError.exit_code, f"refused there ({code}){why}", code)
    return Outcome(result, StepFailed.exit_code, f"its task ended {result}{why}", code)


def output(run: Run) -> RunOutput:
    """Return what the run's one task wrote: nothing where it never began."""
    from databricks.sdk.errors.base import DatabricksError
    from databricks.sdk.service.jobs import RunOutput

    from ml_pipelines.databricks import workspace

    try:
        return workspace.client().jobs.get_run_output(int(run.tasks[-1].run_id if run.tasks else run.run_id))  # type: ignore[arg-type]
    except (DatabricksError, OSError):
        return RunOutput()
