"""The fingerprint of a step: everything that its result depends on.

A fingerprint has named parts: code, params, data settings, inputs, source, libraries. The parts in which two
fingerprints differ tell why a step runs. No part contains an absolute path or a time, so a fingerprint is the same on
every machine.

Most parts are declared: they are known before the step runs. The step's process adds the observed parts: files that it
opened and modules that it imported by a computed name. To find a run to reuse, the driver searches for runs with the
same declared parts, and then compares the observed parts of each run.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ml_pipelines.config import rules
from ml_pipelines.config.schema import Config, Data, Pipeline, Score, Step
from ml_pipelines.data import contract, locations, source_content
from ml_pipelines.errors import ConfigError
from ml_pipelines.models import registry, scoring_model
from ml_pipelines.planning.memory import Memory
from ml_pipelines.system import observed, paths
from ml_pipelines.system.source_code import SourceCode, is_for_steps
from ml_pipelines.text import without_secrets
from ml_pipelines.tracking import lineage
from ml_pipelines.tracking.store import OUTPUT, Store

if TYPE_CHECKING:
    from mlflow.entities import Run

# Every step gets its context from this module, so its code is part of every fingerprint.
CONTEXT = "ml_pipelines.execution.context"
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # import name -> distribution, if they differ
ENGINE_LIBRARIES = {"sail": ("pyspark", "pysail"), "jvm": ("pyspark", "delta-spark")}
# Keys of `data` and `score` that are not parts: the part `source` describes the source's content, two keys name places,
# and a limit changes no result.
NOT_CONTENT = ("source", "delta_prefix", "volume_name", "max_columns")
SPELLING = ("decimal", "thousands")  # keys of `data.source` that decide which number a text is, in every kind of source

CLASS_PATH = re.compile(r"[a-z_]\w*(\.[a-z_]\w*)*\.[A-Z]\w*")  # package.module.Class
SHOWN = 80  # a reason shows at most this many characters of a name or a value

Parts = Mapping[str, Any]  # part -> its value in JSON: 1, 1.0, "1", true and null are five different values


def fingerprint_parts(memory: Memory, store: Store, config: Config, step: Step, producers: Mapping[str, Run]) -> Parts:
    """Return the parts of the step's fingerprint by name.

    Args:
        memory: a cache of what this pipeline run has read.
        store: the MLflow store, whose registry names the champion.
        config: the configuration.
        step: the step.
        producers: input -> the step run that wrote it.
    """
    module = f"steps.{step.name}"
    code = memory.source_code
    parts: dict[str, Any] = {
        f"code {name}": digest for name, digest in {**code.code(CONTEXT), **code.code(module)}.items()
    }
    own = [name for name in sorted(code.reachable(module)) if is_for_steps(name)]
    parts |= {f"variable {variable}": _variable(variable) for name in own for variable in code.variables(name)}
    parts |= {f"param {name}": value for name, value in _leaves(dataclasses.asdict(step.params))}
    parts["seed"] = config.seed
    if step.pipeline is Pipeline.score:
        parts |= {f"score.{name}": _plain(value) for name, value in _section(config.score).items()}
    else:
        parts |= {f"data.{name}": _plain(value) for name, value in _section(config.data).items()}
    if not step.inputs and step.pipeline is Pipeline.train:
        parts |= {f"contract.{name}": contract.column_yaml(column) for name, column in config.contract.items()}
    parts["model.trusted_types"] = _plain(config.model.trusted_types)
    parts |= {f"input {name}": input_content(memory, name, producers[name]) for name in step.inputs}
    if registry.CHAMPION in step.external:
        parts["registry.crown"] = _plain(config.registry.crown)
    parts |= {f"external {name}": _external(memory, store, config, name) for name in step.external}
    roots = code.third_party(tuple(own)) | _named_libraries(step, code)
    imported = frozenset(DISTRIBUTIONS.get(root, root) for root in roots)
    if "pyspark" in imported:
        parts["engine"] = config.spark.engine
        parts["source"] = source_content.content_of(config.data.source, memory.file_digest)
        parts |= {f"data.source.{name}": getattr(config.data.source, name) for name in SPELLING}
    for name in sorted({"polars", "deltalake", *imported, *_engine_libraries(config, imported)}):
        parts[f"library {name}"] = memory.installed(name)
    parts["library python"] = f"{sys.version_info.major}.{sys.version_info.minor}"
    redacted: Parts = without_secrets(parts, distinct=True)
    return redacted


def _named_libraries(step: Step, code: SourceCode) -> set[str]:
    """Return the packages of the classes that params name by import path, such as `xgboost.XGBClassifier`."""
    texts = [value for _, value in _leaves(dataclasses.asdict(step.params)) if isinstance(value, str)]
    roots = {text.partition(".")[0] for text in texts if CLASS_PATH.fullmatch(text)}
    return {root for root in roots if not code.is_own(root)}


def fingerprint_of(parts: Parts) -> str:
    """Return the fingerprint: the SHA-256 of its parts."""
    return _sha(json.dumps(dict(parts), sort_keys=True))


def differs(old: Parts, new: Parts, part: str) -> bool:
    """Return whether a part differs between two fingerprints: in value, in type, or because one of them lacks it."""
    return _json(old, part) != _json(new, part)


def readable(old: Parts, new: Parts, part: str, absent: str = "none") -> tuple[str, str]:
    """Return the old and the new value of a part for a person, at most SHOWN characters each.

    Text has quotes only if both values would look the same without quotes. Of long values, only the place where they
    differ is shown.
    """
    before, after = (_text(parts[part]) if part in parts else absent for parts in (old, new))
    if before == after:
        before, after = (_json(parts, part) or absent for parts in (old, new))
    start = 0
    if max(len(before), len(after)) > SHOWN:
        pairs = enumerate(zip(before, after, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(before), len(after)))
        start = max(0, same - SHOWN // 4)

    def cut(text: str) -> str:
        return ("..." if start else "") + text[start : start + SHOWN] + ("..." if len(text) > start + SHOWN else "")

    return cut(before), cut(after)


def _json(parts: Parts, part: str) -> str:
    return json.dumps(parts[part], sort_keys=True, ensure_ascii=False) if part in parts else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, sort_keys=True, ensure_ascii=False)


def input_content(memory: Memory, name: str, producer: Run) -> str:
    """Return what identifies an input: a table's digest, computed now, or the fingerprint of the step that wrote it.

    If this machine can't read the table, return the digest that the step recorded. In this case, no step is reused.
    """
    tags = producer.data.tags
    if table := lineage.table_of(producer, name):
        if not locations.is_readable(table.uri):
            return str(table.digest)
        if lineage.digests_compare(producer):
            memory.verify(table)  # at no extra cost: `memory` keeps the measurement for the next line
        return memory.measure(table.uri, table.version)[1]
    return str(tags.get("fingerprint") or tags[f"{OUTPUT}{name}"])


def declared(parts: Parts) -> Parts:
    """Return the parts that are known before the step runs."""
    return {name: value for name, value in parts.items() if not observed.is_observed(name)}


def _variable(name: str) -> str:
    """Return a digest of an environment variable's value, or `none` if it is not set.

    For a secret that is set, return `set`: each run logs its fingerprint's parts, and a digest could reveal a secret.
    """
    value = os.environ.get(name)
    try:
        rules.refuse_secrets([name])
    except ConfigError:
        return "none" if value is None else "set"
    return "none" if value is None else _sha(value)[:12]


def _leaves(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of a nested mapping. An empty mapping is a value: it can turn a check on."""
    for key, value in values.items():
        name = f"{prefix}{_key(key)}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, _plain(value)


