"""Tests of the label: which of its two values is class 1, and what the run says about it."""

import pytest

from ml_pipelines.data.label import choose_classes
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
