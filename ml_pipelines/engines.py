"""Spark sessions: one DataFrame program, run by Sail, a local JVM, a Spark Connect server or a cluster."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ml_pipelines import signals
from ml_pipelines.errors import ConfigError, StepFailed, Unreachable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Jar(NamedTuple):
    """A jar by its Maven coordinates, with the digest that its file must have."""

    group: str
    name: str
    version: str
    sha256: str


# delta-spark for pyspark 4.2 (Scala 2.13), and the one dependency of it that Spark doesn't ship.
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
def session(engine: str) -> SparkSession:
    """Return this process's session on `engine`, started at the first call.

    Raises:
        ConfigError: pyspark, Java or the jars are missing.
        Unreachable: the engine doesn't start or can't be reached.
    """
    os.environ["TZ"] = "UTC"  # a date must not depend on the machine
    try:
        import pyspark  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "pyspark is not installed: `pip install 'ml-pipelines[local]'`, or run on a Spark cluster."
        ) from error
    start: Callable[[], SparkSession] = {"sail": _sail, "jvm": _jvm, "databricks": _databricks}.get(
        engine, lambda: _connect(engine)
    )
    try:
        spark = start()
        signals.keep_interruptible()  # Sail's server has a handler of its own too
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    except (ConfigError, StepFailed):
        raise
    except Exception as error:
        said = re.search(r'details = "([^"]+)"', str(error))  # gRPC's own words, where it is a server that is away
        why = " ".join((said[1] if said else str(error)).split())[:300]
        raise Unreachable(f"spark.engine={engine} can't be reached or doesn't start: {why}") from error
    return spark


def _connect(address: str) -> SparkSession:
    from pyspark.sql import SparkSession
    from pyspark.sql.connect.client.retries import DefaultPolicy

    # A server that isn't there is known at once; pyspark's own patience with it is 10 minutes.
    spark = SparkSession.builder.remote(address).create()
    policy = DefaultPolicy(max_retries=4, initial_backoff=100, max_backoff=2000)
    spark.client.set_retry_policies([policy])
    spark.range(1).count()
    return spark


def _sail() -> SparkSession:
    os.environ.setdefault("RUST_LOG", "error")
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    atexit.register(server.stop)  # which also keeps it: a server that is collected stops answering
    _, port = server.listening_address
    return _connect(f"sc://127.0.0.1:{port}")


def _databricks() -> SparkSession:
    from pyspark.sql import SparkSession

    if "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        raise ConfigError(
            "spark.engine=databricks is the session of a Databricks cluster, and this is none: use sail or jvm."
        )
    return SparkSession.builder.getOrCreate()


def _jvm() -> SparkSession:
    from pyspark.sql import SparkSession

    jars = ",".join(str(path) for path in delta_jars())
    for name in ("SPARK_CONNECT_MODE_ENABLED", "SPARK_REMOTE"):  # from a parent process that used Spark Connect
        os.environ.pop(name, None)
    builder = SparkSession.builder.master("local[*]").appName("ml-pipelines")
    for key, value in {
        "spark.jars": jars,  # spark.jars.packages would resolve again at each start, 20 s
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.sources.partitionColumnTypeInference.enabled": "false",  # text, as on Sail
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.driver.memory": "4g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }.items():
        builder = builder.config(key, value)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    return builder.getOrCreate()


def java() -> str:
    """Return the Java program: JAVA_HOME's, else the PATH's.

    Raises:
        ConfigError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if not found or not Path(found).exists():
        raise ConfigError(
            "spark.engine=jvm needs Java 17 or later, and there is none on PATH or in JAVA_HOME. "
            "Install a JDK (conda.yaml brings one), or use spark.engine=sail."
        )
    return found


def delta_jars() -> list[Path]:
    """Return the verified Delta jars, fetched by their coordinates into the user's cache at the first call.

    Ivy, which ships with Spark, fetches them; an ivysettings.xml of the user's (a mirror) is taken from IVY_SETTINGS.

    Raises:
        ConfigError: no Java, no network, or a file that isn't the one this project was tested with.
    """
    import pyspark

    program = java()
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
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
            if not path.exists():
                raise ConfigError(
                    f"spark.engine=jvm needs {jar.group}:{jar.name}:{jar.version}, which could not be fetched "
                    f"(exit code {done.returncode}). Connect to the network once, set IVY_SETTINGS to your mirror's "
                    f"ivysettings.xml, or put the jar into {folder}."
                )
        if hashlib.sha256(path.read_bytes()).hexdigest() != jar.sha256:
            raise ConfigError(
                f"{path} is not the file this project was tested with (SHA-256 differs). Delete it and try again."
            )
    return [folder / f"{jar.name}-{jar.version}.jar" for jar in JARS]


# How DataFusion, Sail's planner, prints them; sample and randomSplit become random( or random_poisson(.
_RANDOM = re.compile(r"(?<![\w.])(random|rand|randn|random_poisson|randstr|uniform|shuffle|uuid)\(")
# Text and aliases, in which such a name means nothing. An alias has no parenthesis before its first `(`, which
# keeps `CAST(x AS Float64) * random(` apart from it.
_NAMES = re.compile(r'Utf8\w*\(".*?"\)|(?<= AS )[^,\n()]*\(', re.DOTALL)


def refuse_random(frame: DataFrame, engine: str) -> None:
    """Refuse a plan that draws random numbers on Sail: it would write the same 8,192 values again and again.

    Sail evaluates `rand(seed)` anew for each batch of 8,192 rows (lakehq/sail issue 1266), so rows repeat,
    in train and test alike. The resolved plan is read, in which SQL text, expressions and views are all resolved.

    Raises:
        ConfigError: rand, randn, uniform, randstr, shuffle, uuid, sample or randomSplit is in the plan.
    """
    if engine not in ("sail",) and not engine.startswith("sc://"):
        return
    plan = frame._explain_string(extended=True)  # type: ignore[operator]
    logical = plan.split("== Analyzed Logical Plan ==", 1)[0]
    if found := _RANDOM.search(_NAMES.sub("", logical)):
        raise ConfigError(
            f"The rows come from {found[1]}() (rand, randn, uniform, shuffle, uuid, sample or randomSplit), "
            "which repeats its values every 8,192 rows on Sail. Draw from a hash of the row's key instead: "
            "(F.xxhash64(key, F.lit(seed)).bitwiseAND(2**53 - 1) + 0.5) / 2**53 is uniform in (0, 1). "
            "Or use spark.engine=jvm."
        )
