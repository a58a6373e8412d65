"""The events of a pipeline run, and the reporter that shows them.

Every part of the library reports events, and only a reporter decides how they look. TextReporter prints lines to the
terminal. A step in another process prints lines too: its backend reads them and reports each line as a StepOutput.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ml_pipelines.system.terminal import MARKS, say


@dataclass(frozen=True)
class PipelineStarted:
    """A pipeline run has started. `how` names the run's profile, engine, backend and experiment."""

    name: str
    run_id: str
    how: tuple[str, ...]


@dataclass(frozen=True)
class InputsReused:
    """A pipeline run uses outputs of an earlier pipeline run: the outputs `names`, or all if `names` is empty."""

    names: tuple[str, ...]
    source_run_id: str


@dataclass(frozen=True)
class StepStarted:
    """A backend has started a step. `attempt` counts from 1."""

    step: str
    run_id: str
    attempt: int


@dataclass(frozen=True)
class StepOutput:
    """A line that a step printed, or that the backend reports about the step."""

    step: str
    text: str


@dataclass(frozen=True)
class StepEnded:
    """A step is done, reused, failed or skipped.

    Args:
        step_name: the name of the step's MLflow run.
        state: done, reused, failed or skipped.
        seconds: how long the step took; None if it did not run.
        text: the summary of a result, the cause of a failure, or why the step was skipped.
        reason: why the step ran or was reused; empty if the reason is obvious.
        next_try: when a failed step will be tried again; empty if it will not.
    """

    step_name: str
    state: str
    seconds: float | None
    text: str
    reason: str = ""
    next_try: str = ""

    def __str__(self) -> str:
        """Return the step's line, as the terminal and the pipeline run's page in MLflow show it."""
        time = "" if self.seconds is None else f"{self.seconds:5.1f} s"
        text = f"reused ({self.reason}) · {self.text}" if self.state == "reused" else self.text
        why = f"ran: {self.reason}" if self.reason and self.state == "done" else self.next_try
        return f"  {MARKS[self.state]} {self.step_name:<24}{time:>7}   {' · '.join(filter(None, [text, why]))}"


@dataclass(frozen=True)
class PipelineEnded:
    """A pipeline run is over.

    Args:
        run_id: the id of the pipeline's MLflow run.
        exit_code: the exit code of driver.py.
        seconds: how long the pipeline run took.
        conclusion: which versions of the model are challenger and champion now; empty if no model was registered.
        look: commands and addresses that show the result.
        resume: the command that continues a failed run; empty if the run succeeded, or if continuing can't help.
    """

    run_id: str
    exit_code: int
    seconds: float
    conclusion: str
    look: tuple[str, ...]
    resume: str


@dataclass(frozen=True)
class Notice:
    """One line of information for a person."""

    text: str


Event = PipelineStarted | InputsReused | StepStarted | StepOutput | StepEnded | PipelineEnded | Notice


class Reporter(Protocol):
    """Shows events, for example in the terminal."""

    def report(self, event: Event) -> None:
        """Show the event. Several threads can call this at the same time."""


class TextReporter:
    """Prints events to standard output: a line for each step, and two or three lines at the end."""

    def report(self, event: Event) -> None:
        """Print the event's lines."""
        for line in self.lines(event):
            say(line)

    def lines(self, event: Event) -> Iterator[str]:
        """Yield the lines that show the event. A StepStarted event has no line."""
        match event:
            case PipelineStarted():
                yield f"{event.name} {event.run_id[:8]} · {' · '.join(event.how)}"
            case InputsReused():
                outputs = ", ".join(event.names) or "all outputs"
                yield f"  = {outputs} reused from pipeline run {event.source_run_id[:8]}"
            case StepOutput():
                yield f"    {event.step} | {event.text}"
            case StepEnded():
                yield str(event)
            case PipelineEnded():
                yield from self._end(event)
            case Notice():
                yield event.text

    def _end(self, event: PipelineEnded) -> Iterator[str]:
        took = f"{event.seconds:.1f} s"
        if event.exit_code:
            where = "logs and tracebacks are artifacts of the failed step's run"
            yield f"{took} · failed, exit code {event.exit_code} · {where}"
        else:
            yield " · ".join(filter(None, [took, event.conclusion, f"pipeline run {event.run_id}"]))
        yield f"Look at it: {' · '.join(event.look)}"
        if event.resume:
            yield f"Continue with: {event.resume}"


_current: list[Reporter] = [TextReporter()]


def report(event: Event) -> None:
    """Pass the event to the current reporter of this process."""
    _current[-1].report(event)


@contextmanager
def reported_to(reporter: Reporter) -> Iterator[None]:
    """Send the events of the `with` block to this reporter."""
    _current.append(reporter)
    try:
        yield
    finally:
        _current.remove(reporter)
