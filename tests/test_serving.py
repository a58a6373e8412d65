"""The champion gives the same scores by MLflow's command, over HTTP and as a Spark function as by the step `score`."""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from conftest import Result, Store, drive_in
from pyspark.sql import SparkSession
from serving import free_port, running
from test_score_pipeline import champion, evaluated_rows, loans, scored, trained  # noqa: F401

Shell = Callable[..., Result]
MODEL = "models:/loans@champion"
FEATURES = ["Income_k", "kind"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("champion")]


@pytest.fixture
def table(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    """Return 20 rows that the step `score` has scored. MLflow may load no pickle."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    loans().head(20).drop("defaulted", "note").write_csv(tmp_path / "batch.csv")
    source = f"experiment_name=loans,score.source.kind=file,score.source.path={tmp_path / 'batch.csv'}"
    result = drive_in(store, "--pipeline=score", f"--set={source}")
    assert result.code == 0, result.text
    return scored(store)


def request(table: pl.DataFrame, **more: Any) -> str:
    rows = table.select(FEATURES)
    return json.dumps({"dataframe_split": {"columns": rows.columns, "data": rows.rows()}, **more})


def expected(table: pl.DataFrame) -> list[dict[str, Any]]:
    return table.select("score", "prediction").to_dicts()


def test_the_command_gives_the_scores_of_the_step(table: pl.DataFrame, shell: Shell, tmp_path: Path) -> None:
    rows, answers = tmp_path / "rows.json", tmp_path / "answers.json"
    rows.write_text(request(table))
    options = ["-m", MODEL, "--env-manager", "local", "-i", str(rows), "-o", str(answers), "-t", "json"]
    result = shell("mlflow", "models", "predict", *options, cwd=tmp_path)
    assert result.code == 0, result.text
    assert json.loads(answers.read_text())["predictions"] == expected(table)


@pytest.fixture
def address(store: Store, tmp_path: Path) -> Iterator[str]:
    """Serve the champion on loopback, and return the address."""
    port = free_port()
    program = str(Path(sys.executable).parent / "mlflow")
    command = [program, "models", "serve", "-m", MODEL, "--env-manager=local", "--host=127.0.0.1", f"--port={port}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    with running(command, f"http://127.0.0.1:{port}/ping", tmp_path / "serve.log", env=environment):
        yield f"http://127.0.0.1:{port}/invocations"


def test_the_server_gives_the_scores_of_the_step(table: pl.DataFrame, address: str) -> None:
    def ask(content: str) -> Any:
        post = urllib.request.Request(address, content.encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(post, timeout=60) as answer:
            return json.load(answer)["predictions"]

    assert ask(request(table)) == expected(table)
    assert {row["prediction"] for row in ask(request(table, params={"threshold": 0.0}))} == {"yes"}
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(request(table.with_columns(kind=7)))
    assert error.value.code == 400
    assert "the model learned text" in json.load(error.value)["message"]


def scores_by_spark(session: SparkSession, table: pl.DataFrame) -> list[dict[str, Any]]:
    score = mlflow.pyfunc.spark_udf(session, MODEL, env_manager="local")
    rows = session.createDataFrame(table.select(FEATURES).rows(), "Income_k double, kind string").coalesce(1)
    return [row["scored"].asDict() for row in rows.select(score(*FEATURES).alias("scored")).collect()]


def answers_by_spark(engine: str, table: pl.DataFrame, shell: Shell, folder: Path) -> list[dict[str, Any]]:
    """Return the scores of a Spark function in a process of its own: an engine keeps the store that it started with."""
    table.write_parquet(folder / "table.parquet")
    script = (
        "import json, sys; sys.path.insert(0, 'tests')\n"
        "import polars as pl; from ml_pipelines.data import engines; from test_serving import scores_by_spark\n"
        f"table = pl.read_parquet({str(folder / 'table.parquet')!r})\n"
        f"answers = scores_by_spark(engines.spark_session({engine!r}), table)\n"
        f"open({str(folder / 'answers.json')!r}, 'w').write(json.dumps(answers))"
    )
    result = shell("python", "-c", script, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false")
    assert result.code == 0, result.text
    answers: list[dict[str, Any]] = json.loads((folder / "answers.json").read_text())
    return answers


def test_a_spark_function_gives_the_scores_of_the_step(table: pl.DataFrame, shell: Shell, tmp_path: Path) -> None:
    assert answers_by_spark("sail", table, shell, tmp_path) == expected(table)


@pytest.mark.jvm
@pytest.mark.usefixtures("java")
def test_a_spark_function_on_the_jvm_gives_the_scores_of_evaluate(store: Store, shell: Shell, tmp_path: Path) -> None:
    rows = loans().select("loan id", pl.col("Income (k)").alias("Income_k"), "kind")
    table = evaluated_rows(store).join(rows, left_on="key", right_on="loan id").head(20)
    prediction = pl.when(pl.col("predicted") == 1).then(pl.lit("yes")).otherwise(pl.lit("no"))
    answers = answers_by_spark("jvm", table, shell, tmp_path)
    assert answers == expected(table.with_columns(prediction=prediction))
