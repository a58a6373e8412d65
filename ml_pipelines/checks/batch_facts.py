"""The facts about a scored batch that its report shows, as the content of scoring.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ml_pipelines.authoring.context import NewRows, ScoringModel
from ml_pipelines.checks import drift
from ml_pipelines.modelling import score_bins
from ml_pipelines.modelling.scored_rows import Tally
from ml_pipelines.problems.problem import problem_of
from ml_pipelines.text import shown

if TYPE_CHECKING:
    from ml_pipelines.data.features import Recipe

KINDS = ("missing", "unseen", "outside")  # the counts of `count_oddities` that stop nothing
FILE = "scoring.json"  # artifact of the run of the step score


def edges_of(model: ScoringModel) -> Sequence[float]:
    """Return the inner edges of the bins of scores: those of the test table, if its scores are known."""
    return model.test_scores.edges if model.test_scores else problem_of(model.recipe.problem).SCORE_EDGES


def batch_facts(
    model: ScoringModel,
    shadow: ScoringModel | None,
    batch: NewRows,
    recipe: Recipe,
    counts: Mapping[str, Mapping[str, int]],
    tally: Tally,
    now: datetime,
) -> dict[str, Any]:
    """Return what the report shows of a batch. Shares are from 0 to 1, times are texts in UTC.

    Args:
        model: the model that scored the batch.
        shadow: the model whose scores stand beside the model's, if any.
        batch: the rows before they were scored.
        recipe: how the features of both models were made.
        counts: what `count_oddities` returns.
        tally: the scored rows by score and by prediction.
        now: when the batch was scored.
    """
    edges, test, classes = edges_of(model), model.test_scores, model.recipe.classes
    rows, tested = batch.rows, sum(test.counts) if test else 0
    columns = [
        {"column": recipe.sources.get(column, column), **{kind: count[kind] / rows for kind in KINDS}}
        for column, count in counts.items()
        if any(count[kind] for kind in KINDS)
    ]
    return {
        "problem": model.recipe.problem,
        "rows": rows,
        "mean_score": tally.mean,
        "batch_id": batch.batch_id,
        "model": _model_facts(model, now),
        "test_rows": tested,
        "predicted": [
            {
                "value": name,
                "share": tally.predicted.get(name, 0) / rows,
                "test": test.predicted[i] / tested if test else None,
            }
            for i, name in enumerate(classes)
        ],
        "scores": _compare(edges, test.counts if test else None, tally.bins),
        "columns": sorted(columns, key=lambda row: max(row[kind] for kind in KINDS), reverse=True),
        "usual_columns": len(counts) - len(columns),
        "shadow": _shadow_facts(model, shadow, tally, now) if shadow else None,
    }


def _shadow_facts(model: ScoringModel, shadow: ScoringModel, tally: Tally, now: datetime) -> dict[str, Any]:
    edges, bins = edges_of(model), range(len(edges_of(model)) + 1)
    return {
        "model": _model_facts(shadow, now),
        "scores": _compare(edges, [tally.bins.get(i, 0) for i in bins], tally.shadow_bins),
        "pairs": [{"model": old, "shadow": new, "rows": rows} for (old, new), rows in sorted(tally.pairs.items())],
        "gap": tally.gap,
        "distance": tally.distance,
        "largest": tally.largest,
    }


def _model_facts(model: ScoringModel, now: datetime) -> dict[str, Any]:
    created = datetime.fromtimestamp(model.version.created / 1000, UTC)
    return {
        "name": model.version.name,
        "version": model.version.version,
        "run_id": model.version.run_id,
        "created": created.strftime("%Y-%m-%d %H:%M UTC"),
        "days": max(0, (now - created).days),
        "threshold": model.threshold,
    }


def _compare(edges: Sequence[float], reference: Sequence[int] | None, bins: Mapping[int, int]) -> dict[str, Any]:
    """Return the shares of rows in each bin, for the reference and for the batch, with the PSI between them.

    Without a reference, its shares and the PSI are None.
    """
    import numpy as np

    current = [bins.get(i, 0) for i in range(len(edges) + 1)]
    psi, _, p_value = drift.compare_bins(np.array([reference, current]).T) if reference else (None, None, None)
    return {
        "psi": psi,
        "p_value": p_value,
        "bins": [
            {"label": label, "reference": old, "current": count / sum(current)}
            for label, old, count in zip(
                score_bins.labels(edges),
                [count / sum(reference) for count in reference] if reference else [None] * len(current),
                current,
                strict=True,
            )
        ],
    }


def metrics(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a scoring run, from the content of scoring.json."""
    values = {"scored_rows": facts["rows"], "score_psi": facts["scores"]["psi"]}
    if facts["predicted"]:
        values["predicted_positive_rate"] = facts["predicted"][-1]["share"]
    else:
        values["predicted_mean"] = facts["mean_score"]
    if facts["shadow"] and facts["predicted"]:
        values["shadow_agreement"] = agreement(facts)
    return {name: value for name, value in values.items() if value is not None}


def summary(facts: Mapping[str, Any]) -> str:
    """Return the line of a scoring run, from the content of scoring.json."""
    parts = [f"{facts['rows']:,} rows"]
    if facts["predicted"]:
        positive = facts["predicted"][-1]
        test = "" if positive["test"] is None else f" ({positive['test']:.1%} of the test table)"
        parts.append(f"{positive['share']:.1%} predicted {shown(positive['value'])}{test}")
    else:
        parts.append(f"{facts['mean_score']:.4g} predicted on average")
    model, shadow = facts["model"], facts["shadow"]
    days = "less than a day old" if not model["days"] else f"{model['days']:,} day{'s' * (model['days'] > 1)} old"
    parts.append(f"{_name(model)}, {days}")
    if shadow and not facts["predicted"]:
        parts.append(f"{_name(shadow['model'])} predicts numbers that differ by {shadow['distance']:.4g} on average")
    elif shadow:
        parts.append(f"{_name(shadow['model'])} predicts {agreement(facts):.1%} of the rows alike")
    return ", ".join(parts)


def agreement(facts: Mapping[str, Any]) -> float:
    """Return the share of rows for which the model and its shadow have the same prediction."""
    return float(
        sum(pair["rows"] for pair in facts["shadow"]["pairs"] if pair["model"] == pair["shadow"]) / facts["rows"]
    )


def _name(model: Mapping[str, Any]) -> str:
    return f"version {model['version']}" if model["version"] else f"train run {model['run_id'][:8]}"