def _plain(value: Any) -> Any:
    """Return a value of the configuration as a JSON value, without losing its type."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {_key(key, r'[^("].*'): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return {type(value).__name__: repr(value)}


def _key(key: Any, plain: str = r"[\w-]+") -> str:
    """Return a mapping's key as a unique text: the number 1 and the text "1" give different texts.

    Args:
        key: the key.
        plain: a pattern; a text that does not match it gets quotes. The default quotes `a.b`.
    """
    if isinstance(key, str):
        return key if re.fullmatch(plain, key, re.DOTALL) else json.dumps(key, ensure_ascii=False)
    return f"({type(key).__name__} {key})"


def _section(section: Data | Score) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(section).items() if name not in NOT_CONTENT}


def _external(memory: Memory, store: Store, config: Config, name: str) -> str:
    """Return what identifies something external that a step reads: a model of the registry or a file."""
    if name == rules.CHAMPION:
        return registry.champion_identity(store, config)
    if name == rules.SCORING_MODEL:
        return scoring_model.identity(store, config)
    file = paths.root() / name
    if not file.is_file():
        raise ConfigError(
            f"external: {file} is not a file. `external` of a step lists what the step reads besides its inputs: "
            f"files of the project, `{rules.CHAMPION}`, or `{rules.SCORING_MODEL}` (the model that score.model names)."
        )
    return memory.file_digest(file)


def _engine_libraries(config: Config, imported: frozenset[str]) -> tuple[str, ...]:
    return ENGINE_LIBRARIES.get(config.spark.engine, ("pyspark",)) if "pyspark" in imported else ()


def _sha(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
