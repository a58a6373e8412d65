"""Commands for the MLflow store."""

from __future__ import annotations

import click

from ml_pipelines.system.terminal import say


@click.command("relocate")
@click.option("--dry-run", is_flag=True, help="Only show how many paths would change.")
def relocate_store(dry_run: bool) -> None:
    """Correct the paths in the local store after the project was moved, renamed or copied."""
    from ml_pipelines.tracking import relocation

    done = relocation.relocate(dry_run)
    if not done.old:
        say(f"Nothing to do: all paths in {done.database} lead to this project.")
        return
    for folder in done.old:
        say(f"{folder} -> {done.new}")
    for (table, column), count in done.changed.items():
        say(f"{count:6,}  {table}.{column}")
    say(
        f"{done.changed.total():6,}  paths would change in {done.database}: leave out --dry-run."
        if dry_run
        else f"{done.changed.total():6,}  paths changed in {done.database}. The store as it was: {done.copy}"
    )
