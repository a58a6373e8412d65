"""The registered model: its versions, the alias `challenger` (registered last) and the alias `champion`.

A version becomes champion only if it may replace the current champion: the gate's check `champion` says so. MLflow
can't compare and set an alias in one operation, so two pipelines can choose a champion at the same time. Each pipeline
therefore looks again after it has set the alias. On a local store, a lock admits only one pipeline.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ml_pipelines.authoring.context import MayReplace, Version
from ml_pipelines.errors import BadData, ConfigError, message_of
from ml_pipelines.models import model_files
from ml_pipelines.models.identity import version_tag
from ml_pipelines.system import locks, paths
from ml_pipelines.tracking.lineage import LoggedModel
from ml_pipelines.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from ml_pipelines.config.schema import Config

CHALLENGER, CHAMPION = "challenger", "champion"
# Tags of a version. Their names have no dots, because Unity Catalog doesn't allow them.
BEFORE = "champion_before"  # the previous champion, which this version replaced
JUDGED, NOBODY = "judged_against", "none"  # the version that was champion when the gate judged this version
MODEL_DIGEST, FACTS_DIGEST = "model_digest", "facts_digest"  # the SHA-256 of the model's skops file and model.json
PROMOTED, DEMOTED = "promoted_reason", "demoted_reason"  # why a person made this version champion, or replaced it
RIVAL_MS = 600_000  # a version of another pipeline that is younger than this is a candidate: it may soon be champion
COMPARISONS = 5  # a pipeline compares the candidates at most this often; then it keeps the current champion
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")  # error codes: no such model or alias


def model_name(config: Config) -> str:
    """Return the name of the registered model: `registry.model`, else a slug of the experiment's name."""
    return config.registry.model or paths.slug(config.experiment_name)


def current_champion(store: Store, config: Config) -> Version | None:
    """Return the version with the alias `champion`, or None if no version has this alias.

    Raises:
        ConfigError: the registry reports an error.
    """
    name = model_name(config)
    with _one_line_errors(store, name):
        return _by_alias(store, name)


def is_lost(store: Store, version: Version) -> bool:
    """Return whether the files of a version's model were deleted. If the registry is not local, return False."""
    if not store.models_uri.startswith("sqlite"):
        return False
    place = paths.local_path(store.client.get_model_version_download_uri(version.name, str(version.version)))
    return place is not None and not model_files.is_complete(place)


def check_digest(version: Version, logged: LoggedModel) -> None:
    """Compare the digest of a model's file in the tags of its version with the digest in the tags of its train run.

    The comparison detects a changed train run: a person who can change runs can't always change versions, because Unity
    Catalog has its own permissions. Versions that earlier releases registered have no digest, so they pass.

    Raises:
        BadData: the digests differ.
    """
    if version.tags.get(MODEL_DIGEST, logged.digest) != logged.digest:
        raise BadData(
            f"Version {version.version} of {version.name} was registered with another model file than its train run "
            f"{version.run_id} names now: the SHA-256 differs. Train and register it again."
        )


def digest_tags(logged: LoggedModel) -> dict[str, str]:
    """Return the digests of a model's files as tags of its version."""
    facts = {FACTS_DIGEST: logged.facts_digest} if logged.facts_digest else {}
    return {MODEL_DIGEST: logged.digest, **facts}


def model_of_version(version: Version) -> LoggedModel | None:
    """Return a version's model with the digests in the version's tags, or None if an earlier release registered it.

    The train run can be gone: the model's files and the version's tags are enough to score.
    """
    tags = version.tags
    if not {MODEL_DIGEST, FACTS_DIGEST} <= tags.keys():
        return None
    return LoggedModel(f"models:/{version.name}/{version.version}", tags[MODEL_DIGEST], tags[FACTS_DIGEST])


def champion_identity(store: Store, config: Config) -> str:
    """Return a text for fingerprints: the model's name, the champion's version and the champion's train run.

    The text includes the train run, because version numbers restart if someone deletes the model. It also says whether
    the champion's files are lost: then the gate runs again, and chooses another champion.
    """
    if (holder := current_champion(store, config)) is None:
        return f"{model_name(config)} none"
    return f"{model_name(config)} {holder.version} {holder.run_id}{' lost' if is_lost(store, holder) else ''}"


def find_version(store: Store, config: Config, wanted: str) -> Version | None:
    """Return the version with this number or alias, or None if there is none.

    Raises:
        ConfigError: the registry reports an error.
    """
    from mlflow.exceptions import MlflowException

    name = model_name(config)
    with _one_line_errors(store, name):
        if not wanted.isdecimal():
            return _by_alias(store, name, wanted)
        try:
            return _get(store, name, int(wanted))
        except MlflowException as error:
            if error.error_code in ABSENT:
                return None
            raise


