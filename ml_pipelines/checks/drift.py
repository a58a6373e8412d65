"""Measures the drift of columns between two tables: how far values and missing cells have moved, and how surely."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Floats = np.ndarray[Any, np.dtype[np.float64]]

BINS = 10  # bins of a number column: its deciles, or one bin for each value if it has at most this many distinct values
CATEGORIES = 20  # at most this many values of a category column have bins of their own
RARE = 0.01  # a value with a smaller share of the rows has no bin of its own
# If a table would have fewer rows than this in a bin without drift, the test and the PSI join the bin with others
# (Cochran 1954).
FEWEST = 5
EPSILON = 1e-4  # in the PSI, a smaller share of rows counts as this share
OTHER, MISSING = "(other)", "(missing)"


@dataclass(frozen=True)
class Comparison:
    """The drift from the champion's training table to this model's.

    Args:
        rows: what `measure` returns for the columns that both tables have.
        sizes: the number of rows that were compared, of the champion's table and of this model's.
        only_before: the columns that only the champion's table has.
        only_now: the columns that only this model's table has.
        problem: why the tables were not compared; empty if they were.
    """

    rows: Sequence[dict[str, Any]] = ()
    sizes: tuple[int, int] = (0, 0)
    only_before: Sequence[str] = field(default_factory=list)
    only_now: Sequence[str] = field(default_factory=list)
    problem: str = ""


def measure(reference: pl.DataFrame, current: pl.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row for each column: its drift from the reference table to the current table.

    Both tables must have rows. A row of the result has:

    - `column`, and `kind`: number, category, or `changed` if the column is a number in only one table.
    - `psi`, `statistic` and `p_value` of the values. All are None if there is nothing to compare: a table has no
      values, all values are equal or rare, or the kind changed.
    - `missing_reference` and `missing_current`: the share of missing cells in each table. NaN counts as missing.
    - `missing_p_value`: the p-value of the difference of these shares; None if no cell is missing, or if all are.
    - `bins`: the label of each bin, and the share of each table's rows in it.

    Both tables together decide the bins, so that without drift no table is favoured. The bins of a number column are
    its deciles. A value that fills more than a tenth of the column has a bin of its own. If the column has at most BINS
    different values, each of them has its own bin. A category column has one bin for each common value, and one bin for
    all others.

    Values get Pearson's chi-squared test on their bins. Missing cells get the test of two proportions. If a test has
    two bins, it has Yates' correction. All p-values are adjusted for the number of tests in the result (Holm).
    """
    rows = [_row(reference[name], current[name]) for name in columns]
    places = [(row, name) for row in rows for name in ("p_value", "missing_p_value") if row[name] is not None]
    for (row, name), adjusted in zip(places, holm([row[name] for row, name in places]), strict=True):
        row[name] = adjusted
    return rows


def moved(row: Mapping[str, Any], *, threshold: float, missing: float, p_value: float) -> list[str]:
    """Return what has moved in a column: `type`, `values`, `missing`, or nothing.

    Values and missing cells have moved if the difference is clear (an adjusted p-value below `p_value`), and large (a
    PSI above `threshold`, shares of missing cells that differ by more than `missing`).
    """
    if row["kind"] == "changed":
        return ["type"]
    gap = abs(row["missing_current"] - row["missing_reference"])
    sizes = (("values", "p_value", row["psi"], threshold), ("missing", "missing_p_value", gap, missing))
    return [name for name, p, size, limit in sizes if row[p] is not None and row[p] < p_value and not size <= limit]


