"""A Spark cluster on this machine: a standalone master, two workers, and a Spark Connect server."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark
import pytest

from ml_pipelines.data import engines

WORKERS = 2
MASTER = "org.apache.spark.deploy.master.Master"
WORKER = "org.apache.spark.deploy.worker.Worker"
CONNECT = "org.apache.spark.sql.connect.service.SparkConnectServer"
STARTED_S = 120


@contextmanager
def cluster(folder: Path, python: Path) -> Iterator[str]:
    """Run a cluster whose workers have one core each, and return the address of its Spark Connect server.

    Args:
        folder: an empty folder for logs, and for the working folders of the workers.
        python: the program that runs the Python workers.
    """
    home = Path(pyspark.__file__).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYTHONPATH"))}
    environment |= {
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=false",  # its port is always 6066
        "SPARK_DAEMON_MEMORY": "1g",  # the most heap of each of these programs: the Connect server needs half of it
        "SPARK_LOCAL_DIRS": str(folder / "scratch"),
        "PYSPARK_PYTHON": str(python),
        "JDK_JAVA_OPTIONS": "-XX:+UseSerialGC",
    }
    master_port, connect_port = _free_port(), _free_port()
    master = f"spark://127.0.0.1:{master_port}"
    conf = {
        "spark.jars": ",".join(map(str, engines.delta_jars())),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(connect_port),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.executor.memory": "1g",
        "spark.executor.cores": "1",
        "spark.sql.shuffle.partitions": "4",
        "spark.ui.enabled": "false",
    }
    spark_class, submit = str(home / "bin" / "spark-class"), str(home / "bin" / "spark-submit")
    web = ["--webui-port", "0"]
    options = [part for name, value in conf.items() for part in ("--conf", f"{name}={value}")]
    with ExitStack() as stack:

        def start(name: str, *command: str) -> Callable[[str], None]:
            return stack.enter_context(_running(name, [*command], folder, environment))

        start("master", spark_class, MASTER, "--host", "127.0.0.1", "--port", str(master_port), *web)("ALIVE")
        resources = ["--cores", "1", "--memory", "1g", "--work-dir"]
        worker = [spark_class, WORKER, "--host", "127.0.0.1", *web, *resources]
        waiting = [start(f"worker{i}", *worker, str(folder / f"work{i}"), master) for i in range(WORKERS)]
        connect = start("connect", submit, "--master", master, *options, "--class", CONNECT, "spark-internal")
        for wait in waiting:
            wait("Successfully registered with master")
        connect("server started")
        yield f"sc://127.0.0.1:{connect_port}"


def executors(folder: Path) -> int:
    """Return how many executors the workers of a cluster in `folder` have started."""
    return len(list(folder.glob("work*/app-*/*/stderr")))


@contextmanager
def _running(
    name: str, command: list[str], folder: Path, environment: dict[str, str]
) -> Iterator[Callable[[str], None]]:
    """Run a program in the with block; yield a function that waits until the program's log has a text."""
    path = folder / f"{name}.log"

    def wait(text: str) -> None:
        for _ in range(STARTED_S * 4):
            if text in path.read_text():
                return
            try:
                process.wait(0.25)
            except subprocess.TimeoutExpired:
                continue
            break
        pytest.fail(f"the cluster's {name} did not start: {path.read_text()[-2000:]}")

    with path.open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield wait
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
