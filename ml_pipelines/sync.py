"""MLproject and conda.yaml, kept in step with conf/config.yaml, pyproject.toml and requirements.lock.

People edit these files; this adds and corrects only what follows from the declarations, by a round-trip
YAML library, and leaves every other line, comment and order as it was written.
"""

from __future__ import annotations

import difflib
import io
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ml_pipelines import paths
from ml_pipelines.config import LOCAL, NONE, RESERVED, Step, load
from ml_pipelines.errors import ConfigError

_OPTION = re.compile(r"""--[\w-]+=["']?\{\w+\}["']?""")


def sync(check: bool = False) -> list[str]:
    """Bring the files in step, or with `check` only say what would change: `file:line: text`, one each.

    Raises:
        ConfigError: a file isn't there or isn't YAML, or the lock lacks a package.
    """
    steps = list(load(LOCAL).steps.values())
    edits: dict[str, Callable[[Any], None]] = {
        "MLproject": lambda document: _mlproject(document, steps),
        "conda.yaml": _conda,
    }
    return [change for name, edit in edits.items() for change in _edit(paths.root() / name, edit, check)]


def _edit(path: Path, edit: Callable[[Any], None], check: bool) -> list[str]:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    try:
        before = path.read_text()
        document = yaml.load(before)
        edit(document)
    except (OSError, LookupError, TypeError, AttributeError, ValueError, YAMLError, StopIteration) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{path.name} can't be brought in step: {type(error).__name__} {said}.") from error
    out = io.StringIO()
    yaml.dump(document, out)
    after = out.getvalue()
    if not check and after != before:
        path.write_text(after)
    return list(_changes(path.name, before, after))


def _changes(name: str, before: str, after: str) -> Iterable[str]:
    """Yield one line for each line that changed, at its number in the file as it was."""
    old, new = before.splitlines(), after.splitlines()
    for kind, start, end, first, last in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if kind != "equal":
            yield from (f"{name}:{start + i + 1}: - {line.strip()}" for i, line in enumerate(old[start:end]))
            yield from (f"{name}:{start + 1}: + {line.strip()}" for line in new[first:last])


def _mlproject(document: Any, steps: list[Step]) -> None:
    _set_list(document["databricks_spark_job"], "python_libraries", pins())
    points = document["entry_points"]
    declared = {step.key for step in steps}
    for name in [name for name in points if name not in declared]:
        if f"--step={name}" in str(points[name].get("command")).split():  # others are the person's own
            del points[name]
    for step in steps:
        point = points.setdefault(step.key, {})
        parameters = point.setdefault("parameters", {})
        wanted = [*step.inputs, "pipeline_run_id", "profile", "set"]
        known = {*RESERVED, *(name for other in steps for name in other.inputs)}
        for name in [name for name in parameters if name in known and name not in wanted]:
            del parameters[name]
        for name in wanted:
            parameters.setdefault(name, _flow({"type": "string", "default": LOCAL if name == "profile" else NONE}))
        command = _command(step.key, list(parameters), str(point.get("command", "")))
        if point.get("command") != command:
            point["command"] = _quoted(command)


def _command(key: str, parameters: list[str], present: str) -> str:
    """Return the command with one unquoted option a parameter, and whatever else a person wrote in it."""
    step, options = f"--step={key}", [f"--{name.replace('_', '-')}={{{name}}}" for name in parameters]
    parts = present.split()
    at = parts.index(step) if step in parts else -1
    before, after = (parts[:at], parts[at + 1 :]) if at >= 0 else (["python", "driver.py"], [])
    own = [[part for part in side if not _OPTION.fullmatch(part)] for side in (before, after)]
    wanted = [*own[0], step, *options, *own[1]]
    return present if sorted(parts) == sorted(wanted) else " ".join(wanted)


def _conda(document: Any) -> None:
    pip = next(part for part in document["dependencies"] if isinstance(part, dict) and "pip" in part)
    _set_list(pip, "pip", pins("local"))


def _set_list(parent: Any, key: str, values: list[str]) -> None:
    """Make parent[key] hold these pins, each where it stood; whatever other packages a person added stay."""
    if not parent.get(key):
        parent[key] = list(values)
    items = parent[key]
    for value in values:
        names = [re.split(r"[\[=<>~!; ]", item)[0] if isinstance(item, str) else "" for item in items]
        name = re.split(r"[\[=]", value)[0]
        if name not in names:
            after = [at for at, other in enumerate(names) if other > name]
            items.insert(after[0] if after else len(items) - 1, value)  # the last one holds the empty line below it
        elif items[names.index(name)] != value:
            items[names.index(name)] = value


def pins(extra: str | None = None) -> list[str]:
    """Return the project's direct requirements at the versions of requirements.lock, with an extra's where named."""
    root = paths.root()
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    locked = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", (root / "requirements.lock").read_text(), re.MULTILINE))
    found = []
    for requirement in sorted(wanted):
        name, bracket = re.fullmatch(r"([\w.-]+)(\[[^]]*\])?.*", requirement).groups()  # type: ignore[union-attr]
        locked_name = re.sub(r"[-_.]+", "-", name).lower()
        if locked_name not in locked:
            raise ConfigError(f"requirements.lock has no {name}. Run `make lock`.")
        found.append(f"{name}{bracket or ''}=={locked[locked_name]}")
    return found


def _flow(values: dict[str, str]) -> Any:
    from ruamel.yaml.comments import CommentedMap

    mapping = CommentedMap(values)
    mapping.fa.set_flow_style()
    return mapping


def _quoted(text: str) -> Any:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return DoubleQuotedScalarString(text)
