"""`driver.py --dry-run` resolves and shows the plan, and executes nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Result, Store

Run = Callable[..., Result]

STEPS = ["01_prepare_data", "02_train", "03_evaluate", "04_feature_importance", "05_model_qa"]
HEAVY = {"mlflow", "pyspark", "sklearn", "polars", "pandas", "pyarrow", "deltalake", "matplotlib", "databricks.sdk"}


def planned_steps(result: Result) -> list[str]:
    """Return the names of the steps that a dry run shows, in its order."""
    return re.findall(r"^  (\d\d_\w+)", result.out, re.MULTILINE)


def nothing_happened(store: Store) -> bool:
    return (
        store.runs() == []
        and [experiment.name for experiment in store.client.search_experiments()] == ["Default"]
        and not store.tables.exists()
    )


@pytest.mark.parametrize(
    ("profile", "expected_parts"),
    [
        ("local", ["env local", "engine sail", "local_pipeline_experiment", "this machine"]),
        ("dev", ["env dev", "engine databricks", "backend databricks-jobs", "/Shared/ml-pipelines-dev",
                 "resources/clusters/dev/spark.json: m6i.xlarge, workers 2", "dev/single_node.json: r6i.xlarge"]),
        ("prod", ["env prod", "engine databricks", "backend databricks-jobs", "/Shared/ml-pipelines-prod",
                  "m6i.2xlarge, min_workers 2, max_workers 8", "prod/single_node.json: r6i.4xlarge"]),
    ],
)  # fmt: skip
def test_a_dry_run_shows_the_plan_and_executes_nothing(
    drive: Run, store: Store, profile: str, expected_parts: list[str]
) -> None:
    result = drive("--dry-run", "--profile", profile)
    assert (result.code, result.err) == (0, "")
    assert planned_steps(result) == STEPS
    assert [part for part in expected_parts if part not in result.out] == [], result.out
    assert nothing_happened(store)


def test_a_dry_run_shows_order_inputs_outputs_and_resolved_params(drive: Run) -> None:
    text = drive("--dry-run", "--set", "steps.train.params.scale=true,data.test_fraction=0.3").out
    assert re.search(r"04_feature_importance +waits for prepare_data, train ", text)
    assert re.search(r"01_prepare_data +waits for nothing ", text)
    assert "inputs test_uri, train_run_id · outputs evaluate_run_id, test_headline" in text
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
def test_a_partial_dry_run_lists_the_inputs_from_an_earlier_pipeline_run(
    drive: Run, arguments: list[str], steps: list[str], missing: str | None
) -> None:
    result = drive("--dry-run", *arguments)
    assert (result.code, planned_steps(result)) == (0, steps)
    match = re.search(r"From an earlier pipeline run: (.*)", result.out)
    assert (match and match[1]) == missing


def test_a_dry_run_looks_into_a_store_whose_uri_has_options(
    earlier: Store, drive: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{earlier.uri}?timeout=30")
    assert "runs: upstream runs (prepare_data)" in drive("--dry-run").out  # the earlier run's tables are elsewhere


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "trian"], "Step trian doesn't exist. Did you mean train? The steps are: prepare_data, train,"),
        (["--from", "x"], "Step x doesn't exist"),
        (["--to", "x"], "Step x doesn't exist"),
        (["--from", "model_qa", "--to", "train"], "leave no step"),
        (["--profile", "prd"], "Profile 'prd' doesn't exist. Did you mean prod? Use one of: dev, local, prod"),
        (
            ["--set", "compute.spark=resources/clusters/no.json"],
            "compute.spark: the file resources/clusters/no.json can't be read",
        ),
        (["--set", "sede=1"], "sede"),
    ],
)
def test_an_invalid_option_value_gives_one_line_and_exit_code_2(
    drive: Run, store: Store, arguments: list[str], message: str
) -> None:
    for dry in (["--dry-run"], []):
        result = drive(*dry, *arguments)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert message in result.err
    assert nothing_happened(store)


@pytest.mark.parametrize("argument", ["--nonsense", "--dry-rum", "train", "--train-uri=x"])
def test_an_unknown_option_is_a_usage_error(drive: Run, store: Store, argument: str) -> None:
    result = drive(argument)
    assert result.code == 2 and (
        f"driver.py has no option {argument.partition('=')[0]}." in result.err or argument == "train"
    )
    assert nothing_happened(store)


def test_a_dry_run_for_databricks_prints_the_job_runs_it_would_submit(drive: Run, store: Store) -> None:
    lines = drive("--dry-run", "--profile=prod", "--set=compute.single_node=serverless").out.splitlines()
    payloads = [json.loads(line) for line in lines if line.startswith("{")]
    assert [payload["tasks"][0]["task_key"] for payload in payloads] == [step[3:] for step in STEPS]
    tasks = {payload["tasks"][0]["task_key"]: payload["tasks"][0] for payload in payloads}
    assert tasks["prepare_data"]["new_cluster"]["autoscale"] == {"min_workers": 2, "max_workers": 8}
    assert tasks["train"]["environment_key"] == payloads[1]["environments"][0]["environment_key"]
    assert tasks["evaluate"]["python_wheel_task"]["entry_point"] == "evaluate-model"
    assert "--train-run-id=<train_run_id>" in tasks["evaluate"]["python_wheel_task"]["parameters"]
    assert all(len(payload["idempotency_token"]) <= 64 for payload in payloads)
    assert lines[-1].startswith("cluster starts: 1, on the critical path 1 ")
    assert nothing_happened(store)


def test_cluster_starts_are_counted_along_the_longest_path(drive: Run) -> None:
    assert "cluster starts: 5, on the critical path 4 " in drive("--dry-run", "--profile=dev").out


@pytest.mark.parametrize("profile", ["dev", "prod"])
def test_a_store_that_a_cluster_cannot_reach_is_refused_before_anything_is_created(
    drive: Run, store: Store, profile: str
) -> None:
    result = drive("--profile", profile)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "which a cluster can't reach. Unset MLFLOW_TRACKING_URI" in result.err
    assert nothing_happened(store)


def test_on_a_cluster_the_steps_run_inline(drive: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    assert "backend inline" in drive("--dry-run", "--profile=dev").out


@pytest.mark.slow
def test_a_dry_run_works_as_a_process_in_another_working_directory(shell: Run, store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = shell("python", str(ROOT / "driver.py"), "--dry-run", "--profile=prod", cwd=elsewhere)
    assert (result.code, result.err) == (0, "")
    assert planned_steps(result) == STEPS
    assert list(elsewhere.iterdir()) == [] and nothing_happened(store)


@pytest.mark.slow
def test_a_dry_run_in_a_fresh_clone_leaves_no_file_behind(shell: Run, project: Path) -> None:
    before = sorted(project.rglob("*"))
    clean = {"MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    for profile in ("local", "dev"):
        result = shell("python", "driver.py", "--dry-run", "--profile", profile, cwd=project, **clean)
        assert (result.code, planned_steps(result)) == (0, STEPS), result.text
    assert sorted(project.rglob("*")) == before


def test_help_imports_no_heavy_package(shell: Run) -> None:
    result = shell("python", "-X", "importtime", "driver.py", "--help")
    modules = {line.rsplit("|", 1)[1].strip() for line in result.err.splitlines() if "|" in line}
    assert result.code == 0 and "click" in modules
    assert modules & HEAVY == set()


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
