"""A job run's tasks share one pipeline run, whatever happens to them; the last task gives it its true status."""

import sys
from collections.abc import Callable
from threading import Barrier, Thread

import pytest
from conftest import FAST, Store

from ml_pipelines import config, job_run, tasks, tracking

Task = Callable[..., int]

SCRIPTS = {
    "prepare_data": "prepare-data",
    "train": "train-model",
    "evaluate": "evaluate-model",
    "feature_importance": "feature-importance",
    "model_qa": "model-qa",
}


@pytest.fixture
def settings(store: Store) -> config.Config:
    loaded = config.load("local")
    tracking.connect(loaded)
    return loaded


@pytest.fixture
def task(store: Store, monkeypatch: pytest.MonkeyPatch) -> Task:
    """Run a console script as a task of job run 77, in this process, and return its exit code."""

    def run(script: str, *options: str) -> int:
        small = [f"--set=data.delta_prefix.local={store.tables}", f"--set={FAST}"]
        monkeypatch.setattr(sys, "argv", [script, "pipeline=local", *small, "--job-run-id=77", *options])
        monkeypatch.setattr(tasks, "raise_on_signals", lambda: None)  # the test's own stay
        key = next((key for key, name in SCRIPTS.items() if name == script), script.replace("-", "_"))
        try:
            getattr(tasks, key)()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def step_run(settings: config.Config, parent: str, step: str, status: str | None = "FINISHED", **tags: str) -> str:
    """Let a step have run below the pipeline run; without a status, it is running."""
    run = tracking.create_step_run(tracking.experiment_id(settings.experiment_name), step, parent)
    tracking.set_tags(run, {"exit_code": "0", **tags})
    if status:
        tracking.client().set_terminated(run, status)
    return run


def all_finished(settings: config.Config, parent: str) -> None:
    for step in settings.steps:
        step_run(settings, parent, step)


@pytest.mark.slow
def test_tasks_run_one_after_the_other_end_below_one_finished_pipeline_run(
    task: Task, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for script in SCRIPTS.values():
        assert task(script) == 0
    assert store.parent().info.status == "RUNNING"
    capsys.readouterr()
    assert task("close-pipeline") == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["✓", name] for name in ("01_prepare_data", "02_train", "03_evaluate", "04_feature_importance", "05_model_qa")
    ]
    (parent,) = store.runs("tags.job_run_id = '77'")
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "pipeline_run")
    assert set(store.statuses(parent).values()) == {"FINISHED"} and len(store.below(parent)) == 5
    assert parent.data.tags["profile"] == "local" and parent.data.tags["exit_code"] == "0"
    assert parent.data.metrics["test_auc"] == store.child("evaluate").data.metrics["test_auc"]
    assert "✓ 03_evaluate" in parent.data.tags["mlflow.note.content"]
    assert f"pipeline_run_{parent.info.run_id}" in store.child("prepare_data").data.tags["output.train_uri"]


@pytest.mark.slow
def test_a_failed_task_fails_the_pipeline_run_and_its_repair_mends_the_same_one(task: Task, store: Store) -> None:
    assert task("prepare-data") == task("train-model") == task("feature-importance") == 0
    assert task("evaluate-model", "--test-uri=/nowhere") == 3
    states = ["prepare_data=success", "train=success", "feature_importance=success"]
    failed = [f"--state={state}" for state in [*states, "evaluate=failed", "model_qa=upstream_failed"]]
    assert task("close-pipeline", *failed) == 3
    parent = store.parent()
    assert (parent.info.status, parent.data.tags["failed_step"]) == ("FAILED", "evaluate")
    assert "05_model_qa" not in store.below(parent) and parent.data.tags["exit_code"] == "3"

    assert task("evaluate-model") == 0
    assert store.parent().info.status == "RUNNING"
    assert task("model-qa") == 0
    assert task("close-pipeline", *(f"--state={key}=success" for key in SCRIPTS)) == 0
    mended = store.parent()
    assert mended.info.run_id == parent.info.run_id and mended.info.status == "FINISHED"
    assert "failed_step" not in mended.data.tags and mended.data.tags["exit_code"] == "0"
    assert len(store.runs("tags.job_run_id = '77'")) == 1


def test_the_pipeline_run_outlives_the_process_of_the_task_that_created_it(
    settings: config.Config, store: Store
) -> None:
    """The reaper closes the runs whose process is gone."""
    parent = store.client.get_run(job_run.find(settings, "77"))
    assert "process" not in parent.data.tags and parent.data.tags["package_version"]


