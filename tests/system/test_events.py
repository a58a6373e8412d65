"""Tests of the events of a pipeline run, and of the lines that the terminal's reporter prints for them."""

from collections.abc import Callable

import pytest
from conftest import Result, Store

from ml_pipelines.system import events
from ml_pipelines.system.events import Event, StepEnded, TextReporter


class Recorder:
    """A reporter that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)


def test_a_reporter_gets_every_event_and_the_terminal_gets_none(store: Store, drive: Callable[..., Result]) -> None:
    recorder = Recorder()
    with events.reported_to(recorder):
        result = drive("--set=max_parallel=1")
    assert (result.code, result.out) == (0, "")
    kinds = [type(event).__name__ for event in recorder.events]
    assert kinds == ["PipelineStarted", *["StepStarted", "StepEnded"] * 5, "PipelineEnded"]
    step_ends = [event for event in recorder.events if isinstance(event, StepEnded)]
    assert [event.step_name for event in step_ends] == sorted(event.step_name for event in step_ends)
    assert {event.state for event in step_ends} == {"done"} and all(event.seconds for event in step_ends)
    last = recorder.events[-1]
    assert isinstance(last, events.PipelineEnded)
    assert (last.run_id, last.exit_code, last.resume) == (store.parent().info.run_id, 0, "")
    assert last.conclusion.startswith("champion is version 1")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (StepEnded("02_train", "done", 1.25, "auc 0.9"), "  ✓ 02_train                  1.2 s   auc 0.9"),
        (
            StepEnded("02_train", "done", 0.9, "auc 0.9", "param options.max_iter 100 -> 200"),
            "  ✓ 02_train                  0.9 s   auc 0.9 · ran: param options.max_iter 100 -> 200",
        ),
        (
            StepEnded("02_train", "reused", None, "auc 0.9", "unchanged"),
            "  = 02_train                          reused (unchanged) · auc 0.9",
        ),
        (
            StepEnded("02_train", "failed", 0.2, "no answer", next_try="again in 1 s, try 2 of 2"),
            "  ✗ 02_train                  0.2 s   no answer · again in 1 s, try 2 of 2",
        ),
        (
            StepEnded("05_model_qa", "skipped", None, "skipped (02_train failed)"),
            "  - 05_model_qa                       skipped (02_train failed)",
        ),
        (events.StepOutput("train", "hello"), "    train | hello"),
        (events.Notice("one line"), "one line"),
    ],
)
def test_the_terminal_shows_an_event_as_one_line(event: Event, line: str) -> None:
    assert list(TextReporter().lines(event)) == [line]


def test_the_terminal_shows_no_line_when_a_step_starts() -> None:
    assert list(TextReporter().lines(events.StepStarted("train", "run", 1))) == []


def test_a_failed_run_ends_with_the_command_that_continues_it() -> None:
    end = events.PipelineEnded("0123456789", 4, 5.04, "", ("mlflow ui",), "python driver.py --resume 01234567")
    assert list(TextReporter().lines(end)) == [
        "5.0 s · failed, exit code 4 · logs and tracebacks are artifacts of the failed step's run",
        "Look at it: mlflow ui",
        "Continue with: python driver.py --resume 01234567",
    ]
