"""StepContext: the object that a step gets, for its tables, metrics, artifacts, models and the Spark session.

A pipeline run passes an implementation that logs to MLflow. A test passes another one, which records the calls. This
module imports only the configuration's types, because loading the configuration imports the steps, and each step
imports this module.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ml_pipelines.config.schema import Crown, Data, Score

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure
    from pyspark.sql import DataFrame, SparkSession

    from ml_pipelines.data.features import Recipe
    from ml_pipelines.data.origin import Origin
    from ml_pipelines.data.tables import Table
    from ml_pipelines.modelling.score_bins import ScoreBins

P = TypeVar("P")
Output = str | float | bool
Outputs = Mapping[str, Output]


class Version(NamedTuple):
    """A registered version of the model."""

    name: str
    version: int
    run_id: str  # the id of the train run that fitted the model
    created: int  # milliseconds since 1970
    tags: Mapping[str, str]


class ScoringModel(NamedTuple):
    """The model that scores a batch, and how training made its features."""

    version: Version  # its number is 0 if score.model is a train run
    estimator: Any
    file: str  # the path of the model's skops file for all workers, or only its name if Spark has sent it to them
    digest: str  # the SHA-256 of this file
    trusted: Sequence[str]  # the types that the file may contain
    recipe: Recipe
    threshold: float  # a score of at least this value counts as class 1
    test_scores: ScoreBins | None  # the scores of its test table; None if no run of evaluate recorded them


class NewRows(NamedTuple):
    """A batch: rows to score, with the columns that training made of its source."""

    frame: DataFrame
    rows: int
    batch_id: str


# Returns a version's headline metric on rows that no compared model has seen, or None if it can't be compared.
HeadlineOf = Callable[[Version], float | None]
# Returns whether the first version may replace the second as champion.
MayReplace = Callable[[Version, Version], bool]


class StepContext(ABC, Generic[P]):
    """The functions and values that a step can use in its run."""

    name: str  # the step's name in conf
    params: P  # the step's Params, as conf declares them
    seed: int
    data: Data  # the `data` block of conf
    crown: Crown  # conf's registry.crown: what a model must show to replace the champion
    score: Score  # the `score` block of conf
    run_id: str  # the id of the step's MLflow run
    pipeline_run_id: str  # the id of the step's parent run; equals run_id if the step runs alone
    label: str  # the name of the label column in the tables
    key_column: str | None  # the name of the column that identifies a row; None if conf has no key
    log: logging.Logger  # writes to the step's log, an artifact of the run

    # -- tables

    @property
    @abstractmethod
    def spark(self) -> SparkSession:
        """The Spark session of the profile's engine."""

    @abstractmethod
    def source(self) -> DataFrame:
        """Return the rows of the configured source, typed and checked: the key, the features, and the label
        as 0 or 1, or as a number.

        Raises:
            BadData: the source does not match the configuration.
        """

    @abstractmethod
    def scoring_model(self) -> ScoringModel:
        """Return the model that `score.model` names. Declare `external: [model]` in conf to call this.

        Raises:
            ConfigError: there is no such model.
            BadData: the model's file is not the file that the train run logged, or its types are not trusted.
        """

    @abstractmethod
    def shadow_model(self) -> ScoringModel | None:
        """Return the model that `score.shadow` names, or None. It raises the same errors as `scoring_model`."""

    @abstractmethod
    def batch(self, recipe: Recipe) -> NewRows:
        """Return the rows of `score.source`: the key, the features before `add_features`, the label if there is one.

        Raises:
            BadData: the rows do not fit the recipe.
        """

    @abstractmethod
    def warn(self, kind: str, column: str | None, message: str) -> None:
        """Show a warning about the data that stops nothing, and log it in data_warnings.json when the step ends."""

    @abstractmethod
    def write(self, output: str, frame: DataFrame) -> Table:
        """Write `frame` as a new Delta table and return the table. `output` is the name of an output, `<dataset>_uri`.

        Raises:
            ConfigError: `frame` draws random numbers on an engine that would draw the same numbers again and again.
        """

    @abstractmethod
    def write_batch(self, output: str, frame: DataFrame, batch_id: str) -> Table:
        """Write `frame` as `write` does. When the step ends, the rows are added to the table `score.target`, if set.

        Raises:
            BadData: the target has other columns, and `score.target_schema` does not allow that.
        """

    @abstractmethod
    def read(self, uri: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows of a table, with all columns or only `columns`, in the same order in every run.

        This reads the version that the writing step recorded, or the newest version if no step recorded one. It logs
        the table as an input of the run.

        Raises:
            BadData: the table is damaged, or differs from what the writing step recorded.
        """

    @abstractmethod
    def table_columns(self, uri: str) -> list[str]:
        """Return the names of a table's columns."""

    @abstractmethod
    def feature_columns(self, uri: str) -> list[str]:
        """Return the names of a table's columns without the label and the key.

        Raises:
            BadData: the table has no label, or no features.
        """

    @abstractmethod
    def origin(self, uri: str | None = None) -> Origin:
        """Return the kind of problem of a table, and the source's names for its columns and classes, for messages.

        Without `uri`, return the names of the source that this step has read with `source`.
        """

    @abstractmethod
    def identity(self, uri: str) -> Mapping[str, str]:
        """Return how a table's rows were split, and what its label means: the tags that a model version gets.

        Tags that no run recorded are left out.
        """

    # -- results

    @abstractmethod
    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params that the step's code chose. The params in conf are logged already."""

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log metrics, name -> number, in one request."""

    @abstractmethod
    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a matplotlib figure as `name` (.png or .svg)."""

    @abstractmethod
    def log_json(self, content: Any, name: str) -> None:
        """Log a JSON artifact."""

    @abstractmethod
    def log_table(self, frame: pl.DataFrame, name: str) -> None:
        """Log a table as `name`: .parquet for any size, or .json for a small table that MLflow's page shows."""

    @abstractmethod
    def log_model(
        self,
        model: Any,
        example: pl.DataFrame,
        threshold: float,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> str:
        """Log a fitted estimator with all that scoring needs, and return the model's URI.

        Args:
            model: a fitted scikit-learn pipeline that accepts a frame with the example's columns.
            example: a few rows of features; the model's input has their columns.
            threshold: a score of at least this value counts as class 1.
            ranges: number column -> its smallest and largest value in training; scoring counts values outside of them.
        """

    @abstractmethod
    def load_model(self, train_run_id: str) -> Any:
        """Return the estimator that a train run logged.

        Raises:
            BadData: the model's file is not the file that the train run logged.
        """

    @abstractmethod
    def load_threshold(self, train_run_id: str) -> float:
        """Return the threshold of the model that a train run logged: a score of at least this counts as class 1.

        Raises:
            BadData: an earlier release logged the model, or its files have changed since the train run.
        """

    @abstractmethod
    def has_signature(self, train_run_id: str) -> bool:
        """Return whether the model that a train run logged has a signature, which names the input columns."""

    @abstractmethod
    def load_table(self, run_id: str, name: str) -> pl.DataFrame:
        """Return a table that a step's run logged with `log_table`."""

    @abstractmethod
    def load_metrics(self, run_id: str) -> Mapping[str, float]:
        """Return the metrics that a step's run logged, as name -> number."""

    # -- the registry

    @abstractmethod
    def count_models(self, train_run_id: str, rows: str) -> int:
        """Return how many models were judged on some test rows, with this one. This run counts from now on.

        Args:
            train_run_id: the train run of the model.
            rows: a digest of the test rows.
        """

    @abstractmethod
    def champion(self) -> Version | None:
        """Return the version with the alias champion, if any. Declare `external: [champion]` in conf to call this.

        A champion whose files are lost does not count.
        Its tags hold the identity of its split and its label, as `identity` returns them.
        """

    @abstractmethod
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
        """Register the model of a train run as challenger. If it passed and may replace the champion, it does.

        Args:
            train_run_id: the id of the train run. Its model is registered only once, even if this is called again.
            verdict: the quality gate's verdict. Only a model that `passed` can become champion.
            metric: the headline metric and its value for this model on the test table.
            headline_of: takes a version, and returns its headline metric on rows that no compared model has seen, or
                None if it can't be compared.
            may_replace: takes two versions, and returns whether the first may replace the second as champion.
            tables: `train` and `test` -> the URI of the table, for the version's tags.
            undecided: the checks that keep the model from becoming champion, for the pipeline run's last line.
        """

    # -- tags, summary, refusal

    @abstractmethod
    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the step's run when the step ends. The pipeline run gets the tag `verdict` too."""

    @abstractmethod
    def summary(self, text: str) -> None:
        """Set a summary of the result, for the terminal and for the run's description in MLflow."""

    @abstractmethod
    def refuse(self, reason: str) -> None:
        """Refuse the model: this step finishes, the pipeline run fails, and the steps after this one are skipped."""
