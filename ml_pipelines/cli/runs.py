"""Commands that show pipeline runs: the latest ones, one of them, two of them side by side, the log of a step."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from ml_pipelines.cli import tables
from ml_pipelines.cli.options import profile_option
from ml_pipelines.config import loading
from ml_pipelines.errors import ConfigError
from ml_pipelines.system.terminal import say
from ml_pipelines.text import did_you_mean, escaped, listed, shown

if TYPE_CHECKING:
    from mlflow.entities import Run

    from ml_pipelines.config.schema import Config
    from ml_pipelines.report.contents import Metric, StepView
    from ml_pipelines.report.run_reader import RunReader

LATEST = 15  # the number of pipeline runs that `runs` lists


@click.command("runs")
@profile_option
def list_runs(profile: str) -> None:
    """List the latest pipeline runs of the profile."""
    config = loading.load(profile)
    reader = _reader(config)
    from ml_pipelines.report import history

    rows = [("run", "pipeline", "started (UTC)", "result", "time", "reused", "headline")]
    for run in history.latest_runs(reader.store, config, LATEST):
        started = datetime.fromtimestamp(run.start_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        headline = f"{run.headline[0]} {_number(run.headline[1])}" if run.headline else "-"
        reused = f"{run.reused} of {run.steps}"
        rows.append((run.run_id[:8], run.pipeline, started, run.result, f"{run.seconds:.1f} s", reused, headline))
    if len(rows) == 1:
        raise ConfigError(
            f"Experiment {config.experiment_name} has no pipeline run of profile {profile}. Run driver.py first."
        )
    _say_table(rows)


@click.command("show")
@click.argument("run", required=False)
@profile_option
def show_run(run: str | None, profile: str) -> None:
    """Show pipeline run RUN, or the latest one: its steps, its metrics, and where its report is."""
    config = loading.load(profile)
    reader = _reader(config)
    from ml_pipelines.report.gather import gather

    parent = _find(reader, config, run)
    report = gather(reader, parent)
    say(f"{parent.info.run_name} {report.run.run_id}")
    _say_table([(f"{report.verdict.word}: {report.verdict.sentence}",)])
    say()
    _say_table([_step_row(step) for step in report.steps], indent="  ")
    if report.metrics:
        say()
        rows = [("metric", "training", "champion", "test (interval)")]
        rows += [(m.name, _number(m.training), _number(m.champion), _with_interval(m)) for m in report.metrics]
        _say_table(rows)
    say()
    more = {"Report": _place_of_report(reader, parent), "MLflow": report.run.address}
    more |= {"Continue with": report.resume} if parent.info.status in ("FAILED", "KILLED") else {}
    _say_table([(name, value) for name, value in {**report.facts, **more}.items() if value])


@click.command("compare")
@click.argument("before")
@click.argument("now")
@profile_option
def compare_runs(before: str, now: str, profile: str) -> None:
    """Show what changed from pipeline run BEFORE to NOW: settings, data, code and libraries; and both runs' metrics."""
    config = loading.load(profile)
    reader = _reader(config)
    from ml_pipelines.report import comparison

    runs = [_find(reader, config, run) for run in (before, now)]
    compared = comparison.compare(reader, *runs)
    head = tuple(str(run.info.run_id)[:8] for run in runs)
    results = tuple(report.verdict.word for report in compared.reports)
    changes = [("result", " -> ".join(results)) for _ in range(results[0] != results[1])]
    changes += [
        (change.what, f"{change.before} -> {change.now}" if change.before else change.now)
        for change in (*compared.settings, *compared.results)
    ]
    _say_table([("changed", " -> ".join(head)), *(changes or [("nothing", "")])])
    if compared.metrics:
        say()
        rows = [(name, *(_with_interval(metric) for metric in pair)) for name, *pair in compared.metrics]
        _say_table([("metric (interval)", *head), *rows])


@click.command("logs")
@click.argument("run")
@click.argument("step")
@profile_option
def print_log(run: str, step: str, profile: str) -> None:
    """Print the log of step STEP of pipeline run RUN. The log has the traceback if the step failed."""
    config = loading.load(profile)
    reader = _reader(config)
    parent = _find(reader, config, run)
    steps = {child.data.tags["step"]: child for child in reader.store.children(str(parent.info.run_id))}
    if step not in steps:
        raise ConfigError(
            f"Pipeline run {parent.info.run_id} ran no step {shown(step)}.{did_you_mean(step, steps)} "
            f"It ran: {listed(steps) or 'none'}."
        )
    origin = reader.origin(steps[step])
    log = reader.text(origin, f"{step}.log")
    if log is None:
        raise ConfigError(f"Run {origin.info.run_id} of step {step} has no log: it is still running, or was killed.")
    say(log.rstrip())


def _reader(config: Config) -> RunReader:
    """Open the store of the configuration. This imports MLflow."""
    from ml_pipelines.backends import catalog
    from ml_pipelines.report.run_reader import RunReader
    from ml_pipelines.tracking import opening

    page_address = catalog.choose(config.backend).page_address
    return RunReader(opening.open_store(config, may_migrate=False), page_address)


def _find(reader: RunReader, config: Config, run: str | None) -> Run:
    from ml_pipelines.tracking import lineage

    found = lineage.choose_pipeline_run(reader.store, run, set(), config.experiment_name, config.profile)
    return reader.store.get_run(found)


def _step_row(step: StepView) -> tuple[str, str, str]:
    seconds = "" if step.seconds is None else f"{step.seconds:.1f} s"
    why = {"done": "", "failed": "", "left": step.why, "kept": step.why}.get(step.state, f"{step.state} ({step.why})")
    return f"{step.mark} {step.step_name}", seconds, " · ".join(filter(None, [why.removesuffix(" ()"), step.message]))


def _place_of_report(reader: RunReader, parent: Run) -> str:
    """Return the path of the report, or the command that makes it if the pipeline run has none on this machine."""
    from ml_pipelines.report.run_reader import artifact_folder
    from ml_pipelines.tracking.records import REPORT

    folder, name = artifact_folder(parent), parent.data.tags.get(REPORT, "")
    if folder and name and (folder / name).is_file():
        return str(folder / name)
    return f"ml-pipelines report {str(parent.info.run_id)[:8]}"


def _with_interval(metric: Metric | None) -> str:
    if metric is None:
        return "-"
    interval = "" if metric.low is None else f" ({_number(metric.low)} to {_number(metric.high)})"
    return f"{_number(metric.value)}{interval}"


def _number(value: float | None) -> str:
    """Return a number for a person. MLflow stores counts as floats; they have no decimals here."""
    from ml_pipelines.report.render import format_number

    is_count = value is not None and value > 1 and value.is_integer()
    return format_number(int(value) if is_count and value else value)


def _say_table(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    cells = [[escaped(cell) for cell in row] for row in rows]
    for line in tables.lines_of(cells, tables.terminal_width(), indent):
        say(line)
