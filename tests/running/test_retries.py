"""A step's time limit and its retries, as a user declares them: `timeout_s` and `retries`."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import requests
from blocking import begin_with
from conftest import Result, Store

from ml_pipelines.backends import inline
from ml_pipelines.errors import BadData, ConfigError, StepFailed, Unreachable
from ml_pipelines.running import pipeline_run

Drive = Callable[..., Result]
Shell = Callable[..., Result]

TWICE = "--set=steps.evaluate.retries=2"
LIMIT = "--set=steps.evaluate.timeout_s=0.3"
SCORE = "steps.evaluate.problem_of"


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_run, "BACKOFF_S", 0.01)


def failing_first(*errors: BaseException) -> Any:
    """Patch the scoring of evaluate: it raises each of the errors once, then it scores."""
    from steps.evaluate import problem_of

    remaining = list(errors)

    def score(*args: Any) -> Any:
        if remaining:
            raise remaining.pop(0)
        return problem_of(*args)

    return patch(SCORE, score)


def caused_by(cause: BaseException, error: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def attempts(store: Store) -> list[tuple[str, str | None]]:
    """Return status and tag `attempt` of each evaluate run below the newest pipeline run, the earliest first."""
    below = f"tags.step = 'evaluate' and tags.`mlflow.parentRunId` = '{store.parent().info.run_id}'"
    return [(run.info.status, run.data.tags.get("attempt")) for run in reversed(store.runs(below))]


# -- retries


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("of this test"),
        *(
            pytest.param(error, marks=pytest.mark.slow, id=type(error).__name__)
            for error in (
                TimeoutError("of this test"),
                OSError(5, "Input/output error"),
                requests.exceptions.ReadTimeout("of this test"),
                Unreachable("of this test"),
                caused_by(ConnectionRefusedError("of this test"), RuntimeError("no answer")),
                RuntimeError("StatusCode.UNAVAILABLE"),
            )
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_transient_error_is_retried_in_a_new_run(
    finished: Store, earlier: Store, drive: Drive, error: Exception
) -> None:
    with failing_first(error):
        result = drive("--from=evaluate", TWICE)
    assert result.code == 0, result.text
    assert attempts(earlier) == [("FAILED", None), ("FINISHED", "2")]
    assert "again in 0.01 s, try 2 of 3" in result.out
    assert earlier.child("evaluate").data.metrics == finished.child("evaluate").data.metrics
    assert earlier.parent().info.status == "FINISHED"
    assert "failed_step" not in earlier.parent().data.tags


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ZeroDivisionError("of this test"), 4),
        (BadData("of this test"), 3),
        (caused_by(ConnectionResetError(), BadData("of this test")), 3),
        (ConfigError("of this test"), 2),
        (StepFailed("of this test"), 4),
        (FileNotFoundError(2, "No such file"), 4),
        (OSError(28, "No space left on device"), 4),
        (PermissionError(13, "Permission denied"), 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_permanent_error_is_not_retried(earlier: Store, drive: Drive, error: Exception, code: int) -> None:
    with failing_first(error):
        assert drive("--only=evaluate", TWICE).code == code
    assert attempts(earlier) == [("FAILED", None)]


def test_a_refused_model_is_not_judged_again(earlier: Store, drive: Drive) -> None:
    options = "--set=steps.model_qa.params.checks.min_auc.threshold=1,steps.model_qa.retries=2"
    assert drive("--only=model_qa", options).code == 5
    assert len(earlier.below()) == 1


def test_a_step_is_tried_no_more_often_than_declared(earlier: Store, drive: Drive) -> None:
    with failing_first(*[ConnectionResetError("of this test")] * 3):
        result = drive("--only=evaluate", TWICE)
    assert result.code == 4
    assert attempts(earlier) == [("FAILED", None), ("FAILED", "2"), ("FAILED", "3")]
    assert "again in 0.02 s, try 3 of 3" in result.out
    assert earlier.parent().data.tags["failed_step"] == "evaluate"


def test_without_declared_retries_a_step_is_not_retried(earlier: Store, drive: Drive) -> None:
    with failing_first(ConnectionResetError("of this test")):
        assert drive("--only=evaluate").code == 4
    assert attempts(earlier) == [("FAILED", None)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["forkserver", "local"])
def test_a_killed_step_is_retried_and_writes_its_tables_once(
    finished: Store, store: Store, small: Path, shell: Shell, backend: str
) -> None:
    marker = small / "killed_once"
    kill = f"_os.path.exists({str(marker)!r}) or (open({str(marker)!r}, 'w').close(), _os.kill(_os.getpid(), 9))"
    begin_with(small, "prepare_data", kill)
    settings = "--set=steps.prepare_data.retries=1"
    result = shell("python", "driver.py", "--only=prepare_data", f"--backend={backend}", settings, cwd=small)
    assert result.code == 0, result.text
    runs = store.runs("tags.step = 'prepare_data'")
    assert [(run.info.status, run.data.tags.get("attempt")) for run in runs] == [("FINISHED", "2"), ("FAILED", None)]
    assert runs[0].data.metrics == finished.child("prepare_data").data.metrics


# -- time limits


def test_a_step_over_its_time_limit_fails_and_shows_where_it_was(earlier: Store, drive: Drive) -> None:
    with patch(SCORE, lambda *_: threading.Event().wait()):
        result = drive("--from=evaluate", LIMIT)
    assert result.code == 124
    assert "took longer than its time limit of 0.3 s (timeout_s)" in result.out
    assert "skipped (03_evaluate failed)" in result.out
    run = earlier.child("evaluate")
    assert (run.info.status, run.data.tags["exit_code"]) == ("FAILED", "124")
    assert "threading.py" in earlier.artifact(run, "traceback.txt").read_text()
    assert earlier.parent().data.tags["exit_code"] == "124"


@pytest.mark.slow
def test_a_step_that_hung_once_is_retried(earlier: Store, drive: Drive) -> None:
    from steps.evaluate import problem_of

    first = [threading.Event()]
    with patch(SCORE, lambda *args: first.pop().wait() if first else problem_of(*args)):
        result = drive("--only=evaluate", "--set=steps.evaluate.timeout_s=5", TWICE)
    assert result.code == 0, result.text
    assert attempts(earlier) == [("FAILED", None), ("FINISHED", "2")]


def test_a_step_within_its_time_limit_succeeds(earlier: Store, drive: Drive) -> None:
    assert drive("--only=evaluate", "--set=steps.evaluate.timeout_s=100").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "limit_s"), [("forkserver", 1), ("local", 15)])  # a fresh interpreter takes time
def test_a_step_that_blocks_all_signals_is_killed_at_its_time_limit(
    store: Store, project: Path, shell: Shell, backend: str, limit_s: int
) -> None:
    deaf = "__import__('signal').pthread_sigmask(0, range(1, 65)); __import__('threading').Event().wait()"
    begin_with(project, "prepare_data", deaf)
    limit = f"--set=steps.prepare_data.timeout_s={limit_s}"
    result = shell("python", "driver.py", "--only=prepare_data", f"--backend={backend}", limit, cwd=project)
    assert result.code == 124, result.text
    assert f"took longer than its time limit of {limit_s} s" in result.out
    assert {run.info.status for run in store.runs()} == {"FAILED"}


@pytest.mark.slow
def test_a_single_step_has_its_time_limit_too(store: Store, project: Path, shell: Shell) -> None:
    begin_with(project, "prepare_data", "__import__('threading').Event().wait()")
    step = ("--step=prepare_data", "--set=steps.prepare_data.timeout_s=1")
    assert shell("python", "driver.py", *step, cwd=project).code == 124
    assert store.child("prepare_data").info.status == "FAILED"


def test_an_error_while_waiting_for_a_step_ends_the_step(
    earlier: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waiting thread reports every error as the end of its step: nobody else waits for it."""

    def wait(_: Any) -> bool:
        raise TypeError("odd answer")

    monkeypatch.setattr(inline.FinishedStep, "wait", wait)
    monkeypatch.setattr(inline.step_run, "execute", lambda *_, **__: 0)  # the step's run stays open
    result = drive("--only=train", "--force", "--set=steps.train.retries=0")
    cause = "waiting for its end failed: TypeError: odd answer"
    assert result.code == 4 and cause in result.out, result.text
    assert earlier.child("train").info.status == "FAILED"
