"""Signals that stop a process: none is lost, and each ends it with 128 plus its number."""

import signal
import subprocess
import sys

import pytest
from conftest import ROOT

STOP = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "lost",
    [
        "import weakref\nclass A: pass\na = A()\nr = weakref.ref(a, lambda _: stop())\ndel a",
        "class A:\n    def __del__(self): stop()\na = A()\ndel a",
    ],
)
def test_a_signal_that_python_drops_is_raised_again(lost: str) -> None:
    script = f"""
from ml_pipelines.errors import Interrupted
from ml_pipelines.system import signals
import threading
def stop():
    {STOP}
signals.raise_on_signals()
try:
    exec({lost!r})
    threading.Event().wait(20)
    print("lost")
except Interrupted as error:
    print("code", error.exit_code)
"""
    done = run(script)
    assert (done.stdout, done.stderr) == ("code 143\n", "")


def test_a_signal_before_the_imports_are_done_ends_the_command_in_one_line() -> None:
    script = f"""
from ml_pipelines.system import signals
signals.hold()
{STOP}
from ml_pipelines.backends import fork_server
with fork_server.quick_exit():
    print("must not run")
"""
    done = run(script)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "stopped by signal 15\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_at_the_end_does_not_change_the_exit_code(number: int) -> None:
    script = f"""
import atexit, os, sys
from ml_pipelines.backends import fork_server
atexit.register(os.kill, os.getpid(), {int(number)})
with fork_server.quick_exit():
    os.kill(os.getpid(), {int(number)})
"""
    done = run(script)
    assert (done.returncode, done.stderr) == (128 + number, f"stopped by signal {int(number)}\n")
