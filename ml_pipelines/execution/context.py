"""The StepContext of a real run: it logs to MLflow, and reads and writes Delta tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ml_pipelines.authoring.context import AreaOf, MayReplace, NewRows, ScoringModel, StepContext, Version
from ml_pipelines.config.schema import Config, Pipeline, Source, SourceKind
from ml_pipelines.data import batch, columns, contract, data_warnings, engines, ingest, locations, sources, tables
from ml_pipelines.data.data_warnings import DataWarning
from ml_pipelines.data.features import RECIPE
from ml_pipelines.data.origin import Origin, origin_of
from ml_pipelines.data.tables import Table
from ml_pipelines.errors import BadData, ConfigError
from ml_pipelines.execution import scoring
from ml_pipelines.models import identity, model_files, registry, scoring_model
from ml_pipelines.system import events
from ml_pipelines.text import listed, quoted, shown
from ml_pipelines.tracking import lineage, provenance
from ml_pipelines.tracking.store import Store

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure
    from pyspark.sql import DataFrame, SparkSession

P = TypeVar("P")
JUDGED_ROWS, JUDGED_MODEL = "judged.rows", "judged.model"  # tags of the gate's run: which model, on which test rows
MOST_COUNTED = 10_000  # the most runs that the gate counts
WARNINGS_SHOWN, WARNING_LENGTH = 3, 200  # the most data warnings on the terminal, and the most characters of each


class TrackedContext(StepContext[P]):
    """The context of one step run. After the step has ended, step_run.py uses `check_tables`, `tags` and `refusal`."""

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
        self._copies: str | None = None  # the folder or URI for copies of the source's rows, once `source` was called
        self._data_warnings: list[DataWarning] = []
        self._origin: Origin | None = None  # where the rows come from, once `source` was called
        self._class_1 = ""  # the value of the label that is class 1, once `source` was called
        self._versions: dict[str, Version] = {}  # train run -> its registered version
        self._judged_against = registry.NOBODY  # the champion's version, once `champion` was called

    # -- tables

    @property
    def spark(self) -> SparkSession:
        """The Spark session of the profile's engine."""
        return engines.spark_session(self._config.spark.engine, locations.need_network(self._config))

    def source(self) -> DataFrame:
        """Return the rows of the configured source, typed and checked: the key, the features, the label as 0 or 1.

        Raises:
            BadData: the source does not match the configuration.
        """
        raw, _ = self._raw_rows(frozenset(self.data.drop))
        ingested = ingest.ingest(raw, self.data, f"{self._copies}/rows")
        self.log_json(decisions := ingested.decisions(), RECIPE)
        self._origin = origin_of(decisions, self.data)
        self._data_warnings = ingested.warnings
        self._class_1 = str(ingested.classes)
        return ingested.frame

    def _raw_rows(self, dropped: frozenset[str]) -> tuple[sources.Raw, Source]:
        """Return the unchanged rows of the source, and the source at the version that is read."""
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

    def scoring_model(self) -> ScoringModel:
        """Return the model that `score.model` names, with a copy of its file that all workers of the engine can read.

        Raises:
            ConfigError: there is no such model, or the workers share no folder with this process.
            BadData: the model's file has changed since the train run, or its types are not trusted.
        """
        version = scoring_model.find(self._store, self._config)
        if version.version != scoring_model.UNREGISTERED:
            self._versions[version.run_id] = version
        logged, trusted = self._logged(version.run_id), self._config.model.trusted_types
        self._copies = self._place_for_copies()
        if "://" in self._copies:
            raise ConfigError("data.delta_prefix: score needs a folder that all workers can read, such as a Volume.")
        estimator = model_files.load_model(logged, trusted)
        file = Path(self._copies, model_files.MODEL_FILE)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(model_files.check_model_file(logged))
        recipe, threshold = scoring.recipe_of(self._store, version), scoring_model.threshold_of(self._store, version)
        self._tags |= {
            "model_name": version.name,
            "model_version": str(version.version),
            "train_run_id": version.run_id,
        }
        allowed = [*model_files.TRUSTED, *trusted]
        return ScoringModel(version, estimator, str(file), logged.digest, allowed, recipe, threshold)

    def batch(self, model: ScoringModel) -> NewRows:
        """Return the rows of `score.source`, converted as the source of the model's training was converted.

        Raises:
            BadData: the rows do not fit the model.
        """
        raw, source = self._raw_rows(frozenset(model.recipe.dropped))
        rows = batch.read_batch(raw, model.recipe, source, self.score.bad_cells, f"{self._copies}/rows")
        for warning in rows.warnings:
            self.warn(warning.kind, warning.column, warning.message)
        batch_id = self.score.batch_id or scoring.batch_id(source, self.seed) or self.run_id
        self._tags["batch_id"] = batch_id
        return NewRows(rows.frame, rows.rows, batch_id)

    def warn(self, kind: str, column: str | None, message: str) -> None:
        """Show a warning about the data that stops nothing, and log it in data_warnings.json when the step ends."""
        self._data_warnings.append(DataWarning(kind, column, message))

    def _place_for_copies(self) -> str:
        """Return the folder or URI for copies of the source's rows. On a cluster, all nodes can read and write it."""
        local = self._folder and self._config.spark.engine in ("sail", "jvm")
        return str(self._folder) if local else self._table_path("source")

    def remove_copies(self) -> None:
        """Delete the copies of the source's rows. Call this at the end of the step, even if the step has failed."""
        if self._copies is None or self._copies == str(self._folder):  # the caller removes its temporary folder
            return
        if "://" in self._copies:
            locations.remove_remote(self._copies)
        elif Path(self._copies).exists():
            tables.remove_table(Table(self._copies, 0), locations.absolute_prefix(self._config.table_prefix))

    def write(self, output: str, frame: DataFrame) -> Table:
        """Write `frame` as a Delta table at a path of this run, and record the table in tags of the output `output`.

        Raises:
            ConfigError: `frame` draws random numbers, and the engine would repeat these numbers.
        """
        engines.refuse_random(frame, self._config.spark.engine)
        table = tables.write_table(frame, self._table_path(output.removesuffix("_uri")))
        self._tags |= lineage.table_tags(output, table)
        self._written[output] = table
        return table

    def check_tables(self) -> None:
        """Check the tables that this step wrote against the data contract, and log data warnings and class 1.

        Call this when the step has returned. Only the step that reads the source must obey the contract. So this method
        does nothing if the step has inputs.

        Raises:
            BadData: the tables break the contract. This method removes the tables first, so that nobody can use them.
        """
        if self._step.pipeline is Pipeline.score:
            self._report_warnings()
        if self._step.inputs or not self._written or self._step.pipeline is not Pipeline.train:
            return
        written = {output.removesuffix("_uri"): table for output, table in self._written.items()}
        if violations := contract.find_violations(self._config.contract, written):
            for table in written.values():
                tables.remove_table(table, locations.absolute_prefix(self._config.table_prefix))
            self.log_table(contract.violation_table(violations), "contract_violations.json")
            raise BadData(contract.violation_summary(violations, self.key_column, self.origin()))
        if self._class_1:
            self._add_to_summary(f"class 1 is {self._class_1}")
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
        """Return the source's names for the columns and classes of a table, or of the source that this step has read.

        If no run recorded these names, the result has none.
        """
        if uri is None:
            return self._origin or origin_of(None, self.data)
        return origin_of(self._decisions(uri), self.data)

    def _decisions(self, uri: str) -> Any:
        """Return the content of columns.json of the run that wrote a table, or None if no run recorded it."""
        writer = lineage.find_writer(self._store, uri, self._step.inputs, self._experiment_id)
        return writer and lineage.load_own_json(self._store, writer[0], RECIPE)

    def identity(self, uri: str) -> Mapping[str, str]:
        """Return how the writing step split the rows of a table, and what its classes mean, as tags of a version.

        Values that no run recorded are missing.
        """
        writer = lineage.find_writer(self._store, uri, self._step.inputs, self._experiment_id)
        return identity.of_tables(self._store, writer[0]) if writer else {}

    def _recorded(self, uri: str) -> Table:
        if uri not in self._tables:
            self._tables[uri] = lineage.find_table(
                self._store, uri, self._step.inputs, self._experiment_id
            ) or tables.Table(uri, tables.check_protocol(uri))
        return self._tables[uri]

    # -- results

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params that the step chose itself. The step's params from conf/ are logged before the step starts."""
        self._store.log_params(self.run_id, params)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log numbers as metrics of the step's run."""
        self._store.log_metrics(self.run_id, metrics)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a matplotlib figure as the artifact `name` (.png or .svg)."""
        self._store.client.log_figure(self.run_id, figure, name, save_kwargs={"dpi": 100})

    def log_json(self, content: Any, name: str) -> None:
        """Log `content` as the JSON artifact `name`."""
        self._store.log_json(self.run_id, content, name)

    def log_table(self, frame: pl.DataFrame, name: str) -> None:
        """Log a table as `name`: .parquet for any size, or .json for a small table that MLflow's page shows."""
        self._store.log_table(self.run_id, frame, name)
        self._tags[f"{lineage.ARTIFACT}{name}"] = self._store.artifact_digest(self.run_id, name) or "missing"

    def log_model(
        self, model: Any, example: pl.DataFrame, ranges: Mapping[str, tuple[float, float]] | None = None
    ) -> str:
        """Log a fitted estimator, with a signature from the column types of `example`, and return its URI.

        The run also gets the record of how the columns of the training table were made, with `ranges`, for scoring.
        """
        logged = model_files.log_model(model, example, self._config.model.trusted_types)
        self._tags["output.model_uri.digest"] = logged.digest
        decisions: dict[str, Any] = next(filter(None, map(self._decisions, self._tables)), {})
        self.log_json({**decisions, "ranges": dict(ranges or {})}, RECIPE)
        self._tags[f"{lineage.ARTIFACT}{RECIPE}"] = self._store.artifact_digest(self.run_id, RECIPE) or "missing"
        return logged.uri

    def load_model(self, train_run_id: str) -> Any:
        """Return the estimator that a train run logged.

        Raises:
            BadData: the model's file has changed since the train run.
        """
        return model_files.load_model(self._logged(train_run_id), self._config.model.trusted_types)

    def _logged(self, train_run_id: str) -> lineage.LoggedModel:
        tags = self._store.get_run(train_run_id).data.tags
        if "output.model_uri" not in tags:
            raise ConfigError(
                f"train_run_id: run {train_run_id} has no output model_uri. Use the id of a finished train run."
            )
        logged = lineage.LoggedModel(tags["output.model_uri"], tags.get("output.model_uri.digest", "none"))
        if version := self._versions.get(train_run_id):
            registry.check_digest(version, logged)
        return logged

    def has_signature(self, train_run_id: str) -> bool:
        """Return whether the model that a train run logged has a signature, which names the input columns."""
        return model_files.has_signature(self._logged(train_run_id))

    def load_table(self, run_id: str, name: str) -> pl.DataFrame:
        """Return a table that a step's run logged with `log_table`."""
        return self._store.load_table(run_id, name)

    def load_metrics(self, run_id: str) -> Mapping[str, float]:
        """Return the metrics that a step's run logged."""
        return dict(self._store.get_run(run_id).data.metrics)

    # -- the registry

    def count_models(self, train_run_id: str, rows: str) -> int:
        """Return how many models of this experiment were judged on some test rows, with this one.

        A digest identifies the rows. The count needs one search: each gate tags its run with the digest and the model.
        """
        self._store.set_tags(self.run_id, {JUDGED_ROWS: rows, JUDGED_MODEL: train_run_id})
        query = f"tags.`{JUDGED_ROWS}` = '{rows}'"
        runs = self._store.client.search_runs([self._experiment_id], query, max_results=MOST_COUNTED)
        return len({train_run_id, *(run.data.tags[JUDGED_MODEL] for run in runs if JUDGED_MODEL in run.data.tags)})

    def champion(self) -> Version | None:
        """Return the version with the alias champion, or None. The step's conf must have `external: [champion]`.

        A champion whose files are lost does not count.
        Its tags hold the identity of its split and its label, even if an earlier release registered it.
        """
        champion = registry.current_champion(self._store, self._config)
        if champion is None or registry.is_lost(self._store, champion):
            return None
        self._judged_against = str(champion.version)
        self._versions[champion.run_id] = champion
        return champion._replace(tags={**champion.tags, **identity.of_version(self._store, champion)})

    def register(
        self,
        train_run_id: str,
        verdict: str,
        auc: float,
        area_of: AreaOf,
        may_replace: MayReplace,
        tables: Mapping[str, str],
        undecided: Sequence[str] = (),
    ) -> None:
        """Register the model of a train run as the challenger. If it passed and may replace the champion, it does.

        Args:
            train_run_id: the train run. Its model is registered only once, even if this method is called again.
            verdict: only a model with the verdict `passed` can become the champion.
            auc: the AUC of this model on the test table.
            area_of: takes a version, and returns its AUC on rows that no compared model has seen, or None if it can't
                be compared.
            may_replace: takes two versions, and returns whether the first may replace the second as champion.
            tables: `train` and `test` -> the URI of the table, for the tags of the version.
            undecided: the checks that keep the model from becoming champion, for the pipeline run's last line.
        """
        tags = {"pipeline_run_id": self.pipeline_run_id, "train_run_id": train_run_id, "verdict": verdict}
        tags |= {registry.JUDGED: self._judged_against}
        tags |= {"test_auc": str(auc), **provenance.commit_tags(), **self.identity(tables["train"])}
        for name, table in {name: self._recorded(uri) for name, uri in tables.items()}.items():
            tags |= {f"{name}_uri": table.uri, f"{name}_version": str(table.version)}
            tags |= {f"{name}_digest": table.digest} if table.digest else {}
        logged = self._logged(train_run_id)
        tags[registry.MODEL_DIGEST] = logged.digest
        challenger = registry.register_version(self._store, self._config, logged.uri, train_run_id, tags)

        def auc_of(version: Version) -> float | None:
            self._versions[version.run_id] = version
            return area_of(version)

        def may(version: Version, champion: Version) -> bool:
            self._versions |= {version.run_id: version, champion.run_id: champion}
            return may_replace(version, champion)

        before, now = registry.promote_best(self._store, self._config, challenger, may)
        conclusion = registry.champion_summary(self._store, challenger, before, now, auc_of)
        self._tags["conclusion"] = conclusion + (f"; undecided: {', '.join(undecided)}" if undecided else "")
        self._tags["external.champion"] = registry.champion_identity(self._store, self._config)

    # -- tags, summary, refusal

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the step's run when the run ends. The pipeline run gets the tag `verdict` too."""
        self._tags |= tags

    def summary(self, text: str) -> None:
        """Set the step's result in a few words, for the terminal and for the description on MLflow's page."""
        self._tags |= {"summary": text, "mlflow.note.content": text}

    def refuse(self, reason: str) -> None:
        """Refuse the model: this step finishes, the pipeline run fails, and the steps after this one are skipped."""
        self.refusal = reason

    def tags(self) -> Mapping[str, str]:
        """Return the tags that the step and its outputs have set so far."""
        return dict(self._tags)
