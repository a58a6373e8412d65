"""Tests of models of XGBoost, LightGBM and CatBoost, and of native categories, through the step train."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest
import skops.io
import threadpoolctl
from conftest import Store
from recording import RecordingContext

from ml_pipelines.errors import BadData, ConfigError
from ml_pipelines.modelling import scoring
from ml_pipelines.modelling.features import refit, score_table
from ml_pipelines.models import model_files
from ml_pipelines.problems import binary
from steps import feature_importance, train
from steps.train import Params

HISTOGRAMS = "sklearn.ensemble.HistGradientBoostingClassifier"
FEW = {
    "xgboost.XGBClassifier": {"n_estimators": 10},
    "lightgbm.LGBMClassifier": {"n_estimators": 10},
    "catboost.CatBoostClassifier": {"iterations": 20, "learning_rate": 0.3},
}
NATIVE = FEW | {HISTOGRAMS: {"max_iter": 10}}
LIBRARIES, ALL = pytest.mark.parametrize("path", FEW), pytest.mark.parametrize("path", NATIVE)

random = np.random.default_rng(0)
ROWS = 600
X = random.normal(size=ROWS)
CODES = random.integers(0, 20, ROWS)
FEATURES = pl.DataFrame(
    {
        "x": [None if i % 31 == 0 else float(value) for i, value in enumerate(X)],
        "flag": random.normal(size=ROWS) > 0,
        "code": [None if i % 29 == 0 else f"c{code:02}" for i, code in enumerate(CODES)],
    }
)
# Every second code raises the chance of class 1: no few cuts of the codes' order tell them apart.
LABEL = pl.Series("label", (0.3 * X + 2 * (CODES % 2) + random.normal(size=ROWS) > 1).astype(int))
TABLE = FEATURES.with_columns(LABEL, id=pl.int_range(pl.len()))


def params(path: str, **changed: Any) -> Params:
    return Params(**{"estimator": path, "options": NATIVE[path]} | changed)


def trained(path: str, **changed: Any) -> RecordingContext:
    step = RecordingContext("train", params(path, **changed), {"uri": TABLE})
    train.run(step, train_uri="uri")
    return step


def model(path: str, **changed: Any) -> Any:
    return trained(path, **changed).models[0][0]


def without_trees(path: str) -> dict[str, Any]:
    """Return options for one small tree: with native categories, it can tell the codes apart."""
    rounds = "iterations" if path.startswith("catboost") else "max_iter" if path == HISTOGRAMS else "n_estimators"
    small = {"min_samples_leaf": 1} if path == HISTOGRAMS else {}
    small |= {"min_data_per_group": 1, "cat_smooth": 0.0} if path.startswith("lightgbm") else {}
    return {rounds: 1, "max_depth": 1, **small}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one OpenMP thread: on a busy machine, threads that wait for each other take seconds."""
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        yield


@ALL
@pytest.mark.parametrize("categories", ["ordinal", "native"])
def test_a_loaded_model_gives_equal_scores_whatever_form_the_rows_have(path: str, categories: str) -> None:
    fitted = model(path, categories=categories)
    loaded = skops.io.loads(model_files.dump_model(fitted, []), trusted=list(model_files.TRUSTED))
    rows = pl.concat([FEATURES, FEATURES.head(3).with_columns(x=1.0, flag=True, code=pl.Series([None, "", "unseen"]))])
    scores = score_table(fitted, rows, binary)
    assert scores.dtype == np.float64 and 0 < scores.min() < 0.5 < scores.max() < 1
    assert scores.tolist() == score_table(loaded, rows, binary).tolist()
    assert scores.tolist() == loaded.predict_proba(rows.to_pandas())[:, 1].tolist()
    assert scores[:7].tolist() == score_table(loaded, rows.head(7), binary).tolist()
    assert len(set(scores[-3:])) == 1  # a missing and an unseen category


@ALL
def test_native_categories_need_no_order(path: str) -> None:
    aucs = [
        trained(path, categories=categories, options=without_trees(path)).metrics["train_auc"]
        for categories in ("ordinal", "native")
    ]
    assert aucs[1] > aucs[0] + 0.1


