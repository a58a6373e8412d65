"""Fit an estimator on the training table."""

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
from ml_pipelines.problems.problem import Problem, problem_of, text_of
from ml_pipelines.text import shown

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from sklearn.pipeline import Pipeline

ESTIMATORS = r"((sklearn|steps)(\.[a-z_]\w*)+|xgboost|lightgbm|catboost)\.[A-Z]\w*"


@dataclass(frozen=True)
class Params:
    """The estimator with its options, how columns are encoded for it, and from which score on a row is class 1.

    If no estimator is set, the kind of problem decides it. A regression has no classes, and so no threshold.
    """

    estimator: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    categories: str = "ordinal"
    missing: str = "keep"
    scale: bool = False
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Raise ValueError for an estimator that is not a class of a known library or of steps/, or wrong values."""
        form = "<library>.<module>.<Class>, of sklearn, xgboost, lightgbm, catboost or steps"
        if self.estimator is not None:
            rules.looks_like("estimator", self.estimator, ESTIMATORS, form)
        rules.one_of("categories", self.categories, CATEGORIES)
        rules.one_of("missing", self.missing, MISSING)
        rules.between("threshold", self.threshold, 0, 1)


def make_model(features: pl.DataFrame, params: Params, problem: Problem, seed: int) -> Pipeline:
    """Return the unfitted pipeline for these columns: `encode`, then `model`.

    Raises:
        BadData: numbers are missing, the estimator can't take missing numbers, and the params don't replace them.
        ConfigError: the estimator or an option is wrong (see `make_estimator`), or has no native categories.
    """
    from sklearn.pipeline import Pipeline
    from sklearn.utils import get_tags

    path = params.estimator or problem.ESTIMATOR
    estimator = make_estimator(path, params.options, seed, problem.ESTIMATOR_TYPE)
    takes_nan = get_tags(estimator).input_tags.allow_nan
    for column in features if params.missing == "keep" and not takes_nan else []:
        if column.null_count() and str(column.dtype) != "String":
            raise BadData(
                f"Feature {shown(column.name)}: {column.null_count()} of {len(column)} values are missing, and "
                f"{path} can't handle that. Set steps.train.params.missing=median."
            )
    native = params.categories == "native"
    if native:
        text = sum(str(column.dtype) == "String" for column in features)
        declare_categories(estimator, path, text, features.width)
    whole_codes = native and needs_whole_codes(path)
    encoder = make_encoder(features, params.categories, params.missing, params.scale, takes_nan, whole_codes)
    return Pipeline([("encode", encoder), ("model", estimator)])


def fit(estimator: Any, encoded: Any, label: pl.Series, problem: Problem) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Fit the estimator; return its score of each row, shape (rows,).

    Raises:
        ConfigError: the estimator refuses the value of an option.
    """
    try:
        estimator.fit(encoded, label.to_numpy())
    except Exception as error:
        if is_refused_option(error):
            raise ConfigError(f"steps.train.params.options: {message_of(error)}") from error
        raise
    return problem.score_of(estimator, encoded)


def run(step: StepContext[Params], *, train_uri: str) -> Outputs:
    """Fit and log the model; return its URI."""
    import polars as pl

    names = step.feature_columns(train_uri)
    problem = problem_of(step.origin(train_uri).problem)
    features, label = split_label(step.read(train_uri, [*names, step.label]), step.label, names, problem)
    params = step.params
    if params.estimator is None:
        params = replace(params, estimator=problem.ESTIMATOR)
        step.log_params({"estimator": params.estimator})
    if not params.options:
        evidence = problem.evidence(label.to_numpy())
        params = replace(params, options=default_options(str(params.estimator), evidence))
        step.log_params({f"options.{name}": value for name, value in params.options.items()})
    model = make_model(features, params, problem, step.seed)
    example = pl.DataFrame(features.head(5).to_dicts(), schema=features.schema)  # `head` alone keeps all rows in memory
    ranges = value_ranges(features)
    encoded = model["encode"].fit_transform(features)
    del features  # frees memory: `features` is as large as `encoded`, and fitting needs that much again
    metrics = problem.score_metrics(label, fit(model["model"], encoded, label, problem), "train")
    step.log_metrics({**metrics, "train_rows": len(label), "features": len(names)})
    step.summary(f"{text_of(problem, problem.HEADLINE, metrics[f'train_{problem.HEADLINE}'])} in training")
    return {"train_run_id": step.run_id, "model_uri": step.log_model(model, example, params.threshold, ranges)}
