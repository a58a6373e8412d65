"""Make an estimator by its import path: a class of scikit-learn, XGBoost, LightGBM, CatBoost, or of this project."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_pipelines.errors import ConfigError, message_of
from ml_pipelines.text import did_you_mean, shown

HISTOGRAMS = "sklearn.ensemble.HistGradientBoosting"  # the classifier and the regressor begin with this
BOOSTING = f"{HISTOGRAMS}Classifier"
FEW_EVENTS = 2_000  # below, trees would soon fit noise, so the learning rate is lower
MANY_EVENTS = 5_000  # from here on, trees can be larger
SEED_OPTIONS = ("random_state", "random_seed")  # the names of the seed; CatBoost has both
ESTIMATOR = "steps.train.params.estimator"
OPTIONS = "steps.train.params.options"


@dataclass(frozen=True)
class Library:
    """What this project sets for the estimators of a library, unless `options` sets it.

    Args:
        defaults: option -> value.
        synonyms: groups of options with one meaning. The library refuses two options of a group.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    synonyms: tuple[Collection[str], ...] = ()


LIBRARIES = {
    "xgboost": Library(),
    # With n_jobs=0, LightGBM uses OpenMP's number of threads, which is the step's share of the processors. The two
    # options after it make the model independent of the number of threads.
    "lightgbm": Library(
        {"n_jobs": 0, "deterministic": True, "force_col_wise": True, "verbosity": -1},
        (("force_col_wise", "force_row_wise"),),
    ),
    # CatBoost's model depends on the number of threads, so that number must not depend on the machine.
    "catboost": Library(
        {"thread_count": 1, "verbose": False, "allow_writing_files": False, "random_seed": 0},
        (SEED_OPTIONS, ("verbose", "silent", "logging_level")),
    ),
}


def default_options(name: str, events: int) -> dict[str, Any]:
    """Return the options for an estimator if the configuration sets none. {} means the library's defaults.

    `events` is the number of training rows of the rarer class, or of all rows if the label is a number.
    tests/chaos/simulate_models.py compares these options with scikit-learn's; docs/models.md has the result.
    """
    if not name.startswith(HISTOGRAMS):
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


def make_estimator(path: str, options: Mapping[str, Any], seed: int, kind: str) -> Any:
    """Return an unfitted estimator. The estimator gets the seed if it takes one.

    Args:
        path: steps.train.params.estimator, the import path of a class.
        options: steps.train.params.options, for the class's constructor. A seed in them replaces `seed`.
        seed: the seed of the pipeline run.
        kind: the estimator's type in scikit-learn's words: `classifier` or `regressor`.

    Raises:
        ConfigError: the library is not installed, the class does not exist, is not of this kind, is a classifier
            without probabilities, or does not take an option.
    """
    estimator_class = _import_class(path, kind)
    _check_options(estimator_class, options)
    try:
        estimator = estimator_class(**_own_options(path, options), **options)
    except TypeError as error:
        raise ConfigError(f"{OPTIONS}: {message_of(error)}.") from error
    if _type_of(estimator) != kind:
        raise _no_such_class(path, kind)
    if kind == "classifier" and not hasattr(estimator, "predict_proba"):
        raise ConfigError(f"{ESTIMATOR}: {path} gives no probabilities (predict_proba).")
    if not options.keys() & set(SEED_OPTIONS):
        set_seed(estimator, seed)
    return estimator


def set_seed(estimator: Any, seed: int) -> None:
    """Give an estimator the seed, if it takes one."""
    known = estimator.get_params()
    estimator.set_params(**{name: seed for name in SEED_OPTIONS if name in known})


def is_refused_option(error: Exception) -> bool:
    """Return whether an error of `fit` says that the estimator refuses the value of an option.

    Errors of the types that XGBoost, LightGBM and CatBoost define mean this, because the table was checked before.
    """
    from sklearn.utils._param_validation import InvalidParameterError

    return isinstance(error, InvalidParameterError) or _root_of(type(error).__module__.lstrip("_")) in LIBRARIES


