"""The types of the configuration, as frozen dataclasses. This module reads no files."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Any

from ml_pipelines.errors import ConfigError
from ml_pipelines.text import did_you_mean

NONE = "none"  # stands for an MLproject parameter without a value, because some backends drop empty values
LOCAL = "local"  # a value under `compute` in conf: steps run on this machine


class Pipeline(enum.Enum):
    """A pipeline: steps that run below one parent run."""

    train = "train"
    score = "score"

    @property
    def run_name(self) -> str:
        """The name of the pipeline's parent runs."""
        return "pipeline_run" if self is Pipeline.train else "scoring_run"


class SourceKind(enum.Enum):
    """The kind of a source of rows."""

    synthetic = "synthetic"
    file = "file"
    table = "table"
    sample = "sample"


class Sample(enum.Enum):
    """A table of real data that scikit-learn's package contains."""

    breast_cancer = "breast_cancer"  # two classes
    wine = "wine"  # three classes
    digits = "digits"  # ten classes
    diabetes = "diabetes"  # a number


class FileFormat(enum.Enum):
    """The format of a file source. `auto` looks at the suffix; a folder that contains _delta_log is a Delta table."""

    auto = "auto"
    csv = "csv"
    parquet = "parquet"
    delta = "delta"


class Treatment(enum.Enum):
    """How a column is used as a feature."""

    number = "number"
    category = "category"


class ProblemKind(enum.Enum):
    """What the model predicts. `auto`: the label decides."""

    auto = "auto"
    binary = "binary"  # one of two classes
    regression = "regression"  # a number


class MissingLabel(enum.Enum):
    """What happens to rows without a label."""

    fail = "fail"  # they stop the run
    drop = "drop"


class Crown(enum.Enum):
    """What a model must show to replace the champion (docs/registry.md)."""

    not_worse = "not_worse"
    better = "better"


class BadCells(enum.Enum):
    """What happens to text in a column that the model learned as numbers."""

    fail = "fail"  # it stops the run
    missing = "missing"  # it counts as a missing value


class TargetSchema(enum.Enum):
    """What happens if the columns of a batch differ from those of the target."""

    refuse = "refuse"  # it stops the run
    widen = "widen"  # the target gets the new columns, and missing columns stay empty


class ColumnType(enum.Enum):
    """The type of a column in a data contract."""

    number = "number"
    integer = "integer"  # whole numbers; a table may store them as floats
    boolean = "boolean"
    text = "text"


@dataclass(frozen=True)
class Source:
    """A source of rows. Each kind uses some of the fields. One class has all fields, since OmegaConf has no unions."""

    kind: SourceKind = SourceKind.synthetic
    rows: int = 10_000  # kind synthetic
    features: int = 20  # kind synthetic
    name: Sample = Sample.breast_cancer  # kind sample
    path: str | None = None  # kind file: a path or URI
    format: FileFormat = FileFormat.auto  # kind file
    separator: str = ","  # kind file, format csv
    encoding: str = "utf-8"  # kind file, format csv
    escape: str | None = None  # kind file, format csv: the character before a quote in a cell; null: quotes are doubled
    decimal: str = "."  # the decimal mark of numbers in text
    thousands: str | None = None  # the mark between thousands of numbers in text; null: no mark
    table: str | None = None  # kind table: catalog.schema.table
    version: int | None = None  # kind table, and format delta; null: the newest version


@dataclass(frozen=True)
class Prefix:
    """The root folder of all tables, on this machine and on Databricks."""

    local: str
    databricks: str


@dataclass(frozen=True)
class Data:
    """The source, the roles of its columns, and the split into train and test."""

    source: Source
    label: str
    delta_prefix: Prefix
    volume_name: str
    test_fraction: float
    split_seed: int = 42
    problem: ProblemKind = ProblemKind.auto
    positive: str | None = None
    missing_label: MissingLabel = MissingLabel.fail
    key: str | None = None
    drop: list[str] = field(default_factory=list)
    columns: dict[str, Treatment] = field(default_factory=dict)
    null_values: list[str] = field(default_factory=list)
    max_columns: int = 10_000  # the most columns that a source may have


class ReasonsFor(enum.Enum):
    """The rows that `score.reasons` explains."""

    above_threshold = "above_threshold"
    all = "all"


