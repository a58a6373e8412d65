"""The model that scores new rows, as `score.model` names it: an alias, a version or a train run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ml_pipelines.authoring.context import Version
from ml_pipelines.errors import ConfigError, PipelineError
from ml_pipelines.models import registry
from ml_pipelines.text import shown
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.lineage import LoggedModel
from ml_pipelines.tracking.store import Store, parent_of

if TYPE_CHECKING:
    from mlflow.entities import Run

    from ml_pipelines.config.schema import Config

SETTING, SHADOW = "model", "shadow"  # the settings of `score` that name models
UNREGISTERED = 0  # the number that stands for a version if `score.model` is a train run


def find(store: Store, config: Config, setting: str = SETTING) -> Version:
    """Return the model that a setting of `score` names. If it names a train run, the version is UNREGISTERED.

    Raises:
        ConfigError: there is no such model, or the registry reports an error.
    """
    name, wanted = registry.model_name(config), getattr(config.score, setting)
    if re.fullmatch(r"[0-9a-f]{32}", wanted):
        return Version(name, UNREGISTERED, wanted, store.get_run(wanted).info.start_time, {})
    if version := registry.find_version(store, config, wanted):
        return version
    if wanted == registry.CHAMPION:
        raise ConfigError(
            f"score.{setting}: model {name} has no champion. Run the pipeline train until a model passes the gate, "
            f"make a version champion by hand (ml-pipelines promote), or set score.{setting} to a version or to a "
            "train run."
        )
    kind = "version" if wanted.isdecimal() else "alias"
    other = "champion" if setting == SETTING else "null"
    raise ConfigError(
        f"score.{setting}: model {name} has no {kind} {shown(wanted)}. Name another, or set it to {other}."
    )


def check(store: Store, config: Config) -> None:
    """Raise ConfigError if there is no model that `score.model` or `score.shadow` names."""
    find(store, config)
    if config.score.shadow is not None:
        find(store, config, SHADOW)


def name_of(version: Version) -> str:
    """Return the words for a model in messages."""
    if version.version == UNREGISTERED:
        return f"the model of train run {version.run_id}"
    return f"version {version.version} of {version.name}"


def logged_model(store: Store, version: Version) -> LoggedModel:
    """Return the model's files with their digests: by the tags of a registered version, or by those of the train run.

    Raises:
        ConfigError: the train run is unknown, or logged no model.
    """
    registered = registry.model_of_version(version) if version.version != UNREGISTERED else None
    return registered or lineage.model_of_train_run(store, version.run_id)


def evaluate_run(store: Store, version: Version) -> Run | None:
    """Return the run of evaluate whose results the quality gate judged for a version, or None if it is lost."""
    try:
        parent = version.tags.get("pipeline_run_id") or parent_of(store.get_run(version.run_id))
        return lineage.producers_of(store, parent).get("evaluate_run_id") if parent else None
    except PipelineError:  # the runs are deleted, or lie in another store
        return None


def identity(store: Store, config: Config) -> str:
    """Return a text for fingerprints: name, version and train run of the models that `score` names.

    If there is no such model, the text says so, and the step reports the error.
    """
    models = [_identity(store, config, SETTING)]
    if config.score.shadow is not None:
        models.append(f"shadow {_identity(store, config, SHADOW)}")
    return ", ".join(models)


def _identity(store: Store, config: Config, setting: str) -> str:
    try:
        version = find(store, config, setting)
        return f"{version.name} {version.version} {version.run_id}"
    except PipelineError:
        return f"{registry.model_name(config)} none"
