"""The console script `ml-pipelines`: everything beside running the pipeline, which is driver.py's."""

from __future__ import annotations

import sys

import click

from ml_pipelines import config
from ml_pipelines.errors import PipelineError, one_line
from ml_pipelines.terminal import complain, say

profile_option = click.option("--profile", default="local", show_default=True, help="A file of conf/, without .yaml.")
set_option = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key.")


@click.group()
def commands() -> None:
    """Look after the pipeline: its configuration, the files kept in step with it, its engines."""


@commands.command("config")
@profile_option
@set_option
def show_config(profile: str, overrides: tuple[str, ...]) -> None:
    """Print the configuration of a profile, merged and checked, as YAML."""
    from omegaconf import OmegaConf

    config.load(profile, overrides)
    assignments = [part for text in overrides for part in config.split_overrides(text)]
    say(OmegaConf.to_yaml(config.raw(profile, assignments), resolve=False).rstrip())


@commands.command()
@click.option("--check", is_flag=True, help="Change nothing; say what is out of step, and exit 1.")
def sync(check: bool) -> None:
    """Bring MLproject, the bundle and the pins in step with conf/ and requirements.lock; check the bundle's job."""
    from ml_pipelines import bundle
    from ml_pipelines import sync as syncing

    changes = syncing.sync(check=check)
    for change in changes:
        say(change)
    if check and changes:
        complain("Run `make sync` and look at what it changed.")
    problems = bundle.problems()
    for problem in problems:
        complain(problem)
    if problems or (check and changes):
        sys.exit(1)


@commands.command()
@profile_option
@set_option
@click.option("--rows", default=10_000, show_default=True, help="Of a file source, so many rows from its beginning.")
def parity(profile: str, overrides: tuple[str, ...], rows: int) -> None:
    """Run prepare_data on Sail and on the JVM, and compare what they write."""
    from ml_pipelines import parity as comparing

    differences = comparing.compare(profile, list(overrides), rows)
    for line in differences:
        complain(line)
    if differences:
        sys.exit(1)


@commands.command("contract")
@click.argument("run", required=False)
@profile_option
@set_option
def propose_contract(run: str | None, profile: str, overrides: tuple[str, ...]) -> None:
    """Propose a data contract from the tables of a pipeline run: the latest, or RUN."""
    from ml_pipelines import proposal

    say(proposal.of_run(config.load(profile, overrides), run))


@commands.command()
@profile_option
@set_option
@click.option("--older-than", default="30d", show_default=True, metavar="AGE", help="30d, 12h or 45m.")
@click.option("--keep", default=5, show_default=True, type=click.IntRange(min=0), help="So many newest pipeline runs.")
@click.option("--delete", is_flag=True, help="Remove what is shown. Without it nothing is.")
def clean(profile: str, overrides: tuple[str, ...], older_than: str, keep: int, delete: bool) -> None:
    """Show, or remove, tables of old pipeline runs that no kept run needs."""
    from ml_pipelines import cleaning

    found = cleaning.leftovers(config.load(profile, overrides), cleaning.seconds(older_than), keep)
    for leftover in found:
        say(f"{leftover.size / 1e6:10,.1f} MB  {leftover.folder}")
    if delete:
        cleaning.remove(found)
    total = f"{sum(leftover.size for leftover in found) / 1e6:,.1f} MB in {len(found)} folders"
    say(f"{total} removed." if delete else f"{total} could go. Nothing was removed: add --delete.")


reason_option = click.option("--reason", required=True, help="Why: it becomes a tag of both versions.")


@commands.command()
@click.argument("version", type=int)
@reason_option
@profile_option
@set_option
def promote(version: int, reason: str, profile: str, overrides: tuple[str, ...]) -> None:
    """Make a registered version champion by hand."""
    from ml_pipelines import registry, tracking

    settings = config.load(profile, overrides)
    tracking.connect(settings)
    now, before = registry.promote(settings, version, reason)
    say(f"Champion of {now.name} is version {now.version}{f', was {before.version}' if before else ''}.")


@commands.command()
@reason_option
@profile_option
@set_option
def rollback(reason: str, profile: str, overrides: tuple[str, ...]) -> None:
    """Make the version champion again that was before the present one."""
    from ml_pipelines import registry, tracking

    settings = config.load(profile, overrides)
    tracking.connect(settings)
    now, before = registry.rollback(settings, reason)
    say(f"Champion of {now.name} is version {now.version}, was {before.version}.")


@commands.command()
@click.argument("run", required=False)
@profile_option
@click.option("--open", "show", is_flag=True, help="Show it in the browser.")
def report(run: str | None, profile: str, show: bool) -> None:
    """Make the report of a pipeline run again, the newest where no RUN is given."""
    import webbrowser

    from ml_pipelines import report as reporting

    path = reporting.again(config.load(profile), run)
    say(str(path))
    if show:
        webbrowser.open(path.as_uri())


def main() -> None:
    """Run a command; a PipelineError is one line and its exit code."""
    try:
        commands(prog_name="ml-pipelines")
    except PipelineError as error:
        complain(one_line(error))
        sys.exit(error.exit_code)