def test_another_job_run_has_a_pipeline_run_of_its_own(settings: config.Config) -> None:
    assert job_run.find(settings, "1") == job_run.find(settings, "1") != job_run.find(settings, "2")


def test_of_two_that_were_created_at_once_the_earliest_counts_and_takes_in_the_other_s_steps(
    settings: config.Config, store: Store
) -> None:
    experiment = tracking.experiment_id(settings.experiment_name)
    later, earlier = (
        store.client.create_run(experiment, start_time=start, tags={job_run.JOB_RUN: "77"}).info.run_id
        for start in (2000, 1000)
    )
    all_finished(settings, later)
    assert job_run.find(settings, "77") == earlier
    assert len(tracking.children(earlier)) == 5 and not tracking.children(later)
    step_run(settings, later, "train")  # by a task that had found the later one before
    assert job_run.close(settings, "77", {})[0] == 0
    (left,) = store.runs("tags.job_run_id = '77'")
    assert left.info.run_id == earlier and len(tracking.children(earlier)) == 6


def test_tasks_that_begin_at_once_agree_on_one(settings: config.Config) -> None:
    together = Barrier(4)

    def begin() -> None:
        together.wait()
        job_run.find(settings, "77")

    tasks_at_once = [Thread(target=begin) for _ in range(4)]
    for thread in tasks_at_once:
        thread.start()
    for thread in tasks_at_once:
        thread.join()
    found = [job_run.find(settings, "77") for _ in range(2)]
    all_finished(settings, found[0])
    job_run.close(settings, "77", {})
    assert len(set(found)) == 1
    runs = tracking.client().search_runs([tracking.experiment_id(settings.experiment_name)], "tags.job_run_id = '77'")
    assert [run.info.run_id for run in runs] == found[:1]


@pytest.mark.parametrize(
    ("state", "status", "text"),
    [("failed", "FAILED", "its task ended without a word"), ("canceled", "KILLED", "its task ended without a word")],
)
def test_a_step_whose_task_was_killed_is_closed_too(
    state: str, status: str, text: str, settings: config.Config, store: Store
) -> None:
    parent = job_run.find(settings, "77")
    step_run(settings, parent, "prepare_data")
    killed = step_run(settings, parent, "train", None)
    states = dict.fromkeys(settings.steps, "upstream_failed") | {"prepare_data": "success", "train": state}
    assert job_run.close(settings, "77", states) == (4, f"02_train: {text}")
    assert store.client.get_run(killed).info.status == "KILLED"
    assert store.parent().info.status == status


def test_a_retried_task_counts_by_its_last_try(settings: config.Config, store: Store) -> None:
    parent = job_run.find(settings, "77")
    step_run(settings, parent, "prepare_data", None)
    all_finished(settings, parent)
    assert job_run.close(settings, "77", dict.fromkeys(settings.steps, "success"))[0] == 0
    assert store.parent().info.status == "FINISHED"
    assert sorted(run.info.status for run in store.runs("tags.step = 'prepare_data'")) == ["FINISHED", "KILLED"]


def test_a_step_whose_cluster_did_not_start_again_has_not_succeeded(settings: config.Config, store: Store) -> None:
    parent = job_run.find(settings, "77")
    all_finished(settings, parent)
    states = dict.fromkeys(settings.steps, "success") | {"train": "failed"}
    assert job_run.close(settings, "77", states) == (4, "02_train: its task ended as failed, before the step began")
    assert store.parent().info.status == "FAILED"


def test_where_no_task_began_there_is_a_failed_pipeline_run(settings: config.Config, store: Store) -> None:
    states = dict.fromkeys(settings.steps, "upstream_failed") | {"prepare_data": "failed"}
    code, cause = job_run.close(settings, "77", states)
    assert (code, cause.split(":")[0]) == (4, "01_prepare_data")
    assert store.parent().info.status == "FAILED"


def test_a_refused_model_is_a_verdict(settings: config.Config, store: Store) -> None:
    parent = job_run.find(settings, "77")
    for key in list(settings.steps)[:-1]:
        step_run(settings, parent, key)
    step_run(settings, parent, "model_qa", "FAILED", exit_code="5", cause="test_auc 0.4 is not at least 0.5")
    states = dict.fromkeys(settings.steps, "success") | {"model_qa": "failed"}
    assert job_run.close(settings, "77", states) == (5, "05_model_qa: test_auc 0.4 is not at least 0.5")
    assert store.parent().data.tags["verdict"] == "refused"
