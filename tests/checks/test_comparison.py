"""Tests of the comparison: on which rows of the test table a version may be judged, and why it may not be."""

import numpy as np
import polars as pl
import pytest
from recording import IDENTITY

from ml_pipelines.checks.comparison import find_unseen_rows
from ml_pipelines.errors import BadData
from ml_pipelines.modelling.split import Split

ROWS = 400
LABEL = np.arange(ROWS) % 2
TEST = pl.DataFrame({"id": range(ROWS), "branch": [i % 40 for i in range(ROWS)], "x": 0.5})
LABEL_TAGS = {name: value for name, value in IDENTITY.items() if name.startswith("label_")}


def tags(split: Split, **label: str) -> dict[str, str]:
    return {**LABEL_TAGS, **split.tags(), **label}


def problem(theirs: dict[str, str], ours: dict[str, str] = IDENTITY, rows: int = ROWS) -> str:
    """Return why a version is not compared."""
    with pytest.raises(BadData) as error:
        find_unseen_rows(ours, theirs, TEST.head(rows), LABEL[:rows])
    return str(error.value)


def test_a_version_of_the_same_split_is_compared_on_all_rows() -> None:
    assert find_unseen_rows(IDENTITY, IDENTITY, TEST, LABEL).all()
    own = {**LABEL_TAGS, "split_kind": "own", "split_seed": "3"}
    assert find_unseen_rows(own, own, TEST, LABEL).all()


@pytest.mark.parametrize("split", [Split("id", 7, 0.2), Split("id", 42, 0.5), Split("branch", 42, 0.3)])
def test_a_version_of_another_split_is_compared_on_its_own_test_side(split: Split) -> None:
    rows = find_unseen_rows(IDENTITY, tags(split), TEST, LABEL)
    assert rows.tolist() == split.is_test(TEST[split.key]).tolist()
    assert 20 < rows.sum() < ROWS


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (
            tags(Split("id", 42, 0.2), label_0="1", label_1="0"),
            "its class 1 is label = 0 (0: 1), but here it is label = 1 (0: 0). Set data.positive and data.label back",
        ),
        (
            tags(Split("id", 42, 0.2), label_name="churned"),
            "its class 1 is churned = 1 (0: 0), but here it is label = 1",
        ),
        (Split("id", 42, 0.2).tags(), "nobody recorded what its classes mean."),
        (LABEL_TAGS, "nobody recorded which rows it trained on."),
        (
            tags(Split("customer", 42, 0.2)),
            "its split is by column customer, which the test table does not have (data.key customer -> id).",
        ),
        (
            tags(Split("", 42, 0.2, "ab12")),
            "its training rows are unknown, because it was trained without data.key on another split "
            "(data.key none -> id, the columns ab12 -> none). Set the split back.",
        ),
        ({**LABEL_TAGS, "split_kind": "own", "split_seed": "3"}, "nobody recorded which rows it trained on."),
    ],
)
def test_a_version_that_can_t_be_compared_says_why(theirs: dict[str, str], reason: str) -> None:
    assert problem(theirs).startswith(reason)


def test_a_version_with_too_few_unseen_rows_is_not_compared() -> None:
    reason = problem(tags(Split("id", 7, 0.2)), rows=60)
    assert "its split was another one (data.split_seed 7 -> 42), and it can have trained on all but " in reason
    assert reason.endswith("all but 2 of the test rows of class 1; at least 10 are needed. Set the split back.")


def test_without_a_key_only_the_same_columns_give_the_same_split() -> None:
    ours = tags(Split("", 42, 0.2, "ab12"))
    assert find_unseen_rows(ours, ours, TEST, LABEL).all()
    assert "(the columns cd34 -> ab12)" in problem(tags(Split("", 42, 0.2, "cd34")), ours)


def test_tables_of_an_unknown_split_are_not_compared() -> None:
    assert problem(IDENTITY, {}).startswith("nobody recorded what the classes of these tables mean.")
    assert problem(IDENTITY, LABEL_TAGS).startswith("nobody recorded how these tables were split.")
