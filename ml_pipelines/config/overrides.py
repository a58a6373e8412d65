"""Overrides: texts such as `data.label=y,data.drop=[a,b]`, from `--set` and from the entry points' parameter `set`."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ml_pipelines.config import rules, secrets, spelling
from ml_pipelines.config.schema import NONE, Column, Config, Treatment
from ml_pipelines.errors import ConfigError, message_of
from ml_pipelines.text import shown

_QUOTED = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*')"""  # a text in quotes
_WORD = r"\w+"  # a part of a key that needs no quotes
_KEY = re.compile(rf"[A-Za-z_]\w*(?:\.(?:{_WORD}|{_QUOTED}))*=")
_PART = re.compile(rf"{_QUOTED}|{_WORD}")
_NEXT = re.compile(rf",(?=\s*{_KEY.pattern})")  # the comma before the next assignment
_BRACKET = re.compile(rf"{_QUOTED}|[\[\]{{}}]")


def split_overrides(text: str) -> list[str]:
    """Split `a.b=1,c=2` into its assignments. A comma inside a value, as in `drop=[x,y=z]`, doesn't split.

    If a caller joins the assignments by commas and splits the text again, it gets the same assignments.
    """
    assignments = []
    rest = "" if text == NONE else text.strip()
    while rest:
        key = _KEY.match(rest)
        end = _NEXT.search(rest, _end_of_group(rest, key.end()) if key else 0)
        assignments.append((rest[: end.start()] if end else rest).strip())
        rest = rest[end.end() :].strip() if end else ""
    return assignments


def assigned_values(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the values of the assignments as one tree. Later assignments win, and mappings are merged.

    Raises:
        ConfigError: a text is not an assignment, its value is not YAML, or the value has an interpolation.
        SecretGiven: a key looks like the name of a secret, or an address has a password or a token.
    """
    tree: dict[str, Any] = {}
    for text in assignments:
        match = _KEY.match(text)
        if not match:
            raise ConfigError(f"--set {shown(text)}: write it as key=value, for example data.test_fraction=0.3.")
        rules.refuse_secrets([match[0][:-1]], given=True)  # before a message can show the value
        parts, value = _PART.findall(match[0]), text[match.end() :]
        nested = _value(f"--set {shown(match[0][:-1])}", value, _type_at(parts, value))
        secrets.refuse_credentials({match[0][:-1]: nested}, given=True)
        for part in reversed(parts):
            nested = {_unquoted(part): nested}
        tree = _merged(tree, nested)
    return tree


def column_key(column: str) -> str:
    """Return the key of a column in `data.columns`, for `--set`: `data.columns.zip`, `data.columns."petal.length"`."""
    return f"data.columns.{column if re.fullmatch(_WORD, column) else _in_quotes(column)}"


def drop_setting(column: str, dropped: Sequence[str] = ()) -> str:
    """Return the setting that drops one more column, for `--set`: `data.drop=[opened,bwt]`.

    Args:
        column: the column's name in the source.
        dropped: the columns that `data.drop` has already.
    """
    return f"data.drop=[{','.join(_item(name) for name in (*dropped, column))}]"


def _item(name: str) -> str:
    """Return a column's name as an item of a list for `--set`. Quote it if YAML would change its spelling."""
    try:
        kept = split_overrides(f"data.drop=[{name}]")
        plain = len(kept) == 1 and assigned_values(kept) == {"data": {"drop": [name]}}
    except ConfigError:
        plain = False
    return shown(name) if plain else _in_quotes(name)


def _in_quotes(name: str) -> str:
    return shown(json.dumps(name, ensure_ascii=False))


def _end_of_group(text: str, start: int) -> int:
    """Return the position where the brackets or quotes at `start` end.

    Return `start` if the value begins with another character, or if its brackets never end. Brackets and quotes inside
    such a value are part of a plain text, as in YAML.
    """
    if text[start : start + 1] not in ("[", "{", '"', "'"):
        return start
    depth = 0
    for match in _BRACKET.finditer(text, start):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth <= 0:
            return match.end()
    return start


def _unquoted(part: str) -> str:
    return re.sub(r"\\(.)", r"\1", part[1:-1]) if part[0] == '"' else part.strip("'")


def _type_at(parts: list[str], value: str) -> Any:
    """Return the type that a key's value must have.

    Args:
        parts: the parts of the dotted key.
        value: the value as text, for the message.

    Raises:
        ConfigError: a column's name has a dot and no quotes.
    """
    kind: Any = Config
    for i, part in enumerate(parts):
        names, below = parts[i:], spelling.type_below(kind, part)
        fields = [field.name for field in dataclasses.fields(Column)] if below is Column else []
        if below in (Column, Treatment) and len(names) > 1 + bool(fields) and names[1] not in fields:
            end = -1 if names[-1] in fields else len(names)
            right = [*parts[:i], f'"{".".join(map(_unquoted, names[:end]))}"', *names[end:]]
            raise ConfigError(
                f"--set {shown('.'.join(parts))}: {shown('.'.join(parts[: i + 1]))} has no key {shown(names[1])}. "
                f"Quote a name that has dots: {shown('.'.join(right))}={shown(value)}."
            )
        kind = below
    return kind


def _value(where: str, text: str, kind: Any) -> Any:
    try:
        loaded = OmegaConf.from_dotlist([f"value={spelling.as_written(where, text, kind)}"])
        value = OmegaConf.to_container(loaded, resolve=False)["value"]  # type: ignore[call-overload,index]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}={shown(text)}: {message_of(error)}. Quote the value if it is text.") from error
    if any("${" in each for _, each in secrets.texts_of(value)):  # checked after parsing, because "\x24" is $ in YAML
        raise ConfigError(f"{where}={shown(text)}: interpolations (${{...}}) are not allowed. Write a plain value.")
    return value


def _merged(base: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    both = {key for key in layer if isinstance(layer[key], dict) and isinstance(base.get(key), dict)}
    return {**base, **layer, **{key: _merged(base[key], layer[key]) for key in both}}
