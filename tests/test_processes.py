"""Signals and kills, to any of our processes: no process lives on, no run stays RUNNING, and the cause is told."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from blocking import begin_with, blocked, gone
from conftest import Result, Store, drive_in

from ml_pipelines import processes

Shell = Callable[..., Result]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process ids are looked up in /proc")

PIPELINE = ("python", "driver.py", "--only=prepare_data")
MAIN = ("mlflow", "run", ".", "-e", "main", "-Pset=max_parallel=1")
ALONE = ("mlflow", "run", ".", "-e", "prepare_data")


def statuses(store: Store) -> set[str]:
    return {run.info.status for run in store.runs()}


# -- asked to stop


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "name"),
    [
        *(("inline", name) for name in ("SIGTERM", "SIGINT", "SIGHUP")),
        *(("forkserver", name) for name in ("SIGTERM", "SIGINT", "SIGHUP")),
        *(("local", name) for name in ("SIGTERM", "SIGINT", "SIGHUP")),
    ],
)
def test_a_stopped_driver_leaves_no_run_running_and_no_process(
    store: Store, small: Path, backend: str, name: str
) -> None:
    with blocked(small, *PIPELINE, f"--backend={backend}") as command:
        command.process.send_signal(signal.Signals[name])
        assert command.process.wait(30) == 128 + signal.Signals[name]
        assert gone(command.step), "the step's process lives on"
    assert {run.info.run_name: run.info.status for run in store.runs()} == {
        "pipeline_run": "KILLED",
        "01_prepare_data": "KILLED",
    }
    assert "Traceback" not in command.text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("backend", ["forkserver", "local"])
def test_a_signal_to_the_whole_group_as_a_terminal_sends_it_stops_all(
    store: Store, small: Path, backend: str, name: str
) -> None:
    with blocked(small, *PIPELINE, f"--backend={backend}") as command:
        os.killpg(command.process.pid, signal.Signals[name])
        assert command.process.wait(30) == 128 + signal.Signals[name]
        assert gone(command.step)
    assert statuses(store) == {"KILLED"}


@pytest.mark.slow
def test_a_second_signal_does_not_break_off_what_the_first_asked_for(store: Store, small: Path) -> None:
    with blocked(small, *PIPELINE, "--backend=forkserver") as command:
        for _ in range(20):
            command.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert command.process.wait(30) == 130
    assert statuses(store) == {"KILLED"}


@pytest.mark.slow
def test_a_driver_under_nohup_survives_its_terminal(store: Store, small: Path) -> None:
    with blocked(small, "nohup", *PIPELINE, "--backend=forkserver") as command:
        command.process.send_signal(signal.SIGHUP)
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(30) == 143
    assert {run.data.tags["cause"] for run in store.runs()} == {"stopped by signal 15"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
@pytest.mark.parametrize("entry_point", [MAIN, ALONE], ids=["main", "prepare_data"])
def test_what_mlflow_run_started_ends_with_it(
    store: Store, small: Path, entry_point: tuple[str, ...], name: str
) -> None:
    with blocked(small, *entry_point) as command:
        command.process.send_signal(signal.Signals[name])
        command.process.wait(30)
        assert gone(command.step)
        driver = {int(run.data.tags["process"].split()[1]) for run in store.runs()}
        assert all(gone(pid) for pid in driver)
    assert statuses(store) == {"KILLED"}


# -- killed


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["forkserver", "local", "inline"])
def test_a_killed_driver_takes_its_steps_with_it_and_the_next_start_closes_its_runs(
    store: Store, small: Path, shell: Shell, backend: str
) -> None:
    with blocked(small, *PIPELINE, f"--backend={backend}") as command:
        command.process.kill()
        command.process.wait()
        assert gone(command.step), "the step's process lives on"
    left = store.parent().info
    assert left.status == "RUNNING"
    result = shell("python", "driver.py", "--only=evaluate", cwd=small)  # for which there is nothing yet
    assert result.code == 2
    assert "Marked KILLED, since their process is gone: runs " in result.out
    assert left.run_id[:8] in result.out
    assert store.client.get_run(left.run_id).info.status == "KILLED"
    assert "RUNNING" not in statuses(store)


@pytest.mark.slow
def test_a_killed_step_is_told_of_with_its_signal(store: Store, small: Path) -> None:
    with blocked(small, *PIPELINE, "--backend=forkserver") as command:
        os.kill(command.step, signal.SIGKILL)
        assert command.process.wait(30) == 4
    assert "its process was killed by signal 9" in command.text()
    assert store.child("prepare_data").data.tags["signal"] == "9"
    assert statuses(store) == {"FAILED"}


@pytest.mark.slow
def test_a_killed_fork_server_fails_its_step_and_no_more(store: Store, small: Path) -> None:
    with blocked(small, *PIPELINE, "--backend=forkserver") as command:
        server = int(Path(f"/proc/{command.step}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(server, signal.SIGKILL)
        assert command.process.wait(30) == 4
        assert gone(command.step)
    assert statuses(store) == {"FAILED"}
    assert "its process ended with exit code 255" in command.text()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["forkserver", "local"])
def test_a_failed_step_stops_those_beside_it_where_that_is_declared(
    store: Store, small: Path, shell: Shell, backend: str
) -> None:
    there = small.parent / "there"
    os.mkfifo(there)
    begin_with(small, "evaluate", f"open({str(there)!r}).read(); raise ZeroDivisionError('of this test')")
    begin_with(
        small, "feature_importance", f"open({str(there)!r}, 'w').close(); __import__('threading').Event().wait()"
    )
    done = shell(
        "python", "driver.py", f"--backend={backend}", "--set=fail_fast=true", cwd=small, PYTHONPATH=str(small)
    )
    assert done.code == 4, done.text
    assert "- 04_feature_importance" in done.out and "stopped (03_evaluate failed)" in done.out
    assert "- 05_model_qa" in done.out and "skipped (03_evaluate failed)" in done.out
    ends = {"01_prepare_data": "FINISHED", "02_train": "FINISHED", "03_evaluate": "FAILED"}
    assert store.statuses() == {**ends, "04_feature_importance": "KILLED"}
    assert store.child("feature_importance").data.tags["cause"] == "stopped, since 03_evaluate failed"
    assert store.parent().info.status == "FAILED"


@pytest.mark.parametrize("backend", ["forkserver", "inline"])
@pytest.mark.parametrize("how", ["raise SystemExit(3)", "_os._exit(3)"])
@pytest.mark.slow
def test_a_step_that_exits_fails_and_its_code_is_told(
    store: Store, small: Path, shell: Shell, how: str, backend: str
) -> None:
    if backend == "inline" and "_exit" in how:
        pytest.skip("ends driver.py itself, as it says")
    begin_with(small, "prepare_data", how)
    result = shell("python", "driver.py", "--only=prepare_data", f"--backend={backend}", cwd=small)
    assert result.code == 4, result.text
    assert ("SystemExit: 3" if "raise" in how else "its process ended with exit code 3") in result.out
    assert statuses(store) == {"FAILED"}


# -- the reaper, by itself


def begun(store: Store, **tags: str) -> str:
    """Make a run that is RUNNING, with these tags."""
    return str(store.client.create_run("0", tags=tags).info.run_id)


def of(pid: int, began: str) -> str:
    """Return the tag of a process of this machine."""
    return f"{processes.identity()['process'].split()[0]} {pid} {began}"


def test_only_runs_whose_process_is_gone_are_closed(store: Store) -> None:
    mine = processes.identity()["process"]
    _, pid, began = mine.split()
    dead = begun(store, process=of(int(pid), f"{int(began) + 1}"))  # the id was given out again
    child = begun(store, **{"mlflow.parentRunId": dead})
    living = [
        begun(store, process=mine),
        begun(store, process=f"elsewhere/pid:[1] {pid} 1"),
        begun(store),
        begun(store, process="nonsense"),
        begun(store, **{"mlflow.parentRunId": "another"}),
        begun(store, **{"mlflow.parentRunId": dead, "databricks.run_id": "17"}),
        begun(store, **{"process": of(int(pid), "1"), "databricks.run_id": "18"}),
    ]
    assert set(processes.reap(store.client, "0")) == {dead, child}
    assert store.client.get_run(dead).data.tags["cause"] == processes.GONE
    assert {store.client.get_run(run_id).info.status for run_id in (dead, child)} == {"KILLED"}
    assert {store.client.get_run(run_id).info.status for run_id in living} == {"RUNNING"}


def test_a_clock_that_jumps_changes_nothing_of_whose_process_lives(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = begun(store, **processes.identity())
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert processes.reap(store.client, "0") == []
    assert store.client.get_run(run_id).info.status == "RUNNING"


def test_a_pipeline_run_that_was_killed_when_all_its_steps_had_finished_is_run_again(
    finished: Store, earlier: Store
) -> None:
    """By taking all of them: what is current is a run that finished."""
    store = Store(earlier.uri, finished.tables)
    killed = store.parent().info.run_id
    store.client.update_run(killed, status="KILLED")
    result = drive_in(store, "--to=train")
    assert result.code == 0, result.text
    assert (store.parent().info.run_id != killed, store.parent().info.status) == (True, "FINISHED")
    assert all("reused_from" in run.data.tags for run in store.below().values())
