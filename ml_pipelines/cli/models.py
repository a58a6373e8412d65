"""Commands for the registered model."""

from __future__ import annotations

import click

from ml_pipelines.cli.options import profile_option, set_option
from ml_pipelines.config import loading
from ml_pipelines.system.terminal import say

reason_option = click.option(
    "--reason", required=True, help="The reason. It becomes a tag of the old and the new champion."
)


@click.command("promote")
@click.argument("version", type=int)
@reason_option
@profile_option
@set_option
def promote_version(version: int, reason: str, profile: str, overrides: tuple[str, ...]) -> None:
    """Make a registered version the champion."""
    from ml_pipelines.models import registry
    from ml_pipelines.tracking import opening

    config = loading.load(profile, overrides)
    now, before = registry.promote(opening.open_store(config), config, version, reason)
    previous = f", previously {before.version}" if before else ""
    say(f"The champion of {now.name} is version {now.version}{previous}.")


@click.command("rollback")
@reason_option
@profile_option
@set_option
def roll_back(reason: str, profile: str, overrides: tuple[str, ...]) -> None:
    """Make the previous champion the champion again."""
    from ml_pipelines.models import registry
    from ml_pipelines.tracking import opening

    config = loading.load(profile, overrides)
    now, before = registry.rollback(opening.open_store(config), config, reason)
    say(f"The champion of {now.name} is version {now.version}, previously {before.version}.")
