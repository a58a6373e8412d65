"""The functions that each kind of problem has (`Problem`), and the choice of the kind (`problem_of`).

Each kind is one module, which defines all names of `Problem`. Steps, checks and the report get the module from
`problem_of`, so that they don't depend on the kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ml_pipelines.problems import binary
from ml_pipelines.problems.intervals import Difference, Interval

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from ml_pipelines.problems.calibration import Calibration

    Array = np.ndarray[Any, np.dtype[Any]]


class Problem(Protocol):
    """A kind of problem. `keys` are numbers from 0, one for each row. Rows with the same key are not independent."""

    HEADLINE: str  # the metric that decides between models
    SCORER: str  # the name that scikit-learn gives to this metric
    SUMMARY: Sequence[str]  # the metrics in the line of the step evaluate
    METRICS: Mapping[str, tuple[str, bool]]  # metric -> its readable name, and whether a higher value is better
    COUNTS: Sequence[str]  # the counts of rows that the step evaluate logs
    GUIDES: Mapping[str, str]  # chart -> what its diagonal means
    SCORE_EDGES: Sequence[float]  # the inner edges of the bins of scores, if those of the test table are unknown
    TEMPLATES: Mapping[str, str]  # part of the report (counts, curves) -> its template

    def score_metrics(self, label: pl.Series, score: Array, prefix: str) -> dict[str, float]:
        """Return the metrics of scores, `<prefix>_<metric>` -> value."""

    def class_metrics(self, label: pl.Series, predicted: Array, prefix: str) -> dict[str, float]:
        """Return the metrics of predictions, `<prefix>_<metric>` -> value."""

    def add_derived(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics, with those added that no step logs because they follow from the others."""

    def curves(self, label: pl.Series, score: Array) -> dict[str, dict[str, list[float]]]:
        """Return chart -> axis -> values. The first axis is x."""

    def headline(self, label: Array, score: Array) -> float:
        """Return the headline metric."""

    def headline_interval(self, label: Array, score: Array, level: float, keys: Array | None = None) -> Interval:
        """Return the headline metric with its interval."""

    def intervals(
        self, label: Array, score: Array, predicted: Array, level: float, keys: Array | None = None
    ) -> dict[str, Interval]:
        """Return metric -> its value with its interval."""

    def compare(self, label: Array, score: Array, other: Array, level: float, keys: Array | None = None) -> Difference:
        """Return the headline metric of `score` minus that of `other`, on the same rows."""

    def loss(self, label: Array, score: Array) -> float:
        """Return the loss that a model and its baseline are judged by; lower is better."""

    def loss_gain(self, label: Array, score: Array, other: Array, level: float, keys: Array | None = None) -> Interval:
        """Return by how much the loss of `score` is below that of `other`, on the same rows."""

    def calibration(
        self, label: Array, score: Array, bins: int, level: float, keys: Array | None = None
    ) -> Calibration:
        """Return how well scores agree with labels."""


def problem_of() -> Problem:
    """Return the kind of problem. So far, the only kind is `binary`."""
    return binary
