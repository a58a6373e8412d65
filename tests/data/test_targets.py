"""A batch is added to the target once: repeated, killed, at the same time as others, or with other columns."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import polars as pl
import pytest
from conftest import Result

from ml_pipelines.config.schema import Score, TargetSchema
from ml_pipelines.data import tables, targets
from ml_pipelines.data.tables import Table
from ml_pipelines.data.target_tables import DeltalakeTarget, SparkTarget
from ml_pipelines.data.targets import Added, add_batch
from ml_pipelines.errors import BadData, ConfigError

REFUSE, WIDEN = TargetSchema.refuse, TargetSchema.widen
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def scored(folder: Path, batch_id: str, rows: int = 3, version: int = 1, at: datetime = NOW, **more: Any) -> Table:
    """Write a scored table with a column `score` and the columns `more`."""
    added = {"model_name": "loans", "scored_at": at, "batch_id": batch_id, "score": 0.5, **more}
    frame = pl.DataFrame({"id": range(rows), "model_version": pl.Series([version] * rows, dtype=pl.Int32)})
    frame = frame.with_columns(**{name: pl.lit(value) for name, value in added.items()})
    uri = str(folder / f"scored-{len(list(folder.glob('scored-*')))}-{batch_id}")
    frame.write_delta(uri)
    return Table(uri, 0)


@pytest.fixture
def target(tmp_path: Path) -> DeltalakeTarget:
    return DeltalakeTarget(str(tmp_path / "target"))


def content(target: DeltalakeTarget) -> pl.DataFrame:
    return pl.read_delta(target.name)


def counts(target: DeltalakeTarget) -> dict[str, int]:
    """Return batch -> number of its rows in the target."""
    return dict(content(target)["batch_id"].value_counts().sort("batch_id").rows())


def test_batches_are_added_and_a_repeated_batch_is_there_once(target: DeltalakeTarget, tmp_path: Path) -> None:
    assert add_batch(target, scored(tmp_path, "a"), "a", REFUSE).is_new
    assert add_batch(target, scored(tmp_path, "b", 5), "b", REFUSE).is_new
    later = datetime(2026, 1, 2, tzinfo=UTC)
    assert add_batch(target, scored(tmp_path, "a", at=later), "a", REFUSE) == Added(False, None)
    assert counts(target) == {"a": 3, "b": 5}
    assert set(content(target)["scored_at"]) == {NOW}


def test_rows_of_the_same_batch_that_differ_are_not_added_and_a_line_says_so(
    target: DeltalakeTarget, tmp_path: Path
) -> None:
    add_batch(target, scored(tmp_path, "a"), "a", REFUSE)
    other = add_batch(target, scored(tmp_path, "a", 4, 2), "a", REFUSE)
    assert other.problem == (
        "it has 3 rows of batch a, scored by loans version 1. The 4 rows of this run were not added. "
        "To add them too, set score.batch_id to another name."
    )
    assert counts(target) == {"a": 3}


def test_a_batch_whose_rows_were_deleted_is_not_added_again_and_a_line_says_so(
    target: DeltalakeTarget, tmp_path: Path
) -> None:
    add_batch(target, scored(tmp_path, "a"), "a", REFUSE)
    tables.open_table(target.name, None).delete("batch_id = 'a'")
    again = add_batch(target, scored(tmp_path, "a"), "a", REFUSE)
    assert not again.is_new
    assert "batch a was added to it before, but its rows are deleted" in str(again.problem)
    assert counts(target) == {}


def test_a_table_that_lost_its_transactions_still_has_its_batches(target: DeltalakeTarget, tmp_path: Path) -> None:
    scored(tmp_path, "a")
    content(DeltalakeTarget(str(tmp_path / "scored-0-a"))).write_delta(target.name)
    assert not add_batch(target, scored(tmp_path, "a"), "a", REFUSE).is_new
    assert counts(target) == {"a": 3}


@pytest.mark.parametrize("theirs", ["a", "b"])
def test_a_writer_that_commits_between_the_look_and_the_commit_is_noticed(
    theirs: str, tmp_path: Path, target: DeltalakeTarget
) -> None:
    add_batch(target, scored(tmp_path, "z"), "z", REFUSE)

    class Late(DeltalakeTarget):
        def append(self, *arguments: Any) -> bool:
            if theirs not in counts(self):
                assert add_batch(target, scored(tmp_path, theirs), theirs, REFUSE).is_new
            return super().append(*arguments)

    late = add_batch(Late(target.name), scored(tmp_path, "a", at=datetime(2026, 1, 2, tzinfo=UTC)), "a", REFUSE)
    assert late.is_new == (theirs != "a")
    assert counts(target) == ({"a": 3, "z": 3} if theirs == "a" else {"a": 3, "b": 3, "z": 3})


@pytest.mark.parametrize("different", [False, True], ids=["same columns", "a new column each"])
def test_eight_writers_at_once_all_land_in_a_new_target(
    different: bool, target: DeltalakeTarget, tmp_path: Path
) -> None:
    made = [scored(tmp_path, f"b{i}", **({f"x{i}": 1.5} if different else {})) for i in range(8)]
    barrier = Barrier(8)

    def add(i: int) -> bool:
        barrier.wait()
        return add_batch(DeltalakeTarget(target.name), made[i], f"b{i}", WIDEN).is_new

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(add, range(8)))
    assert counts(target) == {f"b{i}": 3 for i in range(8)}


def test_eight_writers_of_the_same_batch_at_once_add_it_once(target: DeltalakeTarget, tmp_path: Path) -> None:
    made = [scored(tmp_path, "a", at=datetime(2026, 1, 1 + i, tzinfo=UTC)) for i in range(8)]
    barrier = Barrier(8)

    def add(i: int) -> bool:
        barrier.wait()
        return add_batch(DeltalakeTarget(target.name), made[i], "a", REFUSE).is_new

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(8))) == 1
    assert counts(target) == {"a": 3}


KILLED = """
import os, signal, sys
import deltalake
from ml_pipelines.config.schema import TargetSchema
from ml_pipelines.data.tables import Table
from ml_pipelines.data.target_tables import DeltalakeTarget
from ml_pipelines.data.targets import add_batch