def register_version(
    store: Store, config: Config, model_uri: str, train_run_id: str, tags: Mapping[str, str]
) -> Version:
    """Register the model of a train run as a new version with `tags` and the alias `challenger`. Return the version.

    A second call for the same train run creates no new version, but updates the tags of the first version.

    Raises:
        ConfigError: the registry reports an error.
    """
    name, client = model_name(config), store.client
    tags = {tag: version_tag(value) for tag, value in tags.items()}
    with _one_line_errors(store, name), locks.alone_at(store.models_uri):
        existing = _version_of_run(store, name, train_run_id)
        version = existing.version if existing else _create(store, name, model_uri, train_run_id, tags)
        for key, value in (tags.items() - existing.tags.items()) if existing else ():
            client.set_model_version_tag(name, str(version), key, value)
        _set_alias(store, name, CHALLENGER, version)
        return _get(store, name, version)


def promote_best(
    store: Store, config: Config, mine: Version, may_replace: MayReplace
) -> tuple[Version | None, Version | None]:
    """Make a version champion that may replace the current champion, and return the champion before and after.

    Candidates are `mine`, and versions that other pipelines registered at the same time, if the gate passed them
    against the same champion. A version whose files are lost is not a candidate, and any candidate replaces a lost
    champion.

    Args:
        store: the MLflow store with the registry.
        config: the configuration.
        mine: the version that this pipeline registered.
        may_replace: returns whether the first version may replace the second as champion. If neither may replace the
            other, the champion stays.

    Raises:
        ConfigError: the registry reports an error.
    """
    with _one_line_errors(store, mine.name), locks.alone_at(store.models_uri):
        before = holder = _by_alias(store, mine.name)
        for _ in range(COMPARISONS):
            best = _best(store, mine, holder, may_replace)
            if best is None or (holder and best.version == holder.version):
                break
            _set_champion(store, best, None if holder and is_lost(store, holder) else holder)
            holder = _by_alias(store, mine.name)
        return before, holder


def _best(store: Store, mine: Version, holder: Version | None, may_replace: MayReplace) -> Version | None:
    """Return the version that should be champion. The candidates challenge the champion, the oldest first.

    A version that a person demoted is a candidate only if it is the champion.
    """
    young = _search(store, mine.name, f"name = '{mine.name}'", since=int(time.time() * 1000) - RIVAL_MS)
    against = mine.tags.get(JUDGED)
    candidates = {
        version.version: version
        for version in [*young, mine]
        if version.tags.get("verdict") == "passed"
        and DEMOTED not in version.tags
        and version.tags.get(JUDGED) == against
    }
    best = None if holder and is_lost(store, holder) else holder
    for _, version in sorted(candidates.items()):
        if is_lost(store, version) or (best and version.version == best.version):
            continue
        if best is None or may_replace(version, best):
            best = version
    return best or holder


def champion_summary(
    store: Store, mine: Version, before: Version | None, now: Version | None, value_of: Callable[[Version], str]
) -> str:
    """Return the line that the pipeline shows at its end: the challenger, the champion, and their headline metric.

    `value_of` takes a version and returns its metric in words (`auc 0.885`), or nothing if it can't be compared.
    """

    def value(version: Version) -> str:
        return value_of(version) or "not compared"

    challenger = f"version {mine.version} ({value(mine)})"
    if now is None:
        return f"challenger is {challenger}"
    if now.version != mine.version:
        score = "its files are lost" if is_lost(store, now) else value(now)
        return f"challenger is {challenger}, champion is version {now.version} ({score})"
    was = ""
    if before and before.version != mine.version:
        lost = f"; the files of version {before.version} are lost"
        name = f"{value(mine).rpartition(' ')[0]} "
        was = lost if is_lost(store, before) else f", was {value(before).removeprefix(name)}"
    return f"champion is {challenger[:-1]}{was})"


def promote(store: Store, config: Config, version: int, reason: str) -> tuple[Version, Version | None]:
    """Make a version champion by hand, record the reason, and return the version and the previous champion.

    Raises:
        ConfigError: the version doesn't exist, is already champion, or its files are lost.
    """
    name = model_name(config)
    with _one_line_errors(store, name), locks.alone_at(store.models_uri):
        chosen, holder = _get(store, name, version), _by_alias(store, name)
        if holder and holder.version == version:
            raise ConfigError(f"Version {version} of {name} is already champion. Name another version.")
        _by_hand(store, chosen, holder, reason)
        _set_champion(store, chosen, holder)
        return chosen, holder


