"""Simulate how often the intervals of the metrics besides the AUC cover the truth, and write the table into docs/qa.md.

`make simulate` does this with 1,000 test tables for each case, a slow test with few.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from multiprocessing import get_context

import numpy as np
from conftest import ROOT
from scipy.special import ndtri

from chaos import simulate
from chaos.simulate import CASES, Case
from ml_pipelines.problems.binary import METRICS
from ml_pipelines.problems.binary_intervals import intervals

NAMES = [name for name in METRICS if name != "auc"]
AREAS = (0.7, 0.9, 0.99)
POPULATION = 400_000  # rows that tell the truth
BEGIN = "<!-- metrics simulated by `make simulate`: begin -->"
END = "<!-- metrics simulated by `make simulate`: end -->"


@cache
def truth(rate: float, area: float) -> dict[str, float]:
    """Return each metric of a population, whose scores within a class are evenly spaced quantiles."""
    label = np.arange(POPULATION) < round(rate * POPULATION)
    noise = np.concatenate([ndtri((np.arange(n) + 0.5) / n) for n in (label.sum(), (~label).sum())])
    score = simulate.probabilities(noise, label, area, rate)
    found = intervals(label.astype(int), score, (score >= rate).astype(int), simulate.LEVEL)
    return {name: found[name].value for name in NAMES}


def coverage(case: Case, area: float, tables: int, seed: int) -> list[float]:
    """Return how many percent of each metric's intervals cover the truth; NaN if most tables have no interval.

    Scores are true probabilities, and the threshold is the rate of class 1. The number of rows of class 1 varies.
    """
    draw = np.random.default_rng([seed, *case])
    keys, rate = np.arange(case.rows) // case.rows_a_key, case.positives / case.rows
    ends = np.empty((tables, len(NAMES), 2))
    for i in range(tables):
        label = (draw.random(case.rows) < rate).astype(int)[keys]
        score = simulate.probabilities(simulate.noise(draw, keys), label, area, rate)
        predicted = (score >= rate).astype(int)
        found = intervals(label, score, predicted, simulate.LEVEL, keys if case.rows_a_key > 1 else None)
        ends[i] = [(found[name].low, found[name].high) if name in found else (np.nan, np.nan) for name in NAMES]
    true = np.array(list(truth(rate, area).values()))
    covered, printed = ((ends[..., 0] <= true) & (true <= ends[..., 1])).sum(0), np.isfinite(ends).all(2).sum(0)
    return np.where(2 * printed > tables, 100 * covered / np.maximum(printed, 1), np.nan).tolist()  # type: ignore[no-any-return]


def lines(tables: int, cases: Sequence[Case] = tuple(CASES)) -> Iterator[str]:
    """Return the lines of the table in Markdown."""
    yield f"| test rows | of class 1 | rows of a key | {' | '.join(name.replace('_', ' ') for name in NAMES)} |"
    yield f"|{'---|' * (3 + len(NAMES))}"
    with get_context("fork").Pool(2) as pool:
        jobs = [(case, area, tables, seed) for case, (seed, area) in product(cases, enumerate(AREAS))]
        results = pool.starmap(coverage, jobs, 1)
    for i, case in enumerate(cases):
        of_metric = zip(*results[i * len(AREAS) : (i + 1) * len(AREAS)], strict=True)
        cells = [", ".join("-" if np.isnan(x) else f"{x:.1f}" for x in percents) for percents in of_metric]
        yield f"| {case.rows:,} | {case.positives} | {case.rows_a_key} | {' | '.join(cells)} |"


def main(tables: int) -> int:
    """Write the table; return 1 if an interval covers too little."""
    page = ROOT / "docs/qa.md"
    simulate.write(page, "\n".join(lines(tables)), BEGIN, END)
    lowest = simulate.lowest_in(page.read_text(), BEGIN, END)
    sys.stdout.write(f"lowest coverage of the other metrics: {lowest:.1f}%\n")
    return int(lowest < simulate.LEAST)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000))
