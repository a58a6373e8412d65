"""Tests of the engines: Sail refuses random numbers, and errors about a missing engine, Java or jar say what to do."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Result, Store
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

import steps.prepare_data
from ml_pipelines.data import engines, sources
from ml_pipelines.errors import ConfigError

Drive = Callable[..., Result]
Plan = Callable[[DataFrame], DataFrame]


def sql(frame: DataFrame, text: str) -> DataFrame:
    """Run SQL on the frame under the name `rows`."""
    frame.createOrReplaceTempView("rows")
    return frame.sparkSession.sql(text)


def through_a_view(frame: DataFrame) -> DataFrame:
    frame.withColumn("noise", F.rand(1)).createOrReplaceTempView("noisy")
    return frame.sparkSession.table("noisy")


# Ways in which a step might draw random numbers. On Sail, each repeats its 8,192 values or changes them at each read.
RANDOM: dict[str, Plan] = {
    "rand": lambda f: f.withColumn("noise", F.rand()),
    "rand-seeded": lambda f: f.withColumn("noise", F.rand(7)),
    "randn": lambda f: f.withColumn("noise", F.randn(7)),
    "sample": lambda f: f.sample(0.9, seed=7),
    "sample-with-replacement": lambda f: f.sample(withReplacement=True, fraction=0.9, seed=7),
    "random-split": lambda f: f.randomSplit([0.9, 0.1], seed=7)[0],
    "sample-by": lambda f: f.sampleBy("label", {0: 0.9, 1: 0.9}, seed=7),
    "sql-text": lambda f: sql(f, "SELECT *, rand() AS noise FROM rows"),
    "sql-random": lambda f: sql(f, "SELECT *, RANDOM(7) AS noise FROM rows"),
    "sql-tablesample": lambda f: sql(f, "SELECT * FROM rows TABLESAMPLE (90 PERCENT)"),
    "sql-in-a-subquery": lambda f: sql(f, "SELECT * FROM rows WHERE f0 < (SELECT avg(rand()) FROM rows)"),
    "sql-uniform": lambda f: sql(f, "SELECT *, uniform(0, 10) AS noise FROM rows"),
    "expr": lambda f: f.withColumn("noise", F.expr("rand(7)")),
    "temp-view": through_a_view,
    "shuffle": lambda f: f.withColumn("noise", F.expr("shuffle(array(f0, f1))")[0]),
    "uuid": lambda f: f.withColumn("noise", F.expr("uuid()")),
}
INNER: dict[str, Callable[[], Column]] = {
    "after-a-cast": lambda: F.col("id").cast("double") * F.rand(7),
    "after-a-cast-to-a-list": lambda: F.array("id").cast("array<double>")[0] + F.rand(7),
    "after-a-literal": lambda: F.concat(F.lit('a "\\'), F.rand(7).cast("string"), F.lit("b")),
    "in-a-condition": lambda: F.when(F.col("id") > 3, F.rand(7)),
    "in-a-struct": lambda: F.struct(F.col("id").alias("a"), F.rand(7).alias("b")),
    "in-a-lambda": lambda: F.transform(F.array("id"), lambda x: x + F.rand(7)),
    "in-a-window": lambda: F.row_number().over(Window.partitionBy("label").orderBy(F.rand(7))),
}


@pytest.fixture(scope="session")
def rows(spark: SparkSession) -> DataFrame:
    return sources.synthetic_rows(spark, 20, 2, seed=1)


@pytest.mark.parametrize("plan", RANDOM.values(), ids=RANDOM.keys())
def test_sail_refuses_a_plan_with_random_numbers(rows: DataFrame, plan: Plan) -> None:
    with pytest.raises(ConfigError, match=r"Use a hash of the row's key"):
        engines.refuse_random(plan(rows), "sail")


@pytest.mark.parametrize("column", INNER.values(), ids=INNER.keys())
def test_sail_refuses_random_numbers_anywhere_in_an_expression(rows: DataFrame, column: Callable[[], Column]) -> None:
    with pytest.raises(ConfigError, match="On Sail it repeats its values every 8,192 rows"):
        engines.refuse_random(rows.withColumn("noise", column()), "sail")


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(lambda f: f.withColumn("c", F.lit("rand(")), id="literal"),
        pytest.param(lambda f: f.withColumn("c", F.lit('"rand()" \\ or\n"uuid()"')), id="literal-with-quotes"),
        pytest.param(lambda f: f.where(F.col("id").cast("string").isin("rand()", "a", "uuid()")), id="literals"),
        pytest.param(lambda f: f.where(F.col("id").cast("string").rlike(r"random\(")), id="pattern"),
        pytest.param(lambda f: f.withColumnRenamed("f0", "rand(7)").where("`rand(7)` > 0"), id="column-name"),
        pytest.param(lambda f: f.withColumnRenamed("f0", "my uuid()").select("my uuid()", "id"), id="words-in-a-name"),
        pytest.param(lambda f: f.select(F.col("id").alias("random(1)"), "f0"), id="alias"),
        pytest.param(lambda f: f.withColumn("operand", F.lit(1)).withColumn("brand", F.col("operand")), id="brand"),
        pytest.param(lambda f: f.withColumn("c", F.xxhash64("id", F.lit(7))), id="hash"),
        pytest.param(lambda f: f.repartition(3), id="repartition"),
        pytest.param(lambda f: f.withColumn("c", F.monotonically_increasing_id()), id="row-number"),
        pytest.param(
            lambda f: f.sparkSession.createDataFrame([("rand()", 1)], ["uuid()", "n"]).where("n = 1"), id="cell"
        ),
    ],
)
def test_sail_accepts_text_that_only_looks_like_random_numbers(rows: DataFrame, plan: Plan) -> None:
    engines.refuse_random(plan(rows), "sail")


def test_the_jvm_accepts_random_numbers(rows: DataFrame) -> None:
    engines.refuse_random(rows.withColumn("noise", F.rand(7)), "jvm")


@pytest.mark.parametrize(
    "kind", ["rand", "randn", "sample", "random-split", "sql-text", "expr", "temp-view", "shuffle", "uuid"]
)
def test_a_step_that_draws_random_numbers_fails_before_it_writes(
    drive: Drive, store: Store, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(steps.prepare_data, "add_features", RANDOM[kind])
    result = drive("--only=prepare_data")
    assert result.code == 2, result.text
    assert "(rand, randn, uniform, shuffle, uuid, sample or randomSplit)" in result.text
    assert "Or use spark.engine=jvm." in result.text
    assert not store.tables.exists()
    assert {run.info.status for run in store.runs()} == {"FAILED"}


# -- Spark Connect

SERVER = """
import sys
sys.modules["ml_pipelines"] = None  # a server may not have this package
from pysail.spark import SparkConnectServer

