"""Failures of the store and the disk: a server that goes away, a disk that is full or read-only."""

import fcntl
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue

import deltalake
import polars as pl
import pytest
from blocking import begin_with
from conftest import ROOT, Result, Store

from ml_pipelines.system import locks
from ml_pipelines.tracking.opening import FIRST_BUDGET, SERVER_BUDGET

AWAY_S = 20  # with the restart, 25 seconds and more
Drive = Callable[..., Result]
Shell = Callable[..., Result]

as_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small or read-only file system needs root"
)


# -- eight drivers at once


@pytest.mark.slow
def test_eight_drivers_open_a_fresh_sqlite_store_at_once(tmp_path: Path) -> None:
    """No driver has inputs for its step, and it must open the store to report that."""
    store = Store(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}", tmp_path / "delta")
    (tmp_path / "new").mkdir()
    command = [sys.executable, "driver.py", "--only=evaluate"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store.uri}
    drivers = [
        subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE) for _ in range(8)
    ]
    results = [(driver.communicate(timeout=200)[1], driver.returncode) for driver in drivers]
    assert [code for _, code in results] == [2] * 8, results
    assert all("No earlier pipeline run of profile local has" in message for message, _ in results)
    assert len([e for e in store.client.search_experiments() if e.name == "local_pipeline_experiment"]) == 1


# -- a tracking server


@dataclass
class Server:
    """A real `mlflow server`, which uses the same port after a restart."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host=127.0.0.1", "--workers=1"]
        command += [f"--port={self.port}", f"--backend-store-uri=sqlite:///{self.folder / 'served.db'}"]
        command += [f"--artifacts-destination={self.folder / 'art'}"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(400):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5)
                return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    break
                time.sleep(0.25)
        pytest.fail(f"mlflow server did not start: {(self.folder / 'server.log').read_text()[-2000:]}")

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path, migrated: Path) -> Iterator[Server]:
    """Run a server on loopback."""
    shutil.copy(migrated, tmp_path / "served.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = Server(tmp_path, port)
    running.start()
    yield running
    running.kill()


@contextmanager
def paused_step(
    project: Path, uri: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], None]]]:
    """Run prepare_data until its step is about to work; yield the driver and a function that resumes the step."""
    ready, resume = project.parent / "here", project.parent / "go_on"
    os.mkfifo(ready)
    os.mkfifo(resume)
    begin_with(project, "prepare_data", f"open({str(ready)!r}, 'w').close(); open({str(resume)!r}).read()")
    process = subprocess.Popen(
        [sys.executable, "driver.py", "--only=prepare_data"],
        cwd=project,
        env={**os.environ, "MLFLOW_TRACKING_URI": uri, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        ready.read_text()
        yield process, lambda: resume.open("w").close()
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_pipeline_run_waits_for_a_killed_server_that_comes_back(server: Server, small: Path) -> None:
    with paused_step(small, server.uri) as (driver, resume):
        server.kill()
        resume()
        time.sleep(AWAY_S)
        server.start()
        output, _ = driver.communicate(timeout=150)
    assert driver.returncode == 0, output
    server_store = Store(server.uri, small)
    assert server_store.statuses() == {"01_prepare_data": "FINISHED"}
    assert server_store.parent().info.status == "FINISHED"


@pytest.mark.slow
def test_a_lost_server_gives_one_clear_error_and_the_next_start_closes_the_runs(
    server: Server, small: Path, shell: Shell
) -> None:
    with paused_step(small, server.uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1") as (driver, resume):
        server.kill()
        resume()
        started = time.monotonic()
        output, _ = driver.communicate(timeout=150)
        assert time.monotonic() - started < 60
    assert driver.returncode == 4, output
    assert "Traceback" not in output
    last = output.splitlines()[-1]
    assert last.startswith(f"The MLflow store {server.uri} fails: API request to")
    server.start()
    assert "Marked as KILLED" in shell("python", "driver.py", "--only=evaluate", MLFLOW_TRACKING_URI=server.uri).out
    assert {run.info.status for run in Store(server.uri, small).runs()} == {"KILLED"}


@pytest.mark.slow
def test_an_unreachable_server_is_reported_in_one_line(shell: Shell) -> None:
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    result = shell("python", "driver.py", **away)
    assert result.code == 2
    assert result.err.startswith("The MLflow store http://127.0.0.1:9 can't be opened: ")
    assert len(result.text.splitlines()) == 1


def waits(budget: Mapping[str, str]) -> float:
    """Return the seconds that urllib3 waits between all tries with these settings."""
    from urllib3.util.retry import RequestHistory, Retry

    tries = int(budget["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    request = RequestHistory("GET", "/", None, None, None)
    factor = float(budget["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"])
    assert budget["MLFLOW_HTTP_REQUEST_BACKOFF_JITTER"] == "0"
    return sum(Retry(backoff_factor=factor, history=(request,) * n).get_backoff_time() for n in range(1, tries + 1))


def test_the_driver_waits_for_a_server_between_25_and_60_seconds() -> None:
    """The step waits once, then the driver once."""
    assert 55 < waits(SERVER_BUDGET) < 65
    first = SERVER_BUDGET | FIRST_BUDGET
    assert waits(first) > 25
    never_answers = (int(first["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) + 1) * int(first["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    assert waits(first) + never_answers < 60


@pytest.mark.slow
def test_a_server_that_never_answers_is_reported_in_one_line(shell: Shell) -> None:
    seconds: list[float] = []

    def listen(silent: socket.socket) -> None:
        connection, _ = silent.accept()
        started = time.monotonic()
        while connection.recv(65536):
            pass
        seconds.append(time.monotonic() - started)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        listener = threading.Thread(target=listen, args=(silent,))
        listener.start()
        result = shell("python", "driver.py", MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
        listener.join(60)
    assert seconds and seconds[0] < 20  # the client waits 30 s for an answer to a later request
    assert result.code == 2
    assert result.err.startswith(f"The MLflow store {uri} can't be opened: ")
    assert len(result.text.splitlines()) == 1


@contextmanager
def slow_proxy(uri: str, delays_s: "Queue[float]", still_connected: list[bool]) -> Iterator[str]:
    """Forward requests to a server; hold back one answer for each of the delays.

    `still_connected` records for each of these answers whether the client was still connected.
    """

    class ForwardingHandler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name != "Host"}
            request = urllib.request.Request(f"{uri}{self.path}", body or None, headers, method=self.command)
            try:
                answer = urllib.request.urlopen(request, timeout=60)
            except urllib.error.HTTPError as error:
                answer = error
            content = answer.read()
            with suppress(Empty):
                time.sleep(delays_s.get_nowait())
                # A closed connection is readable.
                still_connected.append(not select.select([self.connection], [], [], 0)[0])
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "POST", "PUT", "PATCH"):
        setattr(ForwardingHandler, f"do_{method}", ForwardingHandler.forward)
    with ThreadingHTTPServer(("127.0.0.1", 0), ForwardingHandler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
        proxy.shutdown()


@pytest.mark.slow
def test_a_pipeline_run_waits_for_a_late_answer(server: Server, small: Path) -> None:
    delays_s: Queue[float] = Queue()
    still_connected: list[bool] = []
    with slow_proxy(server.uri, delays_s, still_connected) as uri, paused_step(small, uri) as (driver, resume):
        delays_s.put(float(FIRST_BUDGET["MLFLOW_HTTP_REQUEST_TIMEOUT"]) + 3)  # a limit for the first request only
        resume()
        output, _ = driver.communicate(timeout=150)
    assert driver.returncode == 0, output
    assert still_connected == [True]
    assert Store(server.uri, small).statuses() == {"01_prepare_data": "FINISHED"}


# -- a clock

CLOCK = """
import os
import time

