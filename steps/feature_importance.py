"""Measure how much worse the model gets if a column is shuffled (Breiman 2001), on a sample of the training table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_pipelines.authoring import rules
from ml_pipelines.authoring.context import Outputs, StepContext
from ml_pipelines.modelling.features import split_label
from ml_pipelines.problems.problem import Problem, is_higher_better, problem_of
from ml_pipelines.text import shown

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

SHOWN = 20  # the most columns in the figure, and the most metrics


@dataclass(frozen=True)
class Params:
    """Each column of a sample of about `rows` rows is shuffled `repeats` times."""

    rows: int
    repeats: int

    def __post_init__(self) -> None:
        """Raise ValueError for a sample or a number of repeats that is not at least 1."""
        rules.at_least("rows", self.rows, 1)
        rules.at_least("repeats", self.repeats, 1)


def sample(frame: pl.DataFrame, label: str, rows: int, seed: int, has_classes: bool = True) -> pl.DataFrame:
    """Return a sample of about `rows` rows. Each class keeps its share of the rows, and at least one row."""
    import polars as pl

    if frame.height <= rows:
        return frame
    if not has_classes:
        return frame.sample(rows, seed=seed)
    numbered = pl.DataFrame({"class": frame[label]}).with_row_index("row").sort("class", maintain_order=True)
    classes = numbered.partition_by("class", maintain_order=True)
    parts = [part.sample(max(1, round(rows * part.height / frame.height)), seed=seed) for part in classes]
    return frame[pl.concat(parts)["row"]]


def importance(
    model: Any, features: pl.DataFrame, label: pl.Series, problem: Problem, repeats: int, seed: int
) -> pl.DataFrame:
    """Return a row for each feature, the most important first: the loss in the headline metric, with its deviation."""
    import polars as pl
    from sklearn.inspection import permutation_importance

    result = permutation_importance(
        model, features.to_pandas(), label.to_numpy(), scoring=problem.SCORER, n_repeats=repeats, random_state=seed
    )
    columns = {
        "feature": features.columns,
        "importance": result.importances_mean,
        "std": result.importances_std,
    }
    return pl.DataFrame(columns).sort("importance", "feature", descending=[True, False])


def figure(table: pl.DataFrame, problem: Problem) -> Figure:
    """Return a bar chart of the largest importances, with their standard deviations."""
    from matplotlib.figure import Figure

    top = table.head(SHOWN).reverse()
    chart = Figure(figsize=(6, 1 + 0.3 * top.height), layout="constrained")
    axes = chart.add_subplot()
    axes.barh(
        range(top.height),
        top["importance"].to_numpy(),
        xerr=top["std"].to_numpy(),
        color="#1f77b4",
        tick_label=[shown(name) for name in top["feature"]],
    )
    change = "loss in" if is_higher_better(problem) else "rise of"
    axes.set_xlabel(f"{change} {problem.METRICS[problem.HEADLINE][0]} when shuffled")
    axes.set_title("Permutation importance")
    return chart


def run(step: StepContext[Params], *, train_uri: str, train_run_id: str) -> Outputs:
    """Log the importances as a table and a figure."""
    model = step.load_model(train_run_id)
    names = list(model.feature_names_in_)
    problem = problem_of(step.origin(train_uri).problem)
    frame = step.read(train_uri, [*names, step.label])
    _, label = split_label(frame, step.label, names, problem)  # raises if the label is wrong; a sample can be constant
    rows = sample(frame.with_columns(label), step.label, step.params.rows, step.seed, problem.HAS_CLASSES)
    table = importance(model, rows.select(names), rows[step.label], problem, step.params.repeats, step.seed)
    step.log_table(table, "feature_importance.json")
    step.log_figure(figure(table, problem), "feature_importance.png")
    step.log_metrics(
        {f"importance.{row['feature']}": row["importance"] for row in table.head(SHOWN).iter_rows(named=True)}
    )
    form = problem.form(table["importance"][0])
    top = table.head(3).iter_rows(named=True)
    step.summary(", ".join(f"{shown(row['feature'])} {row['importance']:{form}}" for row in top))
    return {"feature_importance_run_id": step.run_id, "feature_importance_done": True}
