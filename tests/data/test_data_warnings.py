"""Warnings about suspicious data: in the terminal, the log, a tag and an artifact. They stop nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Result, Store

from ml_pipelines.data.data_warnings import ALIKE, DataWarning, find_unnamed, find_warnings
from ml_pipelines.data.origin import Origin

ROWS = 2 * ALIKE


def find(
    test: pl.DataFrame | None = None, label: Any = None, origin: Origin | None = None, **columns: Any
) -> list[DataWarning]:
    """Return the warnings about a training table with these columns and a label."""
    train = pl.DataFrame(columns)
    features = train.columns
    train = train.with_columns(label=pl.Series(label or [0, 1] * (train.height // 2)))
    other = pl.DataFrame({name: [None] for name in features}, schema=train.select(features).schema)
    tables = train.lazy(), (other if test is None else test).lazy()
    warnings = find_warnings(*tables, features, "label", origin or Origin(), declared=["declared"])
    assert all(warning.message.endswith(".") for warning in warnings)
    return warnings


def kinds(test: pl.DataFrame | None = None, label: Any = None, **columns: Any) -> list[tuple[str, str | None]]:
    """Return kind and column of each warning about a training table with these columns and a label."""
    return [(warning.kind, warning.column) for warning in find(test, label, **columns)]


def test_plain_columns_give_no_warning() -> None:
    number, text, whole = [i / 7 for i in range(ROWS)], ["a", "b", None, "c"] * (ROWS // 4), [1, 2, 3, 4] * (ROWS // 4)
    assert kinds(number=number, text=text, whole=whole, flag=[True, False] * (ROWS // 2)) == []


@pytest.mark.parametrize("cells", [[1.5] * ROWS, ["a"] * ROWS, [True, None] * (ROWS // 2), [3] * ROWS])
def test_a_column_with_a_single_value_is_reported_as_constant(cells: list[Any]) -> None:
    assert kinds(x=cells, y=[0.5, 1.5] * (ROWS // 2)) == [("constant", "x")]


@pytest.mark.parametrize(
    ("cells", "suspicious"),
    [
        ([f"c{i}" for i in range(ROWS)], True),
        (list(range(ROWS)), True),
        ([float(i) for i in range(ROWS)], True),
        ([float(i) if i % 2 else None for i in range(ROWS)], True),
        ([i + 0.5 for i in range(ROWS)], False),
        ([1e30 * i for i in range(ROWS)], False),
        ([max(1, i) for i in range(ROWS)], False),
        ([float(i) if i >= ROWS - ALIKE // 2 else None for i in range(ROWS)], False),
    ],
    ids=["text", "integers", "floats", "some-missing", "measured", "huge", "one-twice", "too-few"],
)
def test_a_column_without_repeated_values_is_reported_as_id_like(cells: list[Any], suspicious: bool) -> None:
    assert (("id-like", "x") in kinds(x=cells)) is suspicious


@pytest.mark.parametrize(("text", "unnamed"), [(True, ["_c0", "_c12"]), (False, [])])
def test_a_column_without_a_name_is_reported_with_the_name_to_drop(text: bool, unnamed: list[str]) -> None:
    columns = ["_c0", "a", "_c12", "_cx", "x_c1", "__index_level_0__"]
    warnings = find_unnamed(columns, text, ["opened"])
    assert [warning.column for warning in warnings] == [*unnamed, "__index_level_0__"]
    assert all(warning.kind == "unnamed" for warning in warnings)
    assert all(warning.message.endswith(f"set data.drop=[opened,{warning.column}].") for warning in warnings)


@pytest.mark.parametrize(
    "cells",
    [["2024-01-31", "2024-02-28 10:00:00"], ["31.1.2024", None], ["1/31/24", "12/1/24"], ["2024/01/31", "2023/01/31"]],
)
def test_dates_that_count_as_categories_are_reported(cells: list[str | None]) -> None:
    columns = {"opened": cells * (ROWS // 2), "y": [0.5, 1.5] * (ROWS // 2)}
    columns["opened"][0] = "2020-01-01"
    assert kinds(**columns) == [("dates", "opened")]
    assert kinds(declared=columns["opened"], y=columns["y"]) == []
    assert kinds(opened=["2024-01-31", "unknown"] * (ROWS // 2), y=columns["y"]) == []
    assert kinds(opened=["3.14", "2.72", "1-2-3-4"] * (ROWS // 2), y=[0.5, 1.5, 1] * (ROWS // 2)) == []


def test_warnings_name_columns_and_classes_as_the_source_does() -> None:
    origin = Origin({"loan_id": "loan id", "y": "y"}, "left us", ("no", "yes"), ["opened"])
    label = [1] + [0] * (ROWS - 1)
    first, second = find(label=label, origin=origin, loan_id=list(range(ROWS)), y=[0.5, 1.5] * (ROWS // 2))
    assert (first.column, first.message) == ("left us", f"Only 1 of {ROWS} training rows have left us = yes.")
    assert second.column == "loan id"
    assert second.message.startswith("Column loan id has a different value in each row.")
    assert second.message.endswith("set data.drop=[opened,loan id].")
    [empty] = find(origin=origin, loan_id=pl.Series([None] * ROWS, dtype=pl.Float64), y=[0.5, 1.5] * (ROWS // 2))
    assert empty.message.startswith("Column loan id has no value in the training table. Fill it, or set data.drop=[")
    [computed] = find(origin=origin, twice=list(range(ROWS)), y=[0.5, 1.5] * (ROWS // 2))
    assert computed.message.endswith("take twice out of add_features in steps/prepare_data.py.")


def test_more_features_than_rows_are_reported_as_wide() -> None:
    assert kinds(a=[0, 1], b=[0, 1]) == []
    assert kinds(a=[0, 1], b=[0, 1], c=[0, 1]) == [("wide", None)]


@pytest.mark.parametrize(("ones", "suspicious"), [(1, True), (2, False), (ROWS - 1, True), (ROWS - 2, False)])
def test_a_class_with_less_than_one_percent_of_the_rows_is_reported_as_imbalance(ones: int, suspicious: bool) -> None:
    label = [1] * ones + [0] * (ROWS - ones)
    assert kinds(label=label, x=[0.5, 1.5] * (ROWS // 2)) == ([("imbalance", "label")] if suspicious else [])


def test_test_rows_that_equal_a_training_row_are_reported() -> None:
    train = {"x": [0.5, 1.5, 2.5, 3.5], "y": ["a", "b", None, "d"]}
    assert kinds(pl.DataFrame({"x": [0.5, 1.5], "y": ["b", "a"]}), **train) == []
    assert kinds(pl.DataFrame({"x": [2.5, 9.5], "y": [None, "a"]}), **train) == [("in-both", None)]


def test_warnings_appear_in_the_terminal_the_log_a_tag_and_an_artifact(
    store: Store, drive: Callable[..., Result], tmp_path: Path
) -> None:
    lines = [f"{i},{i * 7 % 31 / 4},{i // 200},1,{i % 3 % 2}" for i in range(400)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,x,half,one,label", *lines]))
    source = f"data.source.kind=file,data.source.path={tmp_path / 'rows.csv'}"
    result = drive("--only=prepare_data", f"--set={source}")
    assert result.code == 0, result.text
    assert " · 2 warnings (data_warnings.json)" in result.out
    run = store.child("prepare_data")
    assert run.data.tags["data_warnings"] == "2"
    artifact = json.loads(store.artifact(run, "data_warnings.json").read_text())
    assert [row[:2] for row in artifact["data"]] == [["constant", "one"], ["in-both", None]]
    assert (
        "WARNING steps.prepare_data: Column one is constant: each row has the value 1.0"
        in store.artifact(run, "prepare_data.log").read_text()
    )


def test_without_warnings_the_tag_is_zero_and_no_artifact_is_logged(finished: Store) -> None:
    run = finished.child("prepare_data")
    assert run.data.tags["data_warnings"] == "0"
    assert "data_warnings.json" not in finished.artifacts(run)
