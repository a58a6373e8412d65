"""Tests of `from ml_pipelines import last_run`, and of the example notebook."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import ROOT, Store
from reporting import Made

from ml_pipelines import last_run
from ml_pipelines.errors import ConfigError

NOTEBOOK = ROOT / "docs" / "last_run.ipynb"


def test_an_import_of_the_library_loads_no_other_module() -> None:
    check = (
        "import sys, ml_pipelines; print([name for name in sys.modules if name.startswith(('ml_pipelines.', 'ml'))])"
    )
    result = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "['ml_pipelines']\n"


def test_an_unknown_name_of_the_library_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="last_rum"):
        exec("from ml_pipelines import last_rum")


def test_the_last_run_has_the_metrics_and_tables_of_its_steps(earlier: Store) -> None:
    run = last_run()
    assert (run.run_id, run.status) == (earlier.parent().info.run_id, "FINISHED")
    assert run.metrics["test_auc"] == earlier.child("evaluate").data.metrics["test_auc"]
    assert run.outputs["train_run_id"] == earlier.child("train").info.run_id
    train, test = run.table("train_uri"), run.table("test_uri")
    assert isinstance(train, pl.DataFrame) and train.columns == ["id", "f0", "f1", "f2", "f3", "label"]
    assert train.height + test.height == 400


def test_the_model_gives_the_scores_that_evaluate_logged(earlier: Store) -> None:
    from sklearn.metrics import roc_auc_score

    run = last_run()
    test = run.table("test_uri")
    scores = run.model().predict_proba(test)[:, 1]
    assert np.isclose(roc_auc_score(test["label"], scores), run.metrics["test_auc"])


def test_the_report_is_shown_in_a_frame_of_its_own(earlier: Store) -> None:
    page = last_run().report()
    assert page.content == earlier.artifact(earlier.parent(), "report.html").read_text()
    shown = page._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html') and shown.count("<") == 2  # the frame's tags only


def test_what_a_run_lacks_is_named_in_one_line(store: Store) -> None:
    with pytest.raises(ConfigError, match="has no experiment"):
        last_run()
    run_id, _ = Made(status={"prepare_data": "FINISHED", "train": "FAILED"}, parent_status="FAILED").log()
    run = last_run()
    assert run.status == "FAILED"
    with pytest.raises(
        ConfigError, match=rf"{run_id} has no output model_uri\. Its outputs are: train_uri, test_uri, p"
    ):
        run.model()
    with pytest.raises(ConfigError, match=r"has no output trian_uri\. Did you mean train_uri\?"):
        run.table("trian_uri")
    with pytest.raises(ConfigError, match=f"The output prepare_data_run_id of pipeline run {run_id} is not a table"):
        run.table("prepare_data_run_id")
    with pytest.raises(ConfigError, match=f"has no report. Make it: ml-pipelines report {run_id[:8]}"):
        run.report()


def test_the_cells_of_the_example_notebook_run(earlier: Store) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(cell.get("outputs", []) == [] for cell in cells)
    names: dict[str, Any] = {}
    for source in sources:
        exec(source, names)
    assert len(sources) == 4 and names["test"].height == len(names["scores"])
