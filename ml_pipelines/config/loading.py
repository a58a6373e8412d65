"""Loads the configuration: conf/config.yaml, then a profile, then `--set`. Later layers win.

Only this package uses OmegaConf. All other code gets the frozen dataclasses of schema.py.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ml_pipelines import text
from ml_pipelines.config import params, rules, secrets, shapes, spelling
from ml_pipelines.config.overrides import assigned_values, split_overrides
from ml_pipelines.config.schema import NONE, Config
from ml_pipelines.errors import ConfigError, message_of
from ml_pipelines.system import paths
from ml_pipelines.text import quoted, shown


def profiles() -> list[str]:
    """Return the names of the profiles in conf/."""
    return sorted(p.stem for p in paths.conf().glob("*.yaml") if p.stem != "config")


def load(profile: str, overrides: Iterable[str] = ()) -> Config:
    """Return the checked configuration of a profile.

    Args:
        profile: the name of a file in conf/, without `.yaml`.
        overrides: texts such as `key=value`, or `a=1,b=2` with several assignments.

    Raises:
        ConfigError: the profile or a key is unknown, a value is missing or has the wrong type, or a rule is broken.
    """
    assignments = [part for override in overrides for part in split_overrides(override)]
    try:
        layers = merged_layers(profile, assignments)
        written: Any = OmegaConf.to_container(layers, resolve=False)
        shapes.check_shapes(written)
        merged = OmegaConf.merge(OmegaConf.structured(Config), layers)
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, profile)) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"Profile {profile}: the configuration can't be read: {message_of(error)}") from error
    steps = {
        key: params.typed(dataclasses.replace(step, name=key, script=step.script or key.replace("_", "-")))
        for key, step in config.steps.items()
    }
    hidden = secrets.hidden_values(written, dataclasses.asdict(config))
    text.hide(hidden)
    secrets.refuse_credentials({"data": {"delta_prefix": dataclasses.asdict(config.data.delta_prefix)}})
    config = dataclasses.replace(
        config,
        steps=steps,
        profile=profile,
        overrides=",".join(assignments) or NONE,
        written=written,
        hidden=hidden,
    )
    rules.check_config(config)
    return config.in_pipeline(config.pipeline)


def merged_layers(profile: str, assignments: Iterable[str] = ()) -> DictConfig:
    """Return conf/config.yaml, the profile and the assignments as one tree, with unresolved interpolations.

    Raises:
        ConfigError: the profile doesn't exist, a file isn't valid YAML, a key looks like the name of a secret, or an
            address has a password or a token.
    """
    if profile not in profiles():
        raise ConfigError(
            f"Profile {quoted(profile)} doesn't exist.{text.did_you_mean(profile, profiles())} "
            f"Use one of: {', '.join(profiles())}, or write conf/{shown(profile)}.yaml."
        )
    layers: dict[str, Any] = {}
    try:
        for stem in ("config", profile):
            name, path = f"conf/{stem}.yaml", paths.conf() / f"{stem}.yaml"
            as_written = spelling.as_written(name, path.read_text(encoding="utf-8"), Config)
            layers[name] = OmegaConf.load(io.StringIO(as_written))
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError, OmegaConfBaseException) as error:
        raise ConfigError(f"conf/config.yaml or conf/{profile}.yaml is not valid YAML: {message_of(error)}") from error
    assigned = assigned_values(assignments)
    merged = OmegaConf.create()
    for name, layer in {**layers, "--set": OmegaConf.create(assigned)}.items():
        if not isinstance(layer, DictConfig):
            raise ConfigError(f"{name} is a list. Write it as a mapping of keys to values.")
        plain, added = OmegaConf.to_container(merged, resolve=False), OmegaConf.to_container(layer, resolve=False)
        if key := _clash(plain, added):
            raise ConfigError(
                f"{name}: {key} is a list in one place (file or --set) and a mapping in another. Use one kind."
            )
        merged.merge_with(layer)
    rules.refuse_secrets(_keys(assigned), given=True)
    whole: Any = OmegaConf.to_container(merged, resolve=False)
    rules.refuse_secrets(_keys(whole))
    secrets.refuse_credentials(whole)
    return merged


def _clash(base: Any, layer: Any, prefix: str = "") -> str | None:
    """Return the first key that is a list in one layer and a mapping in the other, or None."""
    for key in (key for key in layer if key in base):
        kinds = [type(base[key]), type(layer[key])]
        if kinds in ([dict, list], [list, dict]):
            return f"{prefix}{key}"
        if kinds == [dict, dict] and (clash := _clash(base[key], layer[key], f"{prefix}{key}.")):
            return clash
    return None


def _keys(node: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


def _explain(error: OmegaConfBaseException, profile: str) -> str:
    key = getattr(error, "full_key", None)
    where = f"{shown(key)}: " if key else ""
    if isinstance(error, MissingMandatoryValue):
        return f"{where}has no value, and needs one. Set it (profile {profile}; conf/config.yaml lists all keys)."
    return f"{where}{params.problem_of(error)} (profile {profile}; conf/config.yaml lists all keys)"
