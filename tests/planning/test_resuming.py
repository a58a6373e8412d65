"""`--resume RUN` takes the settings of that run, and tells what is given anew, through driver.py's command."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT, Result, Store, change, drive_in, failing, use

import driver
from ml_pipelines import text
from ml_pipelines.system import paths

LEAVES = "steps.train.params.options.max_leaf_nodes"
SECRET = "tok-5f3a9c81"  # pragma: allowlist secret


@pytest.fixture(scope="module")
def once(finished: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store whose last pipeline run failed in its step train, with five leaves."""
    folder = tmp_path_factory.mktemp("failed")
    store = Store(f"sqlite:///{folder / 'mlflow.db'}", finished.tables)
    finished.copy_to(store)
    with pytest.MonkeyPatch.context() as patch, failing("steps.train.problem_of"):
        use(store, patch)
        assert drive_in(store, "--from=train", f"--set={LEAVES}=5").code == 4
    return store


@pytest.fixture
def failed(once: Store, store: Store) -> Store:
    once.copy_to(store)
    return store


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of conf/ that the test may change, and make this process use it."""
    folder = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", folder)
    monkeypatch.setattr(paths, "conf", lambda: folder)
    return folder


def resume(store: Store, *arguments: str) -> Result:
    """Resume the last pipeline run with these options only, in this process."""
    run = store.parent().info.run_id
    result = CliRunner().invoke(driver.main, [f"--resume={run}", "--backend=inline", *arguments])
    return Result(result.exit_code, result.stdout, result.stderr)


def told(result: Result) -> list[str]:
    """Return the settings that the command shows as changed."""
    return re.findall(r"^    (\S+ .* -> .*)$", result.out, re.MULTILINE)


def test_a_resumed_run_trains_with_the_settings_of_the_run_that_it_continues(failed: Store) -> None:
    before = failed.parent()
    result = resume(failed)
    assert result.code == 0, result.text
    assert {"options.max_leaf_nodes": "5", "options.max_iter": "5"}.items() <= failed.child("train").data.params.items()
    assert failed.parent().data.params == before.data.params
    assert "Settings changed" not in result.out and told(result) == []


def test_what_is_given_anew_wins_and_is_told_key_by_key(failed: Store) -> None:
    run = failed.parent().info.run_id
    result = resume(failed, f"--set={LEAVES}=7,seed=42,steps.train.params.options.max_bins=64")
    assert result.code == 0, result.text
    assert f"Settings changed since pipeline run {run[:8]}, for the remaining steps:" in result.out
    assert told(result) == [f"{LEAVES} 5 -> 7", "steps.train.params.options.max_bins (absent) -> 64"]
    assert failed.child("train").data.params["options.max_leaf_nodes"] == "7"
    assert failed.parent().data.params["set"].count("seed=42") == 1
    assert told(resume(failed, "--dry-run")) == []  # the resumed run's own settings are 7 and 64


def test_a_dry_run_shows_the_steps_that_remain_with_their_settings(failed: Store) -> None:
    count, run = len(failed.runs()), failed.parent().info.run_id
    result = resume(failed, "--dry-run", "--set=max_parallel=1")
    assert result.code == 0, result.text
    assert re.findall(r"^  (0\d)_", result.out, re.MULTILINE) == ["02", "03", "04", "05"]
    assert "'max_leaf_nodes': 5" in result.out
    assert told(result) == ["max_parallel 2 -> 1"]
    assert f"From pipeline run {run[:8]}: test_uri, train_uri" in result.out
    assert len(failed.runs()) == count


@pytest.mark.slow
def test_a_finished_step_whose_files_are_gone_runs_again_and_so_do_the_steps_that_need_it(
    store: Store, drive: Callable[..., Result]
) -> None:
    with failing("steps.model_qa.run_checks"):
        assert drive().code == 4
    file = Path(store.child("evaluate").info.artifact_uri, "predictions.parquet")
    file.unlink()
    assert re.findall(r"^  (0\d)_", resume(store, "--dry-run").out, re.MULTILINE) == ["03", "05"]
    result = resume(store)
    assert result.code == 0, result.text
    assert re.findall(r"✓ (0\d)_", result.out) == ["03", "05"]
    assert "ran: outputs are missing or damaged" in result.out


def test_a_file_of_the_configuration_that_has_changed_counts_and_is_told(failed: Store, conf: Path) -> None:
    change(
        conf / "config.yaml",
        "feature_importance:\n    step_name: 04",
        "feature_importance:\n    retries: 1\n    step_name: 04",
    )
    change(conf / "config.yaml", "threshold: 0.5  ", "threshold: 0.4  ")
    result = resume(failed, "--dry-run")
    assert told(result) == [
        "steps.train.params.threshold 0.5 -> 0.4",
        "steps.feature_importance.retries (absent) -> 1",
    ]


@pytest.mark.slow
def test_a_run_of_another_profile_is_continued_with_its_own_profile(store: Store, conf: Path) -> None:
    local = (conf / "local.yaml").read_text()
    (conf / "loans.yaml").write_text(local.replace("local_pipeline_experiment", "loans"))
    assert drive_in(store, "--profile=loans", "--backend=inline", "--set=data.test_fraction=0.0001").code == 3
    result = resume(store, "--dry-run")
    assert (result.code, told(result)) == (0, []), result.text
    assert result.out.startswith("profile loans · ") and "test fraction 0.0001" in result.out
    other = resume(store, "--dry-run", "--profile=local")
    assert told(other) == ["profile loans -> local", "experiment_name loans -> local_pipeline_experiment"]


@pytest.mark.slow
def test_a_value_from_the_environment_is_read_anew_and_never_taken_from_the_store(
    earlier: Store, finished: Store, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_secrets", set())
    change(conf / "config.yaml", "trusted_types: [] ", 'trusted_types: ["${oc.env:MINE}"] ')
    monkeypatch.setenv("MINE", SECRET)
    with failing("steps.train.problem_of"):
        store = Store(earlier.uri, finished.tables)
        assert drive_in(store, "--from=train", f'--set=data.null_values=["{SECRET}"]').code == 4
    assert "***" in store.artifact(store.parent(), "config.json").read_text()
    result = resume(store)
    assert (result.code, result.out) == (2, "")
    assert "the value of data.null_values in pipeline run" in result.err
    assert result.err.endswith("Give it again: --set data.null_values=...\n")
    monkeypatch.setenv("MINE", "numpy.dtype")
    result = resume(store, "--set=data.null_values=[x]")
    assert result.code == 0, result.text
    assert told(result) == ['data.null_values ["***"] -> ["x"]']
    assert SECRET not in result.text


def test_only_the_params_of_the_run_say_which_settings_it_had(failed: Store) -> None:
    """Somebody who can write artifacts, but not to the store, must not choose settings: an estimator is code."""
    file = Path(failed.parent().info.artifact_uri, "config.json")
    before = file.read_text()
    try:
        content = json.loads(before)
        file.write_text(json.dumps({**content, "set": f"{content['set']},seed=7", "profile": "dev"}))
        result = resume(failed, "--dry-run")
        assert result.code == 0 and result.out.startswith("profile local"), result.text
        assert told(result) == ["profile dev -> local"]
        file.write_text("[]")
        assert "settings that differ can't be shown" in resume(failed, "--dry-run").out
    finally:
        file.write_text(before)


def test_overrides_that_are_too_long_for_a_param_are_checked_by_their_digest(failed: Store) -> None:
    names = ",".join(f"column{i}" for i in range(800))
    with failing("steps.train.problem_of"):
        assert drive_in(failed, "--from=train", f"--set=data.null_values=[{names}]").code == 4
    result = resume(failed, "--dry-run")
    assert (result.code, told(result)) == (0, []), result.text
    change(Path(failed.parent().info.artifact_uri, "config.json"), "column799]", "column799],seed=7")
    result = resume(failed, "--dry-run")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "its artifact config.json is missing or was changed" in result.err


def test_the_command_that_continues_does_not_repeat_a_wrong_setting(once: Store, store: Store) -> None:
    once.copy_to(store)
    result = drive_in(store, "--from=train", "--set=steps.train.params.estimator=sklearn.dummy.Nothing")
    assert result.code == 2, result.text
    run = store.parent().info.run_id[:8]
    command = f"python driver.py --profile local --resume {run} --set steps.train.params.estimator=..."
    assert f"Continue with: {command}\n" in result.out
    right = "--set=steps.train.params.estimator=sklearn.dummy.DummyClassifier"
    assert "02_train" in resume(store, "--dry-run", right).out


def test_a_finished_run_is_not_resumed(store: Store, drive: Callable[..., Result]) -> None:
    assert drive("--to=prepare_data").code == 0
    count, run = len(store.runs()), store.parent().info.run_id
    result = drive(f"--resume={run}", "--to=prepare_data")
    assert result.code == 0, result.text
    assert f"Nothing to resume: pipeline run {run} finished all of these steps." in result.out
    assert len(store.runs()) == count


def test_a_run_that_is_no_pipeline_run_or_deleted_is_refused(failed: Store) -> None:
    count = len(failed.runs())
    step, parent = failed.child("train").info.run_id, failed.parent().info.run_id
    result = CliRunner().invoke(driver.main, [f"--resume={step}"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"run {step} is not a pipeline run" in result.stderr
    failed.client.delete_run(parent)
    result = CliRunner().invoke(driver.main, [f"--resume={parent}"])
    assert result.exit_code == 2 and f"mlflow runs restore --run-id {parent}" in result.stderr
    assert len(failed.runs()) == count - 1


@pytest.mark.slow
def test_the_registry_of_the_run_is_used_again(
    failed: Store, migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command reads the run's settings from the store before it knows them, and so before it knows the registry."""
    shutil.copy(migrated, tmp_path / "registry.db")
    registry = f"sqlite:///{tmp_path / 'registry.db'}"
    with failing("steps.train.problem_of"):
        assert drive_in(failed, "--from=train", f"--set=mlflow.registry_uri={registry}").code == 4
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")  # the first command of this process has set it for its children
    result = resume(failed)
    assert result.code == 0, result.text
    assert len(Store(registry, failed.tables).client.search_model_versions()) == 1
    assert json.loads(failed.artifact(failed.parent(), "config.json").read_text())["mlflow"]["registry_uri"] == registry
