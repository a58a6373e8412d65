"""Updates MLproject, the bundle, pinned package versions and conf/schema.json from other files of the project.

These are conf/, resources/, steps/ and requirements.lock. People edit MLproject and the bundle too. So `sync` changes
only the values that follow from other files. A round-trip YAML library keeps all other lines, comments and the order.
The module sync_job updates the bundle's job.
"""

from __future__ import annotations

import difflib
import io
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ml_pipelines.bundle import conf_schema, sync_job
from ml_pipelines.bundle.merge import JOBS
from ml_pipelines.config.loading import load
from ml_pipelines.config.rules import RESERVED, SCRIPTS
from ml_pipelines.config.schema import LOCAL, NONE, Config, Pipeline, Step
from ml_pipelines.errors import ConfigError, message_of
from ml_pipelines.system import paths

RUNTIME = "resources/runtimes/17.3.x-cpu-ml-scala2.13.txt"  # the packages of a new cluster
SCRIPT_MODULE = "ml_pipelines.cli.tasks"
_OPTION = re.compile(r"""--[\w-]+=["']?\{\w+\}["']?""")


def sync(backends: Mapping[str, str], check: bool = False) -> list[str]:
    """Update all generated values, and return one line `file:line: text` for each changed line.

    Args:
        backends: name -> `module:class` of the backends that MLflow loads by name.
        check: change no file; only return the lines that would change.

    Raises:
        ConfigError: a file doesn't exist or isn't valid YAML, or requirements.lock lacks a package.
    """
    config = load(LOCAL)
    steps = list(config.steps.values())
    used: dict[Pipeline, set[str]] = {}  # the keys of the clusters that the tasks of a pipeline's job use
    edits: dict[str, Callable[[str], str]] = {
        "MLproject": _yaml(lambda document: _mlproject(document, steps)),
        "conda.yaml": _yaml(_conda),
        "pyproject.toml": lambda text: _pyproject(text, steps, backends),
        "resources/requirements.txt": _requirements,
        **{
            f"resources/{job}.job.yml": _yaml(partial(_tasks, config, pipeline, used)) for pipeline, job in JOBS.items()
        },
        "databricks.yml": _yaml(lambda document: sync_job.sync_clusters(document, used)),
        conf_schema.NAME: lambda _: conf_schema.schema_text(),
    }
    return [change for name, edit in edits.items() for change in _edit(name, edit, check)]


def _tasks(config: Config, pipeline: Pipeline, used: dict[Pipeline, set[str]], document: Any) -> None:
    used[pipeline] = sync_job.sync_tasks(document, replace(config, pipeline=pipeline))


def _edit(name: str, edit: Callable[[str], str], check: bool) -> list[str]:
    path = paths.root() / name
    try:
        before = path.read_text(encoding="utf-8")
        after = edit(before)
    except (OSError, LookupError, TypeError, AttributeError, ValueError, YAMLError, StopIteration) as error:
        message = message_of(error, None)
        raise ConfigError(
            f"{name} can't be updated: {type(error).__name__} {message}. Compare it with the version in Git."
        ) from error
    if not check and after != before:
        path.write_text(after, encoding="utf-8")
    return list(_changes(name, before, after))


def _yaml(edit: Callable[[Any], None]) -> Callable[[str], str]:
    """Turn an edit of a parsed YAML document into an edit of its text, which keeps comments and layout."""

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
    """Yield one line for each changed line, with its line number in the old file."""
    old, new = before.splitlines(), after.splitlines()
    for kind, start, end, first, last in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if kind != "equal":
            yield from (f"{name}:{start + i + 1}: - {line.strip()}" for i, line in enumerate(old[start:end]))
            yield from (f"{name}:{start + 1}: + {line.strip()}" for line in new[first:last])


def _mlproject(document: Any, steps: list[Step]) -> None:
    _set_list(document["databricks_spark_job"], "python_libraries", cluster_pins(), pinned_requirements())
    points = document["entry_points"]
    declared = {step.name for step in steps}
    for name in [name for name in points if name not in declared]:
        if f"--step={name}" in str(points[name].get("command")).split():  # keep the others: a person added them
            del points[name]
    for step in steps:
        point = points.setdefault(step.name, {})
        parameters = point.setdefault("parameters", {})
        required = [*step.inputs, "pipeline_run_id", "profile", "set"]
        known = {*RESERVED, *(name for other in steps for name in other.inputs)}
        for name in [name for name in parameters if name in known and name not in required]:
            del parameters[name]
        for name in required:
            parameters.setdefault(name, _flow({"type": "string", "default": LOCAL if name == "profile" else NONE}))
        command = _command(step.name, list(parameters), str(point.get("command", "")))
        if point.get("command") != command:
            point["command"] = _quoted(command)


def _command(name: str, parameters: list[str], present: str) -> str:
    """Return the command with one unquoted option for each parameter. Other words that a person added stay."""
    step, options = f"--step={name}", [f"--{each.replace('_', '-')}={{{each}}}" for each in parameters]
    parts = present.split()
    at = parts.index(step) if step in parts else -1
    before, after = (parts[:at], parts[at + 1 :]) if at >= 0 else (["python", "driver.py"], [])
    first, last = ([part for part in side if not _OPTION.fullmatch(part)] for side in (before, after))
    words = [*first, step, *options, *last]
    return present if sorted(parts) == sorted(words) else " ".join(words)


