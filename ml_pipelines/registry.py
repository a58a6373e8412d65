"""The registered model: its versions, the alias `challenger` for the newest that passed, `champion` for the best.

Aliases have no compare-and-set. So whoever sets one looks again until its holder is at least as good as every
version that came up meanwhile; on a local store a lock lets only one pipeline at a time come so far.
"""

from __future__ import annotations

import getpass
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ml_pipelines import paths, processes, tracking
from ml_pipelines.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from ml_pipelines.config import Config

CHALLENGER, CHAMPION = "challenger", "champion"
# Tags of a version. Unity Catalog allows no dots in their names.
BEFORE = "champion_before"  # the version whose place it took
PROMOTED, DEMOTED = "promoted_reason", "demoted_reason"  # a person gave it the alias, or took it away
RIVAL_MS = 600_000  # a version that is no older than that may be about to become champion
LOOKS = 5
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")  # of a model, or of an alias


class Version(NamedTuple):
    """A registered version of the model."""

    name: str
    version: int
    run_id: str  # of the train run that fitted it
    created: int  # milliseconds
    tags: Mapping[str, str]


AreaOf = Callable[[Version], float | None]


def model_name(config: Config) -> str:
    """Return the registered model's name: the profile's, else the experiment's."""
    return config.registry.model or paths.slug(config.experiment_name)


def champion(config: Config) -> Version | None:
    """Return the version that bears the alias `champion`, if one does.

    Raises:
        ConfigError: the registry can't be asked.
    """
    name = model_name(config)
    with _said(name):
        return _by_alias(name)


def identity(config: Config) -> str:
    """Return which model is champion, for a fingerprint: one that was deleted and registered again is another."""
    holder = champion(config)
    return f"{model_name(config)} {f'{holder.version} {holder.run_id}' if holder else 'none'}"


def register(config: Config, model_uri: str, train_run_id: str, tags: Mapping[str, str]) -> Version:
    """Return the version of the train run's model, made where there is none yet, with these tags, as the challenger.

    Raises:
        ConfigError: the registry refuses.
    """
    name, store = model_name(config), tracking.client()
    with _said(name), processes.alone_at(_uri()):
        found = _of_run(name, train_run_id)
        version = found.version if found else _create(name, model_uri, train_run_id, tags)
        for key, value in (tags.items() - found.tags.items()) if found else ():
            store.set_model_version_tag(name, str(version), key, value)
        _set_alias(name, CHALLENGER, version)
        return _get(name, version)


def crown(config: Config, mine: Version, area_of: AreaOf) -> tuple[Version | None, Version | None]:
    """Let the best be champion, and return who it was and who it is.

    The best of the holder, `mine`, and what was registered beside it; by `area_of`, the AUC on the table that `mine`
    was tested on, None where it can't be known. The holder stays where it is as good, or unknown.

    Raises:
        ConfigError: the registry refuses.
    """
    with _said(mine.name), processes.alone_at(_uri()):
        before = holder = _by_alias(mine.name)
        for _ in range(LOOKS):
            best = _best(mine, holder, area_of)
            if best is None or (holder and best.version == holder.version):
                break
            _set_champion(best, holder)
            holder = _by_alias(mine.name)
        return before, holder


def _best(mine: Version, holder: Version | None, area_of: AreaOf) -> Version | None:
    """Return the best version: of equals the holder, then the oldest. Only the holder may be what a person demoted."""
    held = area_of(holder) if holder else -math.inf
    if held is None:  # nothing is better than what isn't known
        return holder
    young = _search(mine.name, f"name = '{mine.name}'", since=int(time.time() * 1000) - RIVAL_MS)
    rivals = {v.version: v for v in [*young, mine] if v.tags.get("verdict") == "passed" and DEMOTED not in v.tags}
    known = ((area_of(rivals[version]), rivals[version]) for version in sorted(rivals))
    better = [(area, version) for area, version in known if area is not None and area > held]
    return max(better, key=lambda found: found[0])[1] if better else holder


def told(mine: Version, before: Version | None, now: Version | None, area_of: AreaOf) -> str:
    """Return in a few words who is champion after `mine` was registered: shown at the pipeline's end."""

    def auc(version: Version) -> str:
        area = area_of(version)
        return "unknown on this table" if area is None else f"{area:.3f}"

    own = f"version {mine.version} (auc {auc(mine)})"
    if now is None:
        return f"challenger is {own}"
    if now.version != mine.version:
        return f"challenger is {own}, champion is version {now.version} (auc {auc(now)})"
    was = f", was {auc(before)}" if before and before.version != mine.version else ""
    return f"champion is {own[:-1]}{was})"


