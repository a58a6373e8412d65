"""What follows from conf/, resources/clusters/ and requirements.lock, kept in step: MLproject, the bundle, the pins.

People edit these files; this adds and corrects only what follows from the declarations, by a round-trip
YAML library, and leaves every other line, comment and order as it was written. The job's part is in sync_job.
"""

from __future__ import annotations

import difflib
import io
import re
import tomllib
from collections.abc import Callable, Iterable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ml_pipelines import paths, sync_job
from ml_pipelines.config import LOCAL, NONE, RESERVED, SCRIPTS, Step, load
from ml_pipelines.errors import ConfigError

_OPTION = re.compile(r"""--[\w-]+=["']?\{\w+\}["']?""")


def sync(check: bool = False) -> list[str]:
    """Bring the files in step, or with `check` only say what would change: `file:line: text`, one each.

    Raises:
        ConfigError: a file isn't there or isn't YAML, or the lock lacks a package.
    """
    config = load(LOCAL)
    steps = list(config.steps.values())
    used: set[str] = set()  # the job's clusters
    edits: dict[str, Callable[[str], str]] = {
        "MLproject": _yaml(lambda document: _mlproject(document, steps)),
        "conda.yaml": _yaml(_conda),
        "pyproject.toml": lambda text: _scripts(text, steps),
        "resources/requirements.txt": _requirements,
        "resources/ml_pipeline.job.yml": _yaml(lambda document: used.update(sync_job.job(document, config))),
        "databricks.yml": _yaml(lambda document: sync_job.targets(document, used)),
    }
    return [change for name, edit in edits.items() for change in _edit(name, edit, check)]


def _edit(name: str, edit: Callable[[str], str], check: bool) -> list[str]:
    path = paths.root() / name
    try:
        before = path.read_text(encoding="utf-8")
        after = edit(before)
    except (OSError, LookupError, TypeError, AttributeError, ValueError, YAMLError, StopIteration) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{name} can't be brought in step: {type(error).__name__} {said}.") from error
    if not check and after != before:
        path.write_text(after, encoding="utf-8")
    return list(_changes(name, before, after))


def _yaml(edit: Callable[[Any], None]) -> Callable[[str], str]:
    """Return the edit of a document as one of its text."""

    def edited(text: str) -> str:
        yaml = YAML()
        yaml.preserve_quotes = True
        yaml.width = 10_000
        yaml.indent(mapping=2, sequence=4, offset=2)
        document = yaml.load(text)
        edit(document)
        out = io.StringIO()
        yaml.dump(document, out)
        return out.getvalue()

    return edited


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


def _scripts(text: str, steps: list[Step]) -> str:
    """Return pyproject.toml with one console script a step, where the others of them stand."""
    lines = text.splitlines(keepends=True)
    pattern = re.compile(r'([\w-]+) = "ml_pipelines\.tasks:(\w+)"\n')
    own = [at for at, line in enumerate(lines) if (found := pattern.fullmatch(line)) and found[1] not in SCRIPTS]
    wanted = [f'{step.script} = "ml_pipelines.tasks:{step.key}"\n' for step in steps]
    kept = [lines[at] for at in own if lines[at] in wanted]
    lines[own[0] : own[-1] + 1] = [*kept, *(line for line in wanted if line not in kept)]
    return "".join(lines)


def _requirements(text: str) -> str:
    document = {"lines": text.splitlines()}
    _set_list(document, "lines", pins())
    return "\n".join([*document["lines"], ""])


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
    """Return the project's direct requirements at the versions of requirements.lock, with an extra's where named.

    Without those whose version there depends on the Python that it is for: runtimes have different ones.
    """
    root = paths.root()
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    lines = re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", (root / "requirements.lock").read_text(), re.MULTILINE)
    locked: dict[str, set[str]] = {}
    for name, version in lines:
        locked.setdefault(name, set()).add(version)
    found = []
    for requirement in sorted(wanted):
        name, bracket = re.fullmatch(r"([\w.-]+)(\[[^]]*\])?.*", requirement).groups()  # type: ignore[union-attr]
        locked_name = re.sub(r"[-_.]+", "-", name).lower()
        if locked_name not in locked:
            raise ConfigError(f"requirements.lock has no {name}. Run `make lock`.")
        if len(locked[locked_name]) == 1:
            found.append(f"{name}{bracket or ''}=={min(locked[locked_name])}")
    return found


def _flow(values: dict[str, str]) -> Any:
    from ruamel.yaml.comments import CommentedMap

    mapping = CommentedMap(values)
    mapping.fa.set_flow_style()
    return mapping


def _quoted(text: str) -> Any:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return DoubleQuotedScalarString(text)
