"""Rules for a step's Params. Call them in `__post_init__`: a rule raises ValueError if a value breaks it.

    def __post_init__(self) -> None:
        rules.one_of("categories", self.categories, ("ordinal", "one_hot"))

A message begins with the name of the param. The configuration puts the rest of the key in front of the message, so
a person reads `steps.train.params.categories: onehot is not one of ordinal, one_hot. Did you mean one_hot?`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from ml_pipelines.text import did_you_mean, quoted, shown


@dataclass(frozen=True)
class Limits:
    """The smallest and the largest allowed number, as part of a type: `Annotated[int, Limits(low=2)]`."""

    low: float = -math.inf
    high: float = math.inf


Share = Annotated[float, Limits(0, 1)]


def one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    """Refuse a value that is not in `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name}: {value} is not one of {', '.join(allowed)}.{did_you_mean(value, allowed)}")


def at_least(name: str, value: float, low: float) -> None:
    """Refuse a number below `low`, infinity, and NaN."""
    if not low <= value < math.inf:
        raise ValueError(f"{name}: {value} is not at least {low}.")


def between(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number that is not between `low` and `high`; both are allowed."""
    if not low <= value <= high:
        raise ValueError(f"{name}: {value} is not from {low} to {high}.")


def inside(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number that is not between `low` and `high`; neither is allowed."""
    if not low < value < high:
        raise ValueError(f"{name}: {value} must be above {low} and below {high}.")


def looks_like(name: str, value: str, pattern: str, form: str) -> None:
    """Refuse a text unless all of it matches `pattern`. `form` describes the pattern in the message."""
    if not re.fullmatch(pattern, value):
        raise ValueError(f"{name}: {quoted(value)} is not of the form {form}.")


def no_duplicates(name: str, values: Sequence[str]) -> None:
    """Refuse a list with the same value twice."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{name}: {shown(value)} is listed twice.")


def known_keys(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a key in `given` that is not in `known`."""
    known = list(known)
    for key in given:
        if key not in known:
            keys = f"The keys of {name}: {', '.join(known)}." if known else f"{name} takes no keys. Set it to {{}}."
            raise ValueError(f"{name}.{shown(key)}: unknown key.{did_you_mean(key, known)} {keys}")


def settings(name: str, given: object, wanted: Mapping[str, Any]) -> None:
    """Refuse settings if a key is missing or unknown, or if `number` refuses a value.

    Args:
        name: the param that holds the settings.
        given: the settings, name -> value.
        wanted: name -> the `annotation` that `number` takes.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{name}: {quoted(given)} is not a mapping. Write {{{', '.join(f'{key}: ...' for key in wanted)}}}."
        )
    known_keys(name, given, wanted)
    for key, annotation in wanted.items():
        if key not in given:
            raise ValueError(f"{name}.{key}: missing. The keys of {name}: {', '.join(wanted)}.")
        number(f"{name}.{key}", given[key], annotation)


def number(name: str, value: object, annotation: Any) -> None:
    """Refuse a value that the annotation does not allow.

    `int` allows whole numbers from 1 on. Any other type allows every finite number. `Annotated[int, Limits(low=2)]`
    sets other limits.
    """
    kind, limits = type_and_limits(annotation)
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise ValueError(f"{name}: {quoted(value)} is not a {'whole number' if kind is int else 'number'}.")
    if not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name}: {value} is not a finite number.")
    if limits.high < math.inf:
        between(name, value, limits.low, limits.high)
    else:
        at_least(name, value, limits.low)


def type_and_limits(annotation: Any) -> tuple[type, Limits]:
    """Return the type of a number and its limits, as `number` understands the annotation."""
    annotated = get_origin(annotation) is Annotated
    kind, *extra = get_args(annotation) if annotated else (annotation,)
    return kind, next((part for part in extra if isinstance(part, Limits)), Limits(low=1) if kind is int else Limits())
