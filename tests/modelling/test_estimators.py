"""Tests of estimators made by name: they get the seed and the options, and an error names the key in conf."""

import sys
from pathlib import Path
from typing import Any

import pytest

from ml_pipelines.errors import ConfigError
from ml_pipelines.modelling.estimators import default_options, make_estimator, set_seed

GRADIENT_BOOSTING = "sklearn.ensemble.HistGradientBoostingClassifier"
XGBOOST, LIGHTGBM = "xgboost.XGBClassifier", "lightgbm.LGBMClassifier"
CATBOOST = "catboost.CatBoostClassifier"
FOREST = "sklearn.ensemble.RandomForestClassifier"


def test_the_seed_is_the_estimator_s_random_state() -> None:
    assert make_estimator(FOREST, {"n_estimators": 3}, seed=5, kind="classifier").get_params()["random_state"] == 5
    assert make_estimator("sklearn.naive_bayes.GaussianNB", {}, seed=5, kind="classifier")


@pytest.mark.parametrize("path", [XGBOOST, LIGHTGBM, CATBOOST])
def test_each_library_gets_the_seed_under_its_own_name(path: str) -> None:
    assert set_seeds(make_estimator(path, {}, seed=5, kind="classifier")) == {5}
    assert set_seeds(make_estimator(path, {"random_state": 7}, seed=5, kind="classifier")) == {7}
    estimator = make_estimator(path, {}, seed=5, kind="classifier")
    set_seed(estimator, 9)
    assert set_seeds(estimator) == {9}


def set_seeds(estimator: Any) -> set[int]:
    params = estimator.get_params()
    return {params[name] for name in ("random_state", "random_seed") if name in params}


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (LIGHTGBM, {"extra_trees": True, "force_row_wise": True}),  # an option that only **kwargs takes, and a synonym
        (CATBOOST, {"logging_level": "Silent"}),  # a synonym of verbose
    ],
)
def test_an_option_replaces_what_this_project_sets(path: str, options: dict[str, Any]) -> None:
    made = make_estimator(path, options, seed=1, kind="classifier").get_params()
    assert options.items() <= made.items()
    assert "force_col_wise" not in made if path == LIGHTGBM else "verbose" not in made


def test_a_regressor_is_made_if_the_kind_says_so() -> None:
    assert make_estimator("xgboost.XGBRegressor", {"max_depth": 2}, seed=1, kind="regressor").max_depth == 2
    with pytest.raises(ConfigError, match=r"scikit-learn has no regressor sklearn\.ensemble.RandomForestClassifier"):
        make_estimator(FOREST, {}, seed=1, kind="regressor")


@pytest.mark.parametrize("path", [XGBOOST, LIGHTGBM, CATBOOST])
def test_a_library_that_is_not_installed_is_named_with_the_command(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = path.partition(".")[0]
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=f"estimator: {library} is not installed. Install it: pip install {library}"):
        make_estimator(path, {}, seed=1, kind="classifier")


def test_a_module_of_this_project_that_can_t_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_for_a_test.py").write_text("import no_such_module_for_a_test")
    import steps

    monkeypatch.setattr(steps, "__path__", [*steps.__path__, str(tmp_path)])
    with pytest.raises(ConfigError, match="broken_for_a_test can't be imported: No module named 'no_such_module"):
        make_estimator("steps.broken_for_a_test.Model", {}, seed=1, kind="classifier")


def test_a_random_state_in_the_options_overrides_the_seed() -> None:
    assert make_estimator(FOREST, {"random_state": 7}, seed=1, kind="classifier").random_state == 7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sklearn.ensemble.NoSuchClassifier", {}, "estimator: scikit-learn has no classifier sklearn.ensemble.NoSuch"),
        ("sklearn.nowhere.Classifier", {}, "estimator: scikit-learn has no classifier sklearn.nowhere.Classifier"),
        ("sklearn.linear_model.LinearRegression", {}, "estimator: scikit-learn has no classifier"),
        ("sklearn.mixture.GaussianMixture", {}, "estimator: scikit-learn has no classifier"),
        ("sklearn.svm.LinearSVC", {}, "estimator: sklearn.svm.LinearSVC gives no probabilities"),
        ("xgboost.XGBRegressor", {}, "estimator: xgboost has no classifier xgboost.XGBRegressor"),
        ("xgboost.Booster", {}, "estimator: xgboost has no classifier xgboost.Booster"),
        ("steps.nowhere.Classifier", {}, "estimator: this project has no classifier steps.nowhere.Classifier"),
        (GRADIENT_BOOSTING, {"max_itr": 5}, "options.max_itr: .*Did you mean max_iter"),
        (XGBOOST, {"max_deph": 5}, "options.max_deph: XGBClassifier has no such option. Did you mean max_depth"),
        (XGBOOST, {"qqq": 5}, "options.qqq: XGBClassifier has no such option. See the documentation of XGBClassifier"),
        (LIGHTGBM, {"feature_fraction": 0.5}, "options.feature_fraction: .*no such option. Write colsample_bytree"),
        (CATBOOST, {"iteration": 5}, "options.iteration: .*Did you mean iterations"),
    ],
)
def test_a_wrong_estimator_or_option_is_a_config_error(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"steps\.train\.params\.{message}"):
        make_estimator(name, options, seed=1, kind="classifier")


@pytest.mark.parametrize(
    ("events", "rate", "leaves"),
    [(500, 0.1, 8), (2_000, 0.2, 8), (4_999, 0.2, 8), (5_000, 0.15, 16), (10**6, 0.15, 16)],
)
def test_the_default_options_depend_on_the_rows_of_the_rarer_class(events: int, rate: float, leaves: int) -> None:
    options = default_options(GRADIENT_BOOSTING, events)
    assert (options["learning_rate"], options["max_leaf_nodes"]) == (rate, leaves)
    assert default_options(FOREST, events) == {}
