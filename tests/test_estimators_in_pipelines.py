"""Other estimators in whole pipelines: `score` gives their scores, and a class of the project is used."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LENIENT, Result, Store, change
from test_score_pipeline import SYNTHETIC, agree, evaluated_rows, scored

pytestmark = pytest.mark.slow
SMALL = f"data.source.rows=400,data.source.features=4,steps.feature_importance.params.repeats=1,{LENIENT}"
MODEL = "steps.train.params.estimator"


@pytest.mark.parametrize(
    ("path", "rounds"),
    [
        ("xgboost.XGBClassifier", "n_estimators"),
        ("lightgbm.LGBMClassifier", "n_estimators"),
        ("catboost.CatBoostClassifier", "iterations"),
    ],
)
def test_a_library_s_model_is_judged_and_scores(
    path: str, rounds: str, drive: Callable[..., Result], store: Store
) -> None:
    options = f"--set=steps.train.params.options.{rounds}=20"
    result = drive(f"--set={SMALL},{MODEL}={path}", options, small=False)
    assert result.code == 0, result.text
    store.client.set_registered_model_alias("local_pipeline_experiment", "champion", "1")  # whatever the gate said
    evaluated = evaluated_rows(store)
    result = drive("--pipeline=score", SYNTHETIC)
    assert result.code == 0, result.text
    assert agree(scored(store), evaluated, "id", "1")


OWN = """
from sklearn.linear_model import LogisticRegression


class Mine(LogisticRegression):
    def predict_proba(self, rows):
        return super().predict_proba(rows * 1.0)
"""


def test_an_estimator_of_the_project_is_used_and_a_change_of_its_code_runs_train_again(
    small: Path, shell: Callable[..., Result], store: Store
) -> None:
    module = small / "steps" / "mine.py"
    module.write_text(OWN)
    settings = f"{MODEL}=steps.mine.Mine,steps.train.params.options={{C: 0.5}},data.delta_prefix.local={store.tables}"
    command = ["python", "driver.py", "--set", settings]
    result = shell(*command, cwd=small)
    assert result.code == 2
    assert "model.trusted_types: Mine needs the types ['steps.mine.Mine']" in result.text
    command += ["--set", "model.trusted_types=[steps.mine.Mine]"]
    result = shell(*command, cwd=small)
    assert result.code == 0, result.text
    change(module, "1.0", "0.5")
    result = shell(*command, "--dry-run", cwd=small)
    assert "runs: code changed (steps.mine)" in result.text
