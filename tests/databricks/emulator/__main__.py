"""`make workspace` runs this: an emulated workspace that a person can use until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

import click

from emulator import Workspace
from emulator.faults import KINDS


@click.command()
@click.option("--port", default=0, help="Port of the workspace; 0: any free port.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND[:WHERE[:TIMES]]",
    help=f"Inject a fault. KIND is one of {', '.join(KINDS)}.",
)
def main(port: int, faults: tuple[str, ...]) -> None:
    """Start an emulated Databricks workspace and print the variables to export. Ctrl-C stops and removes it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores SIGINT for a process started with `&`
    try:
        with tempfile.TemporaryDirectory(prefix="workspace-") as folder, Workspace(Path(folder), port) as workspace:
            for fault in faults:
                workspace.faults.parse(fault)
            click.echo("\n".join(f"export {name}={value}" for name, value in workspace.env.items()))
            click.echo(f"\n# MLflow's pages: {workspace.tracking.address}   job runs: {workspace.page(0)[:-2]}")
            click.echo(f"# storage: {workspace.files.folder}   Ctrl-C stops the workspace and removes its files")
            signal.pause()
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="workspace")
