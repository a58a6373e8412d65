"""Tests of Sail's process: nobody else can reach its port, and it ends with the process that started it."""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blocking import gone
from conftest import ROOT, Result
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from ml_pipelines.config import loading
from ml_pipelines.data import locations, sail
from ml_pipelines.system import namespace

needs_namespace = pytest.mark.skipif(not namespace.is_allowed(), reason="this system allows no network namespace")
NOBODY = 65534


@pytest.fixture(scope="session")
def server(spark: SparkSession) -> sail.Server:
    """Return the process behind the tests' session."""
    assert spark.range(1).count() == 1
    started = sail.start()
    assert started
    return started


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n{code}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def listening(process: int | str) -> set[int]:
    """Return the TCP ports that somebody listens on in the network of a process."""
    lines = Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]
    return {int(line.split()[1].rpartition(":")[2], 16) for line in lines if line.split()[3] == "0A"}


@needs_namespace
def test_the_port_is_in_a_network_that_this_process_cannot_reach(server: sail.Server) -> None:
    own, theirs = (Path(f"/proc/{process}/ns/net").readlink() for process in ("self", server.process))
    assert own != theirs
    (port,) = listening(server.process)
    assert port not in listening("self")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


@needs_namespace
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_reaches_neither_the_socket_nor_the_port(server: sail.Server) -> None:
    attack = f"""
import os, socket
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
for family, address in ((socket.AF_UNIX, sys.argv[1]), (socket.AF_INET, ("127.0.0.1", int(sys.argv[2])))):
    try:
        socket.socket(family).connect(address)
        print("connected")
    except OSError as error:
        print(type(error).__name__)
"""
    (port,) = listening(server.process)
    assert python(attack, str(server.path), str(port)).split() == ["PermissionError", "ConnectionRefusedError"]


@needs_namespace
def test_a_function_of_a_step_runs_in_the_process_of_the_server(spark: SparkSession, server: sail.Server) -> None:
    where = F.udf(lambda _: os.getpid(), "long")
    assert spark.range(1).select(where("id")).collect()[0][0] == server.process


@needs_namespace
def test_a_server_that_prepares_for_python_still_answers(spark: SparkSession) -> None:
    for _ in range(2):
        sail.expect_python()
        assert spark.range(1).mapInArrow(lambda batches: batches, "id long").count() == 1


@pytest.mark.skipif(os.geteuid() != 0 or not namespace.is_allowed(), reason="only root can become another user")
def test_an_ordinary_user_keeps_his_rights_and_gets_no_others(tmp_path: Path) -> None:
    code = f"""
import ctypes, json, os, pathlib
from ml_pipelines.system import namespace
folder = pathlib.Path(sys.argv[1])
os.chdir(folder)
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE, as after a login
namespace.enter()
facts = {{"user": os.geteuid(), "network": os.listdir("/sys/class/net") and open("/proc/net/dev").read().count(":")}}
facts["capabilities"] = [l.split()[1] for l in open("/proc/self/status") if l.startswith(("CapEff", "CapPrm"))]
for name in ("mine", "read-only"):
    try:
        facts[name] = os.open(name, os.O_WRONLY) > 0
    except PermissionError:
        facts[name] = False
print(json.dumps(facts))
"""
    tmp_path.chmod(0o755)
    for name, mode in (("mine", 0o600), ("read-only", 0o400)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
        os.chown(tmp_path / name, NOBODY, NOBODY)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    assert json.loads(python(code, str(tmp_path))) == {
        "user": NOBODY,
        "network": 1,
        "capabilities": ["0" * 16] * 2,
        "mine": True,
        "read-only": False,
    }


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    """Run a process that starts a server, prints the server's process and socket, and waits."""
    code = (
        "from ml_pipelines.data import sail; s = sail.start(); print(s.process, s.path, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}]; {code}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@needs_namespace
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "ends"])
def test_the_server_ends_with_its_owner_and_leaves_no_folder(owner: subprocess.Popen[str], kill: bool) -> None:
    assert owner.stdin
    assert owner.stdout
    assert select.select([owner.stdout], [], [], 60)[0]
    process, path = owner.stdout.readline().split()
    assert Path(path).parent.stat().st_mode & 0o777 == 0o700
    if kill:
        owner.kill()
    else:
        owner.stdin.close()
    assert gone(int(process))
    assert not Path(path).parent.exists()


def test_without_a_namespace_sail_runs_in_this_process() -> None:
    code = """
from ml_pipelines.system import namespace
def enter(): raise OSError(1, "Operation not permitted")
namespace.enter = enter
from ml_pipelines.data import engines, sail
assert sail.start() is None
print(engines.spark_session("sail").range(7).count())
"""
    assert python(code) == "7\n"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("data.source.kind=synthetic", False),
        ("data.source.kind=file,data.source.path=/data/rows.csv", False),
        ("data.source.kind=file,data.source.path=file:///data/rows.csv", False),
        ("data.source.kind=file,data.source.path=s3://bucket/rows.csv", True),
        ("data.delta_prefix.local=s3://bucket/tables", True),
        ("data.source.kind=table,data.source.table=a.b.c", True),
    ],
)
def test_sail_has_a_network_only_if_its_data_is_elsewhere(settings: str, expected: bool) -> None:
    assert locations.need_network(loading.load("local", [settings])) is expected


def test_a_dry_run_says_when_nothing_guards_the_port(
    drive: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for allowed in (True, False):
        monkeypatch.setattr(namespace, "is_allowed", lambda allowed=allowed: allowed)
        assert ("can run code as you" in drive("--dry-run").out) is not allowed
    assert "can run code as you" not in drive("--dry-run", "--set=spark.engine=jvm").out
    assert "can run code as you" not in drive("--dry-run", "--from=train").out
