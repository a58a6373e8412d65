"""The fingerprint of a step: everything that its result depends on.

A fingerprint has named parts: code, params, data settings, inputs, source, libraries. When two fingerprints differ,
their parts tell why. No part contains a path or a time, so a fingerprint is the same on every machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_pipelines.config.schema import Config, FileFormat, SourceKind, Step
from ml_pipelines.data import contract, locations, sources, tables
from ml_pipelines.errors import ConfigError
from ml_pipelines.models import registry
from ml_pipelines.planning.memory import Memory
from ml_pipelines.system import paths
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import Store, flatten

if TYPE_CHECKING:
    from mlflow.entities import Run

# Every step gets its context from this module, so its code is part of every fingerprint.
CONTEXT = "ml_pipelines.execution.context"
# The imports of these modules tell which libraries a step depends on.
FOR_STEPS = ("steps.", "ml_pipelines.checks.", "ml_pipelines.modelling.", "ml_pipelines.problems.")
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # import name -> distribution, if they differ
ENGINE_LIBRARIES = {"sail": ("pyspark", "pysail"), "jvm": ("pyspark", "delta-spark")}
NOT_CONTENT = ("source", "delta_prefix", "volume_name")  # settings that name places; _source covers the source

Parts = Mapping[str, str]


def fingerprint_parts(memory: Memory, store: Store, config: Config, step: Step, producers: Mapping[str, Run]) -> Parts:
    """Return the parts of the step's fingerprint by name.

    Args:
        memory: what this pipeline run has read already.
        store: the store that has the registry.
        config: the configuration.
        step: the step.
        producers: input -> the step run that wrote it.
    """
    module = f"steps.{step.name}"
    parts = {f"code {name}": digest for name, digest in {**memory.code(CONTEXT), **memory.code(module)}.items()}
    parts |= {f"param {name}": str(value) for name, value in _params(step).items()}
    parts["seed"] = str(config.seed)
    parts |= {f"data.{name}": str(value) for name, value in _data(config).items()}
    if not step.inputs:
        parts |= {f"contract.{name}": contract.column_yaml(column) for name, column in config.contract.items()}
    parts["model.trusted_types"] = str(config.model.trusted_types)
    parts |= {f"input {name}": input_content(memory, name, producers[name]) for name in step.inputs}
    parts |= {f"external {name}": _external(memory, store, config, name) for name in step.external}
    imported = _libraries(memory, module)
    if "pyspark" in imported:
        parts["engine"] = config.spark.engine
        parts["source"] = _source(memory, config)
    for name in sorted({"polars", "deltalake", *imported, *_engine_libraries(config, imported)}):
        parts[f"library {name}"] = memory.installed(name)
    parts["library python"] = f"{sys.version_info.major}.{sys.version_info.minor}"
    return parts


def fingerprint_of(parts: Parts) -> str:
    """Return the fingerprint: the SHA-256 of its parts."""
    return _sha(json.dumps(dict(parts), sort_keys=True))


def input_content(memory: Memory, name: str, producer: Run) -> str:
    """Return what identifies an input: the digest of a table, measured now, or else the fingerprint of its producer.

    If this machine can't read the table, return the digest that the producer recorded. In that case no step is reused.
    """
    tags = producer.data.tags
    if table := lineage.table_of(producer, name):
        if not locations.is_readable(table.uri):
            return str(table.digest)
        if lineage.digests_compare(producer):
            memory.verify(table)  # this costs nothing: the next line measures the table anyway
        return memory.measure(table.uri, table.version)[1]
    return str(tags.get("fingerprint") or tags[f"{lineage.OUTPUT}{name}"])


def _libraries(memory: Memory, module: str) -> frozenset[str]:
    """Return the distributions that a step imports, itself or through the packages for steps."""
    modules = tuple(sorted(name for name in memory.reachable(module) if name.startswith(FOR_STEPS)))
    return frozenset(DISTRIBUTIONS.get(root, root) for root in memory.third_party(modules))


def _params(step: Step) -> dict[str, Any]:
    """Return the params by dotted name, without empty mappings: the first name in a mapping then counts as changed."""
    return {name: value for name, value in flatten(dataclasses.asdict(step.params)).items() if value != {}}


def _data(config: Config) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(config.data).items() if name not in NOT_CONTENT}


def _source(memory: Memory, config: Config) -> str:
    """Return what identifies the source: its settings without its path, and a digest of its content."""
    source = config.data.source
    if source.kind is SourceKind.synthetic:
        return f"synthetic {source.rows} x {source.features}"
    if source.kind is SourceKind.sample:
        return "sample"
    if source.kind is SourceKind.table:
        return f"table {source.table} at {source.version or 'an unknown version'}"
    uri, local = locations.locate_source(source)
    kind = sources.file_format(source)
    if local is None:
        return f"{uri}, unknown content"
    if kind is FileFormat.delta:
        return f"delta {tables.files_digest(uri, source.version)}"
    files = sorted(path for path in local.rglob("*") if path.is_file()) if local.is_dir() else [local]
    return f"{kind.value} {source.separator} {_sha(*(memory.file_digest(path) for path in files))}"


def has_known_source(config: Config) -> bool:
    """Return whether the source's content is known without Spark.

    The content of a local file is known. So is a catalog's table at a fixed version.
    """
    source = config.data.source
    if source.kind is SourceKind.table:
        return source.version is not None
    return source.kind is not SourceKind.file or locations.locate_source(source)[1] is not None


def _external(memory: Memory, store: Store, config: Config, name: str) -> str:
    """Return what identifies something external that a step reads: the registry's champion or a file."""
    if name == registry.CHAMPION:
        return registry.champion_identity(store, config)
    file = paths.root() / name
    if not file.is_file():
        raise ConfigError(
            f"external: {file} is not a file. `external` of a step lists what the step reads besides its inputs: "
            f"files of the project, or `{registry.CHAMPION}`."
        )
    return memory.file_digest(file)


def _engine_libraries(config: Config, imported: frozenset[str]) -> tuple[str, ...]:
    return ENGINE_LIBRARIES.get(config.spark.engine, ("pyspark",)) if "pyspark" in imported else ()


def _sha(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
