"""Score new rows: each gets the probability of class 1, and the predicted class by the model's threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from ml_pipelines.authoring.context import Outputs, ScoringModel, StepContext
from ml_pipelines.errors import BadData
from ml_pipelines.modelling import scoring
from ml_pipelines.modelling.features import check_types
from ml_pipelines.modelling.keys import canonical_key
from ml_pipelines.text import listed, shown
from steps.prepare_data import add_features

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ADDED = ("score", "prediction", "model_name", "model_version", "scored_at", "batch_id")
WORDS = {"unseen": "categories that the model does not know", "outside": "outside of the training range"}


@dataclass(frozen=True)
class Params:
    """No params: `score` in conf names the rows and the model."""


def check_columns(frame: DataFrame, model: ScoringModel, kept: list[str]) -> None:
    """Check that `add_features` made the columns that the model takes, and that no kept column has a name in ADDED.

    Raises:
        BadData: a feature is missing, has another type than in training, or a kept column has a name in ADDED.
    """
    names = list(model.estimator.feature_names_in_)
    if missing := [name for name in names if name not in frame.columns]:
        raise BadData(
            f"The model needs the features {listed(missing)}, but add_features does not return them any more. "
            "Restore the add_features that the model was trained with, or train again."
        )
    check_types(model.estimator, {name: kind == "string" for name, kind in frame.select(names).dtypes})
    if taken := [name for name in kept if name.lower() in ADDED]:
        raise BadData(
            f"The scored table has a column {taken[0]} of its own. Rename that column of the batch, or set "
            "score.features=false if it is a feature."
        )


def check_keys(frame: DataFrame, key: str, source: str) -> None:
    """Raise BadData if two rows have the same key, however it is spelled. `source` is the key's name in the source."""
    repeated = frame.groupBy(canonical_key(frame, key).alias("key")).count().where("count > 1")
    if examples := [row["key"] for row in repeated.orderBy("key").limit(3).collect()]:
        raise BadData(
            f"The key {shown(source)} has {repeated.count():,} values that occur more than once in the batch "
            f"({listed(examples)}). Keep one row of each."
        )


def count_oddities(frame: DataFrame, model: ScoringModel) -> dict[str, Mapping[str, int]]:
    """Return feature -> the counts of `scoring.count_oddities`.

    Raises:
        BadData: `add_features` made values that no model takes.
    """
    from pyspark.sql import functions as F

    known, ranges = scoring.known_categories(model.estimator), dict(model.recipe.ranges)
    run = partial(scoring.count_oddities, categories=known, ranges=ranges)
    schema = ", ".join(f"{name} long" for name in ("position", *scoring.COUNTS))
    sums = [F.sum(name).alias(name) for name in scoring.COUNTS]
    rows = frame.mapInArrow(run, schema).groupBy("position").agg(*sums).orderBy("position").collect()
    counts: dict[str, Mapping[str, int]] = {frame.columns[row["position"]]: row.asDict() for row in rows}
    for name, count in counts.items():
        if count["wrong"]:
            raise BadData(
                f"Feature {shown(name)}: {count['wrong']:,} values are infinite, NaN or beyond the range of a 32-bit "
                "float. Correct the source, or add_features in steps/prepare_data.py."
            )
    return counts


def scored_rows(frame: DataFrame, model: ScoringModel, kept: list[str], batch_id: str, now: datetime) -> DataFrame:
    """Return the columns `kept` of each row, and the columns ADDED."""
    from pyspark.sql import functions as F
    from pyspark.sql import types as t

    names = list(model.estimator.feature_names_in_)
    run = partial(
        scoring.predict,
        file=model.file,
        digest=model.digest,
        trusted=model.trusted,
        features=names,
        threshold=model.threshold,
        classes=model.recipe.classes,
        kept=kept,
    )
    added = [t.StructField("score", t.DoubleType()), t.StructField("prediction", t.StringType())]
    schema = t.StructType([*(frame.schema[name] for name in kept), *added])
    scored = frame.select(*dict.fromkeys([*kept, *names])).mapInArrow(run, schema)
    return scored.select(
        "*",
        F.lit(model.version.name).alias("model_name"),
        F.lit(model.version.version).cast("int").alias("model_version"),
        F.lit(now.isoformat()).cast("timestamp").alias("scored_at"),
        F.lit(batch_id).alias("batch_id"),
    )


def run(step: StepContext[Params]) -> Outputs:
    """Write the scored table; return its URI."""
    model = step.scoring_model()
    batch = step.batch(model)
    scoring.send_by_value()
    frame = add_features(batch.frame)
    names = list(model.estimator.feature_names_in_)
    own = [name for name in batch.frame.columns if name not in model.recipe.types and name not in names]  # key, label
    kept = [name for name in frame.columns if name in own or (step.score.features and name in names)]
    check_columns(frame, model, kept)
    if model.recipe.key_column:
        check_keys(frame, model.recipe.key_column, str(model.recipe.key))
    for feature, count in count_oddities(frame.select(names), model).items():
        name = model.recipe.sources.get(feature, feature)
        for kind, words in WORDS.items():
            if count[kind]:
                step.warn(kind, name, f"Column {shown(name)}: {count[kind]:,} of {batch.rows:,} values are {words}")
    table = step.write("scored_uri", scored_rows(frame, model, kept, batch.batch_id, datetime.now(UTC)))
    predicted = step.spark.read.format("delta").load(table.uri).groupBy("prediction").count().collect()
    positive = model.recipe.classes[1]
    rate = sum(row["count"] for row in predicted if row["prediction"] == positive) / (table.rows or 1)
    step.log_metrics({"scored_rows": table.rows or 0, "predicted_positive_rate": rate})
    which = f"version {model.version.version}" if model.version.version else f"train run {model.version.run_id[:8]}"
    step.summary(f"{table.rows:,} rows, {rate:.1%} predicted {shown(positive)}, {which}")
    return {"scored_uri": table.uri}
