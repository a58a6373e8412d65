"""Odd records in the store: no traceback, and no reuse of a run whose record was changed."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Result, Store, drive_in
from mlflow.entities import Run

import driver
from ml_pipelines.cli import main
from ml_pipelines.config.loading import load
from ml_pipelines.errors import ConfigError, Interrupted
from ml_pipelines.models import registry
from ml_pipelines.planning import reuse
from ml_pipelines.system import processes
from ml_pipelines.tracking import ending, records

Drive = Callable[..., Result]
ODD = ["abc", "", "1.5", "\u0661", "9" * 30, "-", "[]", "\x1b[2J"]


@pytest.fixture
def drive_again(earlier: Store, finished: Store) -> Drive:
    """Run driver.py's command in a store with a finished pipeline run, whose tables it may reuse."""
    return partial(drive_in, Store(earlier.uri, finished.tables))


def set_tag(store: Store, run: Run, tag: str, value: str) -> None:
    store.client.set_tag(run.info.run_id, tag, value)


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> Result:
    """Run ml-pipelines in this process."""
    monkeypatch.setattr(sys, "argv", ["ml-pipelines", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main.main()
    out, err = capsys.readouterr()
    return Result(int(end.value.code or 0), out, err)


@pytest.mark.parametrize("value", ODD)
def test_an_odd_number_is_one_line_that_names_run_tag_and_cure(earlier: Store, value: str) -> None:
    set_tag(earlier, earlier.child("prepare_data"), "output.train_uri.version", value)
    run = earlier.child("prepare_data")
    with pytest.raises(records.OddRecord) as error:
        records.whole_number(run, "output.train_uri.version")
    assert f"mlflow runs delete --run-id {run.info.run_id}" in str(error.value)
    assert str(error.value).isprintable() and error.value.exit_code == 4
    assert records.exit_code(run) == 0


@pytest.mark.parametrize("tag", ["version", "rows", "digest"])
def test_a_run_with_an_odd_record_is_not_reused(earlier: Store, drive_again: Drive, tag: str) -> None:
    assert "reused: unchanged" in drive_again("--dry-run", "--to=prepare_data").out
    set_tag(earlier, earlier.child("prepare_data"), f"output.train_uri.{tag}", "odd")
    result = drive_again("--dry-run", "--to=prepare_data")
    assert result.code == 0, result.text
    assert "runs: outputs are missing or damaged" in result.out


def test_a_step_on_the_outputs_of_a_changed_run_fails_with_one_line(earlier: Store, drive: Drive) -> None:
    run = earlier.child("prepare_data")
    earlier.client.delete_tag(run.info.run_id, "output.train_uri.digest")
    result = drive("--only=train")
    assert result.code == 4, result.text
    [line] = [line for line in result.err.splitlines() if "no tag output.train_uri.digest" in line]
    assert run.info.run_id in line


@pytest.mark.parametrize("value", ["{", "[]", '{"train": 1}', "[" * 100_000])
def test_odd_kept_steps_stop_clean_and_report_with_one_line(
    earlier: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    set_tag(earlier, earlier.parent(), "kept", value[:8000])
    for arguments in (["clean", "--keep=1"], ["report", earlier.parent().info.run_id]):
        result = command(monkeypatch, capsys, *arguments)
        assert result.code == 4 and len(result.err.splitlines()) == 1, result.text
        assert "has the tag kept=" in result.err


def test_a_run_with_odd_kept_steps_is_passed_over(earlier: Store, drive: Drive) -> None:
    set_tag(earlier, earlier.parent(), "kept", "{")
    result = drive("--only=train")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert "No earlier pipeline run of profile local has train_uri" in result.err


def test_kept_steps_of_earlier_versions_are_read(earlier: Store) -> None:
    set_tag(earlier, earlier.parent(), "kept", '{"train": "abc"}')
    assert records.steps_in(earlier.parent(), records.KEPT) == {"train": "abc"}


def test_any_number_of_kept_steps_is_recorded(store: Store) -> None:
    run_id = store.client.create_run("0").info.run_id
    kept = {f"step_{i}": f"{i:032}" for i in range(300)}
    store.opened.set_tags(run_id, {f"{records.KEPT}{name}": value for name, value in kept.items()})
    assert records.steps_in(store.client.get_run(run_id), records.KEPT) == kept


@pytest.mark.parametrize("ids", ["abc 1", "-1 1", "1.5 2", "", "1", "1 2 3"])
def test_an_odd_process_counts_as_alive(store: Store, ids: str) -> None:
    host = processes.process_tag()[processes.PROCESS].split(" ")[0]
    run_id = store.client.create_run("0", tags={processes.PROCESS: f"{host} {ids}".strip()}).info.run_id
    store.opened.reap("0")
    assert store.client.get_run(run_id).info.status == "RUNNING"


def test_an_odd_earlier_champion_is_one_line(
    earlier: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = registry.model_name(load("local"))
    earlier.client.set_model_version_tag(name, "1", registry.BEFORE, "first")
    result = command(monkeypatch, capsys, "rollback", "--reason=x")
    assert result.code == 2 and "had no champion before version 1" in result.err


def test_a_champion_without_a_run_is_a_champion(store: Store) -> None:
    name = registry.model_name(load("local"))
    store.client.create_registered_model(name)
    store.client.create_model_version(name, "file:///nowhere")
    store.client.set_registered_model_alias(name, "champion", "1")
    assert registry.champion_identity(store.opened, load("local")).startswith(f"{name} 1")
    for run_id in ("", "no-run", "a/b"):
        with pytest.raises(ConfigError, match="has no run"):
            store.opened.get_run(run_id)


# -- errors that nobody expected


def unexpected(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("of this\n\x1b[2Jtest")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a temporary folder of this test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def check(result: Result, folder: Path) -> None:
    assert result.code == 4, result.text
    [line] = result.err.splitlines()
    assert line.startswith(r"ZeroDivisionError: of this \x1b[2Jtest This is unexpected.")
    [file] = folder.glob("*.traceback.txt")
    assert line.endswith(str(file))
    text = file.read_text()
    assert "in unexpected" in text and r"\x1b[2J" in text and "\x1b" not in text
    assert file.stat().st_mode & 0o077 == 0


def test_an_unexpected_error_of_the_driver_is_one_line_and_a_file(
    store: Store, drive: Drive, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver.plan, "make_plan", unexpected)
    check(drive(), temporary)


def test_an_unexpected_error_of_a_command_is_one_line_and_a_file(
    store: Store, temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main.reports.loading, "load", unexpected)
    check(command(monkeypatch, capsys, "report"), temporary)


def test_without_a_temporary_folder_the_traceback_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", f"{os.devnull}/none")
    assert ending.end_with(ZeroDivisionError("x")) == 4
    assert "Traceback:\nZeroDivisionError: x" in capsys.readouterr().err


def test_a_signal_keeps_its_exit_code() -> None:
    assert ending.end_with(Interrupted(15)) == 143


# -- an error between the steps


def test_an_error_between_the_steps_shows_the_steps_that_it_skips(
    earlier: Store, drive_again: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide, decided = reuse.decide, []

    def decide_once(plan: Any, step: Any, *more: Any) -> Any:
        decided.append(step.name)
        if decided.count("evaluate") == 2:  # the first time is the check whether anything must run
            raise ConfigError("The registry of this test is gone.")
        return decide(plan, step, *more)

    monkeypatch.setattr(reuse, "decide", decide_once)
    result = drive_again("--force=evaluate")
    assert result.code == 2
    assert result.err == "The registry of this test is gone.\n"
    skipped = [line.split()[1] for line in result.out.splitlines() if "skipped (an error ended the" in line]
    assert skipped == ["03_evaluate", "04_feature_importance", "05_model_qa"]
    assert earlier.parent().info.status == "FAILED"
