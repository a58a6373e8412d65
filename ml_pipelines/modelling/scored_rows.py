"""Scores the rows of a batch with Spark, and counts what the rows and their scores are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from ml_pipelines.authoring.context import ScoringModel
from ml_pipelines.config.schema import ReasonsFor, Score
from ml_pipelines.errors import BadData, ConfigError, message_of
from ml_pipelines.modelling import explaining, scoring
from ml_pipelines.text import shown

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import StructField

ADDED = ("score", "prediction", "model_name", "model_version", "scored_at", "batch_id")
REASONS = "reasons"
SHADOW = ("shadow_score", "shadow_prediction", "shadow_version")


@dataclass(frozen=True)
class Tally:
    """The numbers of rows of a scored table by score and by prediction.

    Args:
        bins: the position of a bin of scores -> its number of rows.
        predicted: a prediction -> its number of rows. It and `pairs` are empty if the score is a predicted number.
        shadow_bins: as `bins`, by the shadow model's score.
        pairs: the prediction, the shadow model's prediction -> the number of rows with both.
        gap: the mean difference: the shadow model's score minus the model's.
        distance: the mean of the absolute difference of both scores.
        largest: the largest absolute difference of both scores.
        mean: the mean score.
    """

    bins: Mapping[int, int]
    predicted: Mapping[str, int]
    shadow_bins: Mapping[int, int]
    pairs: Mapping[tuple[str, str], int]
    gap: float = 0.0
    distance: float = 0.0
    largest: float = 0.0
    mean: float = 0.0


def features_of(*models: ScoringModel | None) -> list[str]:
    """Return the columns that the models take, without repetition."""
    return list(dict.fromkeys(name for model in models if model for name in model.estimator.feature_names_in_))


def count_oddities(frame: DataFrame, model: ScoringModel) -> dict[str, Mapping[str, int]]:
    """Return the counts of `scoring.count_oddities` for each column of the frame: column -> kind -> number.

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


def reasons_field(model: ScoringModel) -> StructField:
    """Return the field of the column REASONS. Its comment says on which scale the values are.

    Raises:
        ConfigError: SHAP is not installed, or can't explain the model.
    """
    from pyspark.sql import types as t

    try:
        explainer = explaining.make_explainer(model.estimator)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"score.reasons: {error.name} is not installed. Run `pip install 'ml-pipelines[explain]'`, or set "
            "score.reasons=0."
        ) from error
    except Exception as error:  # SHAP raises any error for an estimator that it does not know
        raise ConfigError(
            f"score.reasons: SHAP's TreeExplainer can't explain this {type(model.estimator[-1]).__name__}: "
            f"{message_of(error, 100).rstrip('.')}. Set score.reasons=0."
        ) from error
    scale = explaining.SCALES[explainer.model.tree_output]
    comment = f"The columns that moved the score most, and by how much: SHAP values, in units of the {scale}"
    kind = t.StructType([t.StructField("name", t.StringType()), t.StructField("value", t.DoubleType())])
    return t.StructField(REASONS, t.ArrayType(kind), metadata={"comment": comment})


def score_rows(
    frame: DataFrame,
    model: ScoringModel,
    shadow: ScoringModel | None,
    kept: list[str],
    reasons: StructField | None,
    settings: Score,
    batch_id: str,
    now: datetime,
) -> DataFrame:
    """Return the columns `kept` of each row and the columns ADDED.

    With a shadow model, the rows also have the columns SHADOW. If `reasons` is set (see `reasons_field`), they also
    have the column REASONS.
    """
    from pyspark.sql import functions as F
    from pyspark.sql import types as t

    models = {"": model, **({"shadow_": shadow} if shadow else {})}
    for_all = settings.reasons_for is ReasonsFor.all
    explain = scoring.Reasons(partial(explaining.reasons, count=settings.reasons), for_all) if reasons else None
    workers = {prefix: _worker_model(each) for prefix, each in models.items()}
    run = partial(scoring.predict, models=workers, kept=kept, reasons=explain)
    kinds = {"score": t.DoubleType(), **({"prediction": t.StringType()} if model.recipe.classes else {})}
    added = [t.StructField(f"{prefix}{name}", kind) for prefix in models for name, kind in kinds.items()]
    added[len(kinds) : len(kinds)] = [reasons] if reasons else []
    schema = t.StructType([*(frame.schema[name] for name in kept), *added])
    scored = frame.select(*dict.fromkeys([*kept, *features_of(model, shadow)])).mapInArrow(run, schema)
    return scored.select(
        "*",
        *([F.lit(shadow.version.version).cast("int").alias("shadow_version")] if shadow else []),
        F.lit(model.version.name).alias("model_name"),
        F.lit(model.version.version).cast("int").alias("model_version"),
        F.lit(now.isoformat()).cast("timestamp").alias("scored_at"),
        F.lit(batch_id).alias("batch_id"),
    )


def _worker_model(model: ScoringModel) -> scoring.Model:
    features = list(model.estimator.feature_names_in_)
    return scoring.Model(
        model.file, model.digest, list(model.trusted), features, model.threshold, list(model.recipe.classes)
    )


def tally(scored: DataFrame, edges: Sequence[float]) -> Tally:
    """Count the rows of a scored table, in one pass over its scores. `edges` are those of ScoreBins."""
    from pyspark.sql import functions as F

    def number_of_bin(score: str) -> Column:
        return sum(((F.col(score) > edge).cast("int") for edge in edges), F.lit(0))

    is_shadowed, has_classes = "shadow_score" in scored.columns, "prediction" in scored.columns
    groups = [number_of_bin("score").alias("bin"), *([F.col("prediction")] if has_classes else [])]
    sums = [F.count("*").alias("rows"), F.sum("score").alias("score")]
    if is_shadowed:
        gap = F.col("shadow_score") - F.col("score")
        groups += [number_of_bin("shadow_score").alias("shadow_bin")]
        groups += [F.col("shadow_prediction")] if has_classes else []
        sums += [F.sum(gap).alias("gap"), F.sum(F.abs(gap)).alias("distance"), F.max(F.abs(gap)).alias("largest")]
    bins, predicted, shadow_bins, pairs = Counter[int](), Counter[str](), Counter[int](), Counter[tuple[str, str]]()
    rows = [row.asDict() for row in scored.groupBy(*groups).agg(*sums).collect()]
    for row in rows:
        bins[row["bin"]] += row["rows"]
        if has_classes:
            predicted[row["prediction"]] += row["rows"]
        if is_shadowed:
            shadow_bins[row["shadow_bin"]] += row["rows"]
        if is_shadowed and has_classes:
            pairs[row["prediction"], row["shadow_prediction"]] += row["rows"]
    mean = sum(row["score"] for row in rows) / bins.total()
    if not is_shadowed:
        return Tally(bins, predicted, {}, {}, mean=mean)
    gap, distance = (sum(row[name] for row in rows) / bins.total() for name in ("gap", "distance"))
    return Tally(bins, predicted, shadow_bins, pairs, gap, distance, max(row["largest"] for row in rows), mean)