def promote(config: Config, version: int, reason: str) -> tuple[Version, Version | None]:
    """Make a version champion by hand, the reason recorded; return it and who was champion.

    Raises:
        ConfigError: there is no such version, or it is champion already.
    """
    name = model_name(config)
    with _said(name), processes.alone_at(_uri()):
        chosen, holder = _get(name, version), _by_alias(name)
        if holder and holder.version == version:
            raise ConfigError(f"Version {version} of {name} is champion already.")
        _by_hand(chosen, holder, reason)
        _set_champion(chosen, holder)
        return chosen, holder


def rollback(config: Config, reason: str) -> tuple[Version, Version]:
    """Make the version champion that was before this one, the reason recorded; return it and who was champion.

    Raises:
        ConfigError: there is no champion, or none before it.
    """
    name = model_name(config)
    with _said(name), processes.alone_at(_uri()):
        holder = _by_alias(name)
        if holder is None or BEFORE not in holder.tags:
            none = "has no champion" if holder is None else f"had no champion before version {holder.version}"
            raise ConfigError(f"Model {name} {none}. Name a version: ml-pipelines promote VERSION --reason ...")
        earlier = _get(name, int(holder.tags[BEFORE]))
        _by_hand(earlier, holder, reason)
        _set_alias(name, CHAMPION, earlier.version)
        return earlier, holder


def _by_hand(chosen: Version, holder: Version | None, reason: str) -> None:
    """Record who takes the alias from whom, and why: no pipeline gives it back to a version that lost it so."""
    store, said = tracking.client(), f"{reason} ({getpass.getuser()})"
    store.set_model_version_tag(chosen.name, str(chosen.version), PROMOTED, said)
    if DEMOTED in chosen.tags:
        store.delete_model_version_tag(chosen.name, str(chosen.version), DEMOTED)
    if holder:
        store.set_model_version_tag(holder.name, str(holder.version), DEMOTED, said)


def _set_champion(chosen: Version, holder: Version | None) -> None:
    if holder:
        tracking.client().set_model_version_tag(chosen.name, str(chosen.version), BEFORE, str(holder.version))
    _set_alias(chosen.name, CHAMPION, chosen.version)


def _set_alias(name: str, alias: str, version: int) -> None:
    """Set an alias; once more where that failed: of two that set a new one at once, a database takes the first only."""
    from mlflow.exceptions import MlflowException

    store = tracking.client()
    try:
        store.set_registered_model_alias(name, alias, str(version))
    except MlflowException:
        store.set_registered_model_alias(name, alias, str(version))


def _create(name: str, model_uri: str, train_run_id: str, tags: Mapping[str, str]) -> int:
    from mlflow.exceptions import MlflowException

    store = tracking.client()
    try:
        store.create_registered_model(name)
    except MlflowException as error:
        if "ALREADY_EXISTS" not in error.error_code:
            raise
    model_id = model_uri.removeprefix("models:/")
    return int(store.create_model_version(name, model_uri, train_run_id, dict(tags), model_id=model_id).version)


def _of_run(name: str, train_run_id: str) -> Version | None:
    """Return the first version of the model that a train run fitted."""
    return min(_search(name, f"run_id = '{train_run_id}'"), key=lambda found: found.version, default=None)


def _search(name: str, query: str, since: int = 0) -> list[Version]:
    """Return the model's versions for a query of one condition, which is all that Unity Catalog takes."""
    found, page = [], None
    while page != "":
        some = tracking.client().search_model_versions(query, page_token=page)
        found += [v for v in some if v.name == name and v.creation_timestamp >= since]
        page = some.token or ""
    return [_get(name, int(v.version)) for v in found]  # there a search returns no tags


def _by_alias(name: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    try:
        return _version(tracking.client().get_model_version_by_alias(name, CHAMPION))
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def _get(name: str, version: int) -> Version:
    return _version(tracking.client().get_model_version(name, str(version)))


def _version(found: ModelVersion) -> Version:
    return Version(found.name, int(found.version), found.run_id, found.creation_timestamp, dict(found.tags))


@contextmanager
def _said(name: str) -> Iterator[None]:
    """Turn what a registry refuses into one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise ConfigError(f"Model {name} in {_uri()}: {' '.join(str(error).split())[:200]}") from error


def _uri() -> str:
    return os.environ.get("MLFLOW_REGISTRY_URI") or os.environ["MLFLOW_TRACKING_URI"]
