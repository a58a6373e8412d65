"""Removes old tables that no kept run needs. A table is never removed only because it is old."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_pipelines.config.schema import Config
from ml_pipelines.data import locations
from ml_pipelines.errors import ConfigError, message_of
from ml_pipelines.system import events, folders
from ml_pipelines.text import quoted
from ml_pipelines.tracking import lineage, records
from ml_pipelines.tracking.store import Store, parent_of

if TYPE_CHECKING:
    from mlflow.entities import Run

UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True)
class Leftover:
    """A folder with the tables of one step run, which no kept run needs."""

    folder: Path
    prefix: Path  # the root folder of all tables; `folder` is below it
    identity: folders.Identity
    size: int  # bytes


def age_in_seconds(text: str) -> float:
    """Return an age like 30d, 12h or 45m in seconds.

    Raises:
        ConfigError: the text is not an age.
    """
    if not (match := re.fullmatch(r"(\d+)([mhd])", text)):
        raise ConfigError(f"--older-than: {quoted(text)} is not an age. Write for example 30d, 12h or 45m.")
    return float(match[1]) * UNITS_S[match[2]]


def check_local(config: Config) -> None:
    """Check that the tables are in a local folder.

    Raises:
        ConfigError: the tables are in an object store.
    """
    if "://" in config.data.delta_prefix.local:
        raise ConfigError(
            f"data.delta_prefix.local: clean removes only local tables, and {config.data.delta_prefix.local} is in an "
            "object store. Remove folders of old pipeline runs with the store's own tools, or choose another profile."
        )


def leftovers(store: Store, config: Config, older_than_s: float, keep: int) -> list[Leftover]:
    """Return the tables that can be removed: their pipeline run is not kept, and no kept run names them.

    A pipeline run is kept if it is among the newest `keep`, younger than `older_than_s`, still running, or the origin
    of a registered model. Tables of runs that this store does not know are not returned: another store can need them.
    """
    experiment = store.find_experiment(config.experiment_name)
    if experiment:
        store.reap(experiment)
    groups = _groups(store)
    # The keys of `groups` can't be used for this: a key is a parent id from a tag, and can belong to another store.
    known = {run.info.run_id for runs in groups.values() for run in runs}
    prefix = Path(locations.absolute_prefix(config.data.delta_prefix.local))
    tables = locations.table_path(str(prefix), [config.env_name, config.experiment_name], "s", "r", "d")
    step_folders = [pair for pair in _step_folders(prefix, Path(tables).parents[1]) if pair[0] in known]
    # `here` includes the pipeline runs of a plain `mlflow run`: their tables are in `prefix`, but they are runs of
    # experiment 0.
    here = {root for root, _ in step_folders}
    kept_roots = _kept_roots(store, groups, experiment, here, time.time() - older_than_s, keep)
    kept_runs = [run for root in kept_roots for run in (*groups[root], *_kept_steps(groups, root))]
    needed = _with_parents(uri for run in kept_runs for uri in _named_uris(run))
    found = []
    for root, folder in step_folders:
        if root not in kept_roots and locations.canonical(str(folder)) not in needed:
            with suppress(FileNotFoundError):  # another command has removed the folder meanwhile
                found.append(Leftover(folder, prefix, folders.identity(folder), folders.size(folder)))
    return found


def remove_leftover(leftover: Leftover) -> None:
    """Remove the folder of the step run. If the folder of its pipeline run is empty then, remove that folder too.

    Raises:
        OSError: a file can't be removed, or the folder is not the one that was found before.
    """
    folders.remove_below(leftover.prefix, leftover.folder, leftover.identity)
    folders.remove_if_empty(leftover.prefix, leftover.folder.parent)


def _groups(store: Store) -> dict[str, list[Run]]:
    """Return a dict: id of a pipeline run -> that run and its step runs. Deleted runs are included."""
    from mlflow.entities import ViewType

    experiments = [experiment.experiment_id for experiment in store.client.search_experiments(ViewType.ALL)]
    groups: dict[str, list[Run]] = {}
    token = None
    while True:
        page = store.client.search_runs(experiments, "", ViewType.ALL, max_results=1_000, page_token=token)
        for run in page:
            groups.setdefault(parent_of(run) or run.info.run_id, []).append(run)
        if not (token := page.token):
            return groups


def _kept_roots(
    store: Store, groups: dict[str, list[Run]], experiment: str | None, here: set[str], before_s: float, keep: int
) -> set[str]:
    """Return the ids of the pipeline runs to keep: the newest `keep`, and all that are young, running or registered.

    The newest are chosen from the pipeline runs of the experiment and those in `here`, whose tables are on disk.
    """
    registered = {version.run_id for version in store.client.search_model_versions()}

    def is_candidate(run: Run, root: str) -> bool:
        mine = root in here or str(run.info.experiment_id) == experiment
        return str(run.info.run_id) == root and mine and run.info.lifecycle_stage == "active"

    active = [root for root, runs in groups.items() if any(is_candidate(run, root) for run in runs)]
    newest = sorted(active, key=lambda root: -max(run.info.start_time for run in groups[root]))[:keep]

    def stays(root: str) -> bool:
        runs = [run for run in groups[root] if run.info.lifecycle_stage == "active"]
        return any(
            run.info.status in ("RUNNING", "SCHEDULED")
            or run.info.start_time >= before_s * 1_000
            or run.info.run_id in registered
            or run.data.tags.get("reused_from") in registered
            for run in runs
        )

    return {*newest, *(root for root in groups if stays(root))}


def _named_uris(run: Run) -> Iterator[str]:
    """Yield every text of a run that can be the URI of a table: its outputs, params and inputs."""
    yield from (*lineage.outputs(run).values(), *run.data.params.values(), *lineage.input_uris(run))


def _with_parents(uris: Iterable[str]) -> set[str]:
    """Return the paths in `uris`, resolved, and all folders above them."""
    found = {locations.canonical(uri) for uri in set(uris) if "/" in uri and not uri.startswith("[")}
    return found | {str(parent) for path in found if "://" not in path for parent in Path(path).parents}


def _kept_steps(groups: dict[str, list[Run]], root: str) -> Iterator[Run]:
    """Yield the step runs that the pipeline run `root` kept from earlier pipeline runs when it was resumed."""
    ids = {step for run in groups[root] for step in records.steps_in(run, records.KEPT).values()}
    yield from (run for runs in groups.values() for run in runs if run.info.run_id in ids)


def _step_folders(prefix: Path, base: Path) -> Iterator[tuple[str, Path]]:
    """Yield (id of a pipeline run, folder of one of its step runs) from `base`, the folder of an experiment's tables.

    Symbolic links are not followed, so that tables outside of `prefix` are never removed.
    """
    for folder in (base, *base.parents):
        if folder == prefix:
            break
        if folder.is_symlink():
            events.report(events.Notice(f"{folder} is a link: the tables in it stay."))
            return
    for pipeline in sorted(base.glob("pipeline_run_*")):
        if pipeline.is_symlink():
            continue
        try:
            with os.scandir(pipeline) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):  # another command has removed the folder, or it is a file
            continue
        except OSError as error:
            events.report(events.Notice(f"{pipeline} can't be read, so it stays: {message_of(error)}"))
            continue
        yield from ((pipeline.name.removeprefix("pipeline_run_"), pipeline / name) for name in names)
