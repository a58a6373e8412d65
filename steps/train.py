"""Fit a classifier on the training table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ml_pipelines.authoring import rules
from ml_pipelines.authoring.context import Outputs, StepContext
from ml_pipelines.errors import BadData, ConfigError, message_of
from ml_pipelines.modelling.encoder import CATEGORIES, MISSING, make_encoder
from ml_pipelines.modelling.estimators import (
    declare_categories,
    default_options,
    is_refused_option,
    make_estimator,
    needs_whole_codes,
)
from ml_pipelines.modelling.features import split_label, value_ranges
from ml_pipelines.problems.problem import problem_of
from ml_pipelines.text import shown

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from sklearn.pipeline import Pipeline

ESTIMATORS = r"((sklearn|steps)(\.[a-z_]\w*)+|xgboost|lightgbm|catboost)\.[A-Z]\w*"


@dataclass(frozen=True)
class Params:
    """The estimator with its options, how columns are encoded for it, and from which score on a row is class 1."""

    estimator: str
    options: dict[str, Any] = field(default_factory=dict)
    categories: str = "ordinal"
    missing: str = "keep"
    scale: bool = False
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Raise ValueError for an estimator that is not a class of a known library or of steps/, or wrong values."""
        form = "<library>.<module>.<Class>, of sklearn, xgboost, lightgbm, catboost or steps"
        rules.looks_like("estimator", self.estimator, ESTIMATORS, form)
        rules.one_of("categories", self.categories, CATEGORIES)
        rules.one_of("missing", self.missing, MISSING)
        rules.between("threshold", self.threshold, 0, 1)


def make_model(features: pl.DataFrame, params: Params, seed: int) -> Pipeline:
    """Return the unfitted pipeline for these columns: `encode`, then `model`.

    Raises:
        BadData: numbers are missing, the estimator can't take missing numbers, and the params don't replace them.
        ConfigError: the estimator or an option is wrong (see `make_estimator`), or has no native categories.
    """
    from sklearn.pipeline import Pipeline
    from sklearn.utils import get_tags

    estimator = make_estimator(params.estimator, params.options, seed)
    takes_nan = get_tags(estimator).input_tags.allow_nan
    for column in features if params.missing == "keep" and not takes_nan else []:
        if column.null_count() and str(column.dtype) != "String":
            raise BadData(
                f"Feature {shown(column.name)}: {column.null_count()} of {len(column)} values are missing, and "
                f"{params.estimator} can't handle that. Set steps.train.params.missing=median."
            )
    native = params.categories == "native"
    if native:
        text = sum(str(column.dtype) == "String" for column in features)
        declare_categories(estimator, params.estimator, text, features.width)
    whole_codes = native and needs_whole_codes(params.estimator)
    encoder = make_encoder(features, params.categories, params.missing, params.scale, takes_nan, whole_codes)
    return Pipeline([("encode", encoder), ("model", estimator)])


def fit(estimator: Any, encoded: Any, label: pl.Series) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Fit the estimator; return its probability of class 1 for each row, shape (rows,).

    Raises:
        ConfigError: the estimator refuses the value of an option.
    """
    try:
        estimator.fit(encoded, label.to_numpy())
    except Exception as error:
        if is_refused_option(error):
            raise ConfigError(f"steps.train.params.options: {message_of(error)}") from error
        raise
    score: np.ndarray[Any, np.dtype[np.float64]] = estimator.predict_proba(encoded)[:, 1].astype(float)
    return score


def run(step: StepContext[Params], *, train_uri: str) -> Outputs:
    """Fit and log the model; return its URI."""
    import polars as pl

    names = step.feature_columns(train_uri)
    features, label = split_label(step.read(train_uri, [*names, step.label]), step.label, names)
    params = step.params
    if not params.options:
        events = int(min(label.sum(), len(label) - label.sum()))
        params = replace(params, options=default_options(params.estimator, events))
        step.log_params({f"options.{name}": value for name, value in params.options.items()})
    model = make_model(features, params, step.seed)
    example = pl.DataFrame(features.head(5).to_dicts(), schema=features.schema)  # `head` alone keeps all rows in memory
    ranges = value_ranges(features)
    encoded = model["encode"].fit_transform(features)
    del features  # frees memory: `features` is as large as `encoded`, and fitting needs that much again
    problem = problem_of()
    metrics = problem.score_metrics(label, fit(model["model"], encoded, label), "train")
    step.log_metrics({**metrics, "train_rows": len(label), "features": len(names)})
    step.summary(f"{problem.HEADLINE} {metrics[f'train_{problem.HEADLINE}']:.3f} in training")
    return {"train_run_id": step.run_id, "model_uri": step.log_model(model, example, params.threshold, ranges)}
