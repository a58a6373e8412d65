"""Options that several commands share."""

from __future__ import annotations

import click

profile_option = click.option(
    "--profile", default="local", show_default=True, metavar="NAME", help="Profile to use: conf/NAME.yaml."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key of the configuration."
)
