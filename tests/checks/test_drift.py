"""Tests of drift: its numbers match hand calculations and scipy, chance rarely moves a column, and real drift does."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2_contingency

from ml_pipelines.checks.drift import CATEGORIES, MISSING, OTHER, holm, measure, moved, stability_index
from ml_pipelines.config.loading import load

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=2000)
LIMITS = load("local").steps["model_qa"].params.checks["drift"]
DOCS = (Path(__file__).parents[2] / "docs/drift.md").read_text()


def measure_column(reference: Any, current: Any, dtype: Any = None) -> dict[str, Any]:
    """Return the drift row of one column with these two lists of cells."""
    frames = (pl.DataFrame({"x": pl.Series(cells, dtype=dtype)}) for cells in (reference, current))
    (row,) = measure(*frames, ["x"])
    json.dumps(row, allow_nan=False)  # the step logs it as JSON
    assert sum(b["reference"] for b in row["bins"]) == pytest.approx(1)
    assert sum(b["current"] for b in row["bins"]) == pytest.approx(1)
    return row


def shares(row: dict[str, Any]) -> dict[str, tuple[float, float]]:
    return {b["label"]: (b["reference"], b["current"]) for b in row["bins"]}


def move(reference: Any, current: Any, dtype: Any = None) -> list[str]:
    """Return what has moved in one column, by the default limits."""
    return moved(measure_column(reference, current, dtype), **LIMITS)


def test_the_stability_index_matches_a_hand_calculation() -> None:
    by_hand = 0.3 * math.log(0.8 / 0.5) - 0.3 * math.log(0.2 / 0.5)
    by_chance = 1 / 100 + 1 / 100  # what two bins of 100 rows each give on average without drift
    assert stability_index([0.5, 0.5], [0.8, 0.2]) == pytest.approx(by_hand)
    assert measure_column(["a", "b"] * 50, ["a"] * 80 + ["b"] * 20)["psi"] == pytest.approx(by_hand - by_chance)
    assert measure_column([0, 1] * 50, [0] * 80 + [1] * 20)["psi"] == pytest.approx(by_hand - by_chance)


def test_an_empty_bin_counts_as_one_row_of_ten_thousand() -> None:
    by_hand = (1 - 0.5) * math.log(1 / 0.5) + (0.0001 - 0.5) * math.log(0.0001 / 0.5)
    assert stability_index([0.5, 0.5], [1, 0]) == pytest.approx(by_hand)
    assert stability_index([0.5, 0.5, 0], [1, 0, 0]) == pytest.approx(by_hand)


@pytest.mark.parametrize("cells", [NORMAL, ["a", "b", None] * 20, [1, 2, None] * 20, [True, False] * 20])
def test_equal_rows_show_no_drift(cells: Any) -> None:
    row = measure_column(cells, cells)
    assert row["psi"] == 0
    assert row["statistic"] == pytest.approx(0)
    assert row["p_value"] == pytest.approx(1)
    assert row["missing_p_value"] in (None, 1)


def test_the_bins_of_a_number_are_the_deciles_of_both_tables() -> None:
    row = measure_column(NORMAL[:1500], NORMAL[1500:] + 1)
    *deciles, missing = row["bins"]
    assert [3 * b["reference"] + b["current"] for b in deciles] == pytest.approx([0.4] * 10, abs=0.005)
    assert missing == {"label": MISSING, "reference": 0, "current": 0}
    assert row["kind"] == "number"
    edges = np.sort(np.append(NORMAL[:1500], NORMAL[1500:] + 1))[[200 * i for i in range(1, 10)]]
    assert deciles[0]["label"] == f"up to {edges[0]:.6g}"
    assert deciles[-1]["label"] == f"above {edges[-1]:.6g}"
    assert [b["current"] for b in deciles] == pytest.approx(
        np.histogram(NORMAL[1500:] + 1, [-np.inf, *np.nextafter(edges, np.inf), np.inf])[0] / 500
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_a_common_value_has_a_bin_of_its_own(sign: int) -> None:
    cells = np.where(np.arange(2000) % 20 == 0, NORMAL**2 + 1, 0) * sign  # 95 % zeros
    row = measure_column(cells, cells)
    assert (0.95, 0.95) in shares(row).values()


@pytest.mark.parametrize(
    ("reference", "current", "table"),
    [
        (["a", "b", "c", None] * 25, ["a"] * 30 + ["b"] * 20 + ["d"] * 20, [[25, 30], [25, 20], [25, 0], [0, 20]]),
        ([True, False] * 20, [True] * 9 + [False] * 11, [[20, 9], [20, 11]]),
        ([1, 2, 3] * 20, [1] * 30 + [2] * 20 + [3] * 30, [[20, 30], [20, 20], [20, 30]]),
        (["a"] * 90 + ["b"] * 6 + ["c"] * 4, ["a"] * 40 + ["b"] * 4 + ["c"] * 6, [[90, 40], [10, 10]]),
        (["a"] * 90 + ["b"] * 2, ["a"] * 30 + ["b"], [[90, 30], [2, 1]]),
    ],
    ids=["unseen-and-missing", "two-by-two", "few-numbers", "sparse-bins-joined", "two-bins-are-never-joined"],
)
def test_the_test_of_values_agrees_with_scipy(reference: Any, current: Any, table: Any) -> None:
    row = measure_column(reference, current)
    expected = chi2_contingency(table)
    assert row["statistic"] == pytest.approx(expected.statistic)
    if row["missing_p_value"] is None:
        assert row["p_value"] == pytest.approx(expected.pvalue)


def test_the_test_of_missing_cells_agrees_with_scipy() -> None:
    row = measure_column([5] * 90 + [None] * 10, [5] * 30 + [None] * 10)
    assert row["missing_p_value"] == pytest.approx(chi2_contingency([[90, 30], [10, 10]]).pvalue)
    assert (row["missing_reference"], row["missing_current"]) == (0.1, 0.25)


def test_p_values_are_adjusted_for_their_number() -> None:
    assert holm([0.04, 0.01, 0.03, 0.9]) == pytest.approx([0.09, 0.04, 0.09, 0.9])
    assert holm([]) == []
    old, new = pl.DataFrame({"x": [0, 1] * 50, "y": [0, 1] * 50}), pl.DataFrame({"x": [0] * 70 + [1] * 30})
    alone = measure_column(old["x"], new["x"])["p_value"]
    both = measure(old, new.with_columns(y=old["y"]), ["x", "y"])
    assert [row["p_value"] for row in both] == pytest.approx([2 * alone, 1])


def test_a_number_equal_to_an_edge_is_in_the_bin_below_it() -> None:
    assert shares(measure_column(range(100), [9, 10]))["up to 9"] == (0.1, 0.5)


def test_a_category_with_one_percent_of_the_rows_has_a_bin() -> None:
    assert shares(measure_column(["a"] * 88 + ["b"] * 2, ["a"] * 110))["b"] == (2 / 90, 0)


def test_rare_and_unseen_categories_share_a_bin() -> None:
    row = measure_column(["a"] * 995 + ["rare"] * 5, ["a"] * 480 + ["rare", "new"] * 5 + [OTHER, MISSING] * 5)
    assert shares(row) == {"a": (0.995, 0.96), OTHER: (0.005, 0.04), MISSING: (0, 0)}
    assert row["p_value"] < 0.001


def test_the_number_of_category_bins_is_limited() -> None:
    row = measure_column([f"c{i}" for i in range(50)] * 4, ["c1"] * 9)
    assert len(row["bins"]) == CATEGORIES + 2
    assert shares(row)[OTHER] == (pytest.approx((50 - CATEGORIES) / 50), 0)
    assert move([f"c{i}" for i in range(3000)], [f"d{i}" for i in range(3000)]) == []  # a different text in each row


def test_a_number_with_few_values_has_a_bin_for_each_value() -> None:
    row = measure_column([5] * 20, [4] * 10 + [5] * 10)
    assert shares(row) == {"4": (0, 0.5), "5": (1, 0.5), MISSING: (0, 0)}
    assert moved(row, **LIMITS) == ["values"]


def test_missing_cells_are_tested_apart_from_values() -> None:
    row = measure_column([1.5, 2.5] * 50, [1.5, 2.5, None, float("nan")] * 25)
    assert shares(row) == {"1.5": (0.5, 0.25), "2.5": (0.5, 0.25), MISSING: (0, 0.5)}
    assert (row["psi"], row["p_value"]) == (0, 1)  # the values that are not missing have not changed
    assert moved(row, **LIMITS) == ["missing"]
    assert moved(row, **{**LIMITS, "missing": 0.5}) == []


@pytest.mark.parametrize("dtype", [pl.Float64, pl.String])
def test_a_column_without_values_has_only_missing_cells(dtype: Any) -> None:
    some, none = ["1", "2"] * 20, [None] * 40
    for reference, current in ((some, none), (none, some), (none, none)):
        cells = (pl.Series("x", c, dtype=pl.String).cast(dtype).to_frame() for c in (reference, current))
        (row,) = measure(*cells, ["x"])
        assert [row[name] for name in ("psi", "statistic", "p_value")] == [None] * 3
        assert moved(row, **LIMITS) == ([] if reference == current else ["missing"])


def test_a_constant_column_moves_only_to_another_value() -> None:
    row = measure_column([7] * 40, [7] * 40)
    assert [row[name] for name in ("psi", "p_value", "missing_p_value")] == [None] * 3
    assert move([7] * 40, [8] * 40) == move(["a"] * 40, ["b"] * 40) == ["values"]


def test_a_column_that_is_a_number_in_one_table_only_has_moved() -> None:
    (row,) = measure(pl.DataFrame({"x": [1, 2]}), pl.DataFrame({"x": ["1", "2"]}), ["x"])
    assert (row["kind"], row["psi"], moved(row, **LIMITS)) == ("changed", None, ["type"])
    assert shares(measure_column([True, False], [True, True])) == {"true": (0.5, 1), "false": (0.5, 0), MISSING: (0, 0)}


def test_each_requested_column_has_a_row_whatever_its_name() -> None:
    frame = pl.DataFrame({"count": ["a", "b"], "value": ["a", "b"], "bins": [1, 2]})
    assert [row["column"] for row in measure(frame, frame, ["count", "bins", "value"])] == ["count", "bins", "value"]


# -- simulations with fixed seeds; docs/drift.md states their bounds


def sample(seed: int, rows: int, columns: int = 30) -> pl.DataFrame:
    """Return a table without drift: its columns are numbers, flags, zeros with few numbers, counts and categories."""
    draw, cells = np.random.default_rng(seed), np.empty((rows, columns), object)
    for i in range(columns):
        kinds = (
            lambda: np.where(draw.random(rows) < 0.05, None, draw.normal(size=rows)),
            lambda: (draw.random(rows) < 0.03) * 1.0,
            lambda: draw.lognormal(size=rows) * (draw.random(rows) < 0.1),
            lambda: draw.poisson(4, rows) * 1.0,
            lambda: draw.choice([f"value {j}" for j in range(100)], rows),
        )
        cells[:, i] = kinds[i % 5]()
    return pl.DataFrame({f"c{i}": cells[:, i].tolist() for i in range(columns)})


def stated(text: str) -> float:
    """Return the number that docs/drift.md has in the place of the * of this text."""
    [number] = re.findall(re.escape(text).replace(r"\*", r"([\d.]+)"), DOCS)
    return float(number)


@pytest.mark.parametrize(("old", "new", "tables"), [(800, 200, 40), (4000, 1000, 12)])
def test_chance_rarely_moves_a_column(old: int, new: int, tables: int) -> None:
    assert stated("no column moves in any of * pairs") == 52
    any_clear = any_moved = 0
    for seed in range(tables):
        reference, current = sample(2 * seed, old), sample(2 * seed + 1, new)
        rows = measure(reference, current, reference.columns)
        any_clear += any(moved(row, threshold=0, missing=0, p_value=0.05) for row in rows)
        any_moved += any(moved(row, **LIMITS) for row in rows)
    assert any_moved == 0
    assert 100 * any_clear / tables <= stated(
        "a column would move in at most *% of the pairs"
    )  # p_value 0.05 without a limit of the size, by Holm at most 0.05 on average


@pytest.mark.parametrize("gone", [0.6, 0.95])
def test_numbers_that_go_missing_are_found(gone: float) -> None:
    assert stated("goes missing is found in * of 20 pairs") == 20
    for seed in range(10):
        draw = np.random.default_rng(seed)
        new = np.where(draw.random(200) < gone, np.nan, draw.normal(size=200))
        reference, current = (frame.with_columns(x=pl.Series(x)) for frame, x in tables(seed, NORMAL[:800], new))
        assert [row["column"] for row in measure(reference, current, reference.columns) if moved(row, **LIMITS)] == [
            "x"
        ]


def test_a_rare_flag_that_becomes_common_is_found() -> None:
    found = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        flags = (draw.random(800) < 0.02) * 1.0, (draw.random(200) < 0.15) * 1.0
        reference, current = (frame.with_columns(x=pl.Series(x)) for frame, x in tables(seed, *flags))
        found += bool(moved(measure(reference, current, reference.columns)[-1], **LIMITS))
    assert found >= stated("at least * of 20")


def tables(seed: int, old: Any, new: Any) -> list[tuple[pl.DataFrame, Any]]:
    """Return two tables of 30 columns without drift, each with the cells of one more column."""
    return [(sample(2 * seed + i, len(cells), 9), cells) for i, cells in enumerate((old, new))]
