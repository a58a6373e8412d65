"""Find a classifier of scikit-learn by its name."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

from ml_pipelines.errors import ConfigError, message_of
from ml_pipelines.text import shown

BOOSTING = "sklearn.ensemble.HistGradientBoostingClassifier"
FEW_EVENTS = 2_000  # below, trees would soon fit noise, so the learning rate is lower
MANY_EVENTS = 5_000  # from here on, trees can be larger


def default_options(name: str, events: int) -> dict[str, Any]:
    """Return the options for a classifier if the configuration sets none. {} means scikit-learn's defaults.

    `events` is the number of training rows of the rarer class. tests/chaos/simulate_models.py compares these options
    with scikit-learn's; docs/models.md has the result.
    """
    if name != BOOSTING:
        return {}
    if events >= MANY_EVENTS:
        return {"learning_rate": 0.15, "max_leaf_nodes": 16, "l2_regularization": 10.0, "early_stopping": False}
    return {
        "learning_rate": round(0.2 * min(1.0, math.sqrt(events / FEW_EVENTS)), 4),
        "max_leaf_nodes": 8,
        "l2_regularization": 1.0,
        "max_features": 0.5,
        "early_stopping": False,
    }


def make_classifier(name: str, options: Mapping[str, Any], seed: int) -> Any:
    """Return an unfitted classifier of scikit-learn. The classifier gets the seed if it takes a `random_state`.

    Args:
        name: steps.train.params.estimator, `sklearn.<module>.<Class>`.
        options: steps.train.params.options, for the classifier's constructor. A `random_state` in them replaces `seed`.
        seed: the seed of the pipeline run.

    Raises:
        ConfigError: the class does not exist, is not a classifier with probabilities, or does not take an option.
    """
    from sklearn.base import ClassifierMixin

    module, _, class_name = name.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), class_name, None)
    except ImportError:
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, ClassifierMixin)):
        raise ConfigError(f"steps.train.params.estimator: scikit-learn has no classifier {shown(name)}.")
    try:
        estimator = kind(**options)
    except TypeError as error:
        raise ConfigError(f"steps.train.params.options: {message_of(error)}.") from error
    if not hasattr(estimator, "predict_proba"):
        raise ConfigError(f"steps.train.params.estimator: {name} gives no probabilities (predict_proba).")
    if "random_state" in estimator.get_params() and "random_state" not in options:
        estimator.set_params(random_state=seed)
    return estimator