def rollback(store: Store, config: Config, reason: str) -> tuple[Version, Version]:
    """Make the previous champion the champion again and record the reason. Return the new and the replaced champion.

    Raises:
        ConfigError: the model has no champion, its champion has no predecessor, or the predecessor's files are lost.
    """
    name = model_name(config)
    with _one_line_errors(store, name), locks.alone_at(store.models_uri):
        holder = _by_alias(store, name)
        if holder is None or not holder.tags.get(BEFORE, "").isdecimal():
            problem = "has no champion" if holder is None else f"had no champion before version {holder.version}"
            raise ConfigError(f"Model {name} {problem}. Choose a version: ml-pipelines promote VERSION --reason ...")
        earlier = _get(store, name, int(holder.tags[BEFORE]))
        _by_hand(store, earlier, holder, reason)
        _set_alias(store, name, CHAMPION, earlier.version)
        return earlier, holder


def _by_hand(store: Store, chosen: Version, holder: Version | None, reason: str) -> None:
    """Record in tags who replaced `holder` with `chosen`, and why. No pipeline promotes the demoted `holder` again.

    Raises:
        ConfigError: the files of `chosen` are lost.
    """
    if is_lost(store, chosen):
        raise ConfigError(
            f"The files of version {chosen.version} of {chosen.name} are lost. Choose another version: "
            "ml-pipelines promote VERSION --reason ..."
        )
    client, note = store.client, version_tag(f"{reason} ({getpass.getuser()})")
    client.set_model_version_tag(chosen.name, str(chosen.version), PROMOTED, note)
    if DEMOTED in chosen.tags:
        client.delete_model_version_tag(chosen.name, str(chosen.version), DEMOTED)
    if holder:
        client.set_model_version_tag(holder.name, str(holder.version), DEMOTED, note)


def _set_champion(store: Store, chosen: Version, holder: Version | None) -> None:
    if holder:
        store.client.set_model_version_tag(chosen.name, str(chosen.version), BEFORE, str(holder.version))
    _set_alias(store, chosen.name, CHAMPION, chosen.version)


def _set_alias(store: Store, name: str, alias: str, version: int) -> None:
    """Set an alias, and try again once if that fails.

    If two pipelines create the same alias at the same time, the database refuses one of them.
    """
    from mlflow.exceptions import MlflowException

    client = store.client
    try:
        client.set_registered_model_alias(name, alias, str(version))
    except MlflowException:
        client.set_registered_model_alias(name, alias, str(version))


def _create(store: Store, name: str, model_uri: str, train_run_id: str, tags: Mapping[str, str]) -> int:
    from mlflow.exceptions import MlflowException

    client = store.client
    # Look for the model first: in Unity Catalog, the call that creates a model needs a privilege even if the model
    # exists, and the model's owner can lack this privilege.
    try:
        client.get_registered_model(name)
    except MlflowException as absent:
        if absent.error_code not in ABSENT:
            raise
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if "ALREADY_EXISTS" not in error.error_code:  # ALREADY_EXISTS: another pipeline has created the model
                raise
    model_id = model_uri.removeprefix("models:/")
    return int(client.create_model_version(name, model_uri, train_run_id, dict(tags), model_id=model_id).version)


def _version_of_run(store: Store, name: str, train_run_id: str) -> Version | None:
    """Return the oldest version with the model of this train run, or None."""
    versions = _search(store, name, f"run_id = '{train_run_id}'")
    return min(versions, key=lambda version: version.version, default=None)


def _search(store: Store, name: str, query: str, since: int = 0) -> list[Version]:
    """Return the model's versions that match a query. Unity Catalog supports only one condition in a query."""
    matches, token = [], None
    while token != "":
        page = store.client.search_model_versions(query, page_token=token)
        matches += [v for v in page if v.name == name and v.creation_timestamp >= since]
        token = page.token or ""
    # Read each version again, because a search in Unity Catalog returns no tags.
    return [_get(store, name, int(v.version)) for v in matches]


def _by_alias(store: Store, name: str, alias: str = CHAMPION) -> Version | None:
    from mlflow.exceptions import MlflowException

    try:
        return _version(store.client.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def _get(store: Store, name: str, version: int) -> Version:
    return _version(store.client.get_model_version(name, str(version)))


def _version(entity: ModelVersion) -> Version:
    return Version(entity.name, int(entity.version), entity.run_id or "", entity.creation_timestamp, dict(entity.tags))


@contextmanager
def _one_line_errors(store: Store, name: str) -> Iterator[None]:
    """Convert errors of the registry into ConfigErrors of one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise ConfigError(f"Model {name} in {store.models_uri}: {message_of(error)}") from error