server = SparkConnectServer("127.0.0.1", 0)
server.start(background=True)
print(server.listening_address[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server() -> Iterator[str]:
    """Return the address of a Sail server in its own process, which ends when its input is closed."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    address = f"sc://127.0.0.1:{int(process.stdout.readline())}"
    yield address
    engines.spark_session(address).stop()
    process.stdin.close()
    process.wait(timeout=30)
    process.stdout.close()


@pytest.mark.slow
def test_a_sail_server_in_another_process_writes_the_same_rows(drive: Drive, store: Store, server: str) -> None:
    digests = []
    for engine in ("sail", server):
        result = drive("--only=prepare_data", f"--set=spark.engine={engine}")
        assert result.code == 0, result.text
        tags = store.child("prepare_data").data.tags
        digests.append((tags["output.train_uri.digest"], tags["output.test_uri.digest"]))
        assert store.parent().data.tags["engine"] == engine
    assert {path.name for path in store.tables.glob("*/*/*/*/*")} == {"train", "test"}  # no copies of the source
    assert digests[0] == digests[1]


def test_a_sail_server_refuses_random_numbers_too(
    drive: Drive, store: Store, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps.prepare_data, "add_features", RANDOM["rand"])
    result = drive("--only=prepare_data", f"--set=spark.engine={server}")
    assert result.code == 2, result.text
    assert not list(store.tables.rglob("*"))


@pytest.mark.slow
def test_a_sail_server_in_another_process_scores(drive: Drive, earlier: Store, server: str) -> None:
    source = "score.source.kind=synthetic,score.source.rows=400,score.source.features=4"
    digests = []
    for engine in ("sail", server):
        result = drive("--pipeline=score", f"--set=spark.engine={engine},{source}")
        assert result.code == 0, result.text
        digests.append(earlier.child("score").data.tags["output.scored_uri.digest"])
    assert not list(earlier.tables.rglob("*.skops"))  # the copy for the server is removed
    assert digests[0] == digests[1]


def test_the_databricks_engine_needs_a_databricks_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    with pytest.raises(ConfigError, match=r"spark\.engine=databricks needs a Databricks cluster"):
        engines.spark_session("databricks")


def test_the_error_without_pyspark_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(ConfigError, match=r"pyspark is not installed. Run `pip install 'ml-pipelines\[local\]'`"):
        engines.spark_session("databricks")


# -- what the JVM engine needs


@pytest.fixture
def no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("JAVA_HOME", raising=False)


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up a Java program that cannot download and an empty cache; return the cache's folder of jars."""
    program = tmp_path / "jdk" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "ml-pipelines" / "jars"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.usefixtures("no_java")
def test_the_error_without_java_says_what_to_install(drive: Drive, store: Store) -> None:
    result = drive("--only=prepare_data", "--set=spark.engine=jvm")
    assert result.code == 2, result.text
    assert "spark.engine=jvm needs Java 17 or later, but neither JAVA_HOME nor PATH has a java program" in result.text
    assert "RUNNING" not in {run.info.status for run in store.runs()}


@pytest.mark.usefixtures("no_java")
def test_a_java_home_without_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="needs Java 17 or later"):
        engines.java_program()


def test_an_untested_jar_is_refused_by_its_path(fake_java: Path) -> None:
    jar = engines.JARS[0]
    jar_file = fake_java / f"{jar.name}-{jar.version}.jar"
    jar_file.write_bytes(b"something else")
    with pytest.raises(ConfigError) as error:
        engines.delta_jars()
    assert f"{jar_file} is not the jar that this project was tested with" in str(error.value)


def test_the_error_for_a_failed_jar_download_says_what_to_do(fake_java: Path) -> None:
    with pytest.raises(ConfigError) as error:
        engines.delta_jars()
    assert "io.delta:delta-spark_4.2_2.13:4.4.0, but the download failed (exit code 7)" in str(error.value)
    assert "IVY_SETTINGS" in str(error.value)
    assert str(fake_java) in str(error.value)


def test_dates_are_in_utc_on_every_machine(spark: SparkSession) -> None:
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"
    assert os.environ["TZ"] == "UTC"
