"""A Spark cluster behind Spark Connect gives the tables and scores of Sail, with workers that lack this project."""

import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from cluster import WORKERS, cluster, executors
from conftest import Result, Store

from ml_pipelines.data import engines
from ml_pipelines.tracking import lineage

Drive = Callable[..., Result]
pytestmark = [pytest.mark.slow, pytest.mark.jvm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the cluster's programs."""
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def address(folder: Path, java: None) -> Iterator[str]:
    """Run a cluster whose workers have all libraries, but not this project, and return its address."""
    python = folder / "python"
    libraries = sysconfig.get_path("purelib")
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{libraries}" exec {sys.executable} -S "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    with cluster(folder, python) as found:
        yield found
        engines.spark_session(found).stop()


def loans() -> pl.DataFrame:
    """Return 300 rows with a number and a category; some cells are empty."""
    rows = range(300)
    return pl.DataFrame(
        {
            "loan id": [f"L{i}" for i in rows],
            "income": [None if i % 31 == 0 else (i * 37 % 101) + 0.25 for i in rows],
            "kind": [None if i % 29 == 0 else ("car", "a house", "é")[i % 3] for i in rows],
            "defaulted": ["yes" if (i * 37 % 101) + 40 * (i % 3 == 2) + i * 53 % 40 > 85 else "no" for i in rows],
        }
    )


def digests(store: Store) -> list[str]:
    """Return the digests of the newest training and test tables."""
    tags = store.child("prepare_data").data.tags
    return [tags[f"output.{name}_uri.digest"] for name in ("train", "test")]


def scored(store: Store) -> pl.DataFrame:
    """Return the newest scored table without the time."""
    table = pl.read_delta(lineage.outputs(store.child("score"))["scored_uri"])
    return table.drop("scored_at").sort("loan_id")


def test_a_cluster_writes_the_tables_and_scores_of_sail(drive: Drive, store: Store, address: str, folder: Path) -> None:
    path = store.tables.parent / "loans.csv"
    loans().write_csv(path)
    settings = "experiment_name=loans,data.source.kind=file,data.label=defaulted,data.source.path="
    data = (f"--set={settings}{path}", "--set=data.key=loan id")
    batch = f"--set=score.source.kind=file,score.source.path={path}"

    trained = drive(*data)
    assert trained.code == 0, trained.text
    store.client.set_registered_model_alias("loans", "champion", "1")  # whatever the gate said about so few rows
    assert drive("--pipeline=score", *data, batch).code == 0
    tables, scores = digests(store), scored(store)
    assert scores.height == 300

    engine = f"--set=spark.engine={address}"
    result = drive("--only=prepare_data", *data, engine)
    assert result.code == 0, result.text
    assert digests(store) == tables
    result = drive("--pipeline=score", *data, batch, engine)
    assert result.code == 0, result.text
    assert scored(store).equals(scores)
    assert executors(folder) == WORKERS
    assert not list(store.tables.rglob("*.skops"))  # the server sent the model to its workers
