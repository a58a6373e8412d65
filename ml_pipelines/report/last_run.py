"""The latest pipeline run as an object, for notebooks and the Python prompt: tables, model, metrics, report."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_pipelines.config import loading
from ml_pipelines.config.schema import LOCAL, Config
from ml_pipelines.errors import ConfigError
from ml_pipelines.report.run_reader import RunReader
from ml_pipelines.system import environment
from ml_pipelines.text import did_you_mean, listed, shown
from ml_pipelines.tracking import lineage, opening, records

if TYPE_CHECKING:
    import polars as pl
    from mlflow.entities import Run

HEIGHT = 800  # of the report in a notebook, in pixels


@dataclass(frozen=True)
class Page:
    """A report. Jupyter and Databricks notebooks show it below the cell."""

    content: str  # HTML

    def _repr_html_(self) -> str:
        """Return the page in a frame, so that its styles and those of the notebook don't mix."""
        source = html.escape(self.content, quote=True)
        return f'<iframe srcdoc="{source}" style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'


@dataclass(frozen=True)
class PastRun:
    """A pipeline run that has ended, or that is still running."""

    run_id: str
    status: str  # FINISHED, FAILED, KILLED or RUNNING
    reader: RunReader
    config: Config

    @property
    def outputs(self) -> dict[str, str]:
        """The outputs of the finished steps: name -> value. Paths of tables and ids of runs are among them."""
        return {name: lineage.outputs(run)[name] for name, run in self._producers().items()}

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the finished steps: name -> value, for example `test_auc`."""
        return {name: value for run in self._producers().values() for name, value in run.data.metrics.items()}

    def table(self, name: str) -> pl.DataFrame:
        """Return the table that is the output `name`, for example `train_uri`, as a Polars frame.

        Raises:
            ConfigError: the pipeline run has no such table.
            BadData: the table is damaged, or not on this machine.
        """
        from ml_pipelines.data import tables

        written = lineage.table_of(self._producer(name), name)
        if written is None:
            raise ConfigError(f"The output {name} of pipeline run {self.run_id} is not a table.")
        return tables.read_table(written, None, None)

    def model(self) -> Any:
        """Return the model that this pipeline run trained, a scikit-learn pipeline.

        Raises:
            ConfigError: the pipeline run trained no model.
            StepFailed: the model's file was changed, or has types that are not trusted.
        """
        from ml_pipelines.models import model_files

        logged = lineage.model_of(self._producer("model_uri"), "model_uri")
        if logged is None:
            raise ConfigError(f"The output model_uri of pipeline run {self.run_id} is not a model.")
        return model_files.load_model(logged, self.config.model.trusted_types)

    def report(self) -> Page:
        """Return the report. A notebook shows it below the cell.

        Raises:
            ConfigError: the pipeline run has no report.
        """
        parent = self.reader.store.get_run(self.run_id)
        name = parent.data.tags.get(records.REPORT)
        page = self.reader.text(parent, name) if name else None
        if page is None:
            raise ConfigError(
                f"Pipeline run {self.run_id} has no report. Make it: ml-pipelines report {self.run_id[:8]}"
            )
        return Page(page)

    def _producers(self) -> dict[str, Run]:
        return lineage.producers_of(self.reader.store, self.run_id)

    def _producer(self, name: str) -> Run:
        producers = self._producers()
        if name not in producers:
            raise ConfigError(
                f"Pipeline run {self.run_id} has no output {shown(name)}.{did_you_mean(name, producers)} "
                f"Its outputs are: {listed(producers) or 'none'}."
            )
        return producers[name]


def last_run(profile: str = LOCAL) -> PastRun:
    """Return the latest pipeline run of a profile, whatever its status is.

    MLflow's own functions use the store of the profile from then on.

    Raises:
        ConfigError: the profile does not exist, or has no pipeline run.
    """
    environment.prepare()
    config = loading.load(profile)
    store = opening.open_store(config, may_migrate=False)
    run_id = lineage.choose_pipeline_run(store, None, set(), config.experiment_name, profile)
    return PastRun(run_id, str(store.get_run(run_id).info.status), RunReader(store, lambda *_: None), config)
