"""Tests of drift: its numbers match hand calculations and scipy."""

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from ml_pipelines.checks.drift import CATEGORIES, MISSING, OTHER, measure, stability_index

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=2000)


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


def test_the_stability_index_matches_a_hand_calculation() -> None:
    by_hand = 0.3 * math.log(0.8 / 0.5) - 0.3 * math.log(0.2 / 0.5)
    assert stability_index([0.5, 0.5], [0.8, 0.2]) == pytest.approx(by_hand)
    assert measure_column(["a", "b"] * 50, ["a"] * 80 + ["b"] * 20)["psi"] == pytest.approx(by_hand)
    assert measure_column([0, 1] * 50, [0] * 80 + [1] * 20)["psi"] == pytest.approx(by_hand)


def test_an_empty_bin_counts_as_one_row_of_ten_thousand() -> None:
    by_hand = (1 - 0.5) * math.log(1 / 0.5) + (0.0001 - 0.5) * math.log(0.0001 / 0.5)
    assert stability_index([0.5, 0.5], [1, 0]) == pytest.approx(by_hand)
    assert stability_index([0.5, 0.5, 0], [1, 0, 0]) == pytest.approx(by_hand)


@pytest.mark.parametrize("cells", [NORMAL, ["a", "b", None] * 20, [1, 2, None] * 20, [True, False] * 20, [7] * 20])
def test_equal_rows_show_no_drift(cells: Any) -> None:
    row = measure_column(cells, cells)
    assert row["psi"] == 0
    assert row["statistic"] == pytest.approx(0)
    assert row["p_value"] == pytest.approx(1)


def test_the_bins_of_a_number_are_the_deciles_of_the_reference() -> None:
    row = measure_column(NORMAL, NORMAL + 1)
    *deciles, missing = row["bins"]
    assert [b["reference"] for b in deciles] == pytest.approx([0.1] * 10, abs=0.001)
    assert missing == {"label": MISSING, "reference": 0, "current": 0}
    assert row["kind"] == "number"
    assert row["psi"] > 0.25
    edges = np.sort(NORMAL)[[200 * i for i in range(1, 10)]]
    assert deciles[0]["label"] == f"up to {edges[0]:.6g}"
    assert deciles[-1]["label"] == f"above {edges[-1]:.6g}"
    assert [b["current"] for b in deciles] == pytest.approx(
        np.histogram(NORMAL + 1, [-np.inf, *np.nextafter(edges, np.inf), np.inf])[0] / 2000
    )


@pytest.mark.parametrize(
    "current",
    [
        NORMAL[:700] + 0.05,
        NORMAL[:31] * 1.5,
        np.round(NORMAL[:900]),
        np.append(NORMAL[:300], [np.inf, -np.inf]),
        np.append(NORMAL[:300], [np.nan, np.nan]),
        np.zeros(50),
    ],
    ids=["moved", "few", "ties", "infinite", "nan", "constant"],
)
def test_the_test_of_numbers_agrees_with_scipy(current: Any) -> None:
    reference = np.round(NORMAL, 1)
    row = measure_column(reference, current)
    expected = ks_2samp(reference, current[~np.isnan(current)], method="asymp")
    assert row["test"] == "ks"
    assert row["statistic"] == pytest.approx(expected.statistic)
    assert row["p_value"] == pytest.approx(expected.pvalue, abs=0.02)


@pytest.mark.parametrize(
    ("reference", "current", "table"),
    [
        (
            ["a", "b", "c", None] * 25,
            ["a"] * 30 + ["b"] * 20 + ["d"] * 10,
            [[25, 30], [25, 20], [25, 0], [0, 10], [25, 0]],
        ),
        ([True, False] * 20, [True] * 9 + [False] * 11, [[20, 9], [20, 11]]),
    ],
    ids=["unseen-and-missing", "two-by-two"],
)
def test_the_test_of_categories_agrees_with_scipy(reference: Any, current: Any, table: Any) -> None:
    row = measure_column(reference, current)
    expected = chi2_contingency(table, correction=False)
    assert row["test"] == "chi2"
    assert (row["statistic"], row["p_value"]) == pytest.approx((expected.statistic, expected.pvalue))


def test_a_number_equal_to_an_edge_is_in_the_bin_below_it() -> None:
    assert shares(measure_column(range(100), [10] * 5))["up to 10"] == (0.11, 1)


def test_a_category_with_one_percent_of_the_rows_has_a_bin() -> None:
    assert shares(measure_column(["a"] * 99 + ["b"], ["a"] * 9))["b"] == (0.01, 0)


def test_rare_and_unseen_categories_share_a_bin() -> None:
    row = measure_column(["a"] * 995 + ["rare"] * 5, ["a"] * 80 + ["rare", "new", OTHER, MISSING] * 5)
    assert shares(row) == {"a": (0.995, 0.8), OTHER: (0.005, 0.2), MISSING: (0, 0)}
    assert row["psi"] > 0.25


def test_the_number_of_category_bins_is_limited() -> None:
    row = measure_column([f"c{i}" for i in range(50)] * 4, ["c1"] * 9)
    assert len(row["bins"]) == CATEGORIES + 2
    assert shares(row)[OTHER] == (pytest.approx((50 - CATEGORIES) / 50), 0)


def test_a_number_with_few_values_has_a_bin_for_each_value() -> None:
    row = measure_column([5] * 20, [4] * 10 + [5] * 10)
    assert shares(row) == {"5": (1, 0.5), OTHER: (0, 0.5), MISSING: (0, 0)}
    assert row["psi"] > 0.25
    assert row["statistic"] == 0.5


def test_missing_values_have_their_own_bin() -> None:
    row = measure_column([1.5, 2.5] * 10, [1.5, 2.5, None, float("nan")] * 5)
    assert shares(row) == {"1.5": (0.5, 0.25), "2.5": (0.5, 0.25), MISSING: (0, 0.5)}
    assert (row["missing_reference"], row["missing_current"]) == (0, 0.5)
    assert row["psi"] > 0.25
    assert row["p_value"] == pytest.approx(1)  # the values that are not missing have not changed


@pytest.mark.parametrize("dtype", [pl.Float64, pl.String])
def test_a_column_without_values_has_no_test_statistic(dtype: Any) -> None:
    some, none = ["1", "2"] * 10, [None] * 20
    for reference, current in ((some, none), (none, some), (none, none)):
        cells = (pl.Series("x", c, dtype=pl.String).cast(dtype).to_frame() for c in (reference, current))
        (row,) = measure(*cells, ["x"])
        assert row["statistic"] is None
        assert row["p_value"] is None
        assert (row["psi"] > 0.25) == (reference != current)


def test_booleans_and_columns_numeric_in_one_table_only_are_categories() -> None:
    assert shares(measure_column([True, False], [True, True])) == {"false": (0.5, 0), "true": (0.5, 1), MISSING: (0, 0)}
    (row,) = measure(pl.DataFrame({"x": [1, 2]}), pl.DataFrame({"x": ["1", "2"]}), ["x"])
    assert (row["kind"], row["psi"]) == ("category", 0)


def test_each_requested_column_has_a_row_whatever_its_name() -> None:
    frame = pl.DataFrame({"count": ["a", "b"], "value": ["a", "b"], "bins": [1, 2]})
    assert [row["column"] for row in measure(frame, frame, ["count", "bins", "value"])] == ["count", "bins", "value"]
