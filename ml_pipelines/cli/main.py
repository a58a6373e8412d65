"""The console script `ml-pipelines` and its commands. None of them runs the pipeline: driver.py does that."""

from __future__ import annotations

import sys

import click

from ml_pipelines.cli import configuration, data, models, reports, runs, stores
from ml_pipelines.system import environment, imports
from ml_pipelines.tracking import ending


@click.group()
def commands() -> None:
    """Manage the pipeline's configuration, data, models, runs and reports."""


for command in (
    configuration.show_config,
    configuration.sync_files,
    data.propose_contract,
    data.check_parity,
    data.clean_tables,
    models.promote_version,
    models.roll_back,
    reports.make_report,
    runs.list_runs,
    runs.show_run,
    runs.compare_runs,
    runs.print_log,
    stores.relocate_store,
):
    commands.add_command(command)


def main() -> None:
    """Run a command. An error becomes one line on standard error, and an exit code."""
    imports.put_project_first()
    try:
        environment.prepare()
        commands(prog_name="ml-pipelines")
    except Exception as error:
        sys.exit(ending.end_with(error))
