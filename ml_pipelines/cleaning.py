"""Old tables that nobody needs: found by what the runs in the store name, never by their age alone."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_pipelines import lineage, paths, tracking
from ml_pipelines.config import Config
from ml_pipelines.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Run

UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True)
class Leftover:
    """A folder of tables of one step run, that no kept run needs."""

    folder: Path
    pipeline_run: str
    size: int


def seconds(text: str) -> float:
    """Return an age like 30d, 12h or 45m in seconds.

    Raises:
        ConfigError: it is none.
    """
    if not (found := re.fullmatch(r"(\d+)([mhd])", text)):
        raise ConfigError(f"--older-than: {text!r} is no age. Say for example 30d, 12h or 45m.")
    return float(found[1]) * UNITS_S[found[2]]


def leftovers(config: Config, older_than_s: float, keep: int) -> list[Leftover]:
    """Return what may go: tables of pipeline runs that are neither kept nor named by a kept run.

    Kept are the newest `keep`, all that are younger, all that are under way, and those of a registered model. Folders
    of runs that this store doesn't know are left alone: they may be another store's.
    """
    if "://" in config.data.delta_prefix.local:
        raise ConfigError("data.delta_prefix.local: only tables in a local folder can be cleaned up.")
    tracking.connect(config)
    experiment = tracking.experiment_id(config.experiment_name)
    tracking.reap(experiment)
    groups = _groups()
    kept = _kept(groups, experiment, time.time() - older_than_s, keep)
    needed = {text for root in kept for run in groups[root] for text in _named(run)}
    needed |= {text for root in kept for run in _carried(groups, root) for text in _named(run)}
    base = Path(
        paths.table_path(config.data.delta_prefix.local, [config.env_name, config.experiment_name], "s", "r", "d")
    )
    return [
        Leftover(folder, root, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
        for root, folder in _folders(base.parents[1])
        if root in groups and root not in kept and not any(uri.startswith(f"{folder}/") for uri in needed)
    ]


def remove(found: list[Leftover]) -> None:
    """Remove the folders, and those of pipeline runs that are empty then."""
    for leftover in found:
        shutil.rmtree(leftover.folder)
        if not any(leftover.folder.parent.iterdir()):
            leftover.folder.parent.rmdir()


def _groups() -> dict[str, list[Run]]:
    """Return every run of the store, deleted ones too, by the pipeline run that it is or stands below."""
    from mlflow.entities import ViewType

    store = tracking.client()
    experiments = [found.experiment_id for found in store.search_experiments(ViewType.ALL)]
    groups: dict[str, list[Run]] = {}
    token = None
    while True:
        page = store.search_runs(experiments, "", ViewType.ALL, max_results=1_000, page_token=token)
        for run in page:
            groups.setdefault(tracking.parent_of(run) or run.info.run_id, []).append(run)
        if not (token := page.token):
            return groups


def _kept(groups: dict[str, list[Run]], experiment: str, before_s: float, keep: int) -> set[str]:
    registered = {version.run_id for version in tracking.client().search_model_versions()}
    mine = [root for root, runs in groups.items() if any(_is(run, root) and _active(run, experiment) for run in runs)]
    newest = sorted(mine, key=lambda root: -max(run.info.start_time for run in groups[root]))[:keep]

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


def _named(run: Run) -> Iterator[str]:
    """Yield what a run handed on, was given and has read: tables are among it."""
    read = [tag.value for logged in run.inputs.dataset_inputs for tag in logged.tags if tag.key == "dataset_path"]
    yield from (f"{uri}/" for uri in [*lineage.outputs(run).values(), *run.data.params.values(), *read])


def _carried(groups: dict[str, list[Run]], root: str) -> Iterator[Run]:
    """Yield the step runs of earlier pipeline runs that a resumed one builds on."""
    ids = {step for run in groups[root] for step in lineage.kept_steps(run)}
    yield from (run for runs in groups.values() for run in runs if run.info.run_id in ids)


def _folders(base: Path) -> Iterator[tuple[str, Path]]:
    """Yield (pipeline run, folder of a step run) below the tables of an experiment; links are not followed."""
    for pipeline in sorted(base.glob("pipeline_run_*")):
        if pipeline.is_dir() and not pipeline.is_symlink():
            with os.scandir(pipeline) as entries:
                found = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
            yield from ((pipeline.name.removeprefix("pipeline_run_"), Path(path)) for path in found)
