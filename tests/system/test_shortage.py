"""Tests of the words for a full disk and for too few files or threads, which libraries call something else."""

import errno
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from conftest import Result, Store

from ml_pipelines.errors import BadData, StepFailed
from ml_pipelines.models import model_files
from ml_pipelines.system import environment, shortage
from ml_pipelines.tracking.store import Store as TrackingStore

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
Drive = Callable[..., Result]


def raised(outer: Exception, inner: BaseException) -> Exception:
    """Return an error that was raised while another one was handled."""
    try:
        try:
            raise inner
        except BaseException:
            raise outer  # noqa: B904  # as libraries do
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/nowhere/file"),
            "No space left on device for /nowhere/file. Free: /",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/from", None, "/to/file"),
            "No space left on device for /to/file. Free: /",
        ),
        (
            raised(mlflow.MlflowException("use cloudpickle"), OSError(errno.ENOSPC, "No space left on device")),
            "No space left on device. Free: /",
        ),
        (
            mlflow.MlflowException("(sqlite3.OperationalError) database or disk is full"),
            "No space left on device. Free: /",
        ),
        (raised(BadData("Table damaged: x"), OSError(errno.EMFILE, "Too many open files")), "Too many open files"),
        (RuntimeError("can't start new thread"), "Too many processes and threads"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "Too many processes and threads"),
        (
            raised(BadData("Table damaged"), Exception("failed to spawn thread: Os { code: 11, kind: WouldBlock }")),
            "Too many processes and threads",
        ),
    ],
)
def test_the_shortage_behind_an_error_is_named(error: Exception, expected: str) -> None:
    explained = shortage.explain(error)
    assert isinstance(explained, StepFailed)
    assert str(explained).startswith(expected)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        BadData("Table damaged"),
        FileNotFoundError(2, "No such file", "x"),
        ValueError(
            "Schema error 10: start_thread at ./nptl/pthread_create.c:442:8"
        ),  # deltalake's errors end like this
    ],
)
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    assert shortage.explain(error) is None


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (resource.RLIMIT_NOFILE, "ulimit -n is 40, and a pipeline run needs at least 128 open files."),
        (resource.RLIMIT_NPROC, "ulimit -u is 40, and a pipeline run needs at least 128 processes and threads."),
    ],
)
def test_a_limit_that_is_too_low_is_named_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, limit: int, expected: str
) -> None:
    get = resource.getrlimit
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (40, 40) if asked == limit else get(asked))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(StepFailed) as error:
        environment.prepare()
    assert str(error.value).startswith(expected)


def test_a_driver_with_too_few_files_ends_with_one_line_and_exit_code_4(
    store: Store, shell: Callable[..., Result]
) -> None:
    result = shell("prlimit", "--nofile=90", sys.executable, "driver.py", "--only=prepare_data")
    assert result.code == 4
    assert result.text == (
        "ulimit -n is 90, and a pipeline run needs at least 128 open files. "
        "Raise the limit, for example: ulimit -n 4096.\n"
    )
    assert store.runs() == []


def test_a_step_without_room_for_its_model_names_the_disk(
    drive: Drive, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model_files.shutil, "copy", copy)
    result = drive("--to=train")
    assert result.code == 4
    assert store.child("train").data.tags["cause"].startswith("No space left on device. Free: /")


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_store_that_vanishes_under_a_run_is_named(store: Store, how: str) -> None:
    database = Path(store.uri.removeprefix("sqlite:///"))
    opened = TrackingStore(store.uri, store.uri)
    run = opened.client.create_run("0")
    copy = database.read_bytes()
    database.unlink()
    if how == "replaced":
        database.write_bytes(copy)
    with pytest.raises(mlflow.MlflowException) as error:
        opened.client.set_tag(run.info.run_id, "a", "b")
    failed = opened.failed(error.value)
    assert failed.exit_code == 4
    assert str(failed).startswith(f"The MLflow store {database} was removed, moved or replaced during the run")
