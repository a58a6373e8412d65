"""Of what a step's result depends, as named parts: code, params, data settings, inputs, source, libraries.

Two fingerprints that differ say by their parts why. A part is never a path or a time.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_pipelines import contract, lineage, paths, registry, sources, tables, tracking
from ml_pipelines.config import Config, FileFormat, SourceKind, Step
from ml_pipelines.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Run

PACKAGES = ("steps", "ml_pipelines")
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # import name -> distribution, where they differ
ENGINE_LIBRARIES = {"sail": ("pyspark", "pysail"), "jvm": ("pyspark", "delta-spark")}
NOT_CONTENT = ("source", "delta_prefix", "volume_name")  # where things are, not what they are

Parts = Mapping[str, str]


def parts(config: Config, step: Step, producers: Mapping[str, Run]) -> Parts:
    """Return the parts of the step's fingerprint; `producers` is input -> the run that handed it on."""
    found = {f"code {module}": digest for module, digest in code(f"steps.{step.key}").items()}
    found |= {f"param {name}": str(value) for name, value in _params(step).items()}
    found["seed"] = str(config.seed)
    found |= {f"data.{name}": str(value) for name, value in _data(config).items()}
    if not step.inputs:
        found |= {f"contract.{name}": contract.line(column) for name, column in config.contract.items()}
    found["model.trusted_types"] = str(config.model.trusted_types)
    found |= {f"input {name}": content(name, producers[name]) for name in step.inputs}
    found |= {f"external {name}": _external(config, name) for name in step.external}
    imported = third_party(f"steps.{step.key}")
    if "pyspark" in imported:
        found["engine"] = config.spark.engine
        found["source"] = _source(config)
    for name in sorted({"polars", "deltalake", *imported, *_engine_libraries(config, imported)}):
        found[f"library {name}"] = _version(name)
    found["library python"] = f"{sys.version_info.major}.{sys.version_info.minor}"
    return found


def digest(found: Parts) -> str:
    """Return the fingerprint of its parts."""
    return _sha(json.dumps(dict(found), sort_keys=True))


def content(name: str, producer: Run) -> str:
    """Return what an input is: of a table its content, measured now; of all else its producer's fingerprint.

    A table that can't be read here is what its producer recorded: nothing is reused on that account.
    """
    tags = producer.data.tags
    if table := lineage.table_of(producer, name):
        if not tables.readable(table.uri):
            return str(table.digest)
        if lineage.digests_compare(producer):
            tables.verify(table)  # which costs nothing: it is measured anyway
        return tables.measure(table.uri, table.version)[1]
    return str(tags.get("fingerprint") or tags[f"{lineage.OUTPUT}{name}"])


@cache
def code(module: str) -> Mapping[str, str]:
    """Return a digest of the module and of each it imports from this project, directly or not, by name.

    Of the syntax tree, so that a comment changes nothing.
    """
    return {name: _code_digest(name) for name in sorted(_reachable(module))}


@cache
def _code_digest(module: str) -> str:
    return _sha(ast.dump(_tree(module)))[:12]


@cache
def third_party(module: str) -> frozenset[str]:
    """Return the distributions that the step's own modules import."""
    own = [name for name in _reachable(module) if name.split(".")[0] == "steps"]
    roots = {imported.split(".")[0] for name in own for imported in _imports(name)}
    foreign = roots - set(PACKAGES) - set(sys.stdlib_module_names)
    return frozenset(DISTRIBUTIONS.get(root, root) for root in foreign)


def _reachable(module: str) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        if (name := waiting.pop()) not in found and _file(name):
            found.add(name)
            waiting += _imports(name)
    return found


@cache
def _imports(module: str) -> frozenset[str]:
    """Return every module that this one may import: `from a import b` may mean a.b."""
    found: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@cache
def _tree(module: str) -> ast.Module:
    path = _file(module)
    return ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module([], [])


@cache
def _file(module: str) -> Path | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    stem = paths.code().joinpath(*module.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _params(step: Step) -> dict[str, Any]:
    """Return the params by dotted name; an empty mapping is none, so that the first name in it is what changed."""
    return {name: value for name, value in tracking.flatten(dataclasses.asdict(step.params)).items() if value != {}}


def _data(config: Config) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(config.data).items() if name not in NOT_CONTENT}


def _source(config: Config) -> str:
    """Return what the source holds: its settings without its place, and a digest of its content."""
    source = config.data.source
    if source.kind is SourceKind.synthetic:
        return f"synthetic {source.rows} x {source.features}"
    if source.kind is SourceKind.sample:
        return "sample"
    if source.kind is SourceKind.table:
        return f"table {source.table} at {source.version or 'an unknown version'}"
    uri, local = sources.locate(source)
    kind = sources.file_format(source)
    if local is None:
        return f"{uri}, unknown content"
    if kind is FileFormat.delta:
        return f"delta {tables.files(uri, source.version)}"
    files = sorted(path for path in local.rglob("*") if path.is_file()) if local.is_dir() else [local]
    return f"{kind.value} {source.separator} {_sha(*(file_digest(path) for path in files))}"


def knowable(config: Config) -> bool:
    """Return whether the source's content can be known without reading it: of a table elsewhere only at a version."""
    source = config.data.source
    if source.kind is SourceKind.table:
        return source.version is not None
    return source.kind is not SourceKind.file or sources.locate(source)[1] is not None


@cache
def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _external(config: Config, name: str) -> str:
    """Return what a step reads beside its inputs: the registry's champion, or a file."""
    if name == registry.CHAMPION:
        return registry.identity(config)
    file = paths.root() / name
    if not file.is_file():
        raise ConfigError(
            f"external: {file} is no file. A step's `external` lists files that it reads beside its inputs, "
            f"or `{registry.CHAMPION}`."
        )
    return file_digest(file)


def _engine_libraries(config: Config, imported: frozenset[str]) -> tuple[str, ...]:
    return ENGINE_LIBRARIES.get(config.spark.engine, ("pyspark",)) if "pyspark" in imported else ()


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _sha(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def forget() -> None:
    """Forget what was read of code, files and tables: another pipeline run of this process must look again."""
    for cached in (code, third_party, _code_digest, _imports, _tree, _file, _version, file_digest, tables.measure):
        cached.cache_clear()
