"""Find a classifier of scikit-learn by its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ml_pipelines.errors import ConfigError, message_of
from ml_pipelines.text import shown


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
