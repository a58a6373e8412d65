"""Compares the tables that prepare_data writes on the Spark engines Sail and JVM, with the user's source and code."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import IO

from ml_pipelines.config.loading import load
from ml_pipelines.config.schema import Config, FileFormat, SourceKind
from ml_pipelines.data import locations, sources, tables
from ml_pipelines.data.columns import standard_name
from ml_pipelines.data.files import csv_files
from ml_pipelines.errors import BadData, ConfigError, StepFailed
from ml_pipelines.system import paths
from ml_pipelines.system.terminal import say
from ml_pipelines.text import listed, quoted, shown
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import Store

ENGINES = ("sail", "jvm")


def compare_engines(profile: str, overrides: list[str], rows: int) -> list[str]:
    """Return the differences between the engines' tables, as text. The list is empty if the tables are equal.

    Only the first `rows` rows of a file source are used, unchanged. The tables go to a temporary folder.

    Raises:
        ConfigError, BadData, StepFailed: prepare_data failed, for example because Java is missing.
    """
    config = load(profile, overrides)
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        if config.data.source.kind is SourceKind.file:
            overrides = [*overrides, f"data.source.path={excerpt(config, rows, Path(folder))}"]
        tables_of = {engine: _prepare(engine, profile, overrides, Path(folder)) for engine in ENGINES}
        differences = []
        key_column = standard_name(config.data.key) if config.data.key else None
        for name in sorted(tables_of["sail"]):
            sail, jvm = tables_of["sail"][name], tables_of["jvm"][name]
            if sail.digest == jvm.digest:
                say(f"{name}: {sail.rows:,} rows, the same on sail and jvm")
            else:
                differences.append(f"{name}: {_difference(sail, jvm, key_column)}")
    return differences


def excerpt(config: Config, rows: int, folder: Path) -> str:
    """Return a file in `folder` with the first rows of a local file source, or the source itself if it can't be cut.

    The rows of a CSV file are copied byte by byte.
    """
    uri, local = locations.locate_source(config.data.source)
    kind = sources.file_format(config.data.source)
    if local is None or local.is_dir():
        return uri  # compare the whole source if it is in an object store or is a folder
    if kind is FileFormat.csv and not csv_files.is_plain(local, config.data.source):
        return uri  # compare the whole file if it can't be read as plain text, for example because it is compressed
    if kind is FileFormat.csv:
        target = folder / "excerpt.csv"
        csv.field_size_limit(2**31 - 1)
        with _open_bytewise(local) as lines:
            reader = csv.reader(lines, delimiter=config.data.source.separator)
            for _ in islice(reader, rows + 1):
                pass
            count = reader.line_num
        with _open_bytewise(local) as lines, _open_bytewise(target, "w") as excerpted:
            excerpted.writelines(islice(lines, count))
        return str(target)
    return str(_write_head(local, rows, folder / "excerpt.parquet"))


def _write_head(file: Path, rows: int, target: Path) -> Path:
    """Write the first rows of a Parquet file to `target` with the same types, and return `target`."""
    from pyarrow import parquet

    opened = parquet.ParquetFile(file)
    with parquet.ParquetWriter(target, opened.schema_arrow) as writer:
        for batch in opened.iter_batches(rows):
            writer.write_batch(batch[:rows])
            rows -= len(batch)
            if rows <= 0:
                break
    return target


def _open_bytewise(path: Path, mode: str = "r") -> IO[str]:
    """Open a text file so that every byte is preserved, even if it is not UTF-8."""
    return path.open(mode, encoding="utf-8", errors="surrogateescape", newline="")


def _prepare(engine: str, profile: str, overrides: list[str], folder: Path) -> dict[str, tables.Table]:
    """Run prepare_data on `engine` in a new process, because a process can use only one engine; return its tables."""
    store = f"sqlite:///{folder / engine}.db"
    command = [
        sys.executable,
        str(paths.root() / "driver.py"),
        "--only=prepare_data",
        f"--profile={profile}",
        "--backend=inline",
    ]
    settings = [
        *overrides,
        f"spark.engine={engine}",
        f"data.delta_prefix.local={folder / engine}",
        "experiment_name=parity",
    ]
    command += [f"--set={setting}" for setting in settings]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "MLFLOW_ARTIFACT_ROOT": str(folder)}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "✗" in line or "Set" in line] or [
            done.stderr.strip()
        ]
        error = {2: ConfigError, 3: BadData}.get(done.returncode, StepFailed)
        raise error(f"prepare_data failed on {engine}: {lines[-1].strip()}")
    parity_store = Store(store)
    experiment = parity_store.client.get_experiment_by_name("parity").experiment_id
    run = parity_store.client.search_runs([experiment], "tags.step = 'prepare_data'")[0]
    written = {
        name: lineage.find_table(parity_store, uri, [name], experiment)
        for name, uri in lineage.outputs(run).items()
        if name.endswith("_uri")
    }
    return {name: table for name, table in written.items() if table}


def _difference(sail: tables.Table, jvm: tables.Table, key_column: str | None) -> str:
    """Return how two tables differ: in their columns, in their number of rows, or in the first row that differs."""
    left, right = (tables.read_table(table, None, key_column) for table in (sail, jvm))
    if left.schema != right.schema:
        own, others = (
            [f"{name} {dtype}" for name, dtype in a.schema.items() if b.schema.get(name) != dtype]
            for a, b in ((left, right), (right, left))
        )
        return f"columns differ: sail has {listed(own) or 'no others'}, jvm has {listed(others) or 'no others'}"
    if left.height != right.height:
        return f"sail wrote {left.height:,} rows, jvm {right.height:,}"
    for a, b in zip(left.iter_rows(named=True), right.iter_rows(named=True), strict=True):
        # This compares the repr of cells, so that NaN equals NaN, and 0.0 differs from -0.0.
        if cells := [
            f"{shown(name)}: sail {quoted(a[name])}, jvm {quoted(b[name])}"
            for name in a
            if repr(a[name]) != repr(b[name])
        ]:
            row = f"row {shown(key_column)}={quoted(a[key_column])}: " if key_column and key_column in a else ""
            return row + "; ".join(cells[:5])
    return "the digests differ, but all cells are equal"
