"""The order of steps in a pipeline run, with plain values: no MLflow, no terminal, no process."""

import pytest

from ml_pipelines.config.schema import Step
from ml_pipelines.running.scheduler import Phase, Scheduler, StepState

NEEDS = {
    "prepare": frozenset[str](),
    "train": frozenset({"prepare"}),
    "evaluate": frozenset({"train"}),
    "importance": frozenset({"train"}),
    "gate": frozenset({"evaluate", "importance"}),
}


def scheduler(max_parallel: int = 2, fail_fast: bool = False) -> Scheduler:
    steps = [Step(step_name=f"0_{name}", compute="local", name=name) for name in NEEDS]
    return Scheduler(steps, NEEDS, max_parallel, fail_fast)


def start(order: Scheduler) -> list[str]:
    """Start every step that may start now, and return their names."""
    names = []
    while state := order.next_ready():
        state.phase = Phase.running
        names.append(state.name)
    return names


def end(order: Scheduler, name: str, phase: Phase = Phase.done, exit_code: int = 0) -> StepState:
    state = order.states[name]
    state.phase, state.exit_code = phase, exit_code
    return state


def test_a_step_starts_when_all_steps_it_needs_are_done() -> None:
    order = scheduler()
    assert start(order) == ["prepare"]
    end(order, "prepare")
    assert start(order) == ["train"]
    end(order, "train")
    assert start(order) == ["evaluate", "importance"]
    end(order, "importance")
    assert start(order) == [] and not order.is_over
    end(order, "evaluate")
    assert start(order) == ["gate"]
    end(order, "gate")
    assert order.is_over and order.exit_code == 0


@pytest.mark.parametrize(("max_parallel", "expected"), [(1, ["evaluate"]), (2, ["evaluate", "importance"])])
def test_no_more_steps_run_at_once_than_allowed(max_parallel: int, expected: list[str]) -> None:
    order = scheduler(max_parallel)
    end(order, "prepare")
    end(order, "train")
    assert start(order) == expected
    assert [state.name for state in order.running] == expected


def test_a_failed_step_blocks_only_the_steps_that_need_it() -> None:
    order = scheduler()
    end(order, "prepare")
    end(order, "train")
    end(order, "evaluate", Phase.failed, 4)
    importance, gate = order.states["importance"], order.states["gate"]
    assert order.next_ready() is importance and order.failure_before(importance) is None
    end(order, "importance")
    assert order.next_ready() is gate and order.failure_before(gate) == "evaluate"


def test_a_skipped_step_passes_on_the_original_failure() -> None:
    order = scheduler()
    end(order, "prepare", Phase.failed, 3)
    train = order.next_ready()
    assert train and order.failure_before(train) == "prepare"
    end(order, "train", Phase.skipped).blamed = "prepare"
    evaluate = order.next_ready()
    assert evaluate and order.failure_before(evaluate) == "prepare"


def test_with_fail_fast_any_failure_blocks_every_step() -> None:
    order = scheduler(fail_fast=True)
    end(order, "prepare")
    end(order, "train")
    end(order, "evaluate", Phase.failed, 4)
    assert order.failure_before(order.states["importance"]) == "evaluate"


def test_a_step_that_waits_for_a_retry_delays_the_steps_that_need_it() -> None:
    order = scheduler(max_parallel=1)
    end(order, "prepare", Phase.paused)
    assert start(order) == [] and not order.is_over
    end(order, "prepare", Phase.waiting)
    assert start(order) == ["prepare"]


def test_the_exit_code_is_the_lowest_of_the_failed_steps() -> None:
    order = scheduler()
    end(order, "prepare")
    end(order, "train")
    end(order, "evaluate", Phase.failed, 124)
    end(order, "importance", Phase.failed, 4)
    end(order, "gate", Phase.skipped)
    assert order.is_over and order.exit_code == 4
