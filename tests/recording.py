"""A step's context in memory, without MLflow and Delta: it gives the step frames by uri, and records what it logs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_pipelines.authoring.context import HeadlineOf, MayReplace, NewRows, ScoringModel, StepContext, Version
from ml_pipelines.config.loading import load
from ml_pipelines.config.schema import Config
from ml_pipelines.data.origin import Origin
from ml_pipelines.data.tables import Table
from ml_pipelines.errors import BadData
from ml_pipelines.models import model_files

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure
    from pyspark.sql import DataFrame, SparkSession

    from ml_pipelines.data.features import Recipe


# The split and the label of every table of the context, unless a test replaces it.
IDENTITY = {
    **{"split_kind": "key", "split_key": "id", "split_seed": "42", "split_fraction": "0.2"},
    **{"label_name": "label", "label_0": "0", "label_1": "1"},
}


class RecordingContext(StepContext[Any]):
    """The StepContext of a test: the step reads frames, and attributes record what the step logs."""

    models_before = 0  # models that were judged on the same test rows before
    problem = "binary"  # the kind of problem of all tables

    def __init__(
        self,
        name: str,
        params: Any,
        frames: Mapping[str, pl.DataFrame] | None = None,
        models: Mapping[str, Any] | None = None,
        *,
        source: DataFrame | None = None,
        config: Config | None = None,
        metrics: Mapping[str, Mapping[str, float]] | None = None,
        champion: Version | None = None,
    ) -> None:
        self._config = config or load("local")
        self.name = name
        self.params = params
        self.seed = self._config.seed
        self.data = self._config.data
        self.crown = self._config.registry.crown
        self.score = self._config.score
        self.label = self.data.label
        self.key_column = self.data.key
        self.run_id = f"{name}-run"
        self.pipeline_run_id = "pipeline-run"
        self.log = logging.getLogger(f"steps.{name}")
        self.refusal: str | None = None
        self._source = source
        self._frames = dict(frames or {})
        self._models = dict(models or {})
        self._metrics = dict(metrics or {})  # by run id
        self._champion = champion
        # what `run` logged; the test reads these attributes
        self.metrics: dict[str, float] = {}
        self.logged_params: dict[str, Any] = {}
        self.figures: dict[str, Figure] = {}
        self.tables: dict[str, pl.DataFrame] = {}
        self.json: dict[str, Any] = {}
        self.models: list[tuple[Any, pl.DataFrame]] = []  # (model, example)
        self.written: dict[str, DataFrame] = {}
        self.reads: list[str] = []  # uris of the tables that the step read
        self.summary_text: str | None = None
        self.logged_tags: dict[str, str] = {}
        self.warnings: list[str] = []
        self.registered: list[dict[str, Any]] = []
        self.judged: dict[str, int] = {}  # digest of test rows -> models that were judged on them

    @property
    def spark(self) -> SparkSession:
        assert self._source is not None, "give the context a source"
        return self._source.sparkSession

    def source(self) -> DataFrame:
        assert self._source is not None, "give the context a source"
        return self._source

    def write(self, output: str, frame: DataFrame) -> Table:
        self.written[output] = frame
        return Table(f"memory/{output.removesuffix('_uri')}", 0, frame.count(), "digest")

    def write_batch(self, output: str, frame: DataFrame, batch_id: str) -> Table:
        return self.write(output, frame)

    def read(self, uri: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        self.reads.append(uri)
        frame = self._frames[uri]
        if missing := [name for name in columns or [] if name not in frame.columns]:
            raise BadData(f"Table {uri} has no column {', '.join(missing)}.")
        return frame.select(list(dict.fromkeys(columns or frame.columns)))

    def table_columns(self, uri: str) -> list[str]:
        return self._frames[uri].columns

    def feature_columns(self, uri: str) -> list[str]:
        return [name for name in self.table_columns(uri) if name not in (self.label, self.key_column)]

    def origin(self, uri: str | None = None) -> Origin:
        return Origin(label=self.label, dropped=self.data.drop, problem=self.problem)

    def identity(self, uri: str) -> Mapping[str, str]:
        return {**IDENTITY, "problem": self.problem}

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.logged_params |= params

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        self.metrics |= metrics

    def log_figure(self, figure: Figure, name: str) -> None:
        self.figures[name] = figure

    def log_json(self, content: Any, name: str) -> None:
        self.json[name] = content

    def log_table(self, frame: pl.DataFrame, name: str) -> None:
        self.tables[name] = frame

    def scoring_model(self) -> ScoringModel:
        raise NotImplementedError("tests of the step score run the pipeline")

    def shadow_model(self) -> ScoringModel | None:
        raise NotImplementedError("tests of the step score run the pipeline")

    def batch(self, recipe: Recipe) -> NewRows:
        raise NotImplementedError("tests of the step score run the pipeline")

    def warn(self, kind: str, column: str | None, message: str) -> None:
        self.warnings.append(message)

    def log_model(
        self,
        model: Any,
        example: pl.DataFrame,
        threshold: float,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> str:
        model_files.dump_model(model, self._config.model.trusted_types)  # refuses the types that the store would refuse
        self.models.append((model, example))
        return f"models:/recorded-{len(self.models)}"

    def has_signature(self, train_run_id: str) -> bool:
        return train_run_id in self._models

    def load_table(self, run_id: str, name: str) -> pl.DataFrame:
        return self._frames[f"{run_id}/{name}"]

    def load_metrics(self, run_id: str) -> Mapping[str, float]:
        return self._metrics[run_id]

    def count_models(self, train_run_id: str, rows: str) -> int:
        self.judged[rows] = self.judged.get(rows, self.models_before) + 1
        return self.judged[rows]

    def champion(self) -> Version | None:
        return self._champion

    def register(
        self,
        train_run_id: str,
        verdict: str,
        metric: tuple[str, float],
        headline_of: HeadlineOf,
        may_replace: MayReplace,
        tables: Mapping[str, str],
        undecided: Sequence[str] = (),
    ) -> None:
        self.registered.append(
            {
                **{"train_run_id": train_run_id, "verdict": verdict, "metric": metric, "tables": tables},
                **{"headline_of": headline_of, "may_replace": may_replace, "undecided": list(undecided)},
            }
        )

    def load_model(self, train_run_id: str) -> Any:
        return self._models[train_run_id]

    def load_threshold(self, train_run_id: str) -> float:
        return 0.5

    def log_tags(self, tags: Mapping[str, str]) -> None:
        self.logged_tags |= tags

    def summary(self, text: str) -> None:
        self.summary_text = text

    def refuse(self, reason: str) -> None:
        self.refusal = reason

    def tags(self) -> Mapping[str, str]:
        return self.logged_tags | ({} if self.summary_text is None else {"summary": self.summary_text})
