"""Compare the default model with scikit-learn's defaults and with logistic regression: the table in docs/models.md.

`make simulate` does this on many tables, a slow test on few.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from statistics import fmean
from typing import Any, NamedTuple

import polars as pl
from conftest import ROOT
from recording import RecordingContext
from sklearn import datasets
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from chaos import simulate
from chaos.populations import CURVED, LINEAR, draw
from ml_pipelines.modelling.estimators import BOOSTING
from ml_pipelines.modelling.features import score_table
from ml_pipelines.problems import binary
from steps import train

LOGISTIC = train.Params("sklearn.linear_model.LogisticRegression", {}, "one_hot", "median", True)
MODELS = {
    "default": train.Params(BOOSTING),
    "scikit-learn's options": train.Params(BOOSTING, {"learning_rate": 0.1}),  # any option: no default of ours
    "logistic regression": LOGISTIC,
}
FRESH = 50_000  # rows that judge a model
FOLDS = 5
SAMPLES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {  # scikit-learn's data set, and what is class 1
    "breast_cancer": (datasets.load_breast_cancer, lambda target: target == 0),
    "diabetes, above 140": (datasets.load_diabetes, lambda target: target > 140),
    "diabetes, above 265": (datasets.load_diabetes, lambda target: target > 265),
    "digits, eight": (datasets.load_digits, lambda target: target == 8),
    "digits, odd": (datasets.load_digits, lambda target: target % 2),
    "wine, second": (datasets.load_wine, lambda target: target == 1),
}


class Case(NamedTuple):
    """A population with its rows in training and its share of class 1, and how many tables are drawn."""

    kind: str
    rows: int
    rate: float
    tables: int


CASES = [
    Case(kind, rows, rate, tables)
    for kind in (LINEAR, CURVED)
    for rows, tables in ((1_000, 10), (4_000, 4), (20_000, 2), (200_000, 1))
    for rate in (0.05, 0.5)
]


def trained(frame: pl.DataFrame, params: train.Params) -> tuple[Any, float]:
    """Return the model that the step train fits on a table with `id` and `label`, and its AUC in training."""
    step = RecordingContext("train", params, {"train": frame})
    train.run(step, train_uri="train")
    return step.models[0][0], step.metrics["train_auc"]


def judged(known: pl.DataFrame, fresh: pl.DataFrame) -> list[float]:
    """Return the AUC of each model on fresh rows, then the log loss of each."""
    label = fresh["label"].to_numpy()
    scores = [score_table(trained(known, params)[0], fresh.drop("id", "label"), binary) for params in MODELS.values()]
    measures: tuple[Any, ...] = (roc_auc_score, log_loss)
    return [float(measure(label, score)) for measure in measures for score in scores]


def of_population(case: Case, table: int) -> list[float]:
    return judged(draw(case.kind, case.rows, case.rate, table + 1), draw(case.kind, FRESH, case.rate, 0))


def of_sample(name: str, fold: int) -> list[float]:
    load, is_one = SAMPLES[name]
    data = load()
    frame = pl.DataFrame({f"x{i}": column for i, column in enumerate(data.data.T)})
    frame = frame.with_columns(label=pl.Series(is_one(data.target).astype(int))).with_row_index("id")
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(frame, frame["label"])
    known, fresh = list(folds)[fold]
    return judged(frame[known], frame[fresh])


def lines(cases: Sequence[Case], samples: Sequence[str], processes: int = 2) -> Iterator[tuple[str, list[float]]]:
    """Return each line of the table, with the mean of its six numbers."""
    with get_context("fork").Pool(processes) as pool:
        for case in cases:
            numbers = pool.starmap(of_population, [(case, table) for table in range(case.tables)], 1)
            means = [fmean(column) for column in zip(*numbers, strict=True)]
            yield line(f"simulated, {case.kind} effects", case.rows, case.rate, means), means
        for name in samples:
            numbers = pool.starmap(of_sample, [(name, fold) for fold in range(FOLDS)], 1)
            means = [fmean(column) for column in zip(*numbers, strict=True)]
            load, is_one = SAMPLES[name]
            truth = is_one(load().target)
            yield line(name, len(truth), truth.mean(), means), means


def line(name: str, rows: int, rate: float, means: Sequence[float]) -> str:
    cells = [", ".join(f"{number:.3f}" for number in part) for part in (means[:3], means[3:])]
    return f"| {name} | {rows:,} | {rate:.0%} | {' | '.join(cells)} |"


def main() -> None:
    """Write the table."""
    text = ["| table | rows | of class 1 | AUC | log loss |", "|---|---|---|---|---|"]
    for row, _ in lines(CASES, list(SAMPLES)):
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
        text.append(row)
    simulate.write(ROOT / "docs/models.md", "\n".join(text))


if __name__ == "__main__":
    main()
