"""A step's only door to the outside: tables, metrics, artifacts, models, the Spark session.

Reading a table through it logs its lineage, so that cannot be forgotten. A test passes a recording
context with the same methods.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ml_pipelines import (
    contract,
    engines,
    ingest,
    lineage,
    models,
    oddities,
    paths,
    registry,
    sources,
    tables,
    tracking,
)
from ml_pipelines.config import Config, Data, SourceKind
from ml_pipelines.errors import BadData, ConfigError, PipelineError
from ml_pipelines.registry import Version

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["BadData", "ConfigError", "Output", "Outputs", "PipelineError", "StepContext", "Version"]

P = TypeVar("P")
Output = str | float | bool
Outputs = Mapping[str, Output]


class StepContext(Generic[P]):
    """What one run of one step may see and do."""

    def __init__(self, config: Config, key: str, run_id: str, pipeline_run_id: str, experiment_id: str) -> None:
        self.step = config.steps[key]
        self.params: P = self.step.params
        self.seed: int = config.seed
        self.data: Data = config.data
        self.run_id = run_id
        self.pipeline_run_id = pipeline_run_id
        self.log = logging.getLogger(f"steps.{key}")
        self.refusal: str | None = None
        self._config = config
        self._experiment_id = experiment_id
        self._tags: dict[str, str] = {}
        self._tables: dict[str, tables.Table] = {}
        self._written: dict[str, tables.Table] = {}  # output -> what this step wrote

    # -- tables

    @property
    def spark(self) -> SparkSession:
        """The Spark session of the profile's engine."""
        return engines.session(self._config.spark.engine)

    def source(self) -> DataFrame:
        """Return the configured source's rows, typed and checked: the key, the features, the label as 0 or 1.

        Raises:
            BadData: the source isn't what the configuration says.
        """
        source = sources.pinned(self.spark, self.data.source)
        raw = sources.read(self.spark, source, self.seed)
        if source.kind is SourceKind.table and self._config.mlflow.log_datasets:
            lineage.log_named_input(self.run_id, str(source.table), source.version, self.step.key)
        found = ingest.ingest(raw, self.data)
        self.log_json(found.decisions(), "columns.json")
        return found.frame

    def write(self, output: str, frame: DataFrame) -> tables.Table:
        """Write the table that is the output `<dataset>_uri`, at a path of this run's own, and record it as tags.

        Raises:
            ConfigError: the rows come from a random number generator, on an engine that repeats them.
        """
        engines.refuse_random(frame, self._config.spark.engine)
        table = tables.write(frame, self._table_path(output.removesuffix("_uri")))
        self._tags |= lineage.table_tags(output, table)
        self._written[output] = table
        return table

    def check_tables(self) -> None:
        """Hold what a step without inputs wrote to the contract, and say what is odd in it. Called after the step.

        Raises:
            BadData: the tables break the contract. They are removed, so that nobody can take them for good ones.
        """
        if self.step.inputs or not self._written:
            return
        written = {output.removesuffix("_uri"): table for output, table in self._written.items()}
        if violations := contract.check(self._config.contract, written):
            for table in written.values():
                tables.remove(table)
            self.log_table(contract.report(violations), "contract_violations.json")
            raise BadData(contract.summary(violations, self.key))
        if {"train", "test"} <= written.keys():
            self._warn(*(tables.scan(written[name]) for name in ("train", "test")))

    def _warn(self, train: pl.LazyFrame, test: pl.LazyFrame) -> None:
        features = [name for name in train.collect_schema() if name not in (self.label, self.key)]
        found = oddities.find(train, test, features, self.label)
        for oddity in found:
            self.log.warning("%s", oddity.said)
        if found:
            self.log_table(oddities.report(found), "data_warnings.json")
            said = f"{len(found)} warning{'s' if len(found) > 1 else ''} (data_warnings.json)"
            self.summary(f"{self._tags.get('summary', '')} · {said}".removeprefix(" · "))
        self._tags["data_warnings"] = str(len(found))

    def _table_path(self, dataset: str) -> str:
        parts = [self._config.env_name, self._config.experiment_name, f"pipeline_run_{self.pipeline_run_id}"]
        if self._config.spark.engine == "databricks":
            parts.insert(1, self.data.volume_name)
        return paths.table_path(self._config.table_prefix, parts, self.step.step_name, self.run_id, dataset)

    def read(self, uri: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return a table's rows (only `columns`, where given), in an order that is the same in every run.

        The version is the one its producer recorded; a table of unknown producer is read at its newest.

        Raises:
            BadData: the table is damaged, or not what its producer recorded.
        """
        table = self._recorded(uri)
        if self._config.mlflow.log_datasets:
            lineage.log_delta_input(self.run_id, table, self.step.key)
        if self.pipeline_run_id == self.run_id:  # alone: a pipeline run has measured the table before it began us
            tables.verify(table)
        return tables.read(table, columns, self.key)

    def table_columns(self, uri: str) -> list[str]:
        """Return the names of a table's columns."""
        return tables.column_names(self._recorded(uri))

    def feature_columns(self, uri: str) -> list[str]:
        """Return the names of a table's columns without the label and the key.

        Raises:
            BadData: the label isn't among them, or nothing else is.
        """
        names = self.table_columns(uri)
        features = [name for name in names if name not in (self.label, self.key)]
        if self.label not in names or not features:
            raise BadData(
                f"Table {uri} has the columns {', '.join(names)}: a label {self.label!r} and features are needed."
            )
        return features

    @property
    def label(self) -> str:
        """The label's column in our tables."""
        return ingest.standard_names([self.data.label])[self.data.label]

    @property
    def key(self) -> str | None:
        """The key's column in our tables."""
        return ingest.standard_names([self.data.key])[self.data.key] if self.data.key else None

    def _recorded(self, uri: str) -> tables.Table:
        if uri not in self._tables:
            self._tables[uri] = lineage.find_table(uri, self.step.inputs, self._experiment_id) or tables.Table(
                uri, tables.check_protocol(uri)
            )
        return self._tables[uri]

    # -- results

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log what the step chose for itself; its configured params are logged already."""
        tracking.log_params(self.run_id, params)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log numbers, in one batch."""
        tracking.log_metrics(self.run_id, metrics)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a matplotlib figure as `name` (.png or .svg)."""
        tracking.client().log_figure(self.run_id, figure, name, save_kwargs={"dpi": 100})

    def log_json(self, content: Any, name: str) -> None:
        """Log a JSON artifact."""
        tracking.client().log_dict(self.run_id, content, name)

    def log_table(self, frame: pl.DataFrame, name: str) -> None:
        """Log a table by its suffix: .parquet for any size, .json for a small one that MLflow's page shows."""
        tracking.log_table(self.run_id, frame, name)

    def log_model(self, model: Any, example: pl.DataFrame) -> str:
        """Log a fitted estimator, with a signature from the example's column types; return its URI."""
        logged = models.log(model, example, self._config.model.trusted_types)
        self._tags["output.model_uri.digest"] = logged.digest
        return logged.uri

    def load_model(self, train_run_id: str) -> Any:
        """Return the estimator that a train run handed on.

        Raises:
            BadData: its file isn't the one that run logged.
        """
        return models.load(self._logged(train_run_id), self._config.model.trusted_types)

    def _logged(self, train_run_id: str) -> models.Logged:
        tags = tracking.get_run(train_run_id).data.tags
        if "output.model_uri" not in tags:
            raise ConfigError(f"train_run_id: run {train_run_id} has handed on no model.")
        return models.Logged(tags["output.model_uri"], tags.get("output.model_uri.digest", "none"))

    def has_signature(self, train_run_id: str) -> bool:
        """Return whether the model that a train run handed on says what columns it takes."""
        return models.has_signature(self._logged(train_run_id))

    def load_table(self, run_id: str, name: str) -> pl.DataFrame:
        """Return a table that a step's run logged by `log_table`."""
        return tracking.load_table(run_id, name)

    def load_metrics(self, run_id: str) -> Mapping[str, float]:
        """Return the metrics that a step's run logged."""
        return dict(tracking.get_run(run_id).data.metrics)

    # -- the registry

    def champion(self) -> Version | None:
        """Return the registered version that is champion; a step that asks declares it: `external: [champion]`."""
        return registry.champion(self._config)

    def register(
        self, train_run_id: str, verdict: str, auc: float, area_of: Callable[[str], float], tables: Mapping[str, str]
    ) -> None:
        """Register the model of a train run as the challenger, and as champion where it passed and is the best.

        Args:
            train_run_id: a model is registered once, however often this is called.
            verdict: `passed`, or it doesn't become champion.
            auc: of this model on the test table.
            area_of: train run -> the AUC of its model on the same rows.
            tables: `train` and `test` -> the URI of the table, for the version's tags.
        """
        tags = {"pipeline_run_id": self.pipeline_run_id, "train_run_id": train_run_id, "verdict": verdict}
        tags |= {"test_auc": str(auc), **tracking.commit_tags()}
        for name, table in {name: self._recorded(uri) for name, uri in tables.items()}.items():
            tags |= {f"{name}_uri": table.uri, f"{name}_version": str(table.version)}
            tags |= {f"{name}_digest": table.digest} if table.digest else {}
        mine = registry.register(self._config, self._logged(train_run_id).uri, train_run_id, tags)

        def known(version: Version) -> float | None:
            if "test_digest" in tags and version.tags.get("test_digest") == tags["test_digest"]:
                return float(version.tags["test_auc"])
            try:
                return area_of(version.run_id)
            except PipelineError:
                return None

        before, now = registry.crown(self._config, mine, known)
        self._tags["conclusion"] = registry.told(mine, before, now, known)
        self._tags["external.champion"] = registry.identity(self._config)

    # -- what is said

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the step's run when it ends; the pipeline run bears `verdict` too."""
        self._tags |= tags

    def summary(self, text: str) -> None:
        """Say in a few words what came out: shown in the terminal, and as the description on MLflow's pages."""
        self._tags |= {"summary": text, "mlflow.note.content": text}

    def refuse(self, reason: str) -> None:
        """Say no to the model: this step finishes, the pipeline run fails, and nothing after it is done."""
        self.refusal = reason

    def tags(self) -> Mapping[str, str]:
        """Return what was recorded, for the run's tags."""
        return dict(self._tags)
