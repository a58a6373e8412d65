"""The fork server: what a child gets, and that nothing of it outlives its driver."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from blocking import begin_with
from conftest import FAST, ROOT, Result, Store

from ml_pipelines.forking import processors

Drive = Callable[..., Result]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux")


def script(tmp_path: Path, body: str) -> Path:
    """Write a program that uses ml_pipelines.forking as a driver does, from a file of its own."""
    path = tmp_path / "caller.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n" + textwrap.dedent(body))
    return path


def python(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, path], env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )


def test_a_child_never_imports_the_callers_main(tmp_path: Path) -> None:
    marker = tmp_path / "imported"
    body = f"""
    import os
    open({str(marker)!r}, "a").write(f"{{__name__}}\\n")
    from ml_pipelines import forking
    if __name__ == "__main__":
        child = forking.Child(os.getpid.__call__ and print, ("hello",), os.environ, print, lambda code: None)
        child.wait()
    """
    done = python(script(tmp_path, body))
    assert "hello" in done.stdout, done.stderr
    assert marker.read_text() == "__main__\n"


def test_a_child_has_exactly_the_environment_it_was_given(tmp_path: Path) -> None:
    body = """
    import json, os
    from ml_pipelines import forking
    if __name__ == "__main__":
        os.environ["MLFLOW_RUN_ID"] = "the callers own"
        os.environ["LATER"] = "1"
        forking.start()
        given = {"PATH": os.environ["PATH"], "GIVEN": "yes"}
        show = "import json, os; print(json.dumps(dict(os.environ)))"
        forking.Child(exec, (show,), given, print, lambda code: None).wait()
    """
    done = python(script(tmp_path, body), EARLIER="1")
    assert done.stdout.strip() == f'{{"PATH": "{os.environ["PATH"]}", "GIVEN": "yes"}}', done.stderr


def test_output_is_shown_as_it_comes_and_the_exit_code_is_known(tmp_path: Path) -> None:
    body = """
    from ml_pipelines import forking
    if __name__ == "__main__":
        ended = []
        child = forking.Child(exec, ("print('one'); import os; os.write(2, b'two'); raise SystemExit(7)",),
                              {}, lambda line: print("got", line), ended.append)
        print(child.wait(), ended)
    """
    assert python(script(tmp_path, body)).stdout.split() == ["got", "one", "got", "two", "7", "[7]"]


def test_a_child_that_ignores_being_asked_is_killed(tmp_path: Path) -> None:
    body = """
    import threading
    from ml_pipelines import forking
    forking.GRACE_S = 0.2
    if __name__ == "__main__":
        ready = threading.Event()
        ignore = "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
        child = forking.Child(exec, (ignore,), {}, lambda line: ready.set(), lambda code: None)
        ready.wait()
        child.stop()
        print(child.exit_code)
    """
    assert python(script(tmp_path, body)).stdout.strip() == "-9"


def test_a_child_and_the_server_die_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    body = """
    import os, signal
    from ml_pipelines import forking
    if __name__ == "__main__":
        def on_line(line):
            print(line, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        forking.Child(exec, ("import os, signal; print(os.getpid(), os.getppid(), flush=True); signal.pause()",),
                      {}, on_line, print)
    """
    done = python(script(tmp_path, body))
    assert done.returncode == -signal.SIGKILL
    for pid in map(int, done.stdout.split()):
        # The kernel sends the signal at the driver's end; a process that got it goes away by itself.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            descriptor = os.pidfd_open(pid)
            assert select.select([descriptor], [], [], 20)[0], f"process {pid} outlived its driver"


@pytest.mark.parametrize("backend", ["forkserver", "local"])
@pytest.mark.slow
def test_every_backend_gives_the_same_numbers_to_the_last_digit(
    backend: str, drive: Drive, shell: Drive, store: Store
) -> None:
    assert drive("--backend=inline").code == 0
    inline = {run.data.tags["step"]: run.data.metrics for run in store.runs("tags.step != ''")}
    done = shell(
        "python",
        "driver.py",
        f"--backend={backend}",
        "--force",
        f"--set={FAST}",
        f"--set=data.delta_prefix.local={store.tables}",
    )
    assert done.code == 0, done.text
    parent = store.parent().info.run_id
    children = store.runs(f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.data.tags["step"]: run.data.metrics for run in children} == inline
    assert all(f"{run.data.tags['step']}.log" in store.artifacts(run) for run in children)


@pytest.mark.slow
def test_a_pipeline_keeps_the_configuration_it_began_with(small: Path, shell: Drive, store: Store) -> None:
    local = small / "conf" / "local.yaml"
    begin_with(small, "prepare_data", f"open({str(local)!r}, 'a').write('seed: 7\\n')")
    done = shell("python", "driver.py", "--backend=forkserver", cwd=small, PYTHONPATH=str(small))
    assert done.code == 0, done.text
    assert {run.data.params["seed"] for run in store.below().values()} == {"42"}


THREADS = """
    import time as _time
    import sklearn.ensemble
    import threadpoolctl as _pools
    wanted, began = iter({wanted}), _time.monotonic()
    share = next(wanted)
    while share:
        assert _time.monotonic() - began < 60, f"never had {{share}} threads"
        if all(pool["num_threads"] == share for pool in _pools.threadpool_info() if pool["user_api"] == "openmp"):
            share = next(wanted, None)
        _time.sleep(0.01)
"""


@pytest.mark.slow
def test_steps_that_run_at_once_share_the_processors_and_the_last_one_has_all(small: Path, shell: Drive) -> None:
    all_of_them = processors()
    half = THREADS.format(wanted=[max(1, all_of_them // 2)])
    seen = small / "seen"
    os.mkfifo(seen)  # who opens it waits for the other: neither step ends before both had their half
    begin_with(small, "evaluate", f"{half}\n    open({str(seen)!r}).read()")
    begin_with(
        small,
        "feature_importance",
        f"{half}\n    open({str(seen)!r}, 'w').close()\n{THREADS.format(wanted=[all_of_them])}",
    )
    done = shell("python", "driver.py", "--backend=forkserver", cwd=small, PYTHONPATH=str(small))
    assert done.code == 0, done.text


def test_a_child_that_comes_before_the_libraries_has_its_share_too(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.write_text("1")
    body = f"""
    from pathlib import Path
    from ml_pipelines.execution import keep_share
    keep_share(Path({str(share)!r}))
    import sklearn.ensemble, threadpoolctl
    print({{pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"}})
    """
    assert python(script(tmp_path, body)).stdout.strip() == "{1}"


def test_a_share_that_changes_while_the_earlier_one_is_taken_is_kept(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.write_text("2")
    body = f"""
    import signal
    from pathlib import Path
    import sklearn.ensemble, threadpoolctl
    from ml_pipelines.execution import keep_share
    from ml_pipelines.forking import SHARE_CHANGED
    limit, share = threadpoolctl.threadpool_limits, Path({str(share)!r})
    def as_the_driver_changes_it(*given, **named):
        if share.read_text() == "2":
            share.write_text("1")
            signal.raise_signal(SHARE_CHANGED)
        limit(*given, **named)
    threadpoolctl.threadpool_limits = as_the_driver_changes_it
    keep_share(share)
    print({{pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"}})
    """
    assert python(script(tmp_path, body)).stdout.strip() == "{1}"


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("3,2", 3), ("0", 1), ("", None), ("many", None)])
def test_the_threads_to_share_are_those_that_openmp_would_use(
    monkeypatch: pytest.MonkeyPatch, asked: str, threads: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert processors() == (threads or len(os.sched_getaffinity(0)))


@pytest.mark.slow
def test_many_forks_with_a_polars_query_each_never_hang(tmp_path: Path) -> None:
    """The long form, 2,000 of these and 50 with Sail and Delta, is `make chaos`."""
    body = f"""
    import sys
    sys.path.insert(0, {str(ROOT / "tests")!r})
    from chaos import forks
    if __name__ == "__main__":
        print(forks.polars(60), forks.spark(3))
    """
    done = python(script(tmp_path, body))
    assert done.stdout.split() == ["60", "3"], done.stderr
