"""Decides which step of a pipeline run may start now. It uses neither MLflow nor the terminal."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_pipelines.config.schema import Step

if TYPE_CHECKING:
    from ml_pipelines.planning.backend import SubmittedStep
    from ml_pipelines.planning.reasons import Decision
    from ml_pipelines.system.locks import Lease


class Phase(enum.Enum):
    """What a step is doing in a pipeline run."""

    waiting = "waiting"
    running = "running"
    paused = "paused"  # becomes waiting again soon: the step failed, or another pipeline run is running it
    done = "done"  # its outputs exist: it succeeded or was reused
    failed = "failed"
    skipped = "skipped"


OVER = (Phase.done, Phase.failed, Phase.skipped)


@dataclass
class StepState:
    """The state of one step during a pipeline run."""

    step: Step
    phase: Phase = Phase.waiting
    attempts: int = 0  # how often the step was started
    exit_code: int = 0  # the step's exit code if it failed, otherwise 0
    cause: str = ""  # the step's error if it failed
    blamed: str = ""  # the failed step that is the reason why this step was skipped or stopped
    decision: Decision | None = None  # why the step runs, or which run is reused
    submitted: SubmittedStep | None = None  # the step as its backend runs it
    broken: Exception | None = None  # why this process could not wait for the step's end
    is_overdue: bool = False  # whether the step was stopped because it exceeded its time limit
    is_stopped: bool = False  # whether the step was stopped because another step failed
    lease: Lease | None = None  # the right to run the step, so that an equal pipeline run waits for its result
    waits_since: float | None = None  # when the step began to wait for an equal pipeline run, by the monotonic clock
    told_waiting: bool = False  # whether a person was told that the step waits

    @property
    def name(self) -> str:
        """The step's name."""
        return self.step.name

    def release(self) -> None:
        """Let equal pipeline runs run the step, or reuse its result."""
        if self.lease:
            self.lease.release()
            self.lease = None


class Scheduler:
    """Chooses the step to start next. At most `max_parallel` steps run at once, each after the steps that it needs."""

    def __init__(
        self,
        steps: Sequence[Step],
        needs: Mapping[str, AbstractSet[str]],
        max_parallel: int = 1,
        fail_fast: bool = False,
    ) -> None:
        self.states = {step.name: StepState(step) for step in steps}
        self._needs = needs
        self._max_parallel = max_parallel
        self._fail_fast = fail_fast

    @property
    def is_over(self) -> bool:
        """Whether every step has ended or was skipped."""
        return all(state.phase in OVER for state in self.states.values())

    @property
    def running(self) -> list[StepState]:
        """The steps that run now."""
        return self.in_phase(Phase.running)

    def in_phase(self, *phases: Phase) -> list[StepState]:
        """Return the steps in one of these phases, in the order of their declaration."""
        return [state for state in self.states.values() if state.phase in phases]

    def next_ready(self) -> StepState | None:
        """Return the first step that may start now, or None if no step may start yet."""
        if len(self.running) >= self._max_parallel:
            return None
        for state in self.in_phase(Phase.waiting):
            if all(self.states[need].phase in OVER for need in self._needs[state.name]):
                return state
        return None

    def failure_before(self, state: StepState) -> str | None:
        """Return the failed step that keeps `state` from starting, or None. With fail_fast, any failed step does."""
        lost = [other for other in self.in_phase(Phase.failed, Phase.skipped) if self._bars(other, state)]
        return min((other.blamed or other.name for other in lost), default=None)

    def _bars(self, other: StepState, state: StepState) -> bool:
        return self._fail_fast or other.name in self._needs[state.name]

    @property
    def exit_code(self) -> int:
        """0, or the lowest exit code of a failed step."""
        return min((state.exit_code for state in self.in_phase(Phase.failed)), default=0)