def test_an_estimator_without_native_categories_is_a_config_error() -> None:
    step = RecordingContext(
        "train", Params("sklearn.naive_bayes.GaussianNB", categories="native", missing="median"), {"uri": TABLE}
    )
    with pytest.raises(
        ConfigError, match=r"categories: sklearn\.naive_bayes\.GaussianNB has no native categories. Set"
    ):
        train.run(step, train_uri="uri")


@LIBRARIES
def test_the_metrics_are_equal_for_any_number_of_threads(path: str) -> None:
    metrics = []
    for threads in (1, 3):
        with threadpoolctl.threadpool_limits(threads, user_api="openmp"):
            metrics.append(trained(path).metrics)
    assert metrics[0] == metrics[1]


@LIBRARIES
def test_a_fit_is_quiet_and_leaves_no_files(
    path: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model(path, categories="native")
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@LIBRARIES
def test_a_column_that_matters_is_important(path: str) -> None:
    table = feature_importance.importance(model(path), FEATURES, LABEL, binary, repeats=1, seed=1)
    assert table["feature"][0] == "code"


@LIBRARIES
def test_a_model_is_fitted_again_with_another_seed(path: str) -> None:
    subsample = {"subsample": 0.5} | ({"subsample_freq": 1} if path.startswith("lightgbm") else {})
    fitted = model(path, categories="native", options={**FEW[path], **subsample})
    again, other = (score_table(refit(fitted, FEATURES, LABEL, seed), FEATURES, binary).tolist() for seed in (42, 43))
    assert score_table(fitted, FEATURES, binary).tolist() == again != other


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("xgboost.XGBClassifier", {"objective": "fast"}),
        ("lightgbm.LGBMClassifier", {"num_leaves": -3}),
        ("catboost.CatBoostClassifier", {"depth": -3}),
    ],
)
def test_an_option_with_a_wrong_value_is_a_config_error(path: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"steps.train.params.options: .*{next(iter(options))}"):
        model(path, options=options)


@LIBRARIES
def test_a_model_needs_its_library_in_its_own_version(path: str) -> None:
    library = path.partition(".")[0]
    assert f"{library}=={__import__(library).__version__}" in model_files.requirements(model(path))


@LIBRARIES
def test_the_registered_model_gives_the_scores_of_the_estimator(path: str, store: Store) -> None:
    fitted = model(path, categories="native")
    facts = {"threshold": 0.5, "label": {"no": 0, "yes": 1}}
    with mlflow.start_run(experiment_id=store.opened.experiment_id("models")):
        logged = model_files.log_model(fitted, FEATURES.head(5), [], facts)
    served = mlflow.pyfunc.load_model(logged.uri).predict(FEATURES.head(40).to_pandas().astype({"flag": float}))
    assert served["score"].to_list() == score_table(fitted, FEATURES.head(40), binary).tolist()
    assert (
        score_table(model_files.load_model(logged, []), FEATURES, binary).tolist()
        == score_table(fitted, FEATURES, binary).tolist()
    )


def test_forged_bytes_are_never_parsed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = model("xgboost.XGBClassifier")
    with mlflow.start_run(experiment_id=store.opened.experiment_id("models")):
        logged = model_files.log_model(fitted, FEATURES.head(5), [], {"threshold": 0.5, "label": {"no": 0, "yes": 1}})
    folder = mlflow.get_logged_model(logged.uri.removeprefix("models:/")).artifact_location
    file = Path(folder, model_files.MODEL_FILE)
    file.write_bytes(file.read_bytes()[:-50] + bytes(50))

    def parse(*_: object, **__: object) -> None:
        raise AssertionError("the file was parsed")

    monkeypatch.setattr(skops.io, "loads", parse)
    with pytest.raises(BadData, match="is not the file that its run logged"):
        model_files.load_model(logged, [])
    with pytest.raises(ValueError, match="was changed"):  # a worker of the pipeline score
        scoring.load_once(scoring.Model(str(file), logged.digest, model_files.TRUSTED, [], 0.5, []))