_time, _time_ns = time.time, time.time_ns
_ago = lambda: 3600 * os.path.exists({set_back!r})
time.time = lambda: _time() - _ago()
time.time_ns = lambda: _time_ns() - _ago() * 10**9
"""


@pytest.mark.slow
def test_setting_the_clock_back_during_a_step_changes_no_result(
    small: Path, shell: Shell, store: Store, tmp_path: Path
) -> None:
    set_back = tmp_path / "set_back"
    (tmp_path / "sitecustomize.py").write_text(CLOCK.format(set_back=str(set_back)))
    begin_with(small, "train", f"open({str(set_back)!r}, 'w').close()")
    path = os.pathsep.join(map(str, [tmp_path, small]))
    tables = f"--set=data.delta_prefix.local={store.tables}"
    first = shell("python", "driver.py", tables, cwd=small, PYTHONPATH=path)
    assert first.code == 0, first.text
    train = store.child("train").info
    assert train.end_time < train.start_time
    assert set(store.statuses().values()) == {"FINISHED"}
    assert "-3" not in first.out and "There is no report" not in first.out  # no duration is negative
    again = shell("python", "driver.py", tables, cwd=small, PYTHONPATH=path)
    assert "Up to date" in again.out
    assert {run.info.status for run in store.runs()} == {"FINISHED"}


# -- a disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with suppress_full(), (folder / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@contextmanager
def suppress_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        assert error.errno == 28


@as_root
def test_a_full_disk_for_the_tables_gives_exit_code_4_and_keeps_the_old_version(
    store: Store, drive: Drive, disk: Path
) -> None:
    tables = f"--set=data.delta_prefix.local={disk / 'delta'}"
    assert drive("--only=prepare_data", tables).code == 0
    old = store.child("prepare_data").data.tags["output.train_uri"]
    before = pl.read_delta(old)
    fill(disk)
    result = drive("--only=prepare_data", tables)
    assert result.code == 4, result.text
    assert f"Table {disk / 'delta'}" in result.out and "can't be written" in result.out
    assert "Traceback" not in result.text
    assert {run.info.status for run in store.runs()} == {"FINISHED", "FAILED"}
    assert pl.read_delta(old).equals(before)
    assert deltalake.DeltaTable(old).version() == 0


@as_root
def test_a_full_disk_for_the_artifacts_gives_exit_code_4_and_the_path(store: Store, drive: Drive, disk: Path) -> None:
    store.client.create_experiment("full", artifact_location=str(disk / "artifacts"))
    fill(disk)
    result = drive("--only=prepare_data", "--set=experiment_name=full")
    assert result.code == 4, result.text
    assert "No space left on device" in result.text and str(disk) in result.text
    assert "Traceback" not in result.text
    assert {run.info.status for run in store.runs()} == {"FAILED"}


@as_root
def test_a_full_disk_for_the_store_gives_exit_code_4_and_the_path(
    migrated: Path, drive: Drive, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (disk / "filler").write_bytes(b"")
    shutil.copy(migrated, disk / "mlflow.db")
    full = Store(f"sqlite:///{disk / 'mlflow.db'}", disk)
    full.client.create_experiment("local_pipeline_experiment", artifact_location=str(disk.parent / "artifacts"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", full.uri)
    fill(disk)
    result = drive("--only=prepare_data")
    assert result.code == 4, result.text
    assert f"The MLflow store {full.uri} fails: " in result.err
    assert "disk is full" in result.err
    assert "Traceback" not in result.text


@as_root
@pytest.mark.parametrize("what", ["tables", "artifacts", "store"])
def test_a_read_only_folder_is_reported_before_a_run_is_created(
    store: Store, migrated: Path, drive: Drive, disk: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    shutil.copy(migrated, disk / "mlflow.db")
    store.client.create_experiment("local_pipeline_experiment", artifact_location=str(disk.parent / "artifacts"))
    store.client.create_experiment("read_only", artifact_location=str(disk / "artifacts"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    options = {
        "tables": [f"--set=data.delta_prefix.local={disk / 'delta'}"],
        "artifacts": ["--set=experiment_name=read_only"],
        "store": [],
    }[what]
    if what == "store":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk / 'mlflow.db'}")
    result = drive("--only=prepare_data", *options)
    assert result.code == 2, result.text
    assert "can't be written" in result.err and str(disk) in result.err
    assert len(result.text.splitlines()) == 1
    assert store.runs() == []


def test_a_file_in_place_of_a_folder_is_reported_before_a_run_is_created(
    store: Store, drive: Drive, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    result = drive(f"--set=data.delta_prefix.local={tmp_path / 'taken'}")
    assert result.code == 2
    assert "data.delta_prefix.local: " in result.err
    assert store.runs() == []


# -- the lock of a sqlite store


@pytest.fixture
def locked(store: Store) -> Iterator[Path]:
    """Hold the lock of the store, as another process would, and return the lock's file."""
    path = Path(f"{store.uri.removeprefix('sqlite:///')}.lock")
    with path.open("w") as file:
        file.write("4711 on elsewhere")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path


