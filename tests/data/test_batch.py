"""The columns of a batch: each is found by its name in training's source, or by our name."""

import pytest

from ml_pipelines.data.batch import find_columns
from ml_pipelines.data.features import Recipe
from ml_pipelines.errors import BadData

CONTENT = {
    "sources": {"Income_k": "Income (k)", "kind": "kind"},
    "types": {"Income_k": "double", "kind": "string"},
    "label": {"no": 0, "yes": 1},
    "label_name": "defaulted",
    "key": "loan id",
    "dropped": [],
    "null_values": [],
    "ranges": {"Income_k": [0, 5]},
}
RECIPE = Recipe.from_json(CONTENT)
assert RECIPE


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        (["kind", "Income (k)", "loan id"], {"loan_id": "loan id", "Income_k": "Income (k)", "kind": "kind"}),
        (["loan_id", "Income_k", "kind"], {"loan_id": "loan_id", "Income_k": "Income_k", "kind": "kind"}),
        (
            ["loan id", "Income k", "Income (k)", "kind", "x"],
            {"loan_id": "loan id", "Income_k": "Income (k)", "kind": "kind"},
        ),
    ],
)
def test_a_column_has_the_name_of_the_source_or_ours_and_that_of_the_source_wins(
    columns: list[str], chosen: dict[str, str]
) -> None:
    assert find_columns(columns, RECIPE) == chosen
    assert find_columns([*columns, "defaulted"], RECIPE) == {**chosen, "defaulted": "defaulted"}


def test_two_columns_that_fit_are_refused() -> None:
    with pytest.raises(BadData, match=r"The batch has Income k, Income, k, and each can be the column Income \(k\)"):
        find_columns(["loan id", "Income k", "Income, k", "kind"], RECIPE)


def test_all_missing_columns_are_named_with_near_names() -> None:
    with pytest.raises(BadData, match=r"lacks 2 of 3 columns .*: Income \(k\) \(is it 'Incme \(k\)'\?\), kind\."):
        find_columns(["loan id", "Incme (k)"], RECIPE)


@pytest.mark.parametrize("key", ["types", "label", "key", "ranges"])
def test_an_incomplete_record_is_not_a_recipe(key: str) -> None:
    assert Recipe.from_json({name: value for name, value in CONTENT.items() if name != key}) is None