def declare_categories(estimator: Any, path: str, categories: int, columns: int) -> None:
    """Tell an estimator that its first columns are categories.

    Args:
        estimator: an unfitted estimator.
        path: its import path.
        categories: the number of columns that are categories. They are the first ones.
        columns: the number of all columns.

    Raises:
        ConfigError: the estimator treats all columns as numbers.
    """
    first = list(range(categories))
    known: Mapping[str, Mapping[str, Any]] = {
        "xgboost": {"enable_categorical": True, "feature_types": ["c"] * categories + ["q"] * (columns - categories)},
        "lightgbm": {"cat_feature": first},
        "catboost": {"cat_features": tuple(first)},  # scikit-learn's clone refuses CatBoost with a list
    }
    options = known.get(_root_of(path), {"categorical_features": first} if path.startswith(HISTOGRAMS) else {})
    if not options:
        raise ConfigError(
            f"steps.train.params.categories: {path} has no native categories. Set ordinal (trees) or one_hot."
        )
    estimator.set_params(**options)


def needs_whole_codes(path: str) -> bool:
    """Return whether an estimator takes native categories only as whole numbers, without NaN."""
    return _root_of(path) == "catboost"


def _root_of(path: str) -> str:
    return path.split(".")[0]


def _own_options(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return this project's own options for the estimator, without those that `options` replaces."""
    library = LIBRARIES.get(_root_of(path), Library())
    given = set(options).union(*(group for group in library.synonyms if options.keys() & set(group)))
    return {name: value for name, value in library.defaults.items() if name not in given}


def _import_class(path: str, kind: str) -> type:
    module, _, class_name = path.rpartition(".")
    root = _root_of(path)
    try:
        found = getattr(importlib.import_module(module), class_name, None)
    except (ImportError, OSError) as error:  # OSError: a library of the system is missing, such as libgomp
        lost = getattr(error, "name", None) or ""
        if root in LIBRARIES and lost == root:
            raise ConfigError(f"{ESTIMATOR}: {root} is not installed. Install it: pip install {root}") from error
        if root in ("sklearn", "steps") and f"{module}.".startswith(f"{lost}."):
            raise _no_such_class(path, kind) from error
        raise ConfigError(f"{ESTIMATOR}: {module} can't be imported: {message_of(error)}") from error
    if not (isinstance(found, type) and hasattr(found, "fit")):
        raise _no_such_class(path, kind)
    return found


def _no_such_class(path: str, kind: str) -> ConfigError:
    root = _root_of(path)
    owner = {"sklearn": "scikit-learn", "steps": "this project"}.get(root, root)
    return ConfigError(f"{ESTIMATOR}: {owner} has no {kind} {shown(path)}.")


def _type_of(estimator: Any) -> str | None:
    from sklearn.utils import get_tags

    try:
        kind: str | None = get_tags(estimator).estimator_type
    except (AttributeError, TypeError):  # a class that is not made for scikit-learn
        return None
    return kind


def _check_options(estimator_class: type, options: Mapping[str, Any]) -> None:
    """Raise ConfigError if the class's constructor does not take an option."""
    library, name = _root_of(estimator_class.__module__), estimator_class.__name__
    constructors = [each for each in estimator_class.__mro__ if "__init__" in vars(each)]
    if library in LIBRARIES:  # their constructors pass `**kwargs` on to those of their parents
        constructors = [each for each in constructors if _root_of(each.__module__) == library]
    else:
        constructors = constructors[:1]
    parameters = [each for made in constructors for each in inspect.signature(made).parameters.values()]
    known = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
    if library not in LIBRARIES and len(known) < len(parameters):
        return  # the constructor takes any name
    groups = _lightgbm_names() if library == "lightgbm" else []
    known |= {group[0] for group in groups if not known.intersection(group)}
    for option in options:
        if option not in known:
            others = [each for group in groups if option in group for each in group if each in known]
            advice = f" Write {others[0]}." if others else did_you_mean(option, sorted(known))
            advice = advice or f" See the documentation of {name}."
            raise ConfigError(f"{OPTIONS}.{shown(option)}: {name} has no such option.{advice}")


def _lightgbm_names() -> list[list[str]]:
    """Return for each option of LightGBM its main name, then its aliases. The constructors list few options."""
    # A name in an import would make LightGBM's version part of the fingerprint of every step.
    names = sys.modules["lightgbm"].basic._ConfigAliases._get_all_param_aliases()
    return list(names.values())