def test_a_store_that_stays_locked_ends_the_run_with_exit_code_4(
    store: Store, locked: Path, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_PATIENCE_S", 0.1)
    monkeypatch.setattr(locks, "LOCK_LIMIT_S", 0.3)
    result = drive("--only=prepare_data")
    assert result.code == 4
    database = locked.with_suffix("")
    assert result.out.count("Waiting up to 0.3 s") == 1
    assert f"for the MLflow store {database}: process 4711 on elsewhere has locked it." in result.out
    assert result.err == (
        f"The MLflow store {database} has been locked for 0.3 s by process 4711 on elsewhere. "
        "If that process is stopped or hangs, end it. Then try again.\n"
    )


@pytest.mark.parametrize(("mode", "expected"), [(0o644, 0o600), (0o664, 0o660), (0o666, 0o666)])
def test_only_who_may_write_the_store_can_lock_it(store: Store, mode: int, expected: int) -> None:
    database = Path(store.uri.removeprefix("sqlite:///"))
    database.chmod(mode)
    with locks.alone_at(store.uri):
        pass
    lock = database.with_name("mlflow.db.lock")
    assert lock.stat().st_mode & 0o777 == expected
    assert lock.read_text().startswith(f"{os.getpid()} on ")


def test_who_can_only_read_the_folder_of_the_store_holds_nobody_up(store: Store) -> None:
    folder = os.open(Path(store.uri.removeprefix("sqlite:///")).parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # as a process of another user can do
    with locks.alone_at(store.uri):
        pass
    os.close(folder)


def test_a_link_in_place_of_the_lock_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db.lock").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("mine")
    with locks.alone_at(store.uri):
        pass
    assert (tmp_path / "precious").read_text() == "mine"
