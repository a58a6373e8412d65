"""`ml-pipelines sync` on the bundle: it follows the declarations and keeps what people wrote."""

import difflib
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import change

from ml_pipelines.backends import catalog
from ml_pipelines.bundle import sync as syncing
from ml_pipelines.system import paths
from steps import evaluate

NEW_STEP = """
  score_bands:
    step_name: 06_score_bands
    inputs: [test_uri, train_run_id]
    outputs: [bands]
    compute: single_node
"""
FILES = ("databricks.yml", "resources/ml_pipeline.job.yml", "resources/requirements.txt", "pyproject.toml")


BACKENDS = catalog.entry_points()


@pytest.fixture
def copy(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project, which this process uses as its own; a new step uses evaluate's module."""
    monkeypatch.setattr(paths, "root", lambda: project)
    monkeypatch.setattr(paths, "conf", lambda: project / "conf")
    monkeypatch.setitem(sys.modules, "steps.score_bands", evaluate)
    return project


def sync_and_diff(project: Path) -> dict[str, list[str]]:
    """Synchronise, and return for each file the changed lines, as `+ x` and `- x`."""
    before = {name: (project / name).read_text().splitlines() for name in FILES}
    syncing.sync(BACKENDS)
    assert syncing.sync(BACKENDS, check=True) == []
    changes = {}
    for name, lines in before.items():
        after = (project / name).read_text().splitlines()
        changes[name] = [line for line in difflib.ndiff(lines, after) if line[0] in "+-"]
    return changes


def job(project: Path) -> dict[str, dict[str, Any]]:
    content = yaml.safe_load((project / "resources" / "ml_pipeline.job.yml").read_text())
    return {task["task_key"]: task for task in content["resources"]["jobs"]["ml_pipeline"]["tasks"]}


def clusters(project: Path, target: str) -> dict[str, dict[str, Any]]:
    content = yaml.safe_load((project / "databricks.yml").read_text())["targets"][target]
    return {
        item["job_cluster_key"]: item["new_cluster"]
        for item in content["resources"]["jobs"]["ml_pipeline"]["job_clusters"]
    }


def spec(project: Path, target: str, compute: str) -> dict[str, Any]:
    return dict(json.loads((project / f"resources/clusters/{target}/{compute}.json").read_text()))


def test_sync_leaves_an_up_to_date_bundle_unchanged(copy: Path) -> None:
    assert set(map(len, sync_and_diff(copy).values())) == {0}


def test_a_new_step_gets_a_task_a_cluster_for_its_branch_and_a_console_script(copy: Path) -> None:
    with (copy / "conf" / "config.yaml").open("a") as file:
        file.write(NEW_STEP)
    lines = sync_and_diff(copy)
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
    assert scripts["score-bands"] == "ml_pipelines.cli.tasks:score_bands"


def test_a_new_step_shares_the_cluster_of_steps_that_it_needs_only_indirectly(copy: Path) -> None:
    with (copy / "conf" / "config.yaml").open("a") as file:
        file.write(NEW_STEP.replace("[test_uri, train_run_id]", "[qa_passed]"))
    sync_and_diff(copy)
    tasks = job(copy)
    assert [need["task_key"] for need in tasks["score_bands"]["depends_on"]] == ["model_qa"]
    assert tasks["score_bands"]["job_cluster_key"] == tasks["train"]["job_cluster_key"] == "single_node"


def test_sync_removes_all_lines_of_a_step_that_no_longer_exists(copy: Path) -> None:
    with (copy / "conf" / "config.yaml").open("a") as file:
        file.write(NEW_STEP)
    before = {name: (copy / name).read_bytes() for name in FILES}
    syncing.sync(BACKENDS)
    change(copy / "conf" / "config.yaml", NEW_STEP, "")
    syncing.sync(BACKENDS)
    assert {name: (copy / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize("package", ["ml-pipelines", "ml_pipelines"])
def test_sync_removes_the_task_of_a_removed_step_under_both_names_of_the_package(package: str, copy: Path) -> None:
    path = copy / "resources" / "ml_pipeline.job.yml"
    before = path.read_text()
    old = f"""        - task_key: old
          job_cluster_key: single_node
          python_wheel_task: {{package_name: {package}, entry_point: old}}
"""
    change(path, "        - task_key: close_pipeline\n", f"{old}        - task_key: close_pipeline\n")
    sync_and_diff(copy)
    assert path.read_text() == before


def test_sync_keeps_what_people_wrote(copy: Path) -> None:
    path = copy / "resources" / "ml_pipeline.job.yml"
    own = "        - task_key: warm_up\n          notebook_task: {notebook_path: ../warm_up}\n"
    mark = "\n        - task_key: train\n"
    change(path, mark, f"\n{own}        # the long one{mark}")
    before, _, train = path.read_text().partition(mark)
    for old, new in (
        ("          job_cluster_key: single_node\n", "          job_cluster_key: gpu  # ours\n"),
        (
            "            - task_key: prepare_data\n",
            "            - task_key: prepare_data\n            - task_key: warm_up\n",
        ),
        ("timeout_seconds: 3600", "timeout_seconds: 60"),
    ):
        assert old in train
        train = train.replace(old, new, 1)
    path.write_text(before + mark + train)
    assert set(map(len, sync_and_diff(copy).values())) == {0}
    train_task = job(copy)["train"]
    assert (train_task["job_cluster_key"], train_task["timeout_seconds"]) == ("gpu", 60)
    assert {"task_key": "warm_up"} in train_task["depends_on"]


def test_sync_follows_a_renamed_script_and_a_changed_graph(copy: Path) -> None:
    config = copy / "conf" / "config.yaml"
    change(config, "script: evaluate-model", "script: judge")
    change(config, "inputs: [train_uri, train_run_id]", "inputs: [train_uri, train_run_id, test_headline]")
    lines = sync_and_diff(copy)
    point = '= "ml_pipelines.cli.tasks:evaluate"'
    assert sorted(lines["pyproject.toml"]) == [f"+ judge {point}", f"- evaluate-model {point}"]
    assert job(copy)["evaluate"]["python_wheel_task"]["entry_point"] == "judge"
    assert {"task_key": "evaluate"} in job(copy)["feature_importance"]["depends_on"]


def test_sync_copies_a_changed_cluster_spec_to_the_target_of_its_profile(copy: Path) -> None:
    path = copy / "resources" / "clusters" / "dev" / "single_node.json"
    change(path, "r6i.xlarge", "r6i.8xlarge")
    lines = sync_and_diff(copy)
    new = "+                 node_type_id: r6i.8xlarge"
    assert [line for line in lines["databricks.yml"] if line.startswith("+")] == [new, new]
    assert clusters(copy, "prod")["single_node"] == spec(copy, "prod", "single_node")


@pytest.mark.parametrize(
    "edit",
    [
        lambda spec: {**spec, "num_workers": 5},
        lambda spec: {**spec, "custom_tags": {"team": "a"}},
        lambda spec: {**spec, "custom_tags": {**spec["custom_tags"], "team": "a"}},
        lambda spec: {**spec, "init_scripts": [{"volumes": {"destination": "/Volumes/a/b/c/x.sh"}}]},
        lambda spec: {**spec, "spark_env_vars": {"A": "b"}},
        lambda spec: {key: value for key, value in spec.items() if key != "custom_tags"},
        lambda spec: dict(reversed(spec.items())),
    ],
    ids=["value", "last block", "last key", "list", "new block", "no last block", "order"],
)
def test_sync_keeps_the_comments_around_a_cluster_whose_spec_changes(
    copy: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    def comments() -> list[str]:
        return [line for line in (copy / "databricks.yml").read_text().splitlines() if "#" in line or not line]

    path = copy / "resources" / "clusters" / "dev" / "spark.json"
    bundle = copy / "databricks.yml"
    commented = bundle.read_text().replace("node_type_id: m6i.xlarge\n", "node_type_id: m6i.xlarge # enough for us\n")
    assert commented.count("# enough for us") == 2  # in both jobs
    bundle.write_text(commented)
    before = comments()
    assert "  # The shared job. It has the same path in the workspace, whoever deploys it." in before
    path.write_text(json.dumps(edit(spec(copy, "dev", "spark"))))
    sync_and_diff(copy)
    assert clusters(copy, "dev")["spark"] == spec(copy, "dev", "spark")
    assert comments() == before
    lines = (copy / "databricks.yml").read_text().splitlines()
    shared = lines.index("  # The shared job. It has the same path in the workspace, whoever deploys it.")
    assert (lines[shared - 1], lines[shared + 1]) == ("", "  prod:")


def test_sync_updates_the_pins_from_the_lock(copy: Path) -> None:
    change(copy / "resources" / "requirements.txt", "\nclick==", "\nholidays==0.5  # ours\nclick==")
    change(copy / "requirements.lock", "\nskops==0.", "\nskops==99.")
    lines = sync_and_diff(copy)["resources/requirements.txt"]
    assert len(lines) == 2 and lines[1].startswith("+ skops==99.")
