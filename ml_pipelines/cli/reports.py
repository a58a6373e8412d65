"""Commands for the report of a pipeline run."""

from __future__ import annotations

import webbrowser

import click

from ml_pipelines.cli.options import profile_option
from ml_pipelines.config import loading
from ml_pipelines.system.terminal import say


@click.command("report")
@click.argument("run", required=False)
@profile_option
@click.option("--open", "show", is_flag=True, help="Open the report in the browser.")
def make_report(run: str | None, profile: str, show: bool) -> None:
    """Create a report again: of pipeline run RUN, or of the newest pipeline run."""
    from ml_pipelines.backends import catalog
    from ml_pipelines.report import publishing
    from ml_pipelines.tracking import opening

    config = loading.load(profile)
    backend = catalog.choose(config.backend)
    store = opening.open_store(config, may_migrate=False)
    path = publishing.publish_again(store, config, run, backend.page_address)
    say(str(path))
    if show:
        webbrowser.open(path.as_uri())
