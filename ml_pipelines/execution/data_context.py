"""The part of a step's context that reads and writes data: the source, a batch to score, Delta tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ml_pipelines.authoring.context import NewRows, StepContext, Version
from ml_pipelines.config.schema import Config, Pipeline, Source, SourceKind
from ml_pipelines.data import (
    batch,
    columns,
    contract,
    data_warnings,
    engines,
    ingest,
    locations,
    sources,
    tables,
    targets,
)
from ml_pipelines.data.data_warnings import DataWarning
from ml_pipelines.data.features import RECIPE, Recipe
from ml_pipelines.data.origin import Origin, origin_of
from ml_pipelines.data.tables import Table
from ml_pipelines.data.target_tables import TargetTable
from ml_pipelines.errors import BadData, ConfigError
from ml_pipelines.execution import scoring
from ml_pipelines.models import identity, registry
from ml_pipelines.system import events
from ml_pipelines.text import listed, quoted, shown
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import Store

if TYPE_CHECKING:
    import polars as pl
    from pyspark.sql import DataFrame, SparkSession

P = TypeVar("P")
WARNINGS_SHOWN, WARNING_LENGTH = 3, 200  # the most data warnings on the terminal, and the most characters of each


class DataContext(StepContext[P]):
    """The data of one step run. After the step has ended, step_run.py uses `check_tables` and `remove_copies`."""

    def __init__(
        self,
        store: Store,
        config: Config,
        name: str,
        run_id: str,
        pipeline_run_id: str,
        experiment_id: str,
        folder: Path | None = None,
    ) -> None:
        """Set up the context. `folder` is a temporary folder that exists until the step has ended."""
        self.name = name
        self.params = config.steps[name].params
        self.seed = config.seed
        self.data = config.data
        self.crown = config.registry.crown
        self.score = config.score
        self.run_id = run_id
        self.pipeline_run_id = pipeline_run_id
        self.log = logging.getLogger(f"steps.{name}")
        self.label = columns.standard_name(config.data.label)
        self.key_column = config.data.key and columns.standard_name(config.data.key)
        self.refusal: str | None = None
        self._step = config.steps[name]
        self._store = store
        self._config = config
        self._experiment_id = experiment_id
        self._folder = folder
        self._tags: dict[str, str] = {}
        self._tables: dict[str, tables.Table] = {}
        self._written: dict[str, tables.Table] = {}  # output -> the table that this step wrote
        self._batch: tuple[tables.Table, str] | None = None  # the scored table and its batch's id
        self._copies: str | None = None  # the folder or URI for copies of the source's rows, once `source` was called
        self._data_warnings: list[DataWarning] = []
        self._origin: Origin | None = None  # where the rows come from, once `source` was called
        self._predicted = ""  # what the model predicts, in words, once `source` was called
        self._versions: dict[str, Version] = {}  # train run -> its registered version
        self._judged_against = registry.NOBODY  # the champion's version, once `champion` was called

    @property
    def spark(self) -> SparkSession:
        """The Spark session of the profile's engine."""
        return engines.spark_session(self._config.spark.engine, locations.need_network(self._config))

    def source(self) -> DataFrame:
        """Return the rows of the configured source, typed and checked: the key, the features, and the label
        as 0 or 1, or as a number.

        Raises:
            BadData: the source does not match the configuration.
        """
        raw, _ = self._raw_rows(frozenset(self.data.drop))
        ingested = ingest.ingest(raw, self.data, f"{self._copies}/rows")
        self.log_json(decisions := ingested.decisions(), RECIPE)
        self._origin = origin_of(decisions, self.data)
        self._data_warnings = ingested.warnings
        self._predicted = ingested.label.summary
        return ingested.frame

    def _raw_rows(self, dropped: frozenset[str]) -> tuple[sources.Raw, Source]:
        """Return the source's unconverted rows, and its settings with the table version that was read."""
        source, unpinned = sources.pin_table_version(self.spark, self.data.source)
        if unpinned:
            events.report(events.Notice(f"The version of {source.table} is not recorded: the table {unpinned}."))
        self._copies = self._place_for_copies()
        folder = self._folder if "://" in self._copies else Path(self._copies)
        raw = sources.read_source(self.spark, source, self.seed, dropped, folder, self.data.max_columns)
        engines.refuse_random(raw.frame, self._config.spark.engine)
        if source.kind is SourceKind.table and self._config.mlflow.log_datasets:
            lineage.log_named_input(self._store, self.run_id, str(source.table), source.version, self.name)
        return raw, source

    def batch(self, recipe: Recipe) -> NewRows:
        """Return the rows of `score.source`, converted by `recipe`: as training converted its source.

        Raises:
            BadData: the rows do not fit the recipe.
        """
        self._target()  # refuses a wrong setting before the rows are read
        raw, source = self._raw_rows(frozenset(recipe.dropped))
        rows = batch.read_batch(raw, recipe, source, self.score.bad_cells, f"{self._copies}/rows")
        for warning in rows.warnings:
            self.warn(warning.kind, warning.column, warning.message)
        batch_id = self.score.batch_id or scoring.batch_id(source, self.seed)
        if batch_id is None and self.score.target:
            raise ConfigError(
                "score.batch_id: the source's content can't be identified, so the target could get this batch twice. "
                "Set score.batch_id to a name of this batch."
            )
        batch_id = batch_id or self.run_id
        self._tags["batch_id"] = batch_id
        return NewRows(rows.frame, rows.rows, batch_id)

    def warn(self, kind: str, column: str | None, message: str) -> None:
        """Show a warning about the data. It does not stop the step, and is in data_warnings.json when the step ends."""
        self._data_warnings.append(DataWarning(kind, column, message))

    def _place_for_copies(self) -> str:
        """Return the folder or URI for copies of the source's rows. On a cluster, all nodes can read and write it."""
        local = self._folder and self._config.spark.engine in ("sail", "jvm")
        return str(self._folder) if local else self._table_path("source")

    def remove_copies(self) -> None:
        """Delete the copies of the source's rows. Call this at the end of the step, even if the step has failed."""
        if self._copies is None or self._copies == str(self._folder):  # the caller removes its temporary folder
            return
        if "://" in self._copies or Path(self._copies).exists():
            tables.remove_table(Table(self._copies, 0), locations.absolute_prefix(self._config.table_prefix))

    def write(self, output: str, frame: DataFrame) -> Table:
        """Write `frame` as a Delta table at a path of this run, and record it in tags of the run, as `output`.

        Raises:
            ConfigError: `frame` draws random numbers, and the engine would repeat these numbers.
        """
        engines.refuse_random(frame, self._config.spark.engine)
        table = tables.write_table(frame, self._table_path(output.removesuffix("_uri")))
        self._tags |= lineage.table_tags(output, table)
        self._written[output] = table
        return table

    def write_batch(self, output: str, frame: DataFrame, batch_id: str) -> Table:
        """Write `frame` as `write` does. `check_tables` then adds the rows to `score.target`, if it is set.

        Raises:
            BadData: the target has other columns, and `score.target_schema` does not allow that.
        """
        if target := self._target():
            targets.check_batch(target, dict(frame.dtypes), batch_id, self.score.target_schema)
        table = self.write(output, frame)
        self._batch = table, batch_id
        return table

    def _target(self) -> TargetTable | None:
        return targets.find_target(self.score, self._config.spark.engine, self.spark)

    def _add_to_target(self) -> None:
        """Add the scored table to the target once, and say so in the summary and in tags."""
        if not self._batch or not (target := self._target()):
            return
        added = targets.add_batch(target, *self._batch, self.score.target_schema)
        if added.changes:
            self.warn("target", None, f"The columns of {target.name} differ from the batch's: {added.changes}")
        if added.problem:
            self.warn("target", None, f"Nothing was added to {target.name}: {added.problem}")
        status = "added to" if added.is_new else "not added to" if added.problem else "was already in"
        self._add_to_summary(f"{status} {shown(str(self.score.target))}")
        self._tags |= {"target": target.name, "target_batch": status}

    def check_tables(self) -> None:
        """Check the tables that this step wrote against the data contract; log data warnings and what is predicted.

        Call this when the step has returned. The step `score` adds its batch to `score.target` here instead. Only the
        step that reads the source must obey the contract, so a step with inputs is not checked.

        Raises:
            BadData: the tables break the contract. This method removes the tables first, so that nobody can use them.
        """
        if self._step.pipeline is Pipeline.score:
            self._add_to_target()
            self._report_warnings()
        if self._step.inputs or not self._written or self._step.pipeline is not Pipeline.train:
            return
        written = {output.removesuffix("_uri"): table for output, table in self._written.items()}
        if violations := contract.find_violations(self._config.contract, written):
            for table in written.values():
                tables.remove_table(table, locations.absolute_prefix(self._config.table_prefix))
            self.log_table(contract.violation_table(violations), "contract_violations.json")
            raise BadData(contract.violation_summary(violations, self.key_column, self.origin()))
        if self._predicted:
            self._add_to_summary(self._predicted)
        if {"train", "test"} <= written.keys():
            self._warn(*(tables.scan_table(written[name]) for name in ("train", "test")))

    def _warn(self, train: pl.LazyFrame, test: pl.LazyFrame) -> None:
        features = [name for name in train.collect_schema() if name not in (self.label, self.key_column)]
        self._data_warnings += data_warnings.find_warnings(
            train, test, features, self.label, self.origin(), self.data.columns
        )
        self._report_warnings()

    def _report_warnings(self) -> None:
        warnings = self._data_warnings
        for warning in warnings:
            self.log.warning("%s", warning.message)
        for warning in warnings[:WARNINGS_SHOWN]:
            events.report(events.Notice(f"warning: {shown(warning.message, WARNING_LENGTH)}"))
        if warnings:
            self.log_table(data_warnings.warning_table(warnings), "data_warnings.json")
            self._add_to_summary(f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''} (data_warnings.json)")
        self._tags["data_warnings"] = str(len(warnings))

    def _add_to_summary(self, text: str) -> None:
        self.summary(f"{self._tags.get('summary', '')} · {text}".removeprefix(" · "))

    def _table_path(self, dataset: str) -> str:
        parts = [self._config.env_name, self._config.experiment_name, f"pipeline_run_{self.pipeline_run_id}"]
        if self._config.spark.engine == "databricks":
            parts.insert(1, self.data.volume_name)
        return locations.table_path(self._config.table_prefix, parts, self._step.step_name, self.run_id, dataset)

    def read(self, uri: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows of a table, with all columns or only `columns`, in the same order in every run.

        This method reads the table's version that the writing step recorded, or the newest version if no step did.

        Raises:
            BadData: the table is damaged, or differs from what the writing step recorded.
        """
        table = self._recorded(uri)
        if self._config.mlflow.log_datasets:
            lineage.log_delta_input(self._store, self.run_id, table, self.name)
        if self.pipeline_run_id == self.run_id:  # the step runs alone: no pipeline run has verified the table before
            tables.verify_table(table)
        return tables.read_table(table, columns, self.key_column)

    def table_columns(self, uri: str) -> list[str]:
        """Return the names of a table's columns."""
        return tables.column_names(self._recorded(uri))

    def feature_columns(self, uri: str) -> list[str]:
        """Return the names of a table's columns without the label and the key.

        Raises:
            BadData: the table has no label, or no other columns.
        """
        names = self.table_columns(uri)
        features = [name for name in names if name not in (self.label, self.key_column)]
        if self.label not in names or not features:
            raise BadData(
                f"Table {uri} needs a label {quoted(self.label)} and features. Its columns are {listed(names)}."
            )
        return features

    def origin(self, uri: str | None = None) -> Origin:
        """Return the kind of problem, and the names that the source has for the columns and classes of a table.

        Without `uri`, they are those of the source that this step has read. If no run recorded them, the result has
        no names, and the kind is binary.
        """
        if uri is None:
            return self._origin or origin_of(None, self.data)
        return origin_of(self._decisions(uri), self.data)

    def _decisions(self, uri: str) -> Any:
        """Return the content of columns.json of the run that wrote a table, or None if no run recorded it."""
        writer = lineage.find_writer(self._store, uri, self._step.inputs, self._experiment_id)
        return writer and lineage.load_own_json(self._store, writer[0], RECIPE)

    def identity(self, uri: str) -> Mapping[str, str]:
        """Return how a table's rows were split, and what its label means: the tags that a model version gets.

        Tags that no run recorded are left out.
        """
        writer = lineage.find_writer(self._store, uri, self._step.inputs, self._experiment_id)
        return identity.of_tables(self._store, writer[0]) if writer else {}

    def _recorded(self, uri: str) -> Table:
        if uri not in self._tables:
            self._tables[uri] = lineage.find_table(
                self._store, uri, self._step.inputs, self._experiment_id
            ) or tables.Table(uri, tables.check_protocol(uri))
        return self._tables[uri]
