"""Rules that the configuration's types can't express. Each rule raises a ConfigError that says what to do."""

from __future__ import annotations

import codecs
import keyword
import math
import re
from collections.abc import Iterable

from ml_pipelines.config import graph
from ml_pipelines.config.params import IDENTIFIER
from ml_pipelines.config.schema import Column, ColumnType, Config, Data, Pipeline, Source, SourceKind
from ml_pipelines.errors import ConfigError, SecretGiven
from ml_pipelines.system import paths
from ml_pipelines.text import listed, quoted, shown

RESERVED = {"profile", "set", "pipeline_run_id"}  # parameters that every entry point has
# Options of driver.py and of the console scripts. An input with such a name would be read as the option.
OPTIONS = {"profile", "set", "pipeline", "only", "from", "to", "resume", "backend", "dry_run", "step", "force", "help"}
OPTIONS |= {"run_id", "job_run_id"}
SEEDS = 2**32 - 1  # scikit-learn's largest seed; its smallest is 0
CHAMPION, SCORING_MODEL = "champion", "model"  # the values in a step's `external` that are not files
SCRIPTS = {"ml-pipelines", "local-pipeline", "close-pipeline"}  # the wheel's scripts that are not for one step
# The pattern of a registered model's name: True -> in Unity Catalog, False -> in any other registry.
MODEL = {True: r"[^/:.\s]+(\.[^/:.\s]+){2}", False: r"[^/:]+"}
_SECRET = re.compile(r"(?i)(.*_)?(password|passwd|secret|token|credentials?|api_?key|access_?key)")


def refuse_secrets(names: Iterable[str], given: bool = False) -> None:
    """Refuse a name that looks like the name of a secret.

    Args:
        names: dotted keys of the configuration, or options. Never pass values: a message must not show them.
        given: whether the names come from the command line, whose values `mlflow run` stores before this code runs.

    Raises:
        SecretGiven: a name looks like the name of a secret, and `given` is true.
        ConfigError: a name looks like the name of a secret, and `given` is false.
    """
    for name in names:
        if re.match(r"(contract|data\.columns)\.", name):  # a column can have any name
            continue
        if _SECRET.fullmatch(name.rsplit(".", 1)[-1].replace("-", "_")):
            kind = SecretGiven if given else ConfigError
            raise kind(
                f"{shown(name)} looks like a secret, which would be logged. "
                "Read it from the environment or from a Databricks secret scope where it is used."
            )


def check_config(config: Config) -> None:
    """Raise ConfigError if the configuration breaks a rule."""
    for key, step in config.steps.items():
        for name in [*step.inputs, *step.outputs]:
            if not IDENTIFIER.fullmatch(name) or keyword.iskeyword(name):
                raise ConfigError(
                    f"steps.{key}: {quoted(name)} can't name an input or output. Use small letters, digits and "
                    "underscores, and no Python keyword."
                )
            if name in OPTIONS:
                raise ConfigError(f"steps.{key}: {name} is an option of driver.py. Give the output another name.")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", step.script):
            raise ConfigError(
                f"steps.{key}.script: {quoted(step.script)} can't name a command. Use small letters, digits, dashes."
            )
        if taken := [k for k, other in config.steps.items() if k != key and other.script == step.script]:
            raise ConfigError(f"steps.{key}.script: {step.script} is already the script of {taken[0]}.")
        if step.script in SCRIPTS:
            raise ConfigError(f"steps.{key}.script: {step.script} is a script of the wheel. Choose another name.")
        if step.compute not in config.compute:
            known = listed(config.compute) or "none"
            raise ConfigError(
                f"steps.{key}.compute: {quoted(step.compute)} is not in compute ({known}). Add it to the profile."
            )
        if step.timeout_s is not None and not 0 < step.timeout_s < float("inf"):
            raise ConfigError(f"steps.{key}.timeout_s: {step.timeout_s} is not above 0. Write seconds, or null.")
        if step.retries < 0:
            raise ConfigError(f"steps.{key}.retries: {step.retries} is not at least 0.")
        _check_external(f"steps.{key}.external", step.external)
    for pipeline in Pipeline:
        steps = {name: step for name, step in config.steps.items() if step.pipeline is pipeline}
        graph.check_graph({name: graph.Node(tuple(s.inputs), tuple(s.outputs)) for name, s in steps.items()})
    for key, seed in {"seed": config.seed, "data.split_seed": config.data.split_seed}.items():
        if not 0 <= seed <= SEEDS:
            raise ConfigError(f"{key}: {seed} is not from 0 to {SEEDS}, the range that scikit-learn accepts.")
    if config.max_parallel < 1:
        raise ConfigError(f"max_parallel: {config.max_parallel} is not at least 1.")
    if not 0 < config.data.test_fraction < 1:
        raise ConfigError(f"data.test_fraction: {config.data.test_fraction} is not between 0 and 1.")
    if not re.fullmatch(r"sail|jvm|databricks|sc://\S+", config.spark.engine):
        raise ConfigError(
            f"spark.engine: {quoted(config.spark.engine)} is not one of: sail, jvm, databricks, sc://host:port."
        )
    model, catalog = config.registry.model, (config.mlflow.registry_uri or "").startswith("databricks-uc")
    if (model is None and catalog) or (model is not None and not re.fullmatch(MODEL[catalog], model)):
        wanted = "catalog.schema.model" if catalog else "a name without / and :"
        raise ConfigError(f"registry.model: {quoted(model)} can't name a model in this registry, which takes {wanted}.")
    _check_data(config.data)
    if source := config.score.source:
        _check_source("score.source", source)
        if source.kind is SourceKind.synthetic and source.path:
            raise ConfigError("score.source.kind: a path needs the kind file. Set score.source.kind=file.")
    if config.score.reasons < 0:
        raise ConfigError(f"score.reasons: {config.score.reasons} is not at least 0.")
    for key, named in (("model", config.score.model), ("shadow", config.score.shadow)):
        if named is not None and not re.fullmatch(r"[\w-]+", named):
            raise ConfigError(
                f"score.{key}: {quoted(named)} is not an alias such as champion, a version such as 3, or the id of a "
                "train run."
            )
    if config.score.target:
        _check_target(config.score.target, config.score.source)
    for name, column in config.contract.items():
        _check_column(f"contract.{shown(name)}", column)


