"""YAML as a person wrote it: text stays text, and what YAML would misread is refused.

YAML reads `1E5` as the number 100000.0. Where the configuration wants text, for example the name of a column, that text
is `1E5`. So such values get quotes before the YAML is loaded.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import yaml

from ml_pipelines.config import params
from ml_pipelines.config.schema import Step
from ml_pipelines.errors import ConfigError
from ml_pipelines.text import quoted

LEVELS = 50  # the most levels of lists and mappings; loading many more would reach Python's recursion limit
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's loader is faster, but not every PyYAML has it
_TRAP = re.compile(r"(?i)yes|no|on|off|[-+]?0[0-9_]+|[-+]?0[bx][0-9a-f_]+|[-+]?\d[\d_]*(:[0-5]?\d)+")
_NULL = ("", "~", "null", "Null", "NULL")
_MERGE = "<<"
MISSING = "???"  # OmegaConf's mark of a value that a profile must set


class NamedStep(NamedTuple):
    """The type of a step in conf. The name of the step determines the Params class for its params."""

    name: str


def as_written(where: str, text: str, kind: Any) -> str:
    """Return the YAML `text` with quotes around the values and names that `kind` wants as text.

    Args:
        where: where the text comes from, for messages: `conf/local.yaml` or `--set data.drop`.
        text: the YAML.
        kind: the type of the value: a dataclass, `list[str]`, ...

    Raises:
        ConfigError: YAML would misread a value, or the text has too many levels.
        yaml.YAMLError: the text is not YAML.
    """
    _check_events(where, text)
    root = yaml.compose(text, Loader=_LOADER)
    plain: dict[int, str] = {}  # end position -> text; a text that aliases repeat has one position
    for node in _texts(where, text, root, kind, frozenset()) if root else ():
        plain[node.end_mark.index] = str(node.value)
    for end in sorted(plain, reverse=True):
        value, start = plain[end], end - len(plain[end])  # not start_mark, which can be the start of an anchor
        if text[start:end] == value != MISSING:  # false for a text of several lines, which needs no quotes
            text = f"{text[:start]}{json.dumps(value, ensure_ascii=False)}{text[end:]}"
    return text


def type_below(kind: Any, name: str) -> Any:
    """Return the type of the value with the key `name` in a value of type `kind`; Any if the type is not known."""
    if isinstance(kind, NamedStep):
        return params.params_type(kind.name) if name == "params" else type_below(Step, name)
    kind, arguments = plain_type(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _hints(kind).get(name, Any)
    if kind is dict and arguments:
        return NamedStep(name) if arguments[1] is Step else arguments[1]
    return Any


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _check_events(where: str, text: str) -> None:
    """Refuse values that YAML 1.1 misreads (`no` as false, `010` as 8, `1:30` as 90), and too many levels."""
    level = 0
    for event in yaml.parse(text, Loader=_LOADER):
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > LEVELS:
            raise ConfigError(f"{where}: lists and mappings are nested in more than {LEVELS} levels. Write fewer.")
        if isinstance(event, yaml.ScalarEvent) and not event.style and _TRAP.fullmatch(event.value):
            raise ConfigError(
                f"{_line(where, event)}: YAML reads {event.value} as {yaml.safe_load(event.value)}. "
                f'For text, quote it ("{event.value}"). Otherwise write true, false, or a plain decimal number.'
            )


def _texts(
    where: str, text: str, node: yaml.Node, kind: Any, above: frozenset[int], is_item: bool = False
) -> Iterator[yaml.ScalarNode]:
    """Yield the values and names below `node` that must be text and have no quotes."""
    plain, arguments = plain_type(kind)
    if id(node) in above:  # an alias inside its own anchor: stop, because OmegaConf refuses it later
        return
    above |= {id(node)}
    if isinstance(node, yaml.ScalarNode):
        is_null = node.value in _NULL and not (is_item and node.value)  # `null` in a list of texts is a text
        if plain is str and not node.style and not is_null:
            yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value if plain is list and arguments else ():
            yield from _texts(where, text, item, arguments[0], above, is_item=True)
    elif plain is str:
        written = text[node.start_mark.index : node.end_mark.index].strip()
        as_text = json.dumps(written, ensure_ascii=False)
        raise ConfigError(
            f"{_line(where, node)}: YAML reads {quoted(written)} as a mapping. For text, write {as_text}."
        )
    else:
        for name, value in node.value:
            if plain is dict and isinstance(name, yaml.ScalarNode) and not name.style and name.value != _MERGE:
                yield name
            below = kind if name.value == _MERGE else type_below(kind, str(name.value))
            yield from _texts(where, text, value, below, above)


def plain_type(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without `| None`, and its arguments: (list, (str,)) for `list[str] | None`. An enum becomes str."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        kind = str
    return typing.get_origin(kind) or kind, typing.get_args(kind)


def _line(where: str, node: yaml.Node | yaml.Event) -> str:
    return f"{where}, line {node.start_mark.line + 1}" if where.startswith("conf/") else where
