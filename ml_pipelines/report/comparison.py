"""Compares two pipeline runs: settings, data, code, libraries and metrics (`ml-pipelines compare`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_pipelines.planning.fingerprint import differs, readable
from ml_pipelines.planning.resuming import settings_of
from ml_pipelines.report import changes
from ml_pipelines.report.contents import Change, Metric, Report
from ml_pipelines.report.gather import gather
from ml_pipelines.report.run_reader import RunReader
from ml_pipelines.tracking import lineage

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class Comparison:
    """What differs between two pipeline runs, and the metrics of both."""

    reports: tuple[Report, Report]
    settings: list[Change]  # keys of the configuration
    results: list[Change]  # what the steps' results depend on besides the settings: data, code, libraries
    metrics: list[tuple[str, Metric | None, Metric | None]]


def compare(reader: RunReader, before: Run, now: Run) -> Comparison:
    """Return what differs between two pipeline runs.

    Raises:
        ConfigError: one of the runs is not a pipeline run.
    """
    parents = (before, now)
    reports = gather(reader, before), gather(reader, now)
    old, new = (settings_of(reader.json(run, "config.json") or {}) for run in parents)
    settings = [Change(key, *readable(old, new, key, absent="-")) for key in {**old, **new} if differs(old, new, key)]
    first, second = (_origins(reader, parent) for parent in parents)
    common = first.keys() & second.keys()
    known, params = {**old, **new}, tuple(f"{step}." for step in common)  # parts of fingerprints that are settings too
    found = changes.changes(reader, first, second, common)
    results = [
        change for change in found if change.what not in known and not change.what.startswith((*params, "module "))
    ]
    was, is_now = (_metrics(report, parent) for report, parent in zip(reports, parents, strict=True))
    metrics = [(name, was.get(name), is_now.get(name)) for name in dict.fromkeys([*was, *is_now])]
    return Comparison(reports, settings, results, metrics)


def _origins(reader: RunReader, parent: Run) -> Mapping[str, Run]:
    """Return a dict: step -> the run that computed the step's result in a pipeline run."""
    runs = lineage.producers_of(reader.store, str(parent.info.run_id)).values()
    return {run.data.tags["step"]: reader.origin(run) for run in runs}


def _metrics(report: Report, parent: Run) -> dict[str, Metric]:
    """Return name -> metric: those of the report, or else the headline metrics of the pipeline run."""
    metrics = report.metrics or [Metric(name, value) for name, value in parent.data.metrics.items()]
    return {metric.name: metric for metric in metrics}