@dataclass(frozen=True)
class Score:
    """The rows that the pipeline `score` scores, and the model that scores them."""

    source: Source | None = None
    model: str = "champion"  # an alias, a version, or the id of a train run
    shadow: str | None = None  # a second model, named like `model`, whose scores stand beside the model's
    features: bool = True  # whether the scored table has the features too
    reasons: int = 0  # how many columns that moved a row's score most the scored table names; 0: no column `reasons`
    reasons_for: ReasonsFor = ReasonsFor.above_threshold
    bad_cells: BadCells = BadCells.fail
    batch_id: str | None = None  # null: a digest of the source's content
    target: str | None = None  # a table that batches are added to: a path, a URI, or catalog.schema.table
    target_schema: TargetSchema = TargetSchema.refuse


@dataclass(frozen=True)
class Column:
    """What the data contract demands of one column of the training and test tables."""

    type: ColumnType
    nullable: bool = False
    unique: bool = False
    min: float | None = None  # numbers only
    max: float | None = None  # numbers only
    categories: list[str] = field(default_factory=list)  # text only: the allowed values; empty: any value


@dataclass(frozen=True)
class Model:
    """Types that a model's file may contain, in addition to the types of the default model."""

    trusted_types: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Registry:
    """The name of the registered model, and what a model must show to replace the champion."""

    model: str | None = None  # None: the experiment's name
    crown: Crown = Crown.not_worse


@dataclass(frozen=True)
class Spark:
    """The Spark engine of prepare_data and score."""

    engine: str


@dataclass(frozen=True)
class Mlflow:
    """The tracking store, the registry, and whether steps log the tables they read."""

    tracking_uri: str | None = None
    registry_uri: str | None = None
    log_datasets: bool = True


@dataclass(frozen=True)
class Step:
    """One step as conf declares it. `name` is its key under `steps`, and the name of its module in steps/."""

    step_name: str
    compute: str
    pipeline: Pipeline = Pipeline.train
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    external: list[str] = field(default_factory=list)
    headline: list[str] = field(default_factory=list)
    params: Any = field(default_factory=dict)
    timeout_s: float | None = None  # time limit in seconds; null: no limit
    retries: int = 0  # how often a step runs again after a transient failure
    script: str = ""  # the step's console script in the wheel; default: the step's name with dashes
    name: str = ""


@dataclass(frozen=True)
class Config:
    """The whole configuration of one pipeline run, resolved and checked."""

    seed: int
    env_name: str
    experiment_name: str
    backend: str
    mlflow: Mlflow
    spark: Spark
    data: Data
    model: Model
    registry: Registry
    steps: dict[str, Step]
    score: Score = field(default_factory=Score)
    pipeline: Pipeline = Pipeline.train  # the pipeline to run
    compute: dict[str, str] = field(default_factory=dict)
    contract: dict[str, Column] = field(default_factory=dict)
    max_parallel: int = 2
    fail_fast: bool = False
    reuse: bool = True
    profile: str = ""
    overrides: str = NONE
    written: Any = field(default_factory=dict, repr=False)  # the layers of conf before ${...} is resolved
    hidden: Any = field(default=(), repr=False)  # texts that must never be shown or logged

    @property
    def table_prefix(self) -> str:
        """The root folder of this profile's tables."""
        prefix = self.data.delta_prefix
        return prefix.databricks if self.spark.engine == "databricks" else prefix.local

    @property
    def source_key(self) -> str:
        """The key of the settings of the source: `data.source` or `score.source`."""
        return "data.source" if self.pipeline is Pipeline.train else "score.source"

    @property
    def pipeline_steps(self) -> dict[str, Step]:
        """The steps of the pipeline to run."""
        return {name: step for name, step in self.steps.items() if step.pipeline is self.pipeline}

    def in_pipeline(self, pipeline: Pipeline) -> Config:
        """Return this configuration for a pipeline. For the pipeline `score`, `data.source` is `score.source`.

        Raises:
            ConfigError: the pipeline is `score`, and `score.source` is not set.
        """
        if pipeline is Pipeline.train:
            return replace(self, pipeline=pipeline)
        if self.score.source is None:
            raise ConfigError(
                "score.source: not set, so there are no rows to score. Set it like data.source, for example "
                "--set score.source.kind=file,score.source.path=new.csv."
            )
        return replace(self, pipeline=pipeline, data=replace(self.data, source=self.score.source))

    def step(self, name: str) -> Step:
        """Return the step `name`.

        Raises:
            ConfigError: conf doesn't declare it.
        """
        if name not in self.steps:
            near, known = did_you_mean(name, self.steps), ", ".join(self.steps)
            raise ConfigError(f"Step {name} doesn't exist.{near} conf/config.yaml declares: {known}.")
        return self.steps[name]
