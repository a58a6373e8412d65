"""Simulate the whole gate: false refusals, power, noise and equal challengers. The tables stand in docs/qa.md.

`make simulate` does this with many tables, a slow test with few. The importance check is off: its step takes too long.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from conftest import ROOT
from recording import IDENTITY, RecordingContext

from chaos import simulate
from chaos.populations import CURVED, LINEAR, draw
from chaos.simulate_models import LOGISTIC, MODELS, trained
from ml_pipelines.config.loading import load
from ml_pipelines.config.schema import Config
from ml_pipelines.errors import BadData
from ml_pipelines.models.registry import Version
from steps import evaluate, model_qa

FRESH = 200_000  # rows that tell whether a refusal is right
AREA = 0.85  # AUC of a simulated champion
BEGIN = "<!-- gate simulated by `make simulate`: begin -->"
END = "<!-- gate simulated by `make simulate`: end -->"


class Case(NamedTuple):
    """A model and the tables that it meets: rows of training and test together, and the share of class 1."""

    model: str
    rows: int
    rate: float
    tables: int


CASES = [
    Case(model, rows, rate, tables)
    for model in ("default", "logistic regression")
    for rows, tables in ((1_000, 200), (4_000, 200), (20_000, 100))
    for rate in (0.05, 0.5)
]
DUELS = [(200, 10), (800, 40), (800, 400), (2_000, 1_000)]  # test rows, and how many of them are of class 1
DUEL_TABLES, NOISE_TABLES = 200, 200


class Outcome(NamedTuple):
    """The gate's verdict, and each check's."""

    verdict: str
    checks: dict[str, str]


class Column:
    """A fitted model whose probability of class 1 is a column of the table."""

    feature_names_in_ = ("champion", "challenger")

    def __init__(self, name: str) -> None:
        self.name = name

    def predict_proba(self, features: pl.DataFrame) -> Any:
        return features.select(1 - pl.col(self.name), pl.col(self.name).alias("score")).to_numpy()


@cache
def config() -> Config:
    return load("local", ["steps.model_qa.params.checks.importance=null"])


def judge(
    train: pl.DataFrame, test: pl.DataFrame, model: Any, train_auc: float, champion: tuple[pl.DataFrame, Any] | None
) -> Outcome:
    """Return what evaluate and model_qa conclude about a model; `champion` is a training table and a fitted model."""
    steps, frames, models = config().steps, {"train": train, "test": test}, {"t": model}
    evaluated = RecordingContext("evaluate", steps["evaluate"].params, frames, models, config=config())
    outputs = evaluate.run(evaluated, test_uri="test", train_run_id="t")
    version = None
    if champion:
        version = Version("model", 1, "old", 0, {"train_uri": "older", **IDENTITY})
        frames, models = {**frames, "older": champion[0]}, {**models, "old": champion[1]}
    frames = {**frames, "e/predictions.parquet": evaluated.tables["predictions.parquet"]}
    metrics = {"t": {"train_auc": train_auc}}
    step = RecordingContext(
        *("model_qa", steps["model_qa"].params, frames, models), metrics=metrics, champion=version, config=config()
    )
    inputs: dict[str, Any] = {"train_uri": "train", "test_uri": "test", "train_run_id": "t", "evaluate_run_id": "e"}
    model_qa.run(step, **inputs, feature_importance_run_id="i", test_headline=outputs["test_headline"])
    checks = {check["check"]: check["verdict"] for check in step.json["qa_report.json"]["checks"]}
    return Outcome(step.json["qa_report.json"]["verdict"], checks)


def refusal(case: Case, table: int) -> tuple[str, list[str]]:
    """Return the gate's verdict on a model whose champion is from the same population, and the checks failed falsely.

    A check fails falsely if it does not fail on FRESH rows. Half of the tables are of each population.
    """
    kind, parts = (LINEAR, CURVED)[table % 2], []
    for seed in (2 * table + 1, 2 * table + 2):
        frame = draw(kind, case.rows, case.rate, seed)
        known = frame.head(case.rows * 4 // 5)
        parts.append((known, frame.tail(case.rows // 5), *trained(known, MODELS[case.model])))
    (older, _, champion, _), (known, test, model, train_auc) = parts
    try:
        outcome = judge(known, test, model, train_auc, (older, champion))
    except BadData:  # the test table has rows of one class only
        return "undecided", []
    failed = [name for name, verdict in outcome.checks.items() if verdict == "failed"]
    if not failed:
        return outcome.verdict, []
    fresh = judge(known, draw(kind, FRESH, case.rate, 0), model, train_auc, (older, champion)).checks
    return outcome.verdict, [name for name in failed if fresh[name] != "failed"]


def duel(rows: int, positives: int, loss: float, seed: int) -> str:
    """Return the gate's verdict on a challenger whose true AUC is lower than the champion's by `loss`."""
    random, rate = np.random.default_rng([seed, rows, positives]), positives / rows
    label = (np.arange(rows) < positives).astype(int)
    first = random.normal(size=rows)
    like = simulate.LIKENESS
    second = like * first + math.sqrt(1 - like**2) * random.normal(size=rows)
    table = pl.DataFrame({"id": np.arange(rows), "label": label})
    for name, noise, area in (("champion", first, AREA), ("challenger", second, AREA - loss)):
        table = table.with_columns(pl.Series(name, simulate.probabilities(noise, label, area, rate)))
    return judge(table, table, Column("challenger"), AREA, (table, Column("champion"))).verdict


def noise(seed: int) -> str:
    """Return the gate's verdict on logistic regression that learned random labels: 200 rows, 10 of them of class 1."""
    table = draw(LINEAR, 200, 0.5, seed)
    label = np.random.default_rng(seed).permutation(np.arange(200) < 10).astype(int)
    table = table.with_columns(label=pl.Series(label))
    known, test = table.head(160), table.tail(40)
    try:
        model, train_auc = trained(known, LOGISTIC)
        return judge(known, test, model, train_auc, None).verdict
    except BadData:  # a side has rows of one class only
        return "stopped"


