"""A sixth step takes a block in conf/config.yaml, a module in steps/, and `ml-pipelines sync`. Tested on a copy."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import FAST, Result, Store, change

pytestmark = pytest.mark.slow

BLOCK = """
  score_bands:
    step_name: 06_score_bands
    inputs: [test_uri, train_run_id]
    outputs: [score_bands_run_id, bands]
    compute: single_node
    params: {bands: 4}
"""

MODULE = '''"""How many rows of the test table fall into each band of scores."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ml_pipelines.authoring.context import Outputs, StepContext
from ml_pipelines.modelling.features import score_table, split_label
from ml_pipelines.problems import binary


@dataclass(frozen=True)
class Params:
    """The scores from 0 to 1 are cut into `bands` of equal width."""

    bands: int


def count_bands(scores: pl.Series, bands: int) -> pl.DataFrame:
    """Return band (from 0) and rows, also of bands that have none."""
    band = (scores * bands).floor().clip(0, bands - 1).cast(pl.Int64).rename("band")
    counted = band.value_counts(name="rows")
    return pl.DataFrame({"band": range(bands)}).join(counted, on="band", how="left").fill_null(0)


def run(step: StepContext[Params], *, test_uri: str, train_run_id: str) -> Outputs:
    """Log the bands as a table."""
    model = step.load_model(train_run_id)
    names = list(model.feature_names_in_)
    features, _ = split_label(step.read(test_uri, [*names, step.label]), step.label, names, binary)
    table = count_bands(pl.Series(score_table(model, features, binary)), step.params.bands)
    step.log_table(table, "bands.parquet")
    return {"score_bands_run_id": step.run_id, "bands": table.height}
'''


@pytest.fixture
def run_in_copy(project: Path, shell: Callable[..., Result]) -> Callable[..., Result]:
    """Add the step to a copy of the project, and return a function that runs commands in the copy."""
    with (project / "conf" / "config.yaml").open("a") as file:
        file.write(BLOCK)
    (project / "steps" / "score_bands.py").write_text(MODULE)

    def run(*command: str) -> Result:
        return shell(*command, cwd=project, PYTHONPATH=str(project))

    assert run("ml-pipelines", "sync").code == 0
    return run


def bands_of(store: Store) -> pl.DataFrame:
    """Return the table that the newest run of the step logged; assert that the run succeeded and has its outputs."""
    run = store.child("score_bands")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "06_score_bands")
    assert run.data.params["bands"] == "4" and run.data.tags["output.bands"] == "4"
    assert run.data.tags["output.score_bands_run_id"] == run.info.run_id
    return pl.read_parquet(store.artifact(run, "bands.parquet"))


def test_a_sixth_step_runs_in_the_pipeline_alone_and_in_main(run_in_copy: Callable[..., Result], store: Store) -> None:
    pipeline_result = run_in_copy("python", "driver.py", "--backend=inline", f"--set={FAST}")
    assert pipeline_result.code == 0, pipeline_result.text
    pipeline = store.parent().info.run_id
    assert store.child("score_bands").data.tags["mlflow.parentRunId"] == pipeline
    first = bands_of(store)
    assert first["band"].to_list() == [0, 1, 2, 3] and first["rows"].sum() > 0

    step_result = run_in_copy("mlflow", "run", ".", "-e", "score_bands", "-P", f"pipeline_run_id={pipeline}")
    assert step_result.code == 0, step_result.text
    assert "mlflow.parentRunId" not in store.child("score_bands").data.tags
    assert bands_of(store).equals(first)

    script_result = run_in_copy("python", "-m", "ml_pipelines", "score-bands", f"--pipeline-run-id={pipeline}")
    assert script_result.code == 0, script_result.text
    assert bands_of(store).equals(first)

    main_result = run_in_copy("mlflow", "run", ".", "-e", "main", "-P", f"set={FAST},seed=7")
    assert main_result.code == 0, main_result.text
    assert store.child("score_bands").data.tags["mlflow.parentRunId"] == store.parent().info.run_id != pipeline
    assert bands_of(store)["rows"].sum() > 0


def test_a_step_fails_if_its_outputs_differ_from_its_declaration(
    run_in_copy: Callable[..., Result], project: Path, store: Store
) -> None:
    module = project / "steps" / "score_bands.py"
    change(module, ', "bands": table.height', "")
    result = run_in_copy("python", "driver.py", "--backend=inline", f"--set={FAST}")
    assert result.code == 4
    assert (
        "steps/score_bands.py returned the outputs ['score_bands_run_id'], "
        "but the configuration declares ['bands', 'score_bands_run_id']" in result.text
    )
    assert store.child("score_bands").info.status == "FAILED" == store.parent().info.status
    assert store.child("model_qa").info.status == "FINISHED"
