"""Checks that the configuration has a list, a mapping or a single value where its types want one.

OmegaConf finds the same mistakes, but its messages have names of its own classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_pipelines.config import spelling
from ml_pipelines.config.schema import Config, Step
from ml_pipelines.errors import ConfigError
from ml_pipelines.text import did_you_mean, listed, quoted, shown


def check_shapes(tree: Mapping[str, Any]) -> None:
    """Check a configuration as nested mappings, before its types convert it. Values with `${...}` are not checked.

    Raises:
        ConfigError: a value is a list, a mapping or a single value where another kind is wanted, or conf has settings
            of a step that it does not declare.
    """
    steps = tree.get("steps")
    if isinstance(steps, Mapping):
        _check_steps(steps)
    _check(tree, Config, "")


def _check_steps(steps: Mapping[str, Any]) -> None:
    required = [
        field.name
        for field in dataclasses.fields(Step)
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    declared = [name for name, step in steps.items() if not isinstance(step, Mapping) or "step_name" in step]
    for name in steps:
        if name not in declared:
            raise ConfigError(
                f"steps.{shown(name)}: there is no such step.{did_you_mean(name, declared)} The steps are: "
                f"{listed(declared)}. A new step needs the keys {' and '.join(required)}."
            )


def _check(value: Any, kind: Any, key: str) -> None:
    if value is None or (isinstance(value, str) and ("${" in value or value == spelling.MISSING)):
        return
    plain, arguments = spelling.plain_type(kind)
    is_class = isinstance(plain, type) and dataclasses.is_dataclass(plain)
    if is_class or plain is dict or isinstance(kind, spelling.NamedStep):
        if not isinstance(value, Mapping):
            keys = f" of {listed([field.name for field in dataclasses.fields(plain)])}" if is_class else ""
            raise ConfigError(f"{shown(key)}: {quoted(value)} is not a mapping{keys}. Write {shown(key)}.KEY=VALUE.")
        for name, below in value.items():
            _check(below, spelling.type_below(kind, str(name)), f"{key}.{name}" if key else str(name))
    elif plain is list:
        if not isinstance(value, list):
            raise ConfigError(f"{shown(key)}: {quoted(value)} is not a list. Write [{shown(value)}].")
        for item in value:
            _check(item, arguments[0] if arguments else Any, key)
    elif plain is not Any and isinstance(value, list | Mapping):
        kind_of_value = "list" if isinstance(value, list) else "mapping"
        raise ConfigError(f"{shown(key)}: {quoted(value)} is a {kind_of_value}, but this key takes a single value.")
