"""Fork thousands of times: is a fork safe after importing Polars, deltalake and pysail? `make chaos` runs them all.

Each child must end within its time limit: a lock that was held at the fork would block it for ever.
"""

import os
import sys
import tempfile
from pathlib import Path

from ml_pipelines.backends import fork_server

LIMIT_S = 60.0


def query() -> int:
    """Use Polars' thread pool, from a forked child."""
    import polars as pl

    frame = pl.DataFrame({"a": range(10_000)}).lazy().group_by((pl.col("a") % 10).alias("b")).agg(pl.col("a").sum())
    return 0 if frame.collect().height == 10 else 1


def step(folder: str) -> int:
    """Start Sail, write a Delta table and read it back, from a forked child."""
    import polars as pl

    from ml_pipelines.data import engines, tables

    spark = engines.spark_session("sail")
    table = tables.write_table(spark.range(5_000).withColumnRenamed("id", "a"), folder)
    return 0 if pl.scan_delta(folder, version=table.version).collect().height == 5_000 else 1


def polars(count: int) -> int:
    """Return how many of `count` children, two at a time, gave the right answer in time."""
    return sum(_ended(children) for children in ([_child(query), _child(query)] for _ in range(count // 2)))


def spark(count: int) -> int:
    """Return how many of `count` children wrote and read a table in time."""
    with tempfile.TemporaryDirectory() as folder:
        return sum(_ended([_child(step, str(Path(folder, str(i))))]) for i in range(count))


def _child(target: object, *arguments: str) -> fork_server.Child:
    return fork_server.Child(target, arguments, os.environ, print, lambda code: None)  # type: ignore[arg-type]


def _ended(children: list[fork_server.Child]) -> int:
    correct = 0
    for child in children:
        if child.wait(LIMIT_S) is None:
            child.stop()
        correct += child.exit_code == 0
    return correct


def main() -> int:
    """Run the long form; return the exit code. Called from another module, since a child never imports `__main__`."""
    expected = (2_000, 50)
    counts = (polars(expected[0]), spark(expected[1]))
    text = f"forks with a Polars query: {counts[0]} of {expected[0]}; with Sail and Delta: {counts[1]} of {expected[1]}"
    sys.stdout.write(f"{text}\n")
    return int(counts != expected)
