"""A lease: one process at a time does a piece of work, and a process that dies loses the right to it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT

from ml_pipelines.system import locks

HOLD = """
import sys
from ml_pipelines.system import locks
held = locks.lease(sys.argv[1], "train")
print("none" if held is None else "held", flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="leases need Linux")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@contextmanager
def another_process(uri: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that takes the lease for `train`, and yield it when it has it."""
    command = [sys.executable, "-c", HOLD, uri]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_only_one_process_gets_a_lease(uri: str) -> None:
    with another_process(uri):
        assert locks.lease(uri, "train") is None
        assert locks.lease(uri, "evaluate")


def test_a_killed_process_loses_its_lease(uri: str) -> None:
    with another_process(uri) as process:
        process.kill()
        process.wait()
        assert locks.lease(uri, "train")


def test_a_released_lease_is_free_for_others(uri: str) -> None:
    lease = locks.lease(uri, "train")
    assert lease
    assert locks.lease(uri, "train") is None
    lease.release()
    lease.release()
    with another_process(uri):
        pass


def test_without_a_lock_every_process_gets_the_lease(tmp_path: Path) -> None:
    for uri in ("http://127.0.0.1:1", f"sqlite:///{tmp_path}/missing/mlflow.db"):
        assert locks.lease(uri, "train")
        assert locks.lease(uri, "train")
