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

from ml_pipelines import paths
from ml_pipelines.config import LOCAL, NONE, RESERVED, Step, load
from ml_pipelines.errors import ConfigError


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
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path.name} can't be brought in step: {type(error).__name__} {error}.") from error
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
    for name in [name for name in points if name != "main" and name not in declared]:
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
        options = " ".join(f"--{name.replace('_', '-')}={{{name}}}" for name in parameters)
        command = f"python driver.py --step={step.key} {options}"
        if point.get("command") != command:
            point["command"] = _quoted(command)


def _conda(document: Any) -> None:
    pip = next(part for part in document["dependencies"] if isinstance(part, dict) and "pip" in part)
    _set_list(pip, "pip", pins("local"))


def _set_list(parent: Any, key: str, values: list[str]) -> None:
    """Make parent[key] hold these pins and, after them, whatever other packages a person added."""
    names = {re.split(r"[\[=]", value)[0] for value in values}
    others = [value for value in parent.get(key) or [] if re.split(r"[\[=<>~! ]", value)[0] not in names]
    wanted = [*values, *others]
    if list(parent.get(key) or []) != wanted:
        parent[key] = wanted


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