def _conda(document: Any) -> None:
    pip = next(part for part in document["dependencies"] if isinstance(part, dict) and "pip" in part)
    _set_list(pip, "pip", pinned_requirements("local"))


def _pyproject(text: str, steps: list[Step], backends: Mapping[str, str]) -> str:
    """Return pyproject.toml with one console script for each step and one entry point for each backend."""
    scripts = [f'{step.script} = "{SCRIPT_MODULE}:{step.name}"\n' for step in steps]
    script_line = re.compile(rf'([\w-]+) = "{re.escape(SCRIPT_MODULE)}:(\w+)"\n')
    text = _set_lines(text, scripts, lambda line: (match := script_line.fullmatch(line)) and match[1] not in SCRIPTS)
    points = [f'{name} = "{place}"\n' for name, place in backends.items()]
    return _set_lines(text, points, re.compile(r'[\w-]+ = "ml_pipelines\.backends\.\w+:\w+"\n').fullmatch)


def _set_lines(text: str, required: list[str], is_ours: Callable[[str], object]) -> str:
    """Return the text with the `required` lines in place of the lines that `is_ours` accepts.

    Required lines that the text already has keep their order.
    """
    lines = text.splitlines(keepends=True)
    ours = [at for at, line in enumerate(lines) if is_ours(line)]
    right = [lines[at] for at in ours if lines[at] in required]
    lines[ours[0] : ours[-1] + 1] = [*right, *(line for line in required if line not in right)]
    return "".join(lines)


def _requirements(text: str) -> str:
    document = {"lines": text.splitlines()}
    _set_list(document, "lines", cluster_pins(), pinned_requirements())
    return "\n".join([*document["lines"], ""])


def _set_list(parent: Any, key: str, values: list[str], ours: Iterable[str] = ()) -> None:
    """Set the pins `values` in the list parent[key]. Each pin keeps its position; packages that a person added stay.

    Pins of packages in `ours` that are not in `values` are removed.
    """
    if not parent.get(key):
        parent[key] = list(values)
    items = parent[key]
    obsolete = {re.split(r"[\[=]", pin)[0] for pin in ours} - {re.split(r"[\[=]", pin)[0] for pin in values}
    for at in reversed([at for at, item in enumerate(items) if re.split(r"[\[=]", str(item))[0] in obsolete]):
        del items[at]
    for value in values:
        names = [re.split(r"[\[=<>~!; ]", item)[0] if isinstance(item, str) else "" for item in items]
        name = re.split(r"[\[=]", value)[0]
        if name not in names:
            after = [at for at, other in enumerate(names) if other > name]
            items.insert(
                after[0] if after else len(items) - 1, value
            )  # before the last item, because ruamel attaches the blank line below the list to that item
        elif items[names.index(name)] != value:
            items[names.index(name)] = value


def cluster_pins() -> list[str]:
    """Return the pins of the requirements that the cluster's runtime lacks or has in a version that is not allowed.

    Raises:
        ConfigError: requirements.lock lacks a package.
    """
    from packaging.requirements import Requirement

    project = tomllib.loads((paths.root() / "pyproject.toml").read_text())["project"]
    lines = (paths.root() / RUNTIME).read_text().splitlines()
    shipped = dict(line.split("==") for line in lines if "==" in line)
    required = [Requirement(text) for text in project["dependencies"]]
    kept = {one.name for one in required if one.name in shipped and shipped[one.name] in one.specifier}
    return [pin for pin in pinned_requirements() if re.split(r"[\[=]", pin)[0] not in kept]


def pinned_requirements(extra: str | None = None) -> list[str]:
    """Return the project's direct requirements, and those of `extra`, with their versions from requirements.lock.

    A package is left out if its locked version depends on Python's version, because Python differs between runtimes.

    Raises:
        ConfigError: requirements.lock lacks a package.
    """
    root = paths.root()
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    lines = re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", (root / "requirements.lock").read_text(), re.MULTILINE)
    locked: dict[str, set[str]] = {}
    for name, version in lines:
        locked.setdefault(name, set()).add(version)
    pins = []
    for requirement in sorted(requirements):
        name, bracket = re.fullmatch(r"([\w.-]+)(\[[^]]*\])?.*", requirement).groups()  # type: ignore[union-attr]
        locked_name = re.sub(r"[-_.]+", "-", name).lower()
        if locked_name not in locked:
            raise ConfigError(f"requirements.lock lacks {name}. Run `make lock`.")
        if len(locked[locked_name]) == 1:
            pins.append(f"{name}{bracket or ''}=={min(locked[locked_name])}")
    return pins


def _flow(values: dict[str, str]) -> Any:
    from ruamel.yaml.comments import CommentedMap

    mapping = CommentedMap(values)
    mapping.fa.set_flow_style()
    return mapping


def _quoted(text: str) -> Any:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return DoubleQuotedScalarString(text)
