"""How a run on Databricks ended, explained to the person who must fix it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_pipelines.errors import ConfigError, StepFailed, TimedOut, message_of

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import Run, RunOutput

FINAL_STATES = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")  # life cycle states that never change again
# Termination codes of the Jobs API 2.2. CLUSTER: the cluster did not start; after a code in TRANSIENT, another attempt
# may succeed. REFUSED: Databricks refused the run.
TRANSIENT = ("CLOUD_FAILURE", "CLUSTER_REQUEST_LIMIT_EXCEEDED", "WORKSPACE_RUN_LIMIT_EXCEEDED")
CLUSTER = (*TRANSIENT, "CLUSTER_ERROR", "INVALID_CLUSTER_REQUEST", "RESOURCE_NOT_FOUND", "DRIVER_ERROR")
REFUSED = ("UNAUTHORIZED_ERROR", "FEATURE_DISABLED", "BUDGET_POLICY_LIMIT_EXCEEDED", "INVALID_RUN_CONFIGURATION")


@dataclass(frozen=True)
class Outcome:
    """How a run on Databricks ended."""

    result: str  # the result state; if the run has none, its life cycle state: SKIPPED or INTERNAL_ERROR
    exit_code: int = 0
    cause: str = ""
    code: str = ""  # the termination code
    transient: bool = False  # another attempt may succeed


def state_of(run: Run) -> str:
    """Return the run's life cycle state and, once it has ended, its result: `RUNNING`, `TERMINATED SUCCESS`."""
    states = (run.state.life_cycle_state, run.state.result_state) if run.state else ()
    return " ".join(state.value for state in states if state) or "UNKNOWN"


def has_ended(run: Run) -> bool:
    """Return whether the run's life cycle state is final. The result state can't tell: a skipped run can lack one."""
    return state_of(run).split(" ", 1)[0] in FINAL_STATES


def outcome_of(run: Run, error: str | None = None) -> Outcome:
    """Return how the run ended. A run that has not ended counts as timed out.

    Args:
        run: the run as the Jobs API returns it.
        error: the exception that the run's task raised, if any.
    """
    life, _, result = state_of(run).partition(" ")
    if life not in FINAL_STATES:
        return Outcome("TIMEDOUT", TimedOut.exit_code, f"cancelled: still {life} an hour after its time limit")
    results = [task.state.result_state for task in run.tasks or [] if task.state and task.state.result_state]
    result = results[-1].value if results else result or life  # a task's result is more exact: TIMEDOUT, not FAILED
    if result == "SUCCESS":
        return Outcome(result)
    details = run.status.termination_details if run.status else None
    code = details.code.value if details and details.code else ""
    states = [run.state, *(task.state for task in reversed(run.tasks or []))]
    message = error or next((state.state_message for state in states if state and state.state_message), "")
    return _failure(result, code, message_of(message, None).rstrip(".")[:250])


def _failure(result: str, code: str, message: str) -> Outcome:
    why = f": {message}" if message else ""
    if result == "TIMEDOUT":
        return Outcome(result, TimedOut.exit_code, f"took longer than its time limit, timeout_s{why}", code)
    if result == "CANCELED":
        return Outcome(result, StepFailed.exit_code, f"its Databricks run was cancelled{why}", code)
    if result in ("SKIPPED", "MAXIMUM_CONCURRENT_RUNS_REACHED") or code == "MAX_CONCURRENT_RUNS_EXCEEDED":
        cause = f"Databricks skipped its run, so nothing was executed{why}"
        return Outcome(result, StepFailed.exit_code, cause, code)
    if code == "LIBRARY_INSTALLATION_ERROR" or re.search(r"(?i)librar", message):
        hint = "This runtime can't install the wheel or a library that MLproject pins"
        return Outcome(result, StepFailed.exit_code, f"a library was not installed{why}. {hint}.", code)
    transient = any(name in f"{code} {message}" for name in TRANSIENT)
    if transient or code in CLUSTER or re.search(r"(?i)cluster .*(start|launch|terminat)|quota|node type", message):
        hint = "Check quota, node type and policy, and change the cluster spec"
        return Outcome(result, StepFailed.exit_code, f"its cluster did not start{why}. {hint}.", code, transient)
    if code in REFUSED:
        return Outcome(result, ConfigError.exit_code, f"Databricks refused the run ({code}){why}", code)
    return Outcome(result, StepFailed.exit_code, f"its task ended {result}{why}", code)


def output_of(run: Run) -> RunOutput:
    """Return the logs and the error of the run's only task; an empty output if the task never started."""
    from databricks.sdk.service.jobs import RunOutput

    from ml_pipelines.databricks import workspace

    try:
        return workspace.client().jobs.get_run_output(int(run.tasks[-1].run_id if run.tasks else run.run_id))  # type: ignore[arg-type]
    except Exception:  # the run has ended anyway, and its result is known without its logs
        return RunOutput()
