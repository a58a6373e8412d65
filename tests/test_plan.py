"""`driver.py --dry-run`: the plan, resolved and shown, with nothing executed."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Result, Store

Run = Callable[..., Result]

STEPS = ["01_prepare_data", "02_train", "03_evaluate", "04_feature_importance", "05_model_qa"]
HEAVY = {"mlflow", "pyspark", "sklearn", "polars", "pandas", "pyarrow", "deltalake", "matplotlib", "databricks.sdk"}


def planned(result: Result) -> list[str]:
    """Return the names of the steps that a dry run shows, in its order."""
    return re.findall(r"^  (\d\d_\w+)", result.out, re.MULTILINE)


def nothing_happened(store: Store) -> bool:
    return (
        store.runs() == []
        and [experiment.name for experiment in store.client.search_experiments()] == ["Default"]
        and not store.tables.exists()
    )


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("local", ["env local", "engine sail", "local_pipeline_experiment", "this machine"]),
        ("dev", ["env dev", "engine databricks", "backend databricks-jobs", "/Shared/ml-pipelines-dev",
                 "resources/clusters/dev/spark.json: m6i.xlarge, workers 2", "dev/single_node.json: r6i.xlarge"]),
        ("prod", ["env prod", "engine databricks", "backend databricks-jobs", "/Shared/ml-pipelines-prod",
                  "m6i.2xlarge, min_workers 2, max_workers 8", "prod/single_node.json: r6i.4xlarge"]),
    ],
)  # fmt: skip
def test_a_dry_run_shows_the_plan_and_executes_nothing(drive: Run, store: Store, profile: str, said: list[str]) -> None:
    result = drive("--dry-run", "--profile", profile)
    assert (result.code, result.err) == (0, "")
    assert planned(result) == STEPS
    assert [part for part in said if part not in result.out] == [], result.out
    assert nothing_happened(store)


def test_a_dry_run_shows_order_inputs_outputs_and_resolved_params(drive: Run) -> None:
    text = drive("--dry-run", "--set", "steps.train.params.scale=true,data.test_fraction=0.3").out
    assert re.search(r"04_feature_importance +waits for prepare_data, train ", text)
    assert re.search(r"01_prepare_data +waits for nothing ", text)
    assert "takes test_uri, train_run_id · gives evaluate_run_id, test_auc" in text
    assert "options={'max_iter': 5}" in text and "scale=True" in text and "test fraction 0.3" in text
    assert "synthetic 400 rows x 4 features" in text


@pytest.mark.parametrize(
    ("arguments", "steps", "missing"),
    [
        (["--only", "train"], ["02_train"], "train_uri"),
        (["--only", "train", "--only", "prepare_data"], ["01_prepare_data", "02_train"], None),
        (["--from", "evaluate"], ["03_evaluate", "05_model_qa"],
         "feature_importance_run_id, test_uri, train_run_id, train_uri"),
        (["--to", "train"], ["01_prepare_data", "02_train"], None),
        (["--from", "train", "--to", "evaluate"], ["02_train", "03_evaluate"], "test_uri, train_uri"),
    ],
)  # fmt: skip
def test_a_part_of_the_pipeline_says_what_it_takes_from_an_earlier_run(
    drive: Run, arguments: list[str], steps: list[str], missing: str | None
) -> None:
    result = drive("--dry-run", *arguments)
    assert (result.code, planned(result)) == (0, steps)
    said = re.search(r"From an earlier pipeline run: (.*)", result.out)
    assert (said and said[1]) == missing


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "trian"], "There is no step trian: the steps are prepare_data, train,"),
        (["--from", "x"], "There is no step x"),
        (["--to", "x"], "There is no step x"),
        (["--from", "model_qa", "--to", "train"], "leave no step"),
        (["--profile", "prd"], "There is no profile 'prd': conf/ has dev, local, prod"),
        (["--set", "compute.spark=resources/clusters/no.json"], "compute.spark: resources/clusters/no.json is no file"),
        (["--set", "sede=1"], "sede"),
    ],
)
def test_a_choice_that_makes_no_sense_is_one_line_and_exit_code_2(
    drive: Run, store: Store, arguments: list[str], said: str
) -> None:
    for dry in (["--dry-run"], []):
        result = drive(*dry, *arguments)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert said in result.err
    assert nothing_happened(store)


@pytest.mark.parametrize("argument", ["--nonsense", "--dry-rum", "train", "--train-uri=x"])
def test_an_unknown_option_is_a_usage_error(drive: Run, store: Store, argument: str) -> None:
    result = drive(argument)
    assert result.code == 2 and argument in result.err
    assert nothing_happened(store)


def test_a_dry_run_for_a_workspace_prints_what_would_be_submitted(drive: Run, store: Store) -> None:
    lines = drive("--dry-run", "--profile=prod", "--set=compute.single_node=serverless").out.splitlines()
    sent = [json.loads(line) for line in lines if line.startswith("{")]
    assert [payload["tasks"][0]["task_key"] for payload in sent] == [step[3:] for step in STEPS]
    tasks = {payload["tasks"][0]["task_key"]: payload["tasks"][0] for payload in sent}
    assert tasks["prepare_data"]["new_cluster"]["autoscale"] == {"min_workers": 2, "max_workers": 8}
    assert tasks["train"]["environment_key"] == sent[1]["environments"][0]["environment_key"]
    assert tasks["evaluate"]["python_wheel_task"]["entry_point"] == "evaluate-model"
    assert "--train-run-id=<train_run_id>" in tasks["evaluate"]["python_wheel_task"]["parameters"]
    assert all(len(payload["idempotency_token"]) <= 64 for payload in sent)
    assert lines[-1].startswith("cluster starts: 1, on the critical path 1 ")
    assert nothing_happened(store)


def test_cluster_starts_are_counted_along_the_longest_path(drive: Run) -> None:
    assert "cluster starts: 5, on the critical path 4 " in drive("--dry-run", "--profile=dev").out


@pytest.mark.parametrize("profile", ["dev", "prod"])
def test_a_store_that_a_cluster_cannot_reach_is_refused_and_nothing_created(
    drive: Run, store: Store, profile: str
) -> None:
    result = drive("--profile", profile)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "which a cluster can't reach. Unset MLFLOW_TRACKING_URI" in result.err
    assert nothing_happened(store)


def test_on_a_cluster_already_the_steps_run_there(drive: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    assert "backend inline" in drive("--dry-run", "--profile=dev").out


def test_a_dry_run_works_as_a_process_in_another_working_directory(shell: Run, store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = shell("python", str(ROOT / "driver.py"), "--dry-run", "--profile=prod", cwd=elsewhere)
    assert (result.code, result.err) == (0, "")
    assert planned(result) == STEPS
    assert list(elsewhere.iterdir()) == [] and nothing_happened(store)


def test_a_dry_run_in_a_fresh_clone_leaves_no_file_behind(shell: Run, project: Path) -> None:
    before = sorted(project.rglob("*"))
    clean = {"MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    for profile in ("local", "dev"):
        result = shell("python", "driver.py", "--dry-run", "--profile", profile, cwd=project, **clean)
        assert (result.code, planned(result)) == (0, STEPS), result.text
    assert sorted(project.rglob("*")) == before


def test_help_is_quick_since_it_imports_nothing_heavy(shell: Run) -> None:
    result = shell("python", "-X", "importtime", "driver.py", "--help")
    imported = {line.rsplit("|", 1)[1].strip() for line in result.err.splitlines() if "|" in line}
    assert result.code == 0 and "click" in imported
    assert imported & HEAVY == set()


def test_help_names_every_option(drive: Run) -> None:
    text = drive("--help").out
    for option in (
        "--profile",
        "--set",
        "--only",
        "--from",
        "--to",
        "--force",
        "--resume",
        "--backend",
        "--dry-run",
        "--step",
    ):
        assert option in text
