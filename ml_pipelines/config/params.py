"""Converts and checks a step's `params` with the Params class of the step's module."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ml_pipelines.config.schema import Step
from ml_pipelines.errors import ConfigError
from ml_pipelines.system import observed, paths
from ml_pipelines.text import quoted, shown

IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
MOVED = {"steps.evaluate.params.threshold": "steps.train.params.threshold, because it is a part of the model"}


def typed(step: Step) -> Step:
    """Return the step with its `params` converted to the Params class of the step's module.

    Raises:
        ConfigError: the step has no module or no Params, its module belongs to another project, a param is unknown,
            or a param's value is wrong.
    """
    if not IDENTIFIER.fullmatch(step.name):
        raise ConfigError(
            f"steps.{step.name}: the name is not valid for a Python module. Use small letters, digits, underscores."
        )
    if step.name == "main":
        raise ConfigError("steps.main: main is the entry point of the whole pipeline. Give the step another name.")
    key = f"steps.{step.name}"
    if not isinstance(step.params, Mapping):
        raise ConfigError(f"{key}.params: {quoted(step.params)} is not a mapping of names to values.")
    for param in step.params:
        if place := MOVED.get(f"{key}.params.{param}"):
            raise ConfigError(f"{key}.params.{param}: this setting is now {place}. Move it.")
    try:
        params_type = _imported(key).Params
    except ModuleNotFoundError as error:
        if error.name != key:
            raise
        raise ConfigError(f"{key}: declared in conf, but steps/{step.name}.py does not exist. Write it.") from error
    except AttributeError as error:
        raise ConfigError(f"{key}: steps/{step.name}.py has no dataclass Params. Add an empty one.") from error
    try:
        merged = OmegaConf.merge(OmegaConf.structured(params_type), step.params)
        return dataclasses.replace(step, params=OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{_where(key, error)}: {problem_of(error)} See Params in steps/{step.name}.py.") from error
    except (TypeError, ValueError) as error:
        names = getattr(params_type, "__annotations__", {})
        raise ConfigError(_in_full(f"{key}.params", problem_of(error), names)) from error


def params_type(step: str) -> Any:
    """Return the Params class of the step with this name, or Any if the step has none.

    Raises:
        ConfigError: the step's module belongs to another project.
    """
    if not IDENTIFIER.fullmatch(step):
        return Any
    try:
        return _imported(f"steps.{step}").Params
    except (ModuleNotFoundError, AttributeError):  # `typed` reports this error
        return Any


def _imported(key: str) -> Any:
    """Return the module of a step, and from now on record what the code of steps opens and imports.

    Raises:
        ConfigError: the module belongs to another project.
    """
    _refuse_other_project(key)
    observed.start()
    return importlib.import_module(key)


def _refuse_other_project(key: str) -> None:
    """Refuse the package `steps` of another project, before Python runs one of its modules.

    Raises:
        ConfigError: Python finds the package `steps` of another project first.
    """
    own, package = paths.code() / "steps", importlib.import_module("steps")
    folders = [Path(folder) for folder in getattr(package, "__path__", [])]
    if own.resolve() not in (folder.resolve() for folder in folders):
        other = folders[0] if folders else Path(str(package.__file__))
        raise ConfigError(
            f"{key}: Python imports the steps from {other}, but this project's steps are in {own}. "
            f"Remove {other.parent} from PYTHONPATH, or start from another folder."
        )


def _in_full(prefix: str, message: str, names: Collection[str]) -> str:
    """Return the error message of a Params class with the full key: `steps.train.params.estimator: is not a class`.

    Args:
        prefix: the key of the params, for example `steps.train.params`.
        message: the error message, for example `estimator: is not a class`.
        names: the names of the params. A message that begins with one of them is joined to the key by a dot.
    """
    begin = re.match(r"(\w+)[.:]", message)
    return f"{prefix}{'.' if begin and begin[1] in names else ': '}{message}"


def _where(key: str, error: OmegaConfBaseException) -> str:
    param = getattr(error, "full_key", None)
    return f"{key}.params.{param}" if param else f"{key}.params"


def problem_of(error: Exception) -> str:
    """Return the first line of a message of OmegaConf or of Params, with its long values cut."""
    text = re.sub(r"'([^']{81,})'", lambda match: quoted(match[1]), str(error).split("\n", 1)[0].rstrip("."))
    return shown(text if text.endswith("?") else f"{text}.", 300)
