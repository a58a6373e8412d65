"""The contents of a report, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Link:
    """A run: its id, and the address of its page, or None if the store has no web pages."""

    run_id: str
    address: str | None


@dataclass(frozen=True)
class Verdict:
    """The verdict in a word, and a sentence that explains it. `kind` is good, warn, bad or none."""

    word: str
    kind: str
    sentence: str


@dataclass(frozen=True)
class StepView:
    """What happened to a step.

    `state` is done, reused, failed, killed, running or skipped. If the step was not part of the pipeline run, `state`
    is `kept` or `left`: `kept` means that the pipeline run used the step's earlier outputs.
    """

    name: str
    step_name: str
    state: str
    why: str = ""
    message: str = ""  # the cause of a failure, or the summary of a result
    seconds: float | None = None
    start: float = 0.0  # when the step started, as a share of the pipeline run's duration
    share: float = 0.0  # the step's duration, as a share of the pipeline run's duration
    run: Link | None = None
    origin: Link | None = None  # the run that computed the result, if the step was reused
    traceback: str = ""

    @property
    def mark(self) -> str:
        """The character that marks the state, the same as in the terminal."""
        return {"done": "✓", "reused": "=", "kept": "=", "failed": "✗", "killed": "✗", "running": "…"}.get(
            self.state, "-"
        )


@dataclass(frozen=True)
class Metric:
    """A metric on the test table, with its value on the training table and the champion's value."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    training: float | None = None
    champion: float | None = None
    higher_is_better: bool = True


@dataclass(frozen=True)
class Change:
    """Something that has changed since the champion's pipeline run."""

    what: str
    before: str
    now: str


@dataclass(frozen=True)
class Report:
    """Everything that the page of the report shows."""

    run: Link
    facts: Mapping[str, str]
    verdict: Verdict
    steps: Sequence[StepView]
    needs: Mapping[str, frozenset[str]]
    resume: str  # the command that continues the run; empty if that can't help
    metrics: Sequence[Metric]
    counts: Mapping[str, float | None]  # the confusion matrix
    threshold: float | None
    champion_run: Link | None
    changes: Sequence[Change]
    problem: str  # the kind of problem
    qa: Mapping[str, Any]
    scoring: Mapping[str, Any]  # scoring.json of the step score; empty for other pipelines
    curves: Mapping[str, Mapping[str, Sequence[float]]]
    importances: Sequence[Mapping[str, Any]]
    drift: Sequence[
        Mapping[str, Any]
    ]  # drift from train to test; first what moved since the champion, then the largest
    champion_drift: Mapping[str, Mapping[str, Any]]  # column -> drift since the champion's training table
    champion_columns: Mapping[str, Sequence[str]]  # only_before and only_now: columns that one training table lacks
    warnings: Sequence[str]  # data warnings, the first ones
    more_warnings: int  # number of data warnings that the page does not show
    warned_step: str  # the step that logged the data warnings
    hidden: int  # number of columns whose drift the page does not show
