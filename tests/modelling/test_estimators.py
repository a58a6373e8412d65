"""Tests of classifiers made by name: they get the seed and the options, and an error names the key in conf."""

from typing import Any

import pytest

from ml_pipelines.errors import ConfigError
from ml_pipelines.modelling.estimators import default_options, make_classifier

GRADIENT_BOOSTING = "sklearn.ensemble.HistGradientBoostingClassifier"
FOREST = "sklearn.ensemble.RandomForestClassifier"


def test_the_seed_is_the_estimator_s_random_state() -> None:
    assert make_classifier(FOREST, {"n_estimators": 3}, seed=5).get_params()["random_state"] == 5
    assert make_classifier("sklearn.naive_bayes.GaussianNB", {}, seed=5)


def test_a_random_state_in_the_options_overrides_the_seed() -> None:
    assert make_classifier(FOREST, {"random_state": 7}, seed=1).random_state == 7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sklearn.ensemble.NoSuchClassifier", {}, "estimator: scikit-learn has no classifier sklearn.ensemble.NoSuch"),
        ("sklearn.nowhere.Classifier", {}, "estimator: scikit-learn has no classifier sklearn.nowhere.Classifier"),
        ("sklearn.linear_model.LinearRegression", {}, "estimator: scikit-learn has no classifier"),
        ("sklearn.mixture.GaussianMixture", {}, "estimator: scikit-learn has no classifier"),
        ("sklearn.svm.LinearSVC", {}, "estimator: sklearn.svm.LinearSVC gives no probabilities"),
        (GRADIENT_BOOSTING, {"max_itr": 5}, "options: .*max_itr"),
    ],
)
def test_a_wrong_estimator_or_option_is_a_config_error(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"steps\.train\.params\.{message}"):
        make_classifier(name, options, seed=1)


@pytest.mark.parametrize(
    ("events", "rate", "leaves"),
    [(500, 0.1, 8), (2_000, 0.2, 8), (4_999, 0.2, 8), (5_000, 0.15, 16), (10**6, 0.15, 16)],
)
def test_the_default_options_depend_on_the_rows_of_the_rarer_class(events: int, rate: float, leaves: int) -> None:
    options = default_options(GRADIENT_BOOSTING, events)
    assert (options["learning_rate"], options["max_leaf_nodes"]) == (rate, leaves)
    assert default_options(FOREST, events) == {}
