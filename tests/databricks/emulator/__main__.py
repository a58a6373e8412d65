"""`make workspace`: an emulated workspace for a person, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

import click

from emulator import Workspace
from emulator.faults import KINDS


@click.command()
@click.option("--port", default=0, help="The workspace's port; 0: any that is free.")
@click.option("--fault", "faults", multiple=True, metavar="KIND[:WHERE[:TIMES]]", help=f"KIND: {', '.join(KINDS)}.")
def main(port: int, faults: tuple[str, ...]) -> None:
    """Start an emulated Databricks workspace and print what to export; Ctrl-C stops it and leaves nothing."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` would have it ignored
    try:
        with tempfile.TemporaryDirectory(prefix="workspace-") as folder, Workspace(Path(folder), port) as workspace:
            for fault in faults:
                workspace.faults.parse(fault)
            click.echo("\n".join(f"export {name}={value}" for name, value in workspace.env.items()))
            click.echo(f"\n# MLflow's pages: {workspace.tracking.address}   job runs: {workspace.page(0)[:-2]}")
            click.echo(f"# storage: {workspace.files.folder}   Ctrl-C stops it and leaves nothing")
            signal.pause()
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="workspace")
