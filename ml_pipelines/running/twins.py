"""Lets one of several equal pipeline runs run a step, while the others wait for its result and then reuse it.

Two steps are equal if they have the same fingerprint in the same experiment. The driver that runs
such a step has a lease (system/locks.py). A driver that ends for any reason loses its leases.
"""

from __future__ import annotations

import time

from ml_pipelines.planning.fingerprint import declared, fingerprint_of
from ml_pipelines.planning.reasons import NEVER_REUSED, Decision
from ml_pipelines.running.scheduler import StepState
from ml_pipelines.system import events, locks
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import Store, parent_of

POLL_S = 0.2  # seconds between two tries of a step that waits


def may_run(store: Store, experiment: str, state: StepState, decision: Decision) -> bool:
    """Take the lease of a step. Return false if an equal pipeline run has it: the step has to wait.

    A step whose result nobody reuses needs no lease.
    """
    if state.lease or decision.reason in NEVER_REUSED:
        return True
    # Leave out the external parts. The champion is one, and a step that registers a model can change it before it ends.
    own = {name: value for name, value in (decision.parts or {}).items() if not name.startswith("external ")}
    state.lease = locks.lease(store.uri, f"{experiment} {state.name} {fingerprint_of(declared(own))}")
    return state.lease is not None


def has_finished(store: Store, experiment: str, state: StepState, decision: Decision) -> bool:
    """Return whether an equal run of the step has finished."""
    return bool(lineage.finished_steps(store, experiment, state.name, _fingerprint(decision)))


def report_waiting(store: Store, experiment: str, state: StepState, decision: Decision) -> None:
    """Report once which pipeline run a step waits for, if the step has waited for LOCK_PATIENCE_S."""
    now = time.monotonic()
    state.waits_since = state.waits_since or now
    if state.told_waiting or now < state.waits_since + locks.LOCK_PATIENCE_S:
        return
    state.told_waiting = True
    query = f"tags.step = '{state.name}' and attributes.status = 'RUNNING' and "
    query += f"tags.`{lineage.DECLARED}` = '{_fingerprint(decision)}'"
    runs = store.client.search_runs([experiment], query)
    whom = next((f"pipeline run {parent}, which runs" for run in runs if (parent := parent_of(run))), "a process with")
    events.report(events.Notice(f"{state.step.step_name} waits for {whom} the same step (--force does not wait)."))


def _fingerprint(decision: Decision) -> str:
    return fingerprint_of(declared(decision.parts or {}))
