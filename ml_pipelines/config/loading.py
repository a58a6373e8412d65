"""Loads the configuration: conf/config.yaml, then a profile, then `--set`. Later layers win.

Only this package uses OmegaConf. All other code gets the frozen dataclasses of schema.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ml_pipelines.config import params, rules
from ml_pipelines.config.schema import NONE, Config
from ml_pipelines.errors import ConfigError, message_of
from ml_pipelines.system import paths

_COMMA_BEFORE_KEY = re.compile(r",(?=\s*[A-Za-z_][\w.]*=)")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's loader is faster, but not every PyYAML has it
_TRAP = re.compile(r"(?i)yes|no|on|off|[-+]?0[0-9_]+|[-+]?0[bx][0-9a-f_]+|[-+]?\d[\d_]*(:[0-5]?\d)+")


def profiles() -> list[str]:
    """Return the names of the profiles in conf/."""
    return sorted(p.stem for p in paths.conf().glob("*.yaml") if p.stem != "config")


def split_overrides(text: str) -> list[str]:
    """Split `a.b=1,c=2` into its assignments. A comma inside a value, as in `drop=[x,y]`, doesn't split."""
    return [] if text in ("", NONE) else [part.strip() for part in _COMMA_BEFORE_KEY.split(text)]


def load(profile: str, overrides: Iterable[str] = ()) -> Config:
    """Return the checked configuration of a profile.

    Args:
        profile: the name of a file in conf/, without `.yaml`.
        overrides: `key=value`, or several assignments with commas between them.

    Raises:
        ConfigError: the profile or a key is unknown, a value is missing or has the wrong type, or a rule is broken.
    """
    assignments = [part for text in overrides for part in split_overrides(text)]
    try:
        layers = merged_layers(profile, assignments)
        merged = OmegaConf.merge(OmegaConf.structured(Config), layers)
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, profile)) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"Profile {profile}: the configuration can't be read: {error}") from error
    steps = {
        key: params.typed(dataclasses.replace(step, name=key, script=step.script or key.replace("_", "-")))
        for key, step in config.steps.items()
    }
    config = dataclasses.replace(
        config,
        steps=steps,
        profile=profile,
        overrides=",".join(assignments) or NONE,
        written=OmegaConf.to_container(layers, resolve=False),
    )
    rules.check_config(config)
    return config


def merged_layers(profile: str, assignments: Iterable[str] = ()) -> DictConfig:
    """Return conf/config.yaml, the profile and the assignments as one tree, without types and interpolation.

    Raises:
        ConfigError: the profile doesn't exist, a file isn't valid YAML, or a key looks like a secret's.
    """
    if profile not in profiles():
        raise ConfigError(
            f"Profile {profile!r} doesn't exist. Use one of: {', '.join(profiles())}, or write conf/{profile}.yaml."
        )
    layers: dict[str, Any] = {}
    try:
        for stem in ("config", profile):
            name, path = f"conf/{stem}.yaml", paths.conf() / f"{stem}.yaml"
            layers[name] = OmegaConf.load(path)
            _refuse_traps(name, path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"conf/config.yaml or conf/{profile}.yaml is not valid YAML: {message_of(error, None)}"
        ) from error
    merged = OmegaConf.create()
    for name, layer in {**layers, "--set": _assigned(assignments)}.items():
        if not isinstance(layer, DictConfig):
            raise ConfigError(f"{name} is a list. Write it as a mapping of keys to values.")
        plain, added = OmegaConf.to_container(merged, resolve=False), OmegaConf.to_container(layer, resolve=False)
        if key := _clash(plain, added):
            raise ConfigError(
                f"{name}: {key} is a list in one layer and a mapping in another. Use the same kind in both."
            )
        merged.merge_with(layer)
    rules.refuse_secrets(_keys(OmegaConf.to_container(_assigned(assignments))), given=True)
    rules.refuse_secrets(_keys(OmegaConf.to_container(merged, resolve=False)))
    return merged


def _assigned(assignments: Iterable[str]) -> DictConfig:
    assignments = list(assignments)
    for text in assignments:
        if not re.match(r"[A-Za-z_][\w.]*=", text):
            raise ConfigError(f"--set {text}: write it as key=value, for example data.test_fraction=0.3.")
        if "${" in text:
            raise ConfigError(f"--set {text}: interpolations (${{...}}) are not allowed. Write a plain value.")
    try:
        for text in assignments:
            _refuse_traps(f"--set {text}", text.partition("=")[2])
        return OmegaConf.from_dotlist(assignments)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"--set {' '.join(assignments)}: {message_of(error, None)}") from error


def _clash(base: Any, layer: Any, prefix: str = "") -> str | None:
    """Return the first key that is a list in one layer and a mapping in the other, or None."""
    for key in (key for key in layer if key in base):
        kinds = [type(base[key]), type(layer[key])]
        if kinds in ([dict, list], [list, dict]):
            return f"{prefix}{key}"
        if kinds == [dict, dict] and (clash := _clash(base[key], layer[key], f"{prefix}{key}.")):
            return clash
    return None


def _refuse_traps(where: str, text: str) -> None:
    """Refuse values that YAML 1.1 misreads: `no` as false, `010` as 8, `1:30` as 90."""
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.ScalarEvent) and not event.style and _TRAP.fullmatch(event.value):
            line = f", line {event.start_mark.line + 1}" if where.startswith("conf/") else ""
            raise ConfigError(
                f"{where}{line}: YAML reads {event.value} as {yaml.safe_load(event.value)}. "
                f'For text, quote it ("{event.value}"). Otherwise write true, false, or a plain decimal number.'
            )


def _keys(node: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


def _explain(error: OmegaConfBaseException, profile: str) -> str:
    problem = str(error).split("\n", 1)[0].rstrip(".")
    problem += "" if problem.endswith("?") else "."
    key = getattr(error, "full_key", None)
    return f"{f'{key}: ' if key else ''}{problem} (profile {profile}; conf/config.yaml lists all keys)"