def _check_external(key: str, names: Iterable[str]) -> None:
    """Refuse a file that does not exist. An installed wheel skips this check: only a checkout has these files."""
    for name in names:
        if name not in (CHAMPION, SCORING_MODEL) and paths.checkout() and not (paths.root() / name).is_file():
            raise ConfigError(
                f"{key}: {paths.root() / name} is not a file. List files that the step reads, champion or model."
            )


def _check_data(data: Data) -> None:
    _check_source("data.source", data.source)
    if data.max_columns < 1:
        raise ConfigError(f"data.max_columns: {data.max_columns} is not at least 1.")
    if data.source.kind is SourceKind.synthetic and data.label == "label" and data.positive not in (None, "0", "1"):
        raise ConfigError(f"data.positive: the label of the synthetic source is 0 or 1, not {quoted(data.positive)}.")
    taken = [name for name in (data.label, data.key) if name in data.drop or name in data.columns]
    if taken or data.label == data.key:
        raise ConfigError("data: label and key must be two columns, and neither may be in data.drop or data.columns.")


def _check_source(key: str, source: Source) -> None:
    """Check the settings of a source. `key` is data.source or score.source."""
    needs = {SourceKind.file: "path", SourceKind.table: "table"}.get(source.kind)
    if needs and not getattr(source, needs):
        raise ConfigError(f"{key}.{needs}: a source of kind {source.kind.name} needs this key.")
    if source.kind is SourceKind.synthetic and (source.rows < 0 or source.features < 1):
        raise ConfigError(f"{key}: for synthetic data, rows must be at least 0 and features at least 1.")
    if len(source.separator) != 1:
        raise ConfigError(f"{key}.separator: {quoted(source.separator)} is not one character.")
    if not _is_encoding(source.encoding):
        raise ConfigError(
            f"{key}.encoding: {quoted(source.encoding)} is not an encoding of text. "
            "Write a name that Python knows, such as utf-8, utf-16, cp1252 or latin-1."
        )
    if source.escape is not None and not re.fullmatch(r"[!#-/:-@\[-`{-~]", source.escape):
        raise ConfigError(
            f"{key}.escape: {quoted(source.escape)} is not a single sign. Write one such as a backslash, or null."
        )
    if not re.fullmatch(r"[^\w\s+-]", source.decimal):
        raise ConfigError(f"{key}.decimal: {quoted(source.decimal)} is not a decimal mark such as '.' or ','.")
    if source.thousands is not None and not re.fullmatch(r"[^\w+-]", source.thousands):
        raise ConfigError(f"{key}.thousands: {quoted(source.thousands)} is not a thousands mark such as ',' or ' '.")
    if source.decimal == source.thousands:
        raise ConfigError(f"{key}: decimal and thousands must differ, but both are {quoted(source.decimal)}.")
    if source.table and not re.fullmatch(r"[\w-]+(\.[\w-]+){0,2}", source.table):
        raise ConfigError(f"{key}.table: {quoted(source.table)} is not catalog.schema.table.")
    if source.version is not None and not 0 <= source.version < 2**63:
        raise ConfigError(f"{key}.version: {shown(source.version)} is not a version of a table. Versions start at 0.")


def _check_target(target: str, source: Source | None) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_./:@+=~-]*/[A-Za-z0-9_./:@+=~-]*|[\w-]+(\.[\w-]+){2}", target):
        raise ConfigError(
            f"score.target: {quoted(target)} is not a path or URI with only letters, digits and these signs: "
            "_ . - / : @ + = ~, such as ./scores, and not catalog.schema.table."
        )
    if source and target in (source.path, source.table):
        raise ConfigError("score.target: this is score.source. Scored rows can't be added to the table they come from.")


def _is_encoding(name: str) -> bool:
    try:
        "".encode(name)
        return codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):
        return False


def _check_column(key: str, column: Column) -> None:
    numeric = column.type in (ColumnType.number, ColumnType.integer)
    if not numeric and (column.min, column.max) != (None, None):
        raise ConfigError(f"{key}: min and max are for numbers, but the column has type {column.type.value}.")
    if column.categories and column.type is not ColumnType.text:
        raise ConfigError(f"{key}: categories are for text, but the column has type {column.type.value}.")
    bounds = [bound for bound in (column.min, column.max) if bound is not None]
    if not all(map(math.isfinite, bounds)) or bounds != sorted(bounds):
        raise ConfigError(
            f"{key}: min ({column.min}) and max ({column.max}) must be finite, and min must not be greater than max."
        )
