"""Tests of an interrupted run: a signal leaves no run that stays RUNNING."""

from collections.abc import Callable
from typing import NoReturn

import pytest
from conftest import Result, Store

from ml_pipelines.errors import Interrupted
from ml_pipelines.execution import step_run


def test_an_interrupt_during_submission_marks_the_step_killed(
    drive: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        raise Interrupted(2)

    monkeypatch.setattr(step_run, "execute", interrupt)
    assert drive("--backend=inline").code == 130
    assert {(run.info.run_name, run.info.status) for run in store.runs()} == {
        ("pipeline_run", "KILLED"),
        ("prepare_data", "KILLED"),
    }
