"""What a signal leaves behind."""

from collections.abc import Callable
from typing import NoReturn

import pytest
from conftest import Result, Store

from ml_pipelines import execution
from ml_pipelines.errors import Interrupted


def test_a_step_that_was_just_being_submitted_is_killed_too(
    drive: Callable[..., Result], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> NoReturn:
        raise Interrupted(2)

    monkeypatch.setattr(execution, "execute", stopped)
    assert drive("--backend=inline").code == 130
    assert {(run.info.run_name, run.info.status) for run in store.runs()} == {
        ("pipeline_run", "KILLED"),
        ("prepare_data", "KILLED"),
    }
