"""Do Sail and the JVM write the same rows? Runs prepare_data on both, on a user's own source and code, and compares."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import IO

from ml_pipelines import lineage, paths, sources, tables, tracking
from ml_pipelines.config import Config, FileFormat, SourceKind, load
from ml_pipelines.errors import BadData, ConfigError, StepFailed
from ml_pipelines.ingest import standard_names
from ml_pipelines.terminal import say

ENGINES = ("sail", "jvm")


def compare(profile: str, overrides: list[str], rows: int) -> list[str]:
    """Return what differs between the tables that the engines write, in words; nothing where they agree.

    Of a file source only the first `rows` rows are taken, as they stand. The tables go to a temporary folder.

    Raises:
        ConfigError, BadData: prepare_data can't run on this source, or Java is missing.
    """
    config = load(profile, overrides)
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        if config.data.source.kind is SourceKind.file:
            overrides = [*overrides, f"data.source.path={excerpt(config, rows, Path(folder))}"]
        written = {engine: _prepare(engine, profile, overrides, Path(folder)) for engine in ENGINES}
        differences = []
        key = standard_names([config.data.key])[config.data.key] if config.data.key else None
        for name in sorted(written["sail"]):
            sail, jvm = written["sail"][name], written["jvm"][name]
            if sail.digest == jvm.digest:
                say(f"{name}: {sail.rows:,} rows, the same on sail and jvm")
            else:
                differences.append(f"{name}: {_difference(sail, jvm, key)}")
    return differences


def excerpt(config: Config, rows: int, folder: Path) -> str:
    """Write the first rows of a local file source into `folder`, and return their path: a CSV byte for byte."""
    uri, local = sources.locate(config.data.source)
    kind = sources.file_format(config.data.source)
    if local is None or (kind is FileFormat.csv and local.is_dir()):
        return uri  # somewhere else, or many files: all of it
    import polars as pl

    if kind is FileFormat.csv:
        target = folder / "excerpt.csv"
        csv.field_size_limit(2**31 - 1)
        with _as_it_is(local) as lines:
            reader = csv.reader(lines, delimiter=config.data.source.separator)
            for _ in islice(reader, rows + 1):
                pass
            count = reader.line_num
        with _as_it_is(local) as lines, _as_it_is(target, "w") as excerpted:
            excerpted.writelines(islice(lines, count))
        return str(target)
    if kind is FileFormat.delta:
        return uri  # read at its version by both
    target = folder / "excerpt.parquet"
    pl.scan_parquet(local / "**/*.parquet" if local.is_dir() else local).head(rows).sink_parquet(target)
    return str(target)


def _as_it_is(path: Path, mode: str = "r") -> IO[str]:
    """Open a text so that every byte comes out as it went in, UTF-8 or not."""
    return path.open(mode, encoding="utf-8", errors="surrogateescape", newline="")


def _prepare(engine: str, profile: str, overrides: list[str], folder: Path) -> dict[str, tables.Table]:
    """Run prepare_data on `engine` as a process of its own (a process has one kind of Spark), and return its tables."""
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
    import mlflow

    mlflow.set_tracking_uri(store)
    experiment = tracking.client().get_experiment_by_name("parity").experiment_id
    run = tracking.client().search_runs([experiment], "tags.step = 'prepare_data'")[0]
    found = {
        name: lineage.find_table(uri, [name], experiment)
        for name, uri in lineage.outputs(run).items()
        if name.endswith("_uri")
    }
    return {name: table for name, table in found.items() if table}


def _difference(sail: tables.Table, jvm: tables.Table, key: str | None) -> str:
    """Say how two tables differ: columns, number of rows, or the first row that differs."""
    left, right = (tables.read(table, None, key) for table in (sail, jvm))
    if left.schema != right.schema:
        return f"columns differ: sail {dict(left.schema)}, jvm {dict(right.schema)}"
    if left.height != right.height:
        return f"sail wrote {left.height:,} rows, jvm {right.height:,}"
    for a, b in zip(left.iter_rows(named=True), right.iter_rows(named=True), strict=True):
        # By what they show, so that NaN is the same as NaN, and 0.0 another than -0.0.
        if cells := [f"{name}: sail {a[name]!r}, jvm {b[name]!r}" for name in a if repr(a[name]) != repr(b[name])]:
            row = f"row {key}={a[key]!r}: " if key and key in a else ""
            return row + "; ".join(cells[:5])
    return "the digests differ, and every cell is the same"
