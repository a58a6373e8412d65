"""Delta tables: Spark writes them as plain Delta, Polars reads them at a version, and damage is reported."""

import datetime as dt
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Result, Store, change
from deltalake import DeltaTable
from polars.testing import assert_frame_equal
from pyspark.sql import DataFrame, SparkSession

from ml_pipelines.config.schema import Source, SourceKind
from ml_pipelines.data import sources, tables
from ml_pipelines.data.tables import Table
from ml_pipelines.errors import BadData
from ml_pipelines.tracking import lineage

ROWS = pl.DataFrame(
    {
        "id": [3, 1, 2, 4],
        "x": [0.1, None, -2.5, 1e300],
        "y": pl.Series([1.5, 2.5, None, 0.0], dtype=pl.Float32),
        "city": ["Köln", None, "two\nlines", ""],
        "ok": [True, False, None, True],
        "label": pl.Series([0, 1, 1, 0], dtype=pl.Int32),
    }
)


def test_reasons_are_part_of_a_tables_digest_and_their_comment_is_written(spark: SparkSession, tmp_path: Path) -> None:
    digests = set()
    for i, reasons in enumerate(["array(named_struct('name', 'a', 'value', 1D))", "null", "array()"]):
        kind = "array<struct<name:string,value:double>>"
        frame = spark.sql(f"select 1 as id, cast({reasons} as {kind}) as reasons")
        frame = frame.withColumn("reasons", frame["reasons"].alias("reasons", metadata={"comment": "log-odds"}))
        table = tables.write_table(frame, str(tmp_path / str(i)))
        digests.add(table.digest)
        fields = {field.name: field.metadata.get("comment") for field in DeltaTable(table.uri).schema().fields}
        assert fields == {"id": None, "reasons": "log-odds"}
        tables.verify_table(table)
    assert len(digests) == 3


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "table")


