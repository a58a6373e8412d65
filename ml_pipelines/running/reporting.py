"""Makes the report of a pipeline run. If that fails, the pipeline run goes on without one."""

from __future__ import annotations

from ml_pipelines.errors import Interrupted, one_line
from ml_pipelines.planning.plan import Plan
from ml_pipelines.system import events, shortage
from ml_pipelines.tracking import records
from ml_pipelines.tracking.store import Store


def publish(plan: Plan, store: Store, run_id: str) -> bool:
    """Make the report of a pipeline run. If that fails, say why and return False."""
    place = ""
    try:
        from ml_pipelines.report import publishing  # imported after the steps, so that no step waits for it

        place = str(store.get_run(run_id).info.artifact_uri)
        publishing.publish(store, run_id, plan.backend.page_address)
    except (Exception, Interrupted) as error:  # no error of the report may change the run's result
        reason = one_line(shortage.explain(error, place=place) or error)
        events.report(events.Notice(f"There is no report: {reason}"))
        return False
    return True


def publish_missing(plan: Plan, store: Store, run_id: str) -> None:
    """Make the report of a finished pipeline run if it has none, for example because the disk was full."""
    tags = store.get_run(run_id).data.tags
    is_missing = records.REPORT not in tags or store.artifact_digest(run_id, tags[records.REPORT]) is None
    if is_missing and publish(plan, store, run_id):
        events.report(events.Notice(f"Pipeline run {run_id[:8]} had no report. It has one now."))
