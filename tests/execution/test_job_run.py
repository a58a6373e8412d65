"""A job run's tasks share one pipeline run, even if tasks fail or restart; the last task sets its final status."""

import sys
from collections.abc import Callable
from threading import Barrier, Thread

import pytest
from conftest import FAST, Store

from ml_pipelines.cli import tasks
from ml_pipelines.config import loading
from ml_pipelines.config.schema import Config
from ml_pipelines.execution import job_run
from ml_pipelines.tracking import opening
from ml_pipelines.tracking.store import Store as TrackingStore

Task = Callable[..., int]

SCRIPTS = {
    "prepare_data": "prepare-data",
    "train": "train-model",
    "evaluate": "evaluate-model",
    "feature_importance": "feature-importance",
    "model_qa": "model-qa",
}
SCORE = "score-data"


@pytest.fixture
def settings(store: Store) -> Config:
    loaded = loading.load("local")
    opening.open_store(loaded)
    return loaded


@pytest.fixture
def task(store: Store, monkeypatch: pytest.MonkeyPatch) -> Task:
    """Run a console script as a task of job run 77, in this process, and return its exit code."""

    def run(script: str, *options: str) -> int:
        small = [f"--set=data.delta_prefix.local={store.tables}", f"--set={FAST}"]
        monkeypatch.setattr(sys, "argv", [script, "pipeline=local", *small, "--job-run-id=77", *options])
        monkeypatch.setattr(tasks, "raise_on_signals", lambda: None)  # keep the test's own handlers
        key = next(
            (key for key, name in {**SCRIPTS, "score": SCORE}.items() if name == script), script.replace("-", "_")
        )
        try:
            getattr(tasks, key)()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def find(settings: Config, job_run_id: str) -> str:
    """Return the pipeline run of a job run."""
    return job_run.open_pipeline_run(TrackingStore.inherited(), settings, job_run_id)


def close(settings: Config, job_run_id: str, states: dict[str, str]) -> tuple[int, str]:
    """End the pipeline run of a job run; return the exit code and the first cause."""
    return job_run.close_pipeline_run(TrackingStore.inherited(), settings, job_run_id, states)


def step_run(settings: Config, parent: str, step: str, status: str | None = "FINISHED", **tags: str) -> str:
    """Create a step run below the pipeline run; without a status, it is still running."""
    tracking_store = TrackingStore.inherited()
    run = tracking_store.create_step_run(tracking_store.experiment_id(settings.experiment_name), step, parent)
    tracking_store.set_tags(run, {"exit_code": "0", **tags})
    if status:
        tracking_store.client.set_terminated(run, status)
    return run


def finish_all_steps(settings: Config, parent: str) -> None:
    for step in settings.pipeline_steps:
        step_run(settings, parent, step)


@pytest.mark.slow
def test_the_tasks_of_a_job_run_share_one_finished_pipeline_run(
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
def test_the_tasks_of_the_scoring_job_share_a_scoring_run(task: Task, earlier: Store) -> None:
    assert task(SCORE, "--set=score.source.kind=synthetic,score.source.rows=50,score.source.features=4") == 0
    assert task("close-pipeline", "--state=score=success") == 0
    (parent,) = earlier.runs("tags.job_run_id = '77'")
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "scoring_run")
    assert earlier.statuses(parent) == {"01_score": "FINISHED"}
    assert parent.data.metrics["scored_rows"] == 50


@pytest.mark.slow
def test_a_failed_task_fails_the_pipeline_run_and_a_repair_finishes_the_same_run(task: Task, store: Store) -> None:
    assert task("prepare-data") == task("train-model") == task("feature-importance") == 0
    assert task("evaluate-model", "--test-uri=/nowhere") == 3
    states = ["prepare_data=success", "train=success", "feature_importance=success"]
    state_options = [f"--state={state}" for state in [*states, "evaluate=failed", "model_qa=upstream_failed"]]
    assert task("close-pipeline", *state_options) == 3
    parent = store.parent()
    assert (parent.info.status, parent.data.tags["failed_step"]) == ("FAILED", "evaluate")
    assert "05_model_qa" not in store.below(parent) and parent.data.tags["exit_code"] == "3"

    assert task("evaluate-model") == 0
    assert store.parent().info.status == "RUNNING"
    assert task("model-qa") == 0
    assert task("close-pipeline", *(f"--state={key}=success" for key in SCRIPTS)) == 0
    repaired_run = store.parent()
    assert repaired_run.info.run_id == parent.info.run_id and repaired_run.info.status == "FINISHED"
    assert "failed_step" not in repaired_run.data.tags and repaired_run.data.tags["exit_code"] == "0"
    assert len(store.runs("tags.job_run_id = '77'")) == 1