@pytest.fixture(scope="session")
def three_files(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Return a table of three files, for tests that copy it."""
    uri = tmp_path_factory.mktemp("tables") / "train"
    return tables.write_table(sources.synthetic_rows(spark, 3_000, 2, seed=1).repartition(3), str(uri))


@pytest.fixture
def copy(three_files: Table, uri: str) -> Table:
    """Return a copy of `three_files` that the test may damage."""
    shutil.copytree(three_files.uri, uri)
    return Table(uri, three_files.version, three_files.rows, three_files.digest)


def to_spark(spark: SparkSession, frame: pl.DataFrame) -> DataFrame:
    return spark.createDataFrame(frame.to_arrow())


def data_file(table: Table) -> Path:
    return min(Path(table.uri).glob("*.parquet"))


def log_file(table: Table) -> Path:
    return Path(table.uri, "_delta_log", f"{table.version:020}.json")


# -- writing and reading


def test_a_table_reads_back_at_its_version(spark: SparkSession, uri: str) -> None:
    table = tables.write_table(to_spark(spark, ROWS), uri)
    assert (table.version, table.rows) == (0, 4)
    assert_frame_equal(tables.read_table(table, None, "id"), ROWS.sort("id"))


def test_a_table_needs_only_plain_delta_from_its_readers(spark: SparkSession, uri: str) -> None:
    tables.write_table(to_spark(spark, ROWS), uri)
    table = DeltaTable(uri)
    protocol, settings = table.protocol(), table.metadata().configuration
    assert (protocol.min_reader_version, protocol.reader_features) == (1, None)
    assert settings["delta.enableDeletionVectors"] == "false"
    assert settings["delta.columnMapping.mode"] == "none"
    assert settings["delta.checkpointPolicy"] == "classic"


def test_a_long_table_has_small_files_with_many_rows(spark: SparkSession, uri: str) -> None:
    table = tables.write_table(sources.synthetic_rows(spark, 60_000, 4, seed=1).repartition(1), uri)
    actions = DeltaTable(table.uri).get_add_actions()
    sizes, rows = (actions.column(name).to_pylist() for name in ("size_bytes", "num_records"))
    assert max(sizes) < 1 << 20
    assert 2 < len(rows) < 10
    assert sum(rows) == table.rows == 60_000


def test_an_older_version_is_still_readable_after_an_overwrite(spark: SparkSession, uri: str) -> None:
    first = tables.write_table(to_spark(spark, ROWS), uri)
    second = tables.write_table(to_spark(spark, ROWS.head(1)), uri)
    assert (second.version, second.rows) == (1, 1)
    assert tables.read_table(first, None, "id").height == 4
    assert tables.read_table(second, None, "id").height == 1


def test_writing_again_replaces_the_table_of_a_failed_attempt(spark: SparkSession, uri: str) -> None:
    tables.write_table(to_spark(spark, ROWS.drop("y")), uri)
    second = tables.write_table(to_spark(spark, ROWS.drop("y").tail(2)), uri)
    assert sorted(tables.read_table(second, ["id"], "id")["id"]) == [2, 4]


@pytest.mark.parametrize("kind", ["date", "array<double>", "decimal(10,2)", "binary"])
def test_a_column_of_an_unsupported_type_is_refused(spark: SparkSession, uri: str, kind: str) -> None:
    frame = spark.sql(f"SELECT 1 AS id, CAST(NULL AS {kind}) AS odd")
    with pytest.raises(BadData, match="Column odd has type"):
        tables.write_table(frame, uri)
    assert not Path(uri).exists()


def test_the_order_of_rows_does_not_depend_on_the_files(spark: SparkSession, tmp_path: Path) -> None:
    frame = sources.synthetic_rows(spark, 500, 2, seed=1)
    layouts = [frame.orderBy("id"), frame.repartition(3), frame.orderBy("f0")]
    versions = [tables.write_table(layout, str(tmp_path / str(i))) for i, layout in enumerate(layouts)]
    for key in ("id", None, "no_such_column"):
        first, *others = (tables.read_table(table, None, key) for table in versions)
        assert all(first.equals(other) for other in others)
    few, *others = (tables.read_table(table, ["f1", "label"], "id") for table in versions)
    assert few.columns == ["f1", "label"]
    assert all(few.equals(other) for other in others)


def test_rows_with_equal_keys_have_a_fixed_order_too(spark: SparkSession, tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [1] * 50 + [2] * 50, "x": range(100)})
    versions = [
        tables.write_table(
            to_spark(spark, frame.sample(fraction=1, shuffle=True, seed=seed)), str(tmp_path / str(seed))
        )
        for seed in (1, 2)
    ]
    one, other = (tables.read_table(table, ["x", "id"], "id") for table in versions)
    assert one.equals(other)


def test_only_the_requested_columns_are_read(copy: Table) -> None:
    """The bytes of the other columns may be anything."""
    for file in Path(copy.uri).glob("*.parquet"):
        overwrite_column(file, "f1")
    assert tables.read_table(copy, ["f0", "label"], None).columns == ["f0", "label"]
    with pytest.raises(BadData, match="Table damaged"):
        tables.read_table(copy, ["f1"], None)


def overwrite_column(file: Path, name: str) -> None:
    """Fill the bytes of one column of a Parquet file with 0xff; the size of the file stays the same."""
    from pyarrow import parquet

    metadata, content = parquet.read_metadata(file), bytearray(file.read_bytes())
    for group in range(metadata.num_row_groups):
        for i in range(metadata.num_columns):
            column = metadata.row_group(group).column(i)
            if column.path_in_schema == name:
                start = column.dictionary_page_offset or column.data_page_offset
                content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(content)


def test_the_error_for_a_missing_column_lists_the_columns(copy: Table) -> None:
    with pytest.raises(BadData, match=r"has no column f9\. Its columns: id, f0, f1, label"):
        tables.read_table(copy, ["f0", "f9"], "id")


def test_column_names_are_known_without_the_data_files(copy: Table) -> None:
    for file in Path(copy.uri).glob("*.parquet"):
        file.unlink()
    assert tables.column_names(copy) == ["id", "f0", "f1", "label"]


# -- digest


def digest(frame: pl.DataFrame, folder: Path, name: str) -> str:
    frame.write_delta(str(folder / name))
    return tables.measure_table(str(folder / name), 0)[1]


def test_the_digest_does_not_depend_on_the_order_of_rows_or_columns_or_on_files(
    spark: SparkSession, tmp_path: Path
) -> None:
    frame = sources.synthetic_rows(spark, 1_000, 2, seed=1)
    layouts = [frame, frame.orderBy("f0"), frame.repartition(4), frame.select("label", "f1", "id", "f0")]
    assert len({tables.write_table(layout, str(tmp_path / str(i))).digest for i, layout in enumerate(layouts)}) == 1


def test_the_time_of_scoring_is_not_part_of_the_digest_but_a_feature_of_this_name_is(tmp_path: Path) -> None:
    frames = [ROWS.with_columns(scored_at=pl.lit(dt.datetime(2026, 1, day, tzinfo=dt.UTC))) for day in (1, 2)]
    frames += [ROWS.with_columns(scored_at=pl.lit(day)) for day in (1, 2)]
    assert len({digest(frame, tmp_path, str(i)) for i, frame in enumerate(frames)}) == 3


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f: f.with_columns(x=pl.Series([0.1, None, -2.5, 1e299])), id="last-digit"),
        pytest.param(lambda f: f.with_columns(x=pl.col("x").fill_null(0.0)), id="null-to-zero"),
        pytest.param(lambda f: f.with_columns(city=pl.col("city").fill_null("")), id="null-to-empty-text"),
        pytest.param(lambda f: f.with_columns(ok=pl.col("ok").fill_null(False)), id="null-to-false"),
        pytest.param(lambda f: f.with_columns(city=pl.col("city").str.to_uppercase()), id="text"),
        pytest.param(lambda f: f.with_columns(label=1 - pl.col("label")), id="label"),
        pytest.param(lambda f: f.with_columns(x=pl.col("x").reverse()), id="cells-of-other-rows"),
        pytest.param(lambda f: f.with_columns(x=pl.col("x2"), x2=pl.col("x")), id="two-columns-swapped"),
        pytest.param(lambda f: f.rename({"x": "z"}), id="name"),
        pytest.param(lambda f: f.cast({"label": pl.Int64}), id="type"),
        pytest.param(lambda f: f.cast({"y": pl.Float64}), id="width-of-a-float"),
        pytest.param(lambda f: f.head(3), id="row-lost"),
        pytest.param(lambda f: pl.concat([f, f.head(1)]), id="row-twice"),
        pytest.param(lambda f: pl.concat([f.slice(1), f.slice(1, 1)]), id="row-instead-of-another"),
        pytest.param(lambda f: f.drop("ok"), id="column-lost"),
        pytest.param(lambda f: f.with_columns(extra=1), id="column-added"),
    ],
)
def test_the_digest_changes_with_every_cell_name_and_type(
    tmp_path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    before = ROWS.with_columns(x2=pl.col("x") + 1)
    assert digest(before, tmp_path, "before") != digest(change(before), tmp_path, "after")


def test_one_changed_row_among_many_changes_the_digest(tmp_path: Path) -> None:
    many = pl.DataFrame({"id": range(20_000), "x": [i / 3 for i in range(20_000)]})
    other = many.with_columns(x=pl.when(pl.col("id") == 12_345).then(0.0).otherwise("x"))
    assert digest(many, tmp_path, "many") != digest(other, tmp_path, "other")


def source_digest(uri: str, version: int | None) -> str:
    return tables.files_digest(uri, version, lambda file: hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.mark.parametrize("column", ["x", "y"])
def test_a_negative_zero_changes_the_digest_in_each_row_and_column(tmp_path: Path, column: str) -> None:
    zeros = ROWS.with_columns(x=pl.lit(0.0), y=pl.lit(0.0, pl.Float32))
    negative = [
        zeros.with_columns(
            pl.when(pl.col("id") == row).then(-0.0).otherwise(column).cast(zeros[column].dtype).alias(column)
        )
        for row in (1, 2, 3, 4)
    ]
    assert len({digest(frame, tmp_path, str(i)) for i, frame in enumerate([zeros, *negative])}) == 5


def test_columns_with_negative_zeros_have_different_digests(tmp_path: Path) -> None:
    first, second = ({"x": -0.0, "y": 0.0}, {"x": 0.0, "y": -0.0})
    assert digest(pl.DataFrame([first]), tmp_path, "first") != digest(pl.DataFrame([second]), tmp_path, "second")


def test_a_file_of_a_delta_source_that_was_changed_in_place_changes_its_digest(copy: Table) -> None:
    before, file = source_digest(copy.uri, None), data_file(copy)
    content = file.read_bytes()
    file.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    os.utime(file, (0, 0))
    assert source_digest(copy.uri, None) != before
    file.write_bytes(content)
    assert source_digest(copy.uri, None) == before


def test_a_missing_file_of_a_delta_source_is_named(copy: Table) -> None:
    data_file(copy).unlink()
    with pytest.raises(BadData, match=r"at version 0 is damaged: its file .*\.parquet is missing. Restore the file"):
        source_digest(copy.uri, None)


def test_each_commit_changes_the_digest_of_the_log(copy: Table) -> None:
    """A commit may change what a reader gets without changing a data file: a deletion vector, a column's name."""
    before = source_digest(copy.uri, None)
    DeltaTable(copy.uri).alter.set_table_properties({"delta.appendOnly": "false"})
    assert source_digest(copy.uri, None) != before
    assert source_digest(copy.uri, 0) == before


def test_a_moved_table_keeps_the_digest_of_its_log(copy: Table, three_files: Table) -> None:
    assert source_digest(copy.uri, None) == source_digest(three_files.uri, None)


# -- damage


def truncate(table: Table) -> None:
    data_file(table).write_bytes(data_file(table).read_bytes()[:500])


def lose_a_commit_line(table: Table) -> None:
    lines = [line for line in log_file(table).read_text().splitlines() if line.strip()]
    log_file(table).write_text("\n".join(lines[:-1]) + "\n")


def flip(at: int) -> Callable[[Table], None]:
    def damage(table: Table) -> None:
        content = bytearray(data_file(table).read_bytes())
        content[at] ^= 0xFF
        data_file(table).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        pytest.param(lambda t: data_file(t).unlink(), "No such file", id="parquet-deleted"),
        pytest.param(truncate, "has 500 bytes, not ", id="parquet-truncated"),
        pytest.param(lambda t: data_file(t).write_bytes(b""), "has 0 bytes, not ", id="parquet-emptied"),
        pytest.param(flip(-1), "magic bytes", id="parquet-footer-flipped"),
        pytest.param(lambda t: log_file(t).unlink(), "can't be opened", id="log-deleted"),
        pytest.param(lambda t: shutil.rmtree(log_file(t).parent), "can't be opened", id="log-folder-deleted"),
        pytest.param(lambda t: log_file(t).write_text(log_file(t).read_text()[:300]), "can't be opened", id="log-cut"),
        pytest.param(lambda t: log_file(t).write_text(""), "has 0 rows, but its step wrote 3,000", id="log-emptied"),
        pytest.param(lose_a_commit_line, r"rows, but its step wrote 3,000", id="log-line-lost"),
        pytest.param(lambda t: shutil.rmtree(t.uri), "can't be opened", id="all-gone"),
    ],
)
def test_a_damaged_table_is_named_with_its_version(copy: Table, damage: Callable[[Table], None], why: str) -> None:
    damage(copy)
    with pytest.raises(BadData) as error:
        tables.read_table(copy, None, "id")
    assert f"{copy.uri} at version 0" in str(error.value)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("position", [0.002, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
def test_a_flipped_byte_fails_the_read_or_changes_the_digest(copy: Table, position: float) -> None:
    flip(int(data_file(copy).stat().st_size * position))(copy)
    try:
        measurement = tables.measure_table(copy.uri, copy.version)
    except BadData as error:
        assert f"Table damaged: {copy.uri} at version 0" in str(error)
    else:
        assert measurement != (copy.rows, copy.digest)


def change_one_cell(table: Table) -> None:
    """Change one value in a data file; the file stays readable, and the log gets its new size."""
    file = data_file(table)
    frame, size = pl.read_parquet(file), file.stat().st_size
    changed_frame = frame.with_columns(f0=pl.when(pl.int_range(pl.len()) == 7).then(0.25).otherwise("f0"))
    changed_frame.write_parquet(file)
    (log,) = Path(table.uri, "_delta_log").glob("*.json")
    change(log, f'"size":{size}', f'"size":{file.stat().st_size}')


def test_the_digest_detects_a_changed_value_in_a_readable_file(copy: Table) -> None:
    change_one_cell(copy)
    assert tables.read_table(copy, None, "id").height == copy.rows  # the row count is the same
    with pytest.raises(
        BadData, match=r"at version 0 has 3,000 rows that differ from the 3,000 rows that its step wrote"
    ):
        tables.verify_table(copy)


def test_a_pipeline_refuses_a_table_that_was_changed(
    finished: Store, earlier: Store, drive: Callable[..., Result], tmp_path: Path
) -> None:
    """Its path, version, row count and file sizes still match."""
    table = lineage.table_of(finished.child("prepare_data"), "train_uri")
    assert table is not None
    shutil.copytree(table.uri, tmp_path / "kept")
    try:
        change_one_cell(table)
        pipeline_result = drive("--from=train")
        step_result = drive("--step=train", f"--train-uri={table.uri}", "--profile=local")
    finally:
        shutil.rmtree(table.uri)
        shutil.move(tmp_path / "kept", table.uri)
    for result in (pipeline_result, step_result):
        assert result.code == 3, result.text
        assert f"Table damaged: {table.uri} at version 0 has" in result.text
    assert earlier.runs("tags.step = 'train' and attributes.status = 'FINISHED'")[0].info.run_id == (
        finished.child("train").info.run_id
    )


def test_rows_that_another_writer_appends_are_not_read(copy: Table) -> None:
    tables.read_table(copy, None, "id").head(5).write_delta(copy.uri, mode="append")
    assert tables.read_table(copy, None, "id").height == 3_000


def test_a_missing_version_is_named(copy: Table) -> None:
    with pytest.raises(BadData, match=r"at version 7 can't be opened"):
        tables.read_table(Table(copy.uri, 7), None, "id")


def test_a_table_without_a_recorded_row_count_is_read_without_a_check(copy: Table) -> None:
    assert tables.read_table(Table(copy.uri, 0), ["id"], None).height == 3_000


# -- tables from other writers


def with_commit(table: Table, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the actions of the table's first commit by hand, each a dictionary of one key."""
    actions = [json.loads(line) for line in log_file(table).read_text().splitlines() if line.strip()]
    for action in actions:
        change(action)
    log_file(table).write_text("".join(json.dumps(action) + "\n" for action in actions))
    log_file(table).with_suffix(".crc").unlink()  # the checksum file, which repeats them


def map_columns(action: dict[str, Any]) -> None:
    """Turn on column mapping in mode `name`; the physical names are the same as the logical ones."""
    if protocol := action.get("protocol"):
        protocol |= {"minReaderVersion": 2, "minWriterVersion": 5}
    if metadata := action.get("metaData"):
        metadata["configuration"] |= {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "4"}
        schema = json.loads(metadata["schemaString"])
        for i, field in enumerate(schema["fields"], start=1):
            field["metadata"] = {"delta.columnMapping.id": i, "delta.columnMapping.physicalName": field["name"]}
        metadata["schemaString"] = json.dumps(schema)


def need(feature: str) -> Callable[[dict[str, Any]], None]:
    def change(action: dict[str, Any]) -> None:
        if protocol := action.get("protocol"):
            protocol |= {"minReaderVersion": 3, "minWriterVersion": 7}
            protocol |= {"readerFeatures": [feature], "writerFeatures": [feature]}

    return change


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        (map_columns, "columnMapping"),
        (need("typeWidening"), "typeWidening"),
        (need("v2Checkpoint"), "v2Checkpoint"),
    ],
)
def test_a_table_feature_that_would_be_misread_is_refused_by_name(
    copy: Table, change: Callable[[dict[str, Any]], None], feature: str
) -> None:
    with_commit(copy, change)
    with pytest.raises(BadData) as error:
        tables.read_table(copy, None, "id")
    assert f"Table {copy.uri} uses {feature}, which" in str(error.value)


def test_an_unknown_table_feature_is_refused_by_name(copy: Table) -> None:
    with_commit(copy, need("somethingOfNextYear"))
    with pytest.raises(BadData, match=r"at version 0 can't be opened: .*'somethingOfNextYear' is not supported"):
        tables.read_table(copy, None, "id")


OTHERS = """
import sys
from ml_pipelines.data import engines

spark = engines.spark_session("jvm")
for name, properties, change in (
    ("deletion_vectors", "'delta.enableDeletionVectors'='true'", "DELETE FROM {table} WHERE id < 10"),
    ("column_mapping", "'delta.columnMapping.mode'='name'", "ALTER TABLE {table} RENAME COLUMN x TO y"),
):
    table = f"delta.`{sys.argv[1]}/{name}`"
    rows = "SELECT id, id / 2 AS x FROM range(100)"
    spark.sql(f"CREATE TABLE {table} USING delta TBLPROPERTIES ({properties}) AS {rows}")
    spark.sql(change.format(table=table))
"""


@pytest.mark.slow
@pytest.mark.jvm
@pytest.mark.usefixtures("java")
def test_tables_as_a_cluster_writes_them_are_read_correctly_or_refused(
    spark: SparkSession, shell: Callable[..., Result], tmp_path: Path
) -> None:
    result = shell(sys.executable, "-c", OTHERS, str(tmp_path))
    assert result.code == 0, result.text
    uri = str(tmp_path / "deletion_vectors")
    assert tables.read_table(Table(uri, tables.check_protocol(uri)), ["id"], "id")["id"].to_list() == list(
        range(10, 100)
    )
    mapped_uri = str(tmp_path / "column_mapping")
    with pytest.raises(BadData, match="column_mapping uses columnMapping"):
        tables.check_protocol(mapped_uri)
    assert all(source_digest(name, 0) != source_digest(name, 1) for name in (uri, mapped_uri))
    source = Source(kind=SourceKind.file, path=mapped_uri)  # Sail supports column mapping
    assert sources.read_source(spark, source, seed=1).frame.orderBy("id").tail(1)[0].asDict() == {"id": 99, "y": 49.5}
