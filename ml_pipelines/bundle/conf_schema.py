"""The JSON schema of the files in conf/, for completion and checks in an editor: conf/schema.json.

It follows from the dataclasses of the configuration and the Params of the steps. It knows names, types and choices, but
not the rules of config/rules.py and of the Params. A profile sets only some keys, so no key is required.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import typing
from typing import Any

from ml_pipelines.config import params
from ml_pipelines.config.schema import Config, Step
from ml_pipelines.system import paths

NAME = "conf/schema.json"
NOT_IN_FILES = {Config: {"profile", "overrides", "written", "hidden"}, Step: {"name"}}  # set after loading
NUMBERS = {int: "integer", float: "number", bool: "boolean"}
# `${...}` may stand for any value, and ??? for a value that a profile must set.
REFERENCE = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
TEXT = {"type": ["string", "number", "boolean"]}  # a number in place of a text keeps its spelling
NULL = {"type": "null"}


def schema_text() -> str:
    """Return the schema as the text of its file."""
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "conf/*.yaml", **_mapping(Config)}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _mapping(kind: Any, **known: Any) -> dict[str, Any]:
    """Return the schema of a dataclass. `known` replaces the schemas of some of its fields."""
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.name not in NOT_IN_FILES.get(kind, ())]
    properties = {name: known.get(name) or _of(hints[name]) for name in names}
    summary = (kind.__doc__ or "").split("\n\n")[0].strip()
    return {"description": summary, "type": "object", "additionalProperties": False, "properties": properties}


def _of(kind: Any) -> dict[str, Any]:
    """Return the schema of a value of this type."""
    if type(None) in typing.get_args(kind):
        inner = _of(next(each for each in typing.get_args(kind) if each is not type(None)))
        return {"anyOf": [*inner.get("anyOf", [inner]), NULL]}
    plain, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if kind == dict[str, Step]:
        return _steps()
    if plain is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1])}
    if plain is list:
        return {"type": "array", "items": _of(arguments[0])}
    if plain in NUMBERS:
        return {"anyOf": [{"type": NUMBERS[plain]}, REFERENCE]}
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return {"anyOf": [{"enum": [member.name for member in plain]}, REFERENCE]}
    if isinstance(plain, type) and dataclasses.is_dataclass(plain):
        return _mapping(plain)
    return dict(TEXT) if plain is str else {}


def _steps() -> dict[str, Any]:
    """Return the schema of `steps`: one key for each module in steps/, with the module's Params."""
    modules = sorted(path.stem for path in (paths.code() / "steps").glob("*.py") if path.stem != "__init__")
    kinds = {name: params.params_type(name) for name in modules}
    steps = {name: _mapping(Step, params=_mapping(kind)) for name, kind in kinds.items() if kind is not Any}
    return {"type": "object", "additionalProperties": False, "properties": steps}
