"""A number: the metrics and charts of a model whose score is its prediction of the label."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_pipelines.errors import BadData
from ml_pipelines.problems import regression_figure, regression_intervals
from ml_pipelines.problems.calibration import tenths
from ml_pipelines.problems.intervals import Interval, mean_interval
from ml_pipelines.problems.single_column import single_r2
from ml_pipelines.text import shown

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Array = np.ndarray[Any, np.dtype[Any]]

POINTS = 500  # the most rows in a chart of single rows
SAME = 1e-9  # two predictions that differ by a smaller share differ only by rounding
HEADLINE, SCORER = "rmse", "neg_root_mean_squared_error"
SUMMARY: Sequence[str] = ("rmse", "mae", "r2")
METRICS: Mapping[str, tuple[str, bool]] = {
    "rmse": ("RMSE", False),
    "mae": ("MAE", False),
    "median_absolute_error": ("Median absolute error", False),
    "r2": ("R2", True),
    "mape": ("MAPE", False),
}
LOSS, SINGLE = "mean squared error", "r2"
COUNTS: Sequence[str] = ()
SCORE_EDGES: Sequence[float] = ()
TEMPLATES: Mapping[str, str] = {"counts": "regression_counts.html.j2", "curves": "regression_curves.html.j2"}
ESTIMATOR = "sklearn.ensemble.HistGradientBoostingRegressor"
ESTIMATOR_TYPE = "regressor"
HAS_CLASSES = False
OFF: Collection[str] = ("min_auc", "calibration")
IDENTITY: Sequence[str] = ("label_name",)
FEWEST, EVIDENCE = regression_intervals.FEWEST_ROWS, "rows"

headline_interval, compare = regression_intervals.rmse, regression_intervals.compare
evidence, single_column, figure = regression_intervals.count_rows, single_r2, regression_figure.figure


def check_label(label: pl.Series) -> pl.Series:
    """Return the label as floats.

    Raises:
        BadData: the label is text, has an infinite value or NaN, or has the same value in all rows.
    """
    import polars as pl

    if not label.dtype.is_numeric():
        raise BadData(f"Label {label.name} is of type {label.dtype}; a regression needs numbers.")
    number = label.cast(pl.Float64)
    if wrong := len(number) - int(number.is_finite().sum()):
        raise BadData(f"Label {label.name}: {wrong} of {len(number)} values are infinite or NaN.")
    if number.min() == number.max():
        raise BadData(f"Label {label.name} has the value {number[0]:g} in all rows, so it can't be predicted.")
    return number


def score_of(model: Any, features: Any) -> Array:
    """Return the number that the model predicts for each row, shape (rows,)."""
    import numpy as np

    return np.asarray(model.predict(features), float).ravel()


def predict(score: Array, threshold: float) -> Array:
    """Return the scores: they are the predictions, and no threshold changes them."""
    return score


def score_metrics(label: pl.Series, score: Array, prefix: str) -> dict[str, float]:
    """Return RMSE, MAE, median absolute error and R2, and MAPE if all labels are positive.

    The metrics' names begin with the prefix: `test_rmse` if the prefix is `test`. All but R2 and MAPE have the unit of
    the label.
    """
    from sklearn import metrics

    truth = label.to_numpy()
    values = {
        "rmse": metrics.root_mean_squared_error(truth, score),
        "mae": metrics.mean_absolute_error(truth, score),
        "median_absolute_error": metrics.median_absolute_error(truth, score),
        "r2": metrics.r2_score(truth, score),
    }
    if (truth > 0).all():
        values["mape"] = metrics.mean_absolute_percentage_error(truth, score)
    return {f"{prefix}_{name}": float(value) for name, value in values.items()}


def class_metrics(label: pl.Series, predicted: Array, prefix: str) -> dict[str, float]:
    """Return no metrics: a number has no classes."""
    return {}


def add_derived(values: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics unchanged: the step evaluate logs all of them."""
    return dict(values)


def curves(label: pl.Series, score: Array) -> dict[str, dict[str, list[float]]]:
    """Return three charts, as chart -> axis -> values. The first axis is x.

    `observed` and `residuals` have at most POINTS rows, evenly chosen in the order of their predictions; a residual is
    the label minus the prediction. `tenths` has the mean prediction and the mean label of each tenth of the rows.
    """
    import numpy as np

    truth = label.to_numpy()
    order = np.argsort(score, kind="stable")
    picked = order[np.unique(np.linspace(0, len(order) - 1, POINTS).round().astype(int))]
    charts = {
        "observed": {"predicted": score[picked], "observed": truth[picked]},
        "residuals": {"predicted": score[picked], "residual": (truth - score)[picked]},
        "tenths": tenths(truth, score),
    }
    return {
        name: {axis: [float(f"{value:.10g}") for value in values] for axis, values in chart.items()}
        for name, chart in charts.items()
    }


def form(value: float) -> str:
    """Return a format with four significant digits for numbers as large as `value`, without an exponent."""
    if not math.isfinite(value) or not value:
        return ".3f"
    return f",.{min(12, max(0, 3 - math.floor(math.log10(abs(value)))))}f"


def unit(label: Array, baseline: Array) -> float:
    """Return the unit of margins: the RMSE of the baseline. It is 1 if the baseline makes no errors."""
    return headline(label, baseline) or 1.0


def headline(label: Array, score: Array) -> float:
    """Return the RMSE."""
    return math.sqrt(loss(label, score))


def intervals(
    label: Array, score: Array, predicted: Array, level: float, keys: Array | None = None
) -> dict[str, Interval]:
    """Return metric -> its value with its interval. The arguments are those of `regression_intervals.intervals`."""
    return regression_intervals.intervals(label, score, level, keys)


def loss(label: Array, score: Array) -> float:
    """Return the mean squared error."""
    return float(((label - score) ** 2).mean())


def loss_gain(label: Array, score: Array, other: Array, level: float, keys: Array | None = None) -> Interval:
    """Return by how much the mean squared error of `score` is below that of `other`.

    The interval is paired: both scores are of the same rows. With fewer than FEWEST rows, its ends are NaN.
    `keys` means the same as in `regression_intervals.intervals`.
    """
    import numpy as np

    gains = (label - other) ** 2 - (label - score) ** 2
    gains[np.isclose(score, other, rtol=SAME, atol=0)] = 0.0
    gain = mean_interval(gains, level, keys)
    return gain if evidence(label, keys) >= FEWEST else Interval(gain.value, math.nan, math.nan, level)


def evidence_by_group(groups: Array, label: Array, size: int) -> Array:
    """Return the number of rows of each group. `groups` has each row's group, 0 to `size` - 1."""
    import numpy as np

    return np.bincount(groups, minlength=size)


def scarcity(label: Array) -> str | None:
    """Return in words that the rows are too few for an interval; None if they are enough."""
    return f"{len(label)} of the test rows; at least {FEWEST} are needed" if len(label) < FEWEST else None


def label_change(before: Sequence[str], now: Sequence[str]) -> str:
    """Return in words how the label differs between two models, given the values of their tags IDENTITY."""
    return f"its label is {shown(before[0])}, but here it is {shown(now[0])}. Set data.label back"


def weight(label: Array) -> float:
    """Return the number of rows."""
    return float(len(label))


def slice_counts(label: Array, predicted: Array) -> dict[str, int]:
    """Return no counts: a slice of numbers has no kinds of errors."""
    return {}


def bias(label: Array, score: Array, level: float, keys: Array | None = None) -> Interval | None:
    """Return None: a predicted number is no probability."""
    return None
