"""Tests of the label: a number, or two classes; which of them is class 1, and what the run says about it."""

from typing import Any

import pytest

from ml_pipelines.config.schema import ProblemKind
from ml_pipelines.data.columns import Profile
from ml_pipelines.data.label import Classes, Number, choose_classes, choose_label
from ml_pipelines.errors import BadData


@pytest.mark.parametrize(
    ("counts", "positive", "reason"),
    [
        ({"legit": 97, "fraud": 3}, "fraud", "the rarer value, 3% of the rows"),
        ({"churned": 25, "stayed": 75}, "churned", "the rarer value, 25% of the rows"),
        ({"default": 40, "paid": 60}, "default", "the rarer value, 40% of the rows"),
        ({"yes": 90, "no": 10}, "yes", "of no and yes"),
        ({"TRUE": 90, "FALSE": 10}, "TRUE", "of FALSE and TRUE"),
        ({"Positive": 5, "Negative": 5}, "Positive", "of Negative and Positive"),
        ({"1": 90, "0": 10}, "1", "the larger number"),
        ({"1": 90, "2": 10}, "2", "the larger number"),
        ({"10": 90, "9": 10}, "10", "the larger number"),
    ],
)
def test_without_data_positive_a_known_pair_or_the_rarer_value_decides(
    counts: dict[str, int], positive: str, reason: str
) -> None:
    classes = choose_classes("outcome", counts, None)
    assert classes.mapping == {**dict.fromkeys(counts, 0), positive: 1}
    assert str(classes) == f"outcome = {positive} (data.positive: {reason})"


@pytest.mark.parametrize("counts", [{"paid": 59, "default": 41}, {"paid": 50, "default": 50}])
def test_two_values_of_similar_frequency_are_refused_until_a_person_chooses(counts: dict[str, int]) -> None:
    with pytest.raises(BadData) as error:
        choose_classes("outcome", counts, None)
    common, rarer = ("paid", "default") if counts["paid"] > 50 else ("default", "paid")
    assert str(error.value) == (
        f"data.positive: label outcome has {common} ({counts[common]}% of the rows) and {rarer} ({counts[rarer]}%), "
        f"so neither is clearly rarer. Set data.positive to {rarer} or {common}."
    )
    assert choose_classes("outcome", counts, "paid").mapping == {"default": 0, "paid": 1}


def test_data_positive_decides_whatever_the_frequency() -> None:
    classes = choose_classes("outcome", {"legit": 97, "fraud": 3}, "legit")
    assert classes.mapping == {"fraud": 0, "legit": 1}
    assert str(classes) == "outcome = legit (data.positive)"


def test_data_positive_must_be_a_value_of_the_label() -> None:
    with pytest.raises(
        BadData, match=r"data\.positive: label y has no value 'maybe'\. Set data\.positive to no or yes"
    ):
        choose_classes("y", {"yes": 3, "no": 3}, "maybe")


PRICES = {str(price): 2 for price in range(100, 121)}  # 21 values


def profile(present: int, numbers: int | None = None, kind: str = "string", **changed: int) -> Profile:
    return Profile("price", "price", kind, present, present, present if numbers is None else numbers, **changed)


def chosen(
    counts: dict[str, int], problem: str = "auto", positive: str | None = None, **changed: Any
) -> Classes | Number:
    found = profile(sum(counts.values()), **changed)
    return choose_label(found, counts, ProblemKind(problem), positive, lambda _: ["n/k"])


@pytest.mark.parametrize(
    ("counts", "problem", "text"),
    [
        (PRICES, "auto", "price (data.problem: price has more than 20 values)"),
        (PRICES, "regression", "price (data.problem: price has more than 20 values)"),
        ({"1": 3, "2": 3}, "regression", "price (data.problem)"),
    ],
)
def test_a_number_with_many_values_is_predicted_as_a_number(counts: dict[str, int], problem: str, text: str) -> None:
    label = chosen(counts, problem)
    assert (label.problem, label.mapping, str(label)) == (ProblemKind.regression, {}, text)
    assert label.summary == f"predicts the number {text}"


def test_two_values_are_classes_unless_the_configuration_says_otherwise() -> None:
    assert chosen({"1": 3, "2": 3}).mapping == {"1": 0, "2": 1}
    assert chosen({"yes": 3, "no": 9}, "binary").summary.startswith("class 1 is price = yes")


@pytest.mark.parametrize(
    ("counts", "settings", "message"),
    [
        (
            {"1": 2, "2": 2, "3": 2},
            {},
            "Label price has 3 classes (1, 2, 3), but this pipeline needs two. Merge classes, or set data.label to "
            "another column, or set data.problem=regression to predict the number.",
        ),
        (PRICES, {"problem": "binary"}, "two classes, or data.problem=regression for a number."),
        (PRICES, {"positive": "100"}, "two classes, or data.problem=regression for a number."),
        ({"a": 3, "b": 3}, {"problem": "regression", "numbers": 0}, "6 of 6 values are not numbers ('n/k')"),
        (PRICES, {"numbers": 40}, "Label price: 2 of 42 values are not numbers ('n/k')"),
        (PRICES, {"infinite": 1}, "Label price: 1 of 42 values are infinite ('n/k')"),
        (PRICES, {"beyond": 1}, "Label price: 1 of 42 values are beyond the range of a 32-bit float"),
        (
            PRICES,
            {"problem": "regression", "positive": "1"},
            "data.positive: a number has no classes. Remove data.positive=1.",
        ),
        ({"7": 9}, {"problem": "regression"}, "Label price has the value 7 in all rows, so it can't be predicted."),
    ],
)
def test_a_label_that_does_not_fit_is_one_line(counts: dict[str, int], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadData) as error:
        chosen(counts, **settings)
    assert message in str(error.value)
