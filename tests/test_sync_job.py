"""`ml-pipelines sync` on the bundle: it follows the declarations, and what people wrote stays."""

import difflib
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_pipelines import paths
from ml_pipelines import sync as syncing
from steps import evaluate

NEW_STEP = """
  score_bands:
    step_name: 06_score_bands
    inputs: [test_uri, train_run_id]
    outputs: [bands]
    compute: single_node
    params: {threshold: 0.5}
"""
FILES = ("databricks.yml", "resources/ml_pipeline.job.yml", "resources/requirements.txt", "pyproject.toml")


@pytest.fixture
def copy(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project, which this process takes for its own; a new step's module is evaluate's."""
    monkeypatch.setattr(paths, "root", lambda: project)
    monkeypatch.setattr(paths, "conf", lambda: project / "conf")
    monkeypatch.setitem(sys.modules, "steps.score_bands", evaluate)
    return project


def changed(project: Path) -> dict[str, list[str]]:
    """Synchronise, and return file -> the lines that changed, `+ x` and `- x`."""
    before = {name: (project / name).read_text().splitlines() for name in FILES}
    syncing.sync()
    assert syncing.sync(check=True) == []
    found = {}
    for name, lines in before.items():
        after = (project / name).read_text().splitlines()
        found[name] = [line for line in difflib.ndiff(lines, after) if line[0] in "+-"]
    return found


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path.name}"
    path.write_text(text.replace(old, new))


def job(project: Path) -> dict[str, dict[str, Any]]:
    loaded = yaml.safe_load((project / "resources" / "ml_pipeline.job.yml").read_text())
    return {task["task_key"]: task for task in loaded["resources"]["jobs"]["ml_pipeline"]["tasks"]}


def clusters(project: Path, target: str) -> dict[str, dict[str, Any]]:
    loaded = yaml.safe_load((project / "databricks.yml").read_text())["targets"][target]
    return {
        item["job_cluster_key"]: item["new_cluster"]
        for item in loaded["resources"]["jobs"]["ml_pipeline"]["job_clusters"]
    }


def spec(project: Path, target: str, compute: str) -> dict[str, Any]:
    return dict(json.loads((project / f"resources/clusters/{target}/{compute}.json").read_text()))


def test_what_is_in_step_stays_byte_for_byte(copy: Path) -> None:
    assert set(map(len, changed(copy).values())) == {0}


def test_a_new_step_gets_a_task_a_cluster_of_its_branch_and_a_console_script(copy: Path) -> None:
    with (copy / "conf" / "config.yaml").open("a") as file:
        file.write(NEW_STEP)
    lines = changed(copy)
    assert not [line for name in FILES for line in lines[name] if line.startswith("- ")]
    tasks = job(copy)
    assert list(tasks)[-2:] == ["score_bands", "close_pipeline"]
    assert [need["task_key"] for need in tasks["score_bands"]["depends_on"]] == ["prepare_data", "train"]
    assert tasks["score_bands"]["job_cluster_key"] == "single_node_3"
    assert tasks["score_bands"]["python_wheel_task"] == {
        **tasks["train"]["python_wheel_task"],
        "entry_point": "score-bands",
    }
    assert tasks["score_bands"]["libraries"] == tasks["train"]["libraries"]
    last = tasks["close_pipeline"]
    assert {"task_key": "score_bands"} in last["depends_on"]
    assert "--state=score_bands={{tasks.score_bands.result_state}}" in last["python_wheel_task"]["parameters"]
    for target in ("dev", "prod"):
        assert clusters(copy, target)["single_node_3"] == spec(copy, target, "single_node")
    scripts = tomllib.loads((copy / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["score-bands"] == "ml_pipelines.tasks:score_bands"


def test_what_a_step_that_is_gone_left_goes(copy: Path) -> None:
    with (copy / "conf" / "config.yaml").open("a") as file:
        file.write(NEW_STEP)
    before = {name: (copy / name).read_bytes() for name in FILES}
    syncing.sync()
    edit(copy / "conf" / "config.yaml", NEW_STEP, "")
    syncing.sync()
    assert {name: (copy / name).read_bytes() for name in FILES} == before


def test_what_people_wrote_stays(copy: Path) -> None:
    path = copy / "resources" / "ml_pipeline.job.yml"
    own = "        - task_key: warm_up\n          notebook_task: {notebook_path: ../warm_up}\n"
    mark = "\n        - task_key: train\n"
    edit(path, mark, f"\n{own}        # the long one{mark}")
    before, _, train = path.read_text().partition(mark)
    train = train.replace("          job_cluster_key: single_node\n", "          job_cluster_key: gpu  # ours\n", 1)
    train = train.replace(
        "            - task_key: prepare_data\n",
        "            - task_key: prepare_data\n            - task_key: warm_up\n",
        1,
    )
    path.write_text(before + mark + train.replace("timeout_seconds: 3600", "timeout_seconds: 60", 1))
    assert set(map(len, changed(copy).values())) == {0}
    train_task = job(copy)["train"]
    assert (train_task["job_cluster_key"], train_task["timeout_seconds"]) == ("gpu", 60)
    assert {"task_key": "warm_up"} in train_task["depends_on"]


def test_a_renamed_script_and_a_changed_graph_are_followed(copy: Path) -> None:
    config = copy / "conf" / "config.yaml"
    edit(config, "script: evaluate-model", "script: judge")
    edit(config, "inputs: [train_uri, train_run_id]", "inputs: [train_uri, train_run_id, test_auc]")
    lines = changed(copy)
    point = '= "ml_pipelines.tasks:evaluate"'
    assert sorted(lines["pyproject.toml"]) == [f"+ judge {point}", f"- evaluate-model {point}"]
    assert job(copy)["evaluate"]["python_wheel_task"]["entry_point"] == "judge"
    assert {"task_key": "evaluate"} in job(copy)["feature_importance"]["depends_on"]


def test_a_cluster_spec_is_followed_in_the_target_of_its_profile(copy: Path) -> None:
    path = copy / "resources" / "clusters" / "dev" / "single_node.json"
    edit(path, "r6i.xlarge", "r6i.8xlarge")
    lines = changed(copy)
    new = "+                 node_type_id: r6i.8xlarge"
    assert [line for line in lines["databricks.yml"] if line.startswith("+")] == [new, new]
    assert clusters(copy, "prod")["single_node"] == spec(copy, "prod", "single_node")


def test_pins_follow_the_lock(copy: Path) -> None:
    edit(copy / "resources" / "requirements.txt", "\nclick==", "\nholidays==0.5  # ours\nclick==")
    lock = copy / "requirements.lock"
    lock.write_text(lock.read_text().replace("\nskops==0.", "\nskops==99.", 1))
    lines = changed(copy)["resources/requirements.txt"]
    assert len(lines) == 2 and lines[1].startswith("+ skops==99.")