def percent(count: int, of: int) -> str:
    return f"{100 * count / of:.0f}%"


def lines(cases: Sequence[Case], duels: Sequence[tuple[int, int]], tables: int, noises: int) -> Iterator[str]:
    """Return the lines of the tables and of the sentence below them."""
    with get_context("fork").Pool(2) as pool:
        yield "| model | rows | of class 1 | tables | passed | undecided | refused | refused falsely, by check |"
        yield f"|{'---|' * 8}"
        for case in cases:
            results = pool.starmap(refusal, [(case, table) for table in range(case.tables)], 1)
            verdicts = Counter(verdict for verdict, _ in results)
            false = sum(bool(names) for _, names in results)
            by_check = Counter(name for _, names in results for name in names).most_common()
            words = ", ".join([percent(false, case.tables), *(f"{name} {count}" for name, count in by_check)])
            shares = [percent(verdicts[verdict], case.tables) for verdict in ("passed", "undecided", "refused")]
            yield f"| {case.model} | {case.rows:,} | {case.rate:.0%} | {case.tables} | {' | '.join(shares)} | {words} |"
        yield ""
        yield "| test rows | of class 1 | equal challenger is crowned | challenger that loses 0.02 AUC is crowned |"
        yield f"|{'---|' * 4}"
        for rows, positives in duels:
            crowned = [
                pool.starmap(duel, [(rows, positives, loss, seed) for seed in range(tables)], 4).count("passed")
                for loss in (0.0, simulate.LOSS)
            ]
            yield f"| {rows:,} | {positives:,} | {' | '.join(percent(count, tables) for count in crowned)} |"
        crowned_noise = pool.map(noise, range(noises), 4).count("passed")
        yield ""
        yield f"Of {noises} tables of 200 rows with random labels, 10 of class 1, {crowned_noise} got a champion."


def main(divisor: int) -> None:
    """Write the tables; `divisor` divides the number of tables of each case."""
    text = []
    cases = [case._replace(tables=case.tables // divisor) for case in CASES]
    for row in lines(cases, DUELS, DUEL_TABLES // divisor, NOISE_TABLES // divisor):
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
        text.append(row)
    simulate.write(ROOT / "docs/qa.md", "\n".join(text), BEGIN, END)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
