"""Spark sessions. The same DataFrame code runs on Sail, a local JVM, a Spark Connect server or a Databricks cluster."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ml_pipelines.data import sail
from ml_pipelines.errors import ConfigError, StepFailed, Unreachable, message_of
from ml_pipelines.system import processes, signals

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Jar(NamedTuple):
    """The Maven coordinates of a jar, and the SHA-256 digest that its file must have."""

    group: str
    name: str
    version: str
    sha256: str


# delta-spark for pyspark 4.2 (Scala 2.13), and its only dependency that Spark doesn't ship.
JARS = (
    Jar(
        "io.delta",
        "delta-spark_4.2_2.13",
        "4.4.0",
        "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead",  # pragma: allowlist secret
    ),
    Jar(
        "io.delta",
        "delta-storage",
        "4.4.0",
        "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",  # pragma: allowlist secret
    ),
)


@cache
def spark_session(engine: str, needs_network: bool = False) -> SparkSession:
    """Return this process's session on `engine`. The first call starts it.

    Args:
        engine: sail, jvm, databricks, or an sc:// address.
        needs_network: whether the source or the tables are not on this machine. Only then can Sail use the network.

    Raises:
        ConfigError: pyspark, Java or the jars are missing.
        Unreachable: the engine doesn't start, or the Spark Connect server doesn't answer.
    """
    os.environ["TZ"] = "UTC"  # so that dates don't depend on the machine's time zone
    try:
        import pyspark  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "pyspark is not installed. Run `pip install 'ml-pipelines[local]'`, or run the step on a Spark cluster."
        ) from error
    start: Callable[[], SparkSession] = {
        "sail": lambda: _sail(needs_network),
        "jvm": _jvm,
        "databricks": _databricks,
    }.get(engine, lambda: _connect(engine))
    try:
        spark = start()
        signals.keep_interruptible()  # needed again, because Sail's server has installed its own signal handler
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    except (ConfigError, StepFailed):
        raise
    except Exception as error:
        details = re.search(r'details = "([^"]+)"', str(error))  # gRPC's message if a server doesn't answer
        why = message_of(details[1] if details else error, 300)
        raise Unreachable(f"spark.engine={engine} doesn't start or doesn't answer: {why}") from error
    return spark


def start_early(engine: str, needs_network: bool, needs_python: Callable[[], bool]) -> None:
    """Start Sail in the background, so that this process can do something else until it needs a session.

    All other engines, and Sail if it needs the network, start when `spark_session` is called.

    Args:
        engine: the engine.
        needs_network: whether the source or the tables are not on this machine.
        needs_python: returns whether a query probably calls Python functions. Sail then prepares for them.
    """
    if engine == "sail" and not needs_network and sail.start() and needs_python():
        sail.expect_python()


def _connect(address: str) -> SparkSession:
    from pyspark.sql import SparkSession
    from pyspark.sql.connect.client.retries import DefaultPolicy

    # Fail within seconds if the Spark Connect server doesn't answer. By default, pyspark tries for 10 minutes.
    spark = SparkSession.builder.remote(address).create()
    policy = DefaultPolicy(max_retries=4, initial_backoff=100, max_backoff=2000)
    spark.client.set_retry_policies([policy])
    spark.range(1).count()
    return spark


def _sail(needs_network: bool) -> SparkSession:
    if not needs_network and (server := sail.start()):
        return sail.session(server)
    own, port = sail.listen()
    atexit.register(own.stop)  # also keeps a reference to the server, which stops answering if it is garbage-collected
    return _connect(f"sc://127.0.0.1:{port}")


def _databricks() -> SparkSession:
    from pyspark.sql import SparkSession

    if not processes.on_databricks():
        raise ConfigError(
            "spark.engine=databricks needs a Databricks cluster, and this process doesn't run on one. Use sail or jvm."
        )
    return SparkSession.builder.getOrCreate()


def _jvm() -> SparkSession:
    from pyspark.sql import SparkSession

    jars = ",".join(str(path) for path in delta_jars())
    for name in ("SPARK_CONNECT_MODE_ENABLED", "SPARK_REMOTE"):  # set by a parent process with Spark Connect
        os.environ.pop(name, None)
    builder = SparkSession.builder.master("local[*]").appName("ml-pipelines")
    for key, value in {
        "spark.jars": jars,  # spark.jars.packages would take 20 s at each start
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.sources.partitionColumnTypeInference.enabled": "false",  # partition columns stay text, as on Sail
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.driver.memory": "4g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.authenticate": "true",  # Spark's own ports on 127.0.0.1 then ask for a secret, which Spark generates
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }.items():
        builder = builder.config(key, value)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else Spark's workers use the first python3 of PATH
    return builder.getOrCreate()


def is_connect(spark: SparkSession) -> bool:
    """Return whether a session is a client of a Spark Connect server, such as Sail."""
    return ".connect." in type(spark).__module__


def java_program() -> str:
    """Return the path of the Java program, from JAVA_HOME if it is set, else from PATH.

    Raises:
        ConfigError: Java is not installed.
    """
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if not program or not Path(program).exists():
        raise ConfigError(
            "spark.engine=jvm needs Java 17 or later, but neither JAVA_HOME nor PATH has a java program. "
            "Install a JDK (conda.yaml includes one), or use spark.engine=sail."
        )
    return program


def delta_jars() -> list[Path]:
    """Return the paths of the Delta jars in the user's cache. Missing jars are downloaded; digests are checked.

    Ivy, which ships with Spark, downloads them. To use a mirror, set IVY_SETTINGS to an ivysettings.xml.

    Raises:
        ConfigError: Java is missing, the download fails, or the digest of a jar differs.
    """
    import pyspark

    program = java_program()
    cache_home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(cache_home, "ml-pipelines", "jars")
    folder.mkdir(parents=True, exist_ok=True)
    ivy = next(Path(pyspark.__file__).parent.glob("jars/ivy-*.jar"))
    settings = os.environ.get("IVY_SETTINGS")
    for jar in JARS:
        path = folder / f"{jar.name}-{jar.version}.jar"
        if not path.exists():
            command = [
                program,
                "-jar",
                str(ivy),
                "-cache",
                str(folder / "ivy"),
                "-notransitive",
                "-types",
                "jar",
            ]
            command += ["-dependency", jar.group, jar.name, jar.version]
            command += ["-retrieve", str(folder / "[artifact]-[revision].[ext]")]
            command += ["-settings", settings] if settings else []
            ivy_run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
            if not path.exists():
                raise ConfigError(
                    f"spark.engine=jvm needs {jar.group}:{jar.name}:{jar.version}, but the download failed "
                    f"(exit code {ivy_run.returncode}). Connect to the network once, set IVY_SETTINGS to your "
                    f"mirror's ivysettings.xml, or put the jar into {folder}."
                )
        if hashlib.sha256(path.read_bytes()).hexdigest() != jar.sha256:
            raise ConfigError(
                f"{path} is not the jar that this project was tested with: its SHA-256 differs. "
                "Delete it and try again."
            )
    return [folder / f"{jar.name}-{jar.version}.jar" for jar in JARS]


# Matches random functions in the text of a query plan. DataFusion, Sail's planner, prints sample and randomSplit as
# random( or random_poisson(.
_RANDOM = re.compile(r"(?<![\w.])(random|rand|randn|random_poisson|randstr|uniform|shuffle|uuid)\(")
_RANDOM_WORDS = re.compile(r"rand|uniform|shuffle|uuid|sample", re.IGNORECASE)
# String literals and aliases: a function name inside them is not a call. An alias has no `)` before its first `(`, so
# `CAST(x AS Float64) * random(` doesn't match.
_LITERALS_AND_ALIASES = re.compile(r'Utf8\w*\(".*?"\)|(?<= AS )[^,\n()]*\(', re.DOTALL)


def refuse_random(frame: DataFrame, engine: str) -> None:
    """Refuse a frame whose query plan draws random numbers on Sail or a Spark Connect server.

    Sail restarts `rand(seed)` for each batch of 8,192 rows (lakehq/sail issue 1266). So the same rows would occur
    again and again, in train and test. The check reads the resolved query plan, which includes SQL text and views.

    Raises:
        ConfigError: the query plan has rand, randn, uniform, randstr, shuffle, uuid, sample or randomSplit.
    """
    if engine not in ("sail",) and not engine.startswith("sc://"):
        return
    written = str(frame._plan.to_proto(frame.sparkSession.client))  # type: ignore[operator]  # before views are resolved
    if not (_RANDOM_WORDS.search(written) or "named_table" in written):  # a named table can be a view with such words
        return
    plan = frame._explain_string(extended=True)  # type: ignore[operator]
    logical = plan.split("== Analyzed Logical Plan ==", 1)[0]
    if match := _RANDOM.search(_LITERALS_AND_ALIASES.sub("", logical)):
        raise ConfigError(
            f"The rows come from {match[1]}() (rand, randn, uniform, shuffle, uuid, sample or randomSplit). "
            "On Sail it repeats its values every 8,192 rows. Use a hash of the row's key instead: "
            "(F.xxhash64(key, F.lit(seed)).bitwiseAND(2**53 - 1) + 0.5) / 2**53 is uniform in (0, 1). "
            "Or use spark.engine=jvm."
        )
