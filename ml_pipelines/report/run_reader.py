"""Read runs for the report: their artifacts, the origin of a reused result, and the links to their pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_pipelines.errors import ConfigError
from ml_pipelines.report.contents import Link
from ml_pipelines.tracking import records
from ml_pipelines.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

PageAddress = Callable[[Store, str, str], str | None]  # (store, experiment id, run id) -> page of the run


@dataclass(frozen=True)
class RunReader:
    """Reads the runs of one store."""

    store: Store
    page_address: PageAddress

    def text(self, run: Run, name: str) -> str | None:
        """Return an artifact of the run as text, or None if the run has no artifact of this name."""
        if folder := artifact_folder(run):  # read the file directly: a download would send requests and copy the file
            return (folder / name).read_text(encoding="utf-8", errors="replace") if (folder / name).is_file() else None
        if name not in {artifact.path for artifact in self.store.client.list_artifacts(run.info.run_id)}:
            return None
        import mlflow.artifacts

        return str(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{name}"))

    def json(self, run: Run, name: str) -> Any:
        """Return a JSON artifact, or None if the run has no such artifact or the artifact is not JSON."""
        text = self.text(run, name)
        return None if text is None else records.parse_json(text)

    def origin(self, run: Run) -> Run:
        """Return the run that computed this run's outputs and has their artifacts.

        Return `run` itself if it was not reused, or if the store has lost the run that computed its outputs.
        """
        if "reused_from" not in run.data.tags:
            return run
        try:
            return self.store.get_run(run.data.tags["reused_from"])
        except ConfigError:
            return run

    def link(self, run: Run, run_id: str | None = None) -> Link:
        """Return the link to a run. With `run_id`, return the link to that run of the same experiment."""
        target = run_id or str(run.info.run_id)
        return Link(target, self.page_address(self.store, str(run.info.experiment_id), target))


def artifact_folder(run: Run) -> Path | None:
    """Return the folder of the run's artifacts, or None if the artifacts are not on this machine."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    uri = run.info.artifact_uri
    return Path(local_file_uri_to_path(uri)) if is_local_uri(uri) else None
