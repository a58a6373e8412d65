"""Populations from which simulations draw tables: 10 numbers, 2 categories, missing cells and a label."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl

LINEAR, CURVED = "linear", "non-linear"
NUMBERS = 10
CITIES = 12  # values of the second category
MISSING = 0.05  # share of the cells of the first two numbers and of the first category that are empty
MANY = 200_000  # rows by which a rate is set

Floats = np.ndarray[Any, np.dtype[np.float64]]


def draw(kind: str, rows: int, rate: float, seed: int) -> pl.DataFrame:
    """Return a table of a population: `id`, features, and `label`.

    Args:
        kind: LINEAR (each number and each category adds to the log-odds) or CURVED (bends, thresholds, interactions).
        rows: number of rows.
        rate: the population's share of class 1.
        seed: of the rows. The population itself is always the same.
    """
    table, effect, random = _rows(kind, rows, seed)
    chance = 1 / (1 + np.exp(-effect - _intercept(kind, rate)))
    return table.with_columns(label=pl.Series((random.random(rows) < chance).astype(int)))


def _rows(kind: str, rows: int, seed: int) -> tuple[pl.DataFrame, Floats, np.random.Generator]:
    """Return rows without a label, and what their features add to the log-odds of class 1."""
    random = np.random.default_rng([seed, rows])
    x, colour, city = random.normal(size=(rows, NUMBERS)), random.integers(0, 4, rows), random.integers(0, CITIES, rows)
    of_city = np.random.default_rng(0).normal(0, 0.4, CITIES)[city]
    if kind == LINEAR:
        effect = x @ (1 / np.arange(1, NUMBERS + 1)) + 0.4 * (colour - 1.5) + of_city
    else:
        effect = 1.2 * x[:, 0] * x[:, 1] + np.abs(x[:, 2]) + np.sin(2 * x[:, 3]) + (x[:, 4] > 1) + 0.5 * x[:, 5]
        effect = effect + np.where(colour == 0, x[:, 6], 0.3 * (colour - 1.5)) + of_city
    numbers = {f"x{i}": pl.Series(x[:, i]) for i in range(NUMBERS)}
    table = pl.DataFrame({"id": np.arange(rows), **numbers, "colour": [f"c{i}" for i in colour]})
    table = table.with_columns(city=pl.Series([f"city {i}" for i in city]))
    for name in ("x0", "x1", "colour"):
        table = table.with_columns(pl.when(pl.Series(random.random(rows) >= MISSING)).then(name))
    return table, effect, random


@cache
def _intercept(kind: str, rate: float) -> float:
    """Return the log-odds at which the population's share of class 1 is `rate`."""
    effect = _rows(kind, MANY, seed=0)[1]
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-effect - middle))).mean() < rate else (low, middle)
    return low
