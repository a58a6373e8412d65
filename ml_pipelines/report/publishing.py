"""Log the report as an artifact: at the end of a pipeline run, or again with `ml-pipelines report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ml_pipelines.config.schema import Config, Pipeline
from ml_pipelines.errors import StepFailed, message_of
from ml_pipelines.report.gather import gather
from ml_pipelines.report.render import NAME, SCORING_NAME, render
from ml_pipelines.report.run_reader import PageAddress, RunReader, artifact_folder
from ml_pipelines.tracking import lineage, records
from ml_pipelines.tracking.store import PIPELINE, Store

if TYPE_CHECKING:
    from mlflow.entities import Run


def publish(store: Store, run_id: str, page_address: PageAddress) -> None:
    """Make the report of a pipeline run and log it as an artifact of that run."""
    run = store.get_run(run_id)
    try:
        page = render(gather(RunReader(store, page_address), run))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise StepFailed(
            f"The report of run {run_id} can't be made: its tags or artifacts were changed after the pipeline wrote "
            f"them ({type(error).__name__}: {message_of(error)})."
        ) from error
    name = name_of(run)
    store.log_text(run_id, page, name)
    store.set_tags(run_id, {records.REPORT: name})  # only now: a full disk can leave a part of the page behind


def publish_again(store: Store, config: Config, run: str | None, page_address: PageAddress) -> Path:
    """Make a new report of a finished pipeline run, and return the report's path on this machine.

    Args:
        store: the store that has the run.
        config: the configuration, which names the experiment.
        run: the id of the run or its first characters. None means the newest pipeline run.
        page_address: returns the address of a run's page.

    Raises:
        ConfigError: the store has no such run.
    """
    import mlflow.artifacts

    run_id = lineage.choose_pipeline_run(store, run, set(), config.experiment_name, config.profile)
    publish(store, run_id, page_address)
    parent = store.get_run(run_id)
    folder, name = artifact_folder(parent), name_of(parent)
    return folder / name if folder else Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name))


def name_of(parent: Run) -> str:
    """Return the name of a pipeline run's report."""
    return SCORING_NAME if parent.data.tags.get(PIPELINE) == Pipeline.score.value else NAME
