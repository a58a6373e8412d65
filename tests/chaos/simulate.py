"""Simulate how often the intervals of the AUC cover the truth, and write the table into docs/qa.md.

`make simulate` does this with 1,000 test tables for each case, a quick test with few.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from conftest import ROOT

from ml_pipelines.problems.intervals import FEWEST_EVENTS
from ml_pipelines.problems.roc_auc import compare, interval

LEVEL = 0.95
LEAST = 92.0  # percent: what every interval that the gate prints must cover at least
AREAS = (0.6, 0.8, 0.95, 0.99)
LOSS = 0.02  # the second model's AUC is lower by this
LIKENESS = 0.9  # correlation of the two models' scores
KEY_EFFECT = 0.5  # the part of a score's variance that all rows of a key share
BEGIN, END = "<!-- simulated by `make simulate`: begin -->", "<!-- simulated by `make simulate`: end -->"

Floats = np.ndarray[Any, np.dtype[Any]]


class Case(NamedTuple):
    """A test table: its rows, how many of them are of class 1, and rows of each key."""

    rows: int
    positives: int
    rows_a_key: int


CASES = [
    Case(rows, positives, rows_a_key)
    for rows_a_key in (1, 5)
    for rows, positives in ((200, 10), (200, 50), (1000, 10), (1000, 50), (1000, 500), (4000, 200))
    if positives >= FEWEST_EVENTS * rows_a_key
]


def distance(area: float) -> float:
    """Return by how much two normal distributions with deviation 1 differ in their means if the AUC is `area`."""
    return math.sqrt(2) * NormalDist().inv_cdf(area)


def coverage(case: Case, area: float, tables: int, seed: int) -> tuple[float, float]:
    """Return how many percent of the intervals cover an AUC, and a difference of two AUCs.

    Scores are normal. All rows of a key have the same class, and a part of their scores in common.
    """
    draw = np.random.default_rng(seed)
    keys = np.arange(case.rows) // case.rows_a_key
    label = (np.arange(case.rows) < case.positives).astype(int)
    covered = np.zeros(2)
    for _ in range(tables):
        first, own = noise(draw, keys), noise(draw, keys)
        second = LIKENESS * first + math.sqrt(1 - LIKENESS**2) * own
        one, other = first + distance(area) * label, second + distance(area - LOSS) * label
        alone = interval(label, one, LEVEL, keys if case.rows_a_key > 1 else None)
        paired = compare(label, one, other, LEVEL, keys if case.rows_a_key > 1 else None)
        covered += alone.low <= area <= alone.high, paired.low <= LOSS <= paired.high
    alone_percent, paired_percent = 100 * covered / tables
    return float(alone_percent), float(paired_percent)


def noise(draw: np.random.Generator, keys: Floats) -> Floats:
    """Return a normal number for each row; rows of a key have a part in common."""
    own, common = draw.normal(size=len(keys)), draw.normal(size=len(keys))[keys]
    return math.sqrt(1 - KEY_EFFECT) * own + math.sqrt(KEY_EFFECT) * common


def probabilities(noise: Floats, label: Floats, area: float, rate: float) -> Floats:
    """Return the probability of class 1 of each row, from scores whose AUC is `area`; `rate` is its share."""
    apart = distance(area)
    odds: Floats = math.log(rate / (1 - rate)) + apart * (noise + apart * label) - apart**2 / 2
    return 1 / (1 + np.exp(-odds))


def table(tables: int, cases: Sequence[Case] = tuple(CASES), say: Callable[[str], object] = print) -> tuple[str, float]:
    """Return the table in Markdown, and the lowest coverage in it, in percent."""
    lines = [
        f"| test rows | of class 1 | rows of a key | {' | '.join(f'AUC {area}' for area in AREAS)} |",
        f"|{'---|' * (3 + len(AREAS))}",
    ]
    lowest = 100.0
    for case in cases:
        percents = [coverage(case, area, tables, seed) for seed, area in enumerate(AREAS)]
        lowest = min(lowest, *(percent for pair in percents for percent in pair))
        cells = [f"{alone:.1f}, {paired:.1f}" for alone, paired in percents]
        lines.append(f"| {case.rows:,} | {case.positives} | {case.rows_a_key} | {' | '.join(cells)} |")
        say(lines[-1])
    return "\n".join(lines), lowest


def lowest_in(page: str, first: str = BEGIN, last: str = END) -> float:
    """Return the lowest coverage in the table between two markers of a page, in percent."""
    return min(_percents(page, first, last))


def _percents(page: str, first: str, last: str) -> Iterator[float]:
    for line in page.partition(first)[2].partition(last)[0].splitlines():
        for cell in line.split("|")[4:-1]:
            yield from (float(part) for part in cell.split(",") if part.strip()[:1].isdigit())


def write(page: Path, text: str, first: str = BEGIN, last: str = END) -> None:
    """Replace what the page has between the two markers."""
    before, begin, rest = page.read_text().partition(first)
    _, end, after = rest.partition(last)
    assert begin and end, f"{page} has no markers"
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def main(tables: int) -> int:
    """Write the table; return 1 if an interval covers too little."""
    text, lowest = table(tables)
    write(ROOT / "docs/qa.md", text)
    sys.stdout.write(f"lowest coverage: {lowest:.1f}%\n")
    return int(lowest < LEAST)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000))
