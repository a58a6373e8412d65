"""model_qa: the gate. Only a finite number that is at least the threshold passes."""

import math

import pytest
from recording import RecordingContext

from steps import model_qa
from steps.model_qa import Params, check_auc


@pytest.mark.parametrize(
    ("test_auc", "passed"),
    [
        (0.7, True),
        (math.nextafter(0.7, 1), True),
        (math.nextafter(0.7, 0), False),
        (1.0, True),
        (0.0, False),
        (math.nan, False),
        (math.inf, False),
        (-math.inf, False),
    ],
)
def test_only_a_finite_auc_of_at_least_the_threshold_passes(test_auc: float, passed: bool) -> None:
    assert check_auc(test_auc, 0.7)["passed"] is passed


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_nothing_passes_a_threshold_that_is_no_number(threshold: float) -> None:
    assert check_auc(0.9, threshold)["passed"] is False


def test_a_near_miss_is_told_with_digits_that_show_it() -> None:
    assert check_auc(0.699999, 0.7)["reason"] == "test_auc 0.699999 is not at least 0.7"


def judged(test_auc: float) -> tuple[RecordingContext, dict[str, object]]:
    step = RecordingContext("model_qa", Params(min_test_auc=0.7))
    ids = {name: f"an {name}" for name in step.step.inputs if name != "test_auc"}
    return step, dict(model_qa.run(step, **ids, test_auc=test_auc))


def test_run_passes_a_good_model() -> None:
    step, outputs = judged(0.9)
    assert outputs == {"qa_complete": True, "qa_passed": True}
    assert step.refusal is None
    assert step.said == "passed 1 of 1"


def test_run_refuses_a_bad_model_and_says_why() -> None:
    step, outputs = judged(0.6)
    assert outputs == {"qa_complete": True, "qa_passed": False}
    assert step.refusal == "test_auc 0.6 is not at least 0.7"
    assert step.said == "passed 0 of 1"


@pytest.mark.parametrize("test_auc", [0.9, 0.6, math.nan, math.inf])
def test_the_report_says_what_was_judged_by_what_and_how(test_auc: float) -> None:
    step, outputs = judged(test_auc)
    report = step.json["qa_report.json"]
    assert report["passed"] is outputs["qa_passed"]
    assert report["judged"]["train_run_id"] == "an train_run_id"
    [check] = report["checks"]
    assert check["threshold"] == 0.7
    assert check["value"] == str(test_auc)  # as text: JSON has no NaN