def drift_report(
    train_test: Sequence[Mapping[str, Any]], since_champion: Comparison, limits: Mapping[str, float]
) -> dict[str, Any]:
    """Return the content of drift.json.

    Args:
        train_test: what `measure` returns for the training table and the test table.
        since_champion: the drift since the champion's training table.
        limits: the limits for `moved`, which adds to each row what has moved.
    """
    now, champion = (
        [{**row, "moved": moved(row, **limits)} for row in rows] for rows in (train_test, since_champion.rows)
    )
    return {
        "train_test": now,
        "champion": None if since_champion.problem else champion,
        "only_before": list(since_champion.only_before),
        "only_now": list(since_champion.only_now),
        "problem": since_champion.problem,
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979).

    If you reject every test whose adjusted p-value is below a level, the chance of any false alarm is at most this
    level, however the tests depend on each other.
    """
    largest, adjusted = 0.0, [0.0] * len(p_values)
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = largest
    return adjusted


def rows_needed(rows: Sequence[Mapping[str, Any]], sizes: tuple[int, int], *, threshold: float, p_value: float) -> int:
    """Return how many rows each table must have to show a drift: 0 if they have enough.

    With this many rows, a column of ten bins with a PSI of `threshold` is clear in about half of the cases.
    """
    from scipy.special import chdtri

    tests = sum(row[name] is not None for row in rows for name in ("p_value", "missing_p_value"))
    if not tests or not threshold:
        return 0
    wanted = (float(chdtri(BINS - 1, p_value / tests)) - BINS + 1) / threshold
    return 0 if wanted <= sizes[0] * sizes[1] / sum(sizes) else math.ceil(2 * wanted)


def stability_index(reference: Iterable[float], current: Iterable[float]) -> float:
    """Return the population stability index (PSI) of two lists of shares: the sum of (c - r) ln(c / r).

    r is the share of the reference table's rows in a bin, and c is the share of the current table's rows in this bin. A
    PSI below 0.1 means a small drift, and a PSI above 0.25 means a large drift (Siddiqi, Credit Risk Scorecards, 2006).
    A share below EPSILON counts as EPSILON, since 0 has no logarithm.
    """
    pairs = ((max(r, EPSILON), max(c, EPSILON)) for r, c in zip(reference, current, strict=True))
    return math.fsum((c - r) * math.log(c / r) for r, c in pairs)


def _row(reference: pl.Series, current: pl.Series) -> dict[str, Any]:
    import numpy as np

    numeric = [column.dtype.is_numeric() for column in (reference, current)]
    kind = "changed" if numeric[0] != numeric[1] else "number" if numeric[0] else "category"
    if numeric[0] and numeric[1]:
        samples = _sorted(reference), _sorted(current)
        present = np.array([len(sample) for sample in samples])
        labels, counts = _number_bins(*samples)
    else:
        present = np.array([reference.count(), current.count()])
        labels, counts = _category_bins(reference, current)
    rest = present - counts.sum(axis=0)
    if rest.any():
        labels, counts = [*labels, OTHER], np.vstack([counts, rest])
    rows = np.array([len(reference), len(current)])
    missing = rows - present
    psi, statistic, p_value = (None, None, None) if kind == "changed" else compare_bins(counts)
    shares = np.vstack([counts, missing]) / rows
    return {
        "column": reference.name,
        "kind": kind,
        "psi": psi,
        "statistic": statistic,
        "p_value": p_value,
        "bins": [
            {"label": label, "reference": old, "current": new}
            for label, (old, new) in zip([*labels, MISSING], shares.tolist(), strict=True)
        ],
        "missing_reference": float(shares[-1, 0]),
        "missing_current": float(shares[-1, 1]),
        "missing_p_value": _chi_squared(np.stack([present, missing]))[1] if missing.any() and present.any() else None,
    }


def compare_bins(counts: Floats) -> tuple[float | None, float | None, float | None]:
    """Return the PSI, the statistic of the chi-squared test and its p-value, from the rows in each bin of two tables.

    The function subtracts from the PSI what chance alone gives on average: (bins - 1) (1 / n + 1 / m) for tables of n
    and m rows.
    """
    rows = counts.sum(axis=0)
    if not rows.all() or (counts.sum(axis=1) > 0).sum() < 2:
        return None, None, None
    counts = _pooled(counts)
    by_chance = (len(counts) - 1) * float((1 / rows).sum())
    psi = stability_index(*(counts / rows).T.tolist())
    return max(0.0, psi - by_chance), *_chi_squared(counts)


def _pooled(counts: Floats) -> Floats:
    """Return the rows of each bin and table, with sparse bins joined. At least two bins remain."""
    import numpy as np

    counts = counts[np.argsort(-counts.sum(axis=1), kind="stable")]
    expected = counts.sum(axis=1) * counts.sum(axis=0).min() / counts.sum()
    kept = max(1, int((expected >= FEWEST).sum()))
    if kept > 1 and 0 < expected[kept:].sum() < FEWEST:
        kept -= 1
    rest = counts[kept:].sum(axis=0)
    return np.vstack([counts[:kept], rest]) if rest.any() else counts[:kept]


def _chi_squared(counts: Floats) -> tuple[float, float]:
    """Return Pearson's statistic and its p-value. Each bin and each table has rows."""
    import numpy as np
    from scipy.special import chdtrc

    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    gaps = np.abs(counts - expected)
    if len(counts) == 2:
        gaps = np.maximum(gaps - 0.5, 0)  # Yates' correction: without it, small counts give false alarms
    statistic = float((gaps**2 / expected).sum())
    return statistic, float(chdtrc(len(counts) - 1, statistic))


