"""Remove old tables that no run needs. The runs in the store decide, never the age of a table alone."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_pipelines.config.schema import Config
from ml_pipelines.data import locations
from ml_pipelines.errors import ConfigError
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import Store, parent_of

if TYPE_CHECKING:
    from mlflow.entities import Run

UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True)
class Leftover:
    """A folder with the tables of one step run, which no kept run needs."""

    folder: Path
    pipeline_run: str
    size: int  # bytes


def age_in_seconds(text: str) -> float:
    """Return an age like 30d, 12h or 45m in seconds.

    Raises:
        ConfigError: the text is not an age.
    """
    if not (match := re.fullmatch(r"(\d+)([mhd])", text)):
        raise ConfigError(f"--older-than: {text!r} is not an age. Write for example 30d, 12h or 45m.")
    return float(match[1]) * UNITS_S[match[2]]


def check_local(config: Config) -> None:
    """Check that the tables are in a local folder.

    Raises:
        ConfigError: they are in an object store.
    """
    if "://" in config.data.delta_prefix.local:
        raise ConfigError("data.delta_prefix.local: only a local folder can be cleaned. Choose a profile that has one.")


def leftovers(store: Store, config: Config, older_than_s: float, keep: int) -> list[Leftover]:
    """Return the tables that may be removed: their pipeline run is not kept, and no kept run names them.

    A pipeline run is kept if it is among the newest `keep`, younger than `older_than_s`, still running, or the origin
    of a registered model. Folders of runs that this store does not know stay: they may belong to another store.
    """
    experiment = store.experiment_id(config.experiment_name)
    store.reap(experiment)
    groups = _groups(store)
    kept_roots = _kept_roots(store, groups, experiment, time.time() - older_than_s, keep)
    kept_runs = [run for root in kept_roots for run in (*groups[root], *_kept_steps(groups, root))]
    needed = _with_parents(uri for run in kept_runs for uri in _named_uris(run))
    base = Path(
        locations.table_path(config.data.delta_prefix.local, [config.env_name, config.experiment_name], "s", "r", "d")
    )
    return [
        Leftover(folder, root, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
        for root, folder in _folders(base.parents[1])
        if root in groups and root not in kept_roots and locations.canonical(str(folder)) not in needed
    ]


def remove_leftovers(leftovers: list[Leftover]) -> None:
    """Remove the folders, and the folders of pipeline runs that are empty after that."""
    for leftover in leftovers:
        shutil.rmtree(leftover.folder)
        if not any(leftover.folder.parent.iterdir()):
            leftover.folder.parent.rmdir()


def _groups(store: Store) -> dict[str, list[Run]]:
    """Return pipeline run -> that run and its children, for every run of the store, even deleted ones."""
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


def _kept_roots(store: Store, groups: dict[str, list[Run]], experiment: str, before_s: float, keep: int) -> set[str]:
    registered = {version.run_id for version in store.client.search_model_versions()}
    active = [root for root, runs in groups.items() if any(_is(run, root) and _active(run, experiment) for run in runs)]
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


def _is(run: Run, run_id: str) -> bool:
    return str(run.info.run_id) == run_id


def _active(run: Run, experiment: str) -> bool:
    return run.info.lifecycle_stage == "active" and str(run.info.experiment_id) == experiment


def _named_uris(run: Run) -> Iterator[str]:
    """Yield the outputs, params and inputs of a run. The URIs of tables are among them."""
    yield from (*lineage.outputs(run).values(), *run.data.params.values(), *lineage.input_uris(run))


def _with_parents(uris: Iterable[str]) -> set[str]:
    """Return the paths among `uris` and the folders above them, resolved."""
    found = {locations.canonical(uri) for uri in set(uris) if "/" in uri and not uri.startswith("[")}
    return found | {str(parent) for path in found if "://" not in path for parent in Path(path).parents}


def _kept_steps(groups: dict[str, list[Run]], root: str) -> Iterator[Run]:
    """Yield the step runs of earlier pipeline runs that a resumed pipeline run keeps."""
    ids = {step for run in groups[root] for step in lineage.kept_steps(run)}
    yield from (run for runs in groups.values() for run in runs if run.info.run_id in ids)


def _folders(base: Path) -> Iterator[tuple[str, Path]]:
    """Yield (pipeline run, folder of a step run) from the tables of an experiment. Links are not followed."""
    for pipeline in sorted(base.glob("pipeline_run_*")):
        if pipeline.is_dir() and not pipeline.is_symlink():
            with os.scandir(pipeline) as entries:
                folders = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
            yield from ((pipeline.name.removeprefix("pipeline_run_"), Path(path)) for path in folders)
