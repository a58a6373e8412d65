"""Score new rows: each gets the probability of class 1 and the predicted class, or the predicted number."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ml_pipelines.authoring.context import Outputs, ScoringModel, StepContext
from ml_pipelines.checks import batch_facts
from ml_pipelines.errors import BadData
from ml_pipelines.modelling import explaining, scored_rows, scoring
from ml_pipelines.modelling.features import check_types
from ml_pipelines.modelling.keys import canonical_key
from ml_pipelines.text import listed, shown
from steps.prepare_data import add_features

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

WORDS = {"unseen": "categories that the model does not know", "outside": "outside of the training range"}


@dataclass(frozen=True)
class Params:
    """No params: `score` in conf names the rows and the models."""


def check_columns(frame: DataFrame, model: ScoringModel) -> None:
    """Raise BadData if `add_features` made no column for a feature, or made it of another type than in training."""
    names = scored_rows.features_of(model)
    if missing := [name for name in names if name not in frame.columns]:
        raise BadData(
            f"The model needs the features {listed(missing)}, but add_features does not return them any more. "
            "Restore the add_features that the model was trained with, or train again."
        )
    check_types(model.estimator, {name: kind == "string" for name, kind in frame.select(names).dtypes})


def check_names(kept: list[str], added: list[str]) -> None:
    """Raise BadData if a kept column has the name of a column that scoring adds."""
    if taken := [name for name in kept if name.lower() in added]:
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


def run(step: StepContext[Params]) -> Outputs:
    """Write the scored table; return its URI."""
    model, shadow = step.scoring_model(), step.shadow_model()
    if shadow and shadow.digest == model.digest:
        step.warn("shadow", None, "score.shadow and score.model name the same model, so their scores are equal")
    recipe = model.recipe.joined(shadow.recipe) if shadow else model.recipe
    reasons = scored_rows.reasons_field(model) if step.score.reasons else None
    batch = step.batch(recipe)
    scoring.send_by_value()
    explaining.send_by_value()
    frame = add_features(batch.frame)
    names = scored_rows.features_of(model, shadow)
    own = [name for name in batch.frame.columns if name not in recipe.types and name not in names]  # key, label
    kept = [name for name in frame.columns if name in own or (step.score.features and name in names)]
    for each in filter(None, (model, shadow)):
        check_columns(frame, each)
    added = [*scored_rows.ADDED, *(scored_rows.SHADOW if shadow else ()), *([reasons.name] if reasons else ())]
    check_names(kept, added)
    if recipe.key_column:
        check_keys(frame, recipe.key_column, str(recipe.key))
    counts = scored_rows.count_oddities(frame.select(names), model)
    for feature, count in counts.items():
        name = recipe.sources.get(feature, feature)
        for kind, words in WORDS.items():
            if count[kind]:
                step.warn(kind, name, f"Column {shown(name)}: {count[kind]:,} of {batch.rows:,} values are {words}")
    now, started = datetime.now(UTC), time.perf_counter()
    scored = scored_rows.score_rows(frame, model, shadow, kept, reasons, step.score, batch.batch_id, now)
    table = step.write_batch("scored_uri", scored, batch.batch_id)
    seconds = time.perf_counter() - started
    tally = scored_rows.tally(step.spark.read.format("delta").load(table.uri), batch_facts.edges_of(model))
    facts = batch_facts.batch_facts(model, shadow, batch, recipe, counts, tally, now)
    step.log_json({**facts, "seconds": seconds}, batch_facts.FILE)
    step.log_metrics({**batch_facts.metrics(facts), "rows_per_second": batch.rows / seconds})
    step.summary(batch_facts.summary(facts))
    return {"scored_uri": table.uri}