def _sorted(column: pl.Series) -> Floats:
    """Return the values that are not missing, sorted."""
    import polars as pl

    return column.cast(pl.Float64).fill_nan(None).drop_nulls().sort().to_numpy()


def _number_bins(old: Floats, new: Floats) -> tuple[list[str], Floats]:
    """Return the labels of a number column's bins, and the rows in each bin of two tables, from their sorted values."""
    import numpy as np

    both = np.sort(np.concatenate([old, new]), kind="stable")  # a merge: both parts are sorted
    distinct = both[np.append(True, both[1:] != both[:-1])] if len(both) else both
    if len(distinct) <= BINS:
        below = np.stack([np.searchsorted(sample, distinct, "right") for sample in (old, new)], axis=1)
        return [f"{value:.15g}" for value in distinct], np.diff(below, axis=0, prepend=0)
    edges, times = np.unique(both[[len(both) * i // BINS for i in range(1, BINS)]], return_counts=True)
    common = np.searchsorted(distinct, edges[times > 1])  # each fills more than a tenth, and so gets a bin of its own
    edges = np.union1d(edges, distinct[common[common > 0] - 1])
    edges = edges[edges < distinct[-1]]
    inner = [f"{low:.6g} to {high:.6g}" for low, high in pairwise(edges)]
    below = np.stack([np.append(np.searchsorted(s, edges, "right"), len(s)) for s in (old, new)], axis=1)
    return [f"up to {edges[0]:.6g}", *inner, f"above {edges[-1]:.6g}"], np.diff(below, axis=0, prepend=0)


def _category_bins(reference: pl.Series, current: pl.Series) -> tuple[list[str], Floats]:
    """Return the common values of a category column, the most frequent first, and their rows in two tables."""
    import numpy as np
    import polars as pl

    old, new = (_counts(column) for column in (reference, current))
    both = pl.concat([old, new]).group_by("value").agg(pl.col("count").sum())
    common = both.filter(pl.col("count") >= RARE * (len(reference) + len(current)))
    values = common.sort(-pl.col("count").cast(int), "value")["value"].head(CATEGORIES).to_list()
    of_old, of_new = (dict(table.filter(pl.col("value").is_in(values)).iter_rows()) for table in (old, new))
    return values, np.array([(of_old.get(v, 0), of_new.get(v, 0)) for v in values], float).reshape(-1, 2)


def _counts(column: pl.Series) -> pl.DataFrame:
    """Return the values of a column, without missing ones, and the number of rows of each."""
    import polars as pl

    return column.cast(pl.String).drop_nulls().alias("value").value_counts()
