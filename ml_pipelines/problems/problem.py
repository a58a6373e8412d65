"""What the pipeline asks each kind of problem (`Problem`), and the choice of the kind (`problem_of`).

Each kind is one module, which defines all names of `Problem`. prepare_data decides the kind and records it in
columns.json. Steps, checks and the report get the module from `problem_of`, so that they don't depend on the kind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ml_pipelines.errors import ConfigError
from ml_pipelines.problems import binary, regression
from ml_pipelines.problems.intervals import Difference, Interval
from ml_pipelines.text import listed, quoted

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from matplotlib.figure import Figure

    Array = np.ndarray[Any, np.dtype[Any]]

KINDS: Mapping[str, Problem] = {"binary": binary, "regression": regression}


class Problem(Protocol):
    """A kind of problem. `keys` are numbers from 0, one for each row. Rows with the same key are not independent."""

    HEADLINE: str  # the metric that decides between models
    SCORER: str  # the name that scikit-learn gives to this metric
    SUMMARY: Sequence[str]  # the metrics in the line of the step evaluate
    METRICS: Mapping[str, tuple[str, bool]]  # metric -> its readable name, and whether a higher value is better
    LOSS: str  # the loss that a model and its baseline are judged by, in words; lower is better
    SINGLE: str  # what `single_column` returns, in words
    COUNTS: Sequence[str]  # the counts of rows that the step evaluate logs
    SCORE_EDGES: Sequence[float]  # the inner edges of the bins of scores, if those of the test table are unknown
    TEMPLATES: Mapping[str, str]  # part of the report (counts, curves) -> its template
    ESTIMATOR: str  # the estimator that train fits if the configuration names none
    ESTIMATOR_TYPE: str  # scikit-learn's word for estimators of this kind
    HAS_CLASSES: bool  # whether each value of the label is a class, which needs rows of its own
    OFF: Collection[str]  # the checks that have no meaning for this kind
    IDENTITY: Sequence[str]  # the tags that say what the label means
    FEWEST: int  # an interval needs as much evidence as this
    EVIDENCE: str  # what `evidence` counts, in words

    def check_label(self, label: pl.Series) -> pl.Series:
        """Return the label of a table with the type that the other functions take.

        Raises:
            BadData: the label is not of this kind.
        """

    def score_of(self, model: Any, features: pl.DataFrame) -> Array:
        """Return the model's score of each row, shape (rows,)."""

    def predict(self, score: Array, threshold: float) -> Array:
        """Return the prediction of each row."""

    def score_metrics(self, label: pl.Series, score: Array, prefix: str) -> dict[str, float]:
        """Return the metrics of scores, `<prefix>_<metric>` -> value."""

    def class_metrics(self, label: pl.Series, predicted: Array, prefix: str) -> dict[str, float]:
        """Return the metrics of predicted classes, `<prefix>_<metric>` -> value."""

    def add_derived(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics, with those added that no step logs because they follow from the others."""

    def curves(self, label: pl.Series, score: Array) -> dict[str, dict[str, list[float]]]:
        """Return chart -> axis -> values. The first axis is x."""

    def figure(self, charts: Mapping[str, Mapping[str, list[float]]], threshold: float) -> Figure:
        """Return a figure with the charts of `curves`."""

    def form(self, value: float) -> str:
        """Return the format of numbers in the unit of the headline metric; `value` says how large they are."""

    def unit(self, label: Array, baseline: Array) -> float:
        """Return the unit of margins (what 1 means): 1, or the baseline's headline metric if that is in label units."""

    def headline(self, label: Array, score: Array) -> float:
        """Return the headline metric."""

    def headline_interval(self, label: Array, score: Array, level: float, keys: Array | None = None) -> Interval:
        """Return the headline metric with its interval."""

    def intervals(
        self, label: Array, score: Array, predicted: Array, level: float, keys: Array | None = None
    ) -> dict[str, Interval]:
        """Return metric -> its value with its interval."""

    def compare(self, label: Array, score: Array, other: Array, level: float, keys: Array | None = None) -> Difference:
        """Return the headline metric of `score` minus that of `other`, on the same rows.

        Its p-value tests whether `score` is worse.
        """

    def loss(self, label: Array, score: Array) -> float:
        """Return the loss that a model and its baseline are judged by; lower is better."""

    def loss_gain(self, label: Array, score: Array, other: Array, level: float, keys: Array | None = None) -> Interval:
        """Return by how much the loss of `score` is below that of `other`, on the same rows."""

    def single_column(self, column: pl.Series, label: pl.Series) -> float:
        """Return how well one column alone predicts the label; 1 is perfect."""

    def evidence(self, label: Array, keys: Array | None = None) -> int:
        """Return the number of rows (or keys) that limits a metric's precision; with classes, of the rarer class."""

    def evidence_by_group(self, groups: Array, label: Array, size: int) -> Array:
        """Return the `evidence` of each group, if no key repeats. `groups` has each row's group, 0 to `size` - 1."""

    def scarcity(self, label: Array) -> str | None:
        """Return in words which rows are too few for an interval; None if there are enough."""

    def label_change(self, before: Sequence[str], now: Sequence[str]) -> str:
        """Return in words how the label differs between two models, given the values of their tags IDENTITY."""

    def weight(self, label: Array) -> float:
        """Return the weight of a slice in the mean over slices."""

    def slice_counts(self, label: Array, predicted: Array) -> dict[str, int]:
        """Return the counts of rows that describe a slice."""

    def bias(self, label: Array, score: Array, level: float, keys: Array | None = None) -> Interval | None:
        """Return the log of the ratio of observed to expected odds of class 1; None if scores aren't probabilities."""


def problem_of(kind: str) -> Problem:
    """Return the module of a kind, as columns.json names it.

    Raises:
        ConfigError: this release does not know the kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"{quoted(kind)} is not a kind of problem. This release knows: {listed(KINDS)}.")
    return KINDS[kind]


def text_of(problem: Problem, metric: str, value: float) -> str:
    """Return a metric with its value in words, for the line of a step: `log loss 0.432`."""
    return f"{metric.replace('_', ' ')} {value:{problem.form(value)}}"


def is_higher_better(problem: Problem) -> bool:
    """Return whether a higher value of the headline metric is better."""
    return problem.METRICS[problem.HEADLINE][1]
