"""Checks that the outputs of a finished step still exist, and are as its run recorded them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_pipelines.config.schema import Step
from ml_pipelines.data import targets
from ml_pipelines.errors import PipelineError
from ml_pipelines.models import model_files
from ml_pipelines.planning.memory import Memory
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run


def are_intact(memory: Memory, store: Store, step: Step, run: Run) -> bool:
    """Return whether all outputs of a step's run still exist, as the run recorded them.

    This also checks the tables that the run logged as artifacts, because a later step can load them, and that the
    target of scoring still has the run's batch.
    """
    if not set(step.outputs) <= lineage.outputs(run).keys():
        return False
    origin = run.data.tags.get("reused_from", run.info.run_id)
    for tag, digest in run.data.tags.items():
        if tag.startswith(lineage.ARTIFACT) and digest != store.artifact_digest(
            origin, tag.removeprefix(lineage.ARTIFACT)
        ):
            return False
    if "target" in run.data.tags and not targets.has_batch(run.data.tags["target"], run.data.tags["batch_id"]):
        return False
    for name in lineage.outputs(run):
        try:
            if table := lineage.table_of(run, name):
                rows, digest = memory.measure(table.uri, table.version)
                if rows != table.rows or (digest != table.digest and lineage.digests_compare(run)):
                    return False
            elif model := lineage.model_of(run, name):
                model_files.check_files(model)
        except PipelineError:
            return False
    return True
