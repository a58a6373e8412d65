"""MLflow's own `databricks` backend on the emulated workspace, unchanged: its preamble, DBFS and Jobs 2.0."""

import re
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from conftest import ROOT, Result
from emulator import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MLPROJECT = """
name: tiny
databricks_spark_job: {python_libraries: [polars]}
entry_points:
  main:
    parameters: {word: {type: string, default: none}}
    command: "python go.py --word={word}"
"""
CODE = """
import os, sys
sys.path.insert(0, os.getcwd())
import mlflow, beside
assert "__file__" not in globals() and __name__ == "__main__"
with mlflow.start_run() as run:
    mlflow.set_tag("said", f"{sys.argv[1:]} {beside.WORD} {os.getcwd()}")
"""


def test_mlflows_own_backend_runs_a_project(workspace: Workspace, shell: Callable[..., Result], tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name, text in {"MLproject": MLPROJECT, "go.py": CODE, "beside.py": "WORD = 'unpacked'"}.items():
        (project / name).write_text(text)
    spec = str(ROOT / "resources/clusters/dev/single_node.json")
    options = ["-Pword=hello", "--experiment-name", "/Shared/tiny", "--backend", "databricks", "--backend-config", spec]
    result = shell("mlflow", "run", ".", *options, cwd=project)
    assert result.code == 0, result.text
    [submitted_run] = mlflow.search_runs(experiment_names=["/Shared/tiny"], output_format="list")
    job_run_id = int(submitted_run.data.tags["mlflow.databricks.shellJobRunID"])
    assert workspace.jobs.find(job_run_id).wait(120).result == "SUCCESS", workspace.run_page(job_run_id)
    run = mlflow.get_run(submitted_run.info.run_id)
    assert re.fullmatch(r"\['--word=hello'\] unpacked /databricks/mlflow/projects/\w+", run.data.tags["said"])
    assert run.info.status == "FINISHED"
