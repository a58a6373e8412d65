"""Commands for the configuration and the files that depend on it."""

from __future__ import annotations

import sys

import click

from ml_pipelines.cli.options import profile_option, set_option
from ml_pipelines.config import loading
from ml_pipelines.config.overrides import split_overrides
from ml_pipelines.system.terminal import complain, say


@click.command("config")
@profile_option
@set_option
def show_config(profile: str, overrides: tuple[str, ...]) -> None:
    """Print the checked configuration of a profile as YAML."""
    from omegaconf import OmegaConf

    loading.load(profile, overrides)
    assignments = [part for text in overrides for part in split_overrides(text)]
    say(OmegaConf.to_yaml(loading.merged_layers(profile, assignments), resolve=False).rstrip())


@click.command("sync")
@click.option(
    "--check", is_flag=True, help="Change no file. List the lines that would change. If there are any, exit with 1."
)
def sync_files(check: bool) -> None:
    """Update MLproject, the bundle, pinned package versions and conf/schema.json, and check the bundle's job."""
    from ml_pipelines.backends import catalog
    from ml_pipelines.bundle import rules, sync

    changes = sync.sync(catalog.entry_points(), check=check)
    for change in changes:
        say(change)
    if check and changes:
        complain("These files are out of date. Run `make sync` and review the changes.")
    problems = rules.job_problems()
    for problem in problems:
        complain(problem)
    if problems or (check and changes):
        sys.exit(1)
