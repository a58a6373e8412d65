"""The differences between a pipeline run and the pipeline run that trained the champion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_pipelines.data.tables import Table
from ml_pipelines.errors import ConfigError
from ml_pipelines.planning.fingerprint import differs, readable
from ml_pipelines.report.contents import Change
from ml_pipelines.report.render import format_number
from ml_pipelines.report.run_reader import RunReader
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import Store, parent_of

if TYPE_CHECKING:
    from mlflow.entities import Run


def champion_runs(store: Store, qa: Mapping[str, Any]) -> dict[str, Run]:
    """Return a dict: step -> its run in the pipeline run that trained the champion.

    The dict is empty if there is no champion, or if the store has lost these runs.
    """
    try:
        train = store.get_run((qa.get("champion") or {})["run_id"])
        parent = parent_of(train)
        step_runs = lineage.producers_of(store, parent).values() if parent else []
    except (KeyError, ConfigError):
        return {}
    return {run.data.tags["step"]: run for run in step_runs} | {"train": train}


def changes(reader: RunReader, before: Mapping[str, Run], now: Mapping[str, Run], steps: Iterable[str]) -> list[Change]:
    """Return the changes in params, tables, settings, code and libraries that the model depends on.

    Args:
        reader: reads the runs' artifacts.
        before: step -> run of the champion's pipeline run.
        now: step -> run of this pipeline run.
        steps: the steps that the model depends on.
    """
    common = sorted(step for step in steps if step in before and step in now)
    (old, old_code), (new, new_code) = (_dependencies(reader, runs, common) for runs in (before, now))
    changes = [
        Change(what, *readable(old, new, what, absent="-")) for what in {**new, **old} if differs(old, new, what)
    ]
    if modules := [name for name in {**new_code, **old_code} if old_code.get(name) != new_code.get(name)]:
        changes.append(Change("code", "", ", ".join(modules)))
    return changes


def _dependencies(
    reader: RunReader, runs: Mapping[str, Run], steps: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the steps' dependencies as name -> value, and their code as module -> digest."""
    values: dict[str, Any] = {}
    code: dict[str, str] = {}
    for step in steps:
        for part, value in (reader.json(reader.origin(runs[step]), lineage.PARTS) or {}).items():
            kind, _, name = part.partition(" ")
            if kind == "code":
                code[name] = value
            elif kind in ("source", "external"):
                values[part] = re.sub(r"([0-9a-f]{8})[0-9a-f]{56}", r"content \1", value)
            elif kind != "input":  # input tables are added below; all other inputs result from the other parts
                values[f"{step}.{name}" if kind == "param" else part] = value
    for name, table in written_tables(runs[step] for step in steps).items():
        values[name.removesuffix("_uri")] = f"{format_number(table.rows)} rows, content {(table.digest or '')[:8]}"
    return values, code


def written_tables(runs: Iterable[Run]) -> dict[str, Table]:
    """Return a dict: output -> table, for the tables that the runs wrote."""
    outputs = ((name, lineage.table_of(run, name)) for run in runs for name in lineage.outputs(run))
    return {name: table for name, table in outputs if table}