def test_the_pipeline_run_outlives_the_process_of_the_task_that_created_it(settings: Config, store: Store) -> None:
    """The reaper closes the runs whose process is gone."""
    parent = store.client.get_run(find(settings, "77"))
    assert "process" not in parent.data.tags and parent.data.tags["package_version"]


def test_each_job_run_has_its_own_pipeline_run(settings: Config) -> None:
    assert find(settings, "1") == find(settings, "1") != find(settings, "2")


def test_the_earliest_of_two_concurrent_pipeline_runs_wins_and_adopts_the_steps_of_the_other(
    settings: Config, store: Store
) -> None:
    experiment = TrackingStore.inherited().experiment_id(settings.experiment_name)
    later, earlier = (
        store.client.create_run(experiment, start_time=start, tags={job_run.JOB_RUN: "77"}).info.run_id
        for start in (2000, 1000)
    )
    finish_all_steps(settings, later)
    assert find(settings, "77") == earlier
    assert len(TrackingStore.inherited().children(earlier)) == 5 and not TrackingStore.inherited().children(later)
    step_run(settings, later, "train")  # by a task that had opened the later run before
    assert close(settings, "77", {})[0] == 0
    (run,) = store.runs("tags.job_run_id = '77'")
    assert run.info.run_id == earlier and len(TrackingStore.inherited().children(earlier)) == 6


def test_tasks_that_start_at_once_agree_on_one_pipeline_run(settings: Config) -> None:
    barrier = Barrier(4)

    def begin() -> None:
        barrier.wait()
        find(settings, "77")

    tasks_at_once = [Thread(target=begin) for _ in range(4)]
    for thread in tasks_at_once:
        thread.start()
    for thread in tasks_at_once:
        thread.join()
    run_ids = [find(settings, "77") for _ in range(2)]
    finish_all_steps(settings, run_ids[0])
    close(settings, "77", {})
    assert len(set(run_ids)) == 1
    runs = TrackingStore.inherited().client.search_runs(
        [TrackingStore.inherited().experiment_id(settings.experiment_name)], "tags.job_run_id = '77'"
    )
    assert [run.info.run_id for run in runs] == run_ids[:1]


@pytest.mark.parametrize(
    ("state", "status", "text"),
    [
        ("failed", "FAILED", "its task ended without reporting a result"),
        ("canceled", "KILLED", "its task ended without reporting a result"),
    ],
)
def test_close_pipeline_closes_the_step_run_of_a_killed_task(
    state: str, status: str, text: str, settings: Config, store: Store
) -> None:
    parent = find(settings, "77")
    step_run(settings, parent, "prepare_data")
    killed_run = step_run(settings, parent, "train", None)
    states = dict.fromkeys(settings.pipeline_steps, "upstream_failed") | {"prepare_data": "success", "train": state}
    assert close(settings, "77", states) == (4, f"02_train: {text}")
    assert store.client.get_run(killed_run).info.status == "KILLED"
    assert store.parent().info.status == status


def test_the_last_attempt_of_a_retried_task_counts(settings: Config, store: Store) -> None:
    parent = find(settings, "77")
    step_run(settings, parent, "prepare_data", None)
    finish_all_steps(settings, parent)
    assert close(settings, "77", dict.fromkeys(settings.pipeline_steps, "success"))[0] == 0
    assert store.parent().info.status == "FINISHED"
    assert sorted(run.info.status for run in store.runs("tags.step = 'prepare_data'")) == ["FINISHED", "KILLED"]


def test_a_finished_step_counts_as_failed_if_its_task_failed_before_starting_it_again(
    settings: Config, store: Store
) -> None:
    parent = find(settings, "77")
    finish_all_steps(settings, parent)
    states = dict.fromkeys(settings.pipeline_steps, "success") | {"train": "failed"}
    assert close(settings, "77", states) == (
        4,
        "02_train: its task ended as failed before the step started",
    )
    assert store.parent().info.status == "FAILED"


def test_the_pipeline_run_fails_if_no_task_started(settings: Config, store: Store) -> None:
    states = dict.fromkeys(settings.pipeline_steps, "upstream_failed") | {"prepare_data": "failed"}
    code, cause = close(settings, "77", states)
    assert (code, cause.split(":")[0]) == (4, "01_prepare_data")
    assert store.parent().info.status == "FAILED"


def test_a_refused_model_gives_the_pipeline_run_its_verdict(settings: Config, store: Store) -> None:
    parent = find(settings, "77")
    for key in list(settings.pipeline_steps)[:-1]:
        step_run(settings, parent, key)
    step_run(settings, parent, "model_qa", "FAILED", exit_code="5", cause="test_auc 0.4 is not at least 0.5")
    states = dict.fromkeys(settings.pipeline_steps, "success") | {"model_qa": "failed"}
    assert close(settings, "77", states) == (
        5,
        "05_model_qa: test_auc 0.4 is not at least 0.5",
    )
    assert store.parent().data.tags["verdict"] == "refused"