class Stream:
    # the first rows reach the target's folder, then the process dies
    def __init__(self, rows): self._rows = rows
    def __arrow_c_stream__(self, schema=None):
        import pyarrow as pa
        reader = pa.RecordBatchReader.from_stream(self._rows)
        def batches():
            yield from reader
            os.kill(os.getpid(), signal.SIGKILL)
        return pa.RecordBatchReader.from_batches(reader.schema, batches()).__arrow_c_stream__(schema)

write = deltalake.write_deltalake
deltalake.write_deltalake = lambda table, rows, **options: write(table, Stream(rows), **options)
add_batch(DeltalakeTarget(sys.argv[1]), Table(sys.argv[2], 0), "a", TargetSchema.refuse)
"""


def test_a_writer_that_is_killed_while_it_adds_rows_leaves_none_and_can_run_again(
    target: DeltalakeTarget, tmp_path: Path
) -> None:
    table = scored(tmp_path, "a")
    killed = subprocess.run([sys.executable, "-c", KILLED, target.name, table.uri], check=False)
    assert killed.returncode == -9
    assert counts(target) == {}
    assert add_batch(target, table, "a", REFUSE).is_new
    assert counts(target) == {"a": 3}


def test_other_columns_are_refused_and_nothing_is_written(target: DeltalakeTarget, tmp_path: Path) -> None:
    add_batch(target, scored(tmp_path, "a", x=1.5, y=1), "a", REFUSE)
    before = sorted(Path(target.name).rglob("*"))
    with pytest.raises(BadData) as error:
        add_batch(target, scored(tmp_path, "b", x="1", z="c"), "b", REFUSE)
    assert "column x has type string, but double in the target" in str(error.value)
    with pytest.raises(
        BadData, match=r"new in the batch: z; missing in the batch: y\. Set score\.target to a new table"
    ):
        add_batch(target, scored(tmp_path, "b", x=1.5, z="c"), "b", REFUSE)
    assert sorted(Path(target.name).rglob("*")) == before


def test_other_columns_widen_the_target(target: DeltalakeTarget, tmp_path: Path) -> None:
    add_batch(target, scored(tmp_path, "a", x=1.5, y=1), "a", WIDEN)
    added = add_batch(target, scored(tmp_path, "b", 1, x=7, z="c", many=["u", "v"]), "b", WIDEN)
    assert added.is_new
    assert str(added.changes) == (
        "new in the batch: z, many; missing in the batch: y; of a narrower type in the batch: x"
    )
    [row] = content(target).filter(batch_id="b").select("x", "y", "z", "many").rows()
    assert row == (7.0, None, "c", ["u", "v"])
    assert set(content(target).filter(batch_id="a")["z"]) == {None}
    assert content(target).schema["x"] == pl.Float64


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"x": "text"}, "column x has type string, but double in the target"),
        ({"x": 2**40}, "column x has type bigint, but double in the target"),
        ({"X": 1.5}, "column X is spelled x in the target"),
    ],
)
def test_a_type_that_does_not_fit_is_refused_even_if_the_target_may_be_widened(
    more: dict[str, Any], message: str, target: DeltalakeTarget, tmp_path: Path
) -> None:
    add_batch(target, scored(tmp_path, "a", x=1.5), "a", WIDEN)
    with pytest.raises(BadData, match=message):
        add_batch(target, scored(tmp_path, "b", **more), "b", WIDEN)
    assert counts(target) == {"a": 3}


def add_on_jvm(folder: str, name: str) -> None:
    """Add batches with Spark on the JVM, and print what happened as JSON. `name` is a path or a table of a catalog."""
    from ml_pipelines.data import engines

    spark, tmp_path, is_path = engines.spark_session("jvm"), Path(folder), targets.is_path(name)
    late = datetime(2026, 1, 2, tzinfo=UTC)

    def add(table: Table, batch_id: str, policy: TargetSchema = WIDEN, kind: type[SparkTarget] = SparkTarget) -> Any:
        added = add_batch(kind(spark, name, is_path), table, batch_id, policy)
        return added.is_new if added.problem is None else added.problem[:40]

    class Late(SparkTarget):
        def append(self, *arguments: Any) -> bool:
            assert add(scored(tmp_path, "b"), "b") is True
            return super().append(*arguments)

    def at_once(batches: list[str]) -> int:
        made = [scored(tmp_path, name, at=datetime(2026, 2, 1 + i, tzinfo=UTC)) for i, name in enumerate(batches)]
        with ThreadPoolExecutor(len(batches)) as pool:
            return sum(pool.map(add, made, batches))

    result: dict[str, Any] = {"new table at once": at_once(["c", "d"]), "same batch at once": at_once(["e", "e"])}
    result["first"] = add(scored(tmp_path, "a"), "a")
    result["repeated"] = add(scored(tmp_path, "a", at=late), "a")
    result["other rows"] = add(scored(tmp_path, "a", 4), "a")
    result["second writer"] = add(scored(tmp_path, "b", at=late), "b", kind=Late)
    try:
        add(scored(tmp_path, "f", x="1"), "f", REFUSE)
    except BadData as error:
        result["refused"] = "new in the batch: x" in str(error)
    result["widened"] = add(scored(tmp_path, "f", 1, x="1"), "f")
    frame = spark.read.format("delta").load(name) if is_path else spark.read.table(name)
    result["rows"] = {row["batch_id"]: row["count"] for row in frame.groupBy("batch_id").count().collect()}
    spark.sql(f"DELETE FROM {f'delta.`{name}`' if is_path else name} WHERE batch_id = 'a'")
    result["deleted"] = add(scored(tmp_path, "a"), "a")
    print(json.dumps(result))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.jvm
@pytest.mark.usefixtures("java")
@pytest.mark.parametrize("name", ["{}/target", "scores"], ids=["path", "table of a catalog"])
def test_spark_on_the_jvm_adds_a_batch_once_too(name: str, shell: Callable[..., Result], tmp_path: Path) -> None:
    arguments = (str(tmp_path), name.format(tmp_path))
    code = f"import sys; sys.path[:0] = {sys.path!r}; import test_targets; test_targets.add_on_jvm(*{arguments!r})"
    result = shell(sys.executable, "-c", code, cwd=tmp_path)  # Spark makes its folder of tables in the current folder
    assert result.code == 0, result.text
    assert json.loads(result.out.splitlines()[-1]) == {
        **{"new table at once": 2, "same batch at once": 1, "first": True, "repeated": False, "second writer": False},
        **{"other rows": "it has 3 rows of batch a, scored by loan", "refused": True, "widened": True},
        **{"rows": {"a": 3, "b": 3, "c": 3, "d": 3, "e": 3, "f": 1}},
        "deleted": "batch a was added to it before, but its ",
    }


def test_lost_files_of_the_target_are_noticed(target: DeltalakeTarget, tmp_path: Path) -> None:
    add_batch(target, scored(tmp_path, "a"), "a", REFUSE)
    for file in Path(target.name).glob("*.parquet"):
        file.unlink()
    assert not targets.has_batch(target.name, "a")
    with pytest.raises(BadData, match=r"target can't be read: "):
        add_batch(target, scored(tmp_path, "a"), "a", REFUSE)


def test_a_folder_with_other_files_is_not_a_target(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ConfigError, match=r"is not a Delta table\. Set it to a table, or to a new folder"):
            targets.find_target(Score(target=str(path)), "sail", None)  # type: ignore[arg-type]


def test_a_table_of_a_catalog_needs_databricks() -> None:
    with pytest.raises(ConfigError, match=r"'main\.ml\.scores' is a table of a catalog, which needs spark.engine=d"):
        targets.find_target(Score(target="main.ml.scores"), "sail", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is relative, and a cluster has no folder of the project"):
        targets.find_target(Score(target="./scores"), "databricks", None)  # type: ignore[arg-type]
