"""Commands for data: propose a contract, compare engines, delete old tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ml_pipelines.cli.options import profile_option, set_option
from ml_pipelines.config import loading
from ml_pipelines.errors import ConfigError, StepFailed, message_of
from ml_pipelines.system.terminal import complain, say

if TYPE_CHECKING:
    from ml_pipelines.config.schema import Config

NOTE = """\
# Proposed from pipeline run {run}: {train:,} train and {test:,} test rows. Review this draft: the rows are a sample.
# Ranges are a tenth wider than the values on each side. Categories are the values that occur.
# Columns that have missing values now are nullable."""


@click.command("contract")
@click.argument("run", required=False)
@profile_option
@set_option
def propose_contract(run: str | None, profile: str, overrides: tuple[str, ...]) -> None:
    """Propose a data contract from the tables of pipeline run RUN, or of the latest pipeline run."""
    say(_contract_of_run(loading.load(profile, overrides), run))


def _contract_of_run(config: Config, run: str | None) -> str:
    """Return a contract for the tables of a pipeline run (None: the latest), as YAML to paste into a profile.

    Raises:
        ConfigError: the run doesn't exist, or has no tables.
        BadData: the run's tables are damaged, or are not on this machine.
    """
    import polars as pl

    from ml_pipelines.data import columns, contract_proposal, tables
    from ml_pipelines.tracking import lineage, opening

    store = opening.open_store(config, may_migrate=False)
    names = ("train_uri", "test_uri")
    run = lineage.choose_pipeline_run(store, run, set(names), config.experiment_name, config.profile)
    producers = lineage.producers_of(store, run)
    if not producers.keys() >= set(names):
        raise ConfigError(f"Pipeline run {run} has no tables: its prepare_data didn't finish. Choose another run.")
    written = [table for name in names if (table := lineage.table_of(producers[name], name))]
    label, key = columns.standard_name(config.data.label), config.data.key and columns.standard_name(config.data.key)
    train, test = (tables.read_table(table, None, key) for table in written)
    proposed = contract_proposal.propose(pl.concat([train, test], how="vertical_relaxed"), label, key)
    note = NOTE.format(run=run[:8], train=train.height, test=test.height)
    return f"{note}\n{contract_proposal.contract_yaml(proposed)}"


@click.command("parity")
@profile_option
@set_option
@click.option("--rows", default=10_000, show_default=True, help="Compare the first N rows of a file source.")
def check_parity(profile: str, overrides: tuple[str, ...], rows: int) -> None:
    """Run prepare_data on Sail and on the JVM, and compare the tables."""
    from ml_pipelines.running import parity

    differences = parity.compare_engines(profile, list(overrides), rows)
    for line in differences:
        complain(line)
    if differences:
        sys.exit(1)


@click.command("clean")
@profile_option
@set_option
@click.option(
    "--older-than", default="30d", show_default=True, metavar="AGE", help="Minimum age of a run: 30d, 12h or 45m."
)
@click.option(
    "--keep", default=5, show_default=True, type=click.IntRange(min=0), help="Number of newest pipeline runs to keep."
)
@click.option("--delete", is_flag=True, help="Delete the tables. Without it, they are only listed.")
def clean_tables(profile: str, overrides: tuple[str, ...], older_than: str, keep: int, delete: bool) -> None:
    """List or delete the tables of old pipeline runs. Tables that other runs still need are kept."""
    from ml_pipelines.tracking import cleaning, opening

    config, seconds = loading.load(profile, overrides), cleaning.age_in_seconds(older_than)
    cleaning.check_local(config)
    store = opening.open_store(config, may_migrate=False)
    leftovers = cleaning.leftovers(store, config, seconds, keep)
    removed, failed = [], 0
    for leftover in leftovers:
        say(f"{leftover.size / 1e6:10,.1f} MB  {leftover.folder}")
        try:
            if delete:
                cleaning.remove_leftover(leftover)
            removed.append(leftover.size)
        except OSError as error:
            complain(f"{leftover.folder} can't be deleted: {message_of(error)}")
            failed += 1
    total = f"{sum(removed) / 1e6:,.1f} MB in {len(removed)} folders"
    say(f"{total} deleted." if delete else f"{total} can be deleted: add --delete.")
    if failed:
        raise StepFailed(f"{failed} of {len(leftovers)} folders can't be deleted: see the lines above.")
