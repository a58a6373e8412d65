"""Fit a classifier on the training table."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ml_pipelines.context import BadData, ConfigError, Outputs, StepContext
from steps.modelling import score_metrics, split_label

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

MAX_CATEGORIES = 254  # a column's rarer values share one code


@dataclass(frozen=True)
class Params:
    """The estimator, and how columns are encoded for it."""

    estimator: str
    options: dict[str, Any] = field(default_factory=dict)
    categories: str = "ordinal"
    missing: str = "keep"
    scale: bool = False


def make_estimator(params: Params, seed: int) -> Any:
    """Return the unfitted scikit-learn classifier, seeded where it can be.

    Raises:
        ConfigError: no such class, no classifier with probabilities, or an option that it doesn't take.
    """
    from sklearn.base import ClassifierMixin

    module, _, name = params.estimator.rpartition(".")
    if not module.startswith("sklearn."):
        raise ConfigError(f"steps.train.params.estimator: {params.estimator!r} is no sklearn.<module>.<Class>.")
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ImportError:
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, ClassifierMixin)):
        raise ConfigError(f"steps.train.params.estimator: there is no classifier {params.estimator}.")
    try:
        estimator = kind(**params.options)
    except TypeError as error:
        raise ConfigError(f"steps.train.params.options: {error}.") from error
    if not hasattr(estimator, "predict_proba"):
        raise ConfigError(f"steps.train.params.estimator: {params.estimator} gives no probabilities (predict_proba).")
    if "random_state" in estimator.get_params() and "random_state" not in params.options:
        estimator.set_params(random_state=seed)
    return estimator


def make_encoder(features: pl.DataFrame, params: Params, takes_nan: bool) -> ColumnTransformer:
    """Return the unfitted encoder: text columns to numbers, numbers as the params say.

    Ordinal codes of a category that is missing, or that training hasn't seen: NaN where the estimator takes that.
    """
    import numpy as np
    import polars as pl
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    if params.categories not in ("ordinal", "one_hot") or params.missing not in ("keep", "median"):
        raise ConfigError("steps.train.params: categories is ordinal or one_hot, missing is keep or median.")
    text = [name for name, dtype in features.schema.items() if dtype == pl.String]
    numbers = [name for name in features.columns if name not in text]
    encode = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES, sparse_output=False)
    if params.categories == "ordinal":
        unseen, missing = (np.nan, np.nan) if takes_nan else (-1, -2)
        encode = OrdinalEncoder(max_categories=MAX_CATEGORIES, encoded_missing_value=missing)
        encode.set_params(handle_unknown="use_encoded_value", unknown_value=unseen)
    prepare = [SimpleImputer(strategy="median")] if params.missing == "median" else []
    prepare += [StandardScaler()] if params.scale else []
    parts = [("category", encode, text)] if text else []
    parts += [("number", make_pipeline(*prepare) if prepare else "passthrough", numbers)] if numbers else []
    return ColumnTransformer(parts)


def make_model(features: pl.DataFrame, params: Params, seed: int) -> Pipeline:
    """Return the unfitted estimator behind the encoder for these columns: the pipeline's steps `encode` and `model`.

    Raises:
        BadData: numbers are missing, and neither the estimator nor the params say what to do with them.
        ConfigError: no such estimator, option or treatment.
    """
    from sklearn.pipeline import Pipeline
    from sklearn.utils import get_tags

    estimator = make_estimator(params, seed)
    takes_nan = get_tags(estimator).input_tags.allow_nan
    for column in features if params.missing == "keep" and not takes_nan else []:
        if column.null_count() and str(column.dtype) != "String":
            raise BadData(
                f"Feature {column.name}: {column.null_count()} of {len(column)} values are missing, and "
                f"{params.estimator} can't take that. Set steps.train.params.missing=median."
            )
    return Pipeline([("encode", make_encoder(features, params, takes_nan)), ("model", estimator)])


def fit(estimator: Any, encoded: Any, label: pl.Series) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Fit the estimator, and return its probability of class 1 for each row, shape (rows,).

    Raises:
        ConfigError: an option has a value that the estimator doesn't take.
    """
    from sklearn.utils._param_validation import InvalidParameterError

    try:
        estimator.fit(encoded, label.to_numpy())
    except InvalidParameterError as error:
        raise ConfigError(f"steps.train.params.options: {error}") from error
    score: np.ndarray[Any, np.dtype[np.float64]] = estimator.predict_proba(encoded)[:, 1]
    return score


def run(step: StepContext[Params], *, train_uri: str) -> Outputs:
    """Fit, and hand on the model."""
    import polars as pl

    names = step.feature_columns(train_uri)
    features, label = split_label(step.read(train_uri, [*names, step.label]), step.label, names)
    model = make_model(features, step.params, step.seed)
    example = pl.DataFrame(features.head(5).to_dicts(), schema=features.schema)  # head alone would keep all the rows
    encoded = model["encode"].fit_transform(features)
    del features  # it is as large as `encoded`, and fitting takes as much again
    metrics = score_metrics(label, fit(model["model"], encoded, label), "train")
    step.log_metrics({**metrics, "train_rows": len(label), "features": len(names)})
    step.summary(f"auc {metrics['train_auc']:.3f} in training")
    return {"train_run_id": step.run_id, "model_uri": step.log_model(model, example)}
