"""Configuration: conf/config.yaml <- a profile <- `--set`, checked whole, then frozen.

OmegaConf stays inside `load`; everything else sees frozen dataclasses. What a step's `params` may hold is
said by the `Params` dataclass of its module, so that a step's types live with the step.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import json
import keyword
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ml_pipelines import graph, paths
from ml_pipelines.errors import ConfigError

NONE = "none"  # how an MLproject parameter says "not given": an empty value doesn't survive every backend
LOCAL = "local"  # a compute that is this machine
SERVERLESS = {"environment_version": "4"}  # what the compute `serverless` stands for: Python 3.12
RESERVED = {"profile", "set", "pipeline_run_id"}  # parameters that every entry point has
# driver.py's own options, and the console scripts': an input of that name would be taken for one of them.
OPTIONS = {"profile", "set", "only", "from", "to", "resume", "backend", "dry_run", "step", "force", "help"}
OPTIONS |= {"run_id", "job_run_id"}
SCRIPTS = {"ml-pipelines", "local-pipeline", "close-pipeline"}  # the wheel's own

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
MODEL = {True: r"[^/:.\s]+(\.[^/:.\s]+){2}", False: r"[^/:]+"}  # a registered model's name, on Unity Catalog or not
_SECRET = re.compile(r"(?i)(.*_)?(password|passwd|secret|token|credentials?|api_?key|access_?key)")
_MARKS = re.compile(r",(?=\s*[A-Za-z_][\w.]*=)")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML was built with it
_TRAP = re.compile(r"(?i)yes|no|on|off|[-+]?0[0-9_]+|[-+]?0[bx][0-9a-f_]+|[-+]?\d[\d_]*(:[0-5]?\d)+")


class SourceKind(enum.Enum):
    """Where the rows come from."""

    synthetic = "synthetic"
    file = "file"
    table = "table"
    sample = "sample"


class FileFormat(enum.Enum):
    """What a file source is; `auto` goes by the suffix, and by the _delta_log of a folder."""

    auto = "auto"
    csv = "csv"
    parquet = "parquet"
    delta = "delta"


class Treatment(enum.Enum):
    """What a column becomes as a feature."""

    number = "number"
    category = "category"


class ColumnType(enum.Enum):
    """What a contract says that a column holds."""

    number = "number"
    integer = "integer"  # whole numbers, though a table may keep them as floats
    boolean = "boolean"
    text = "text"


@dataclass(frozen=True)
class Source:
    """A source of rows. Flat, since OmegaConf knows no unions: each kind uses its own fields."""

    kind: SourceKind = SourceKind.synthetic
    rows: int = 10_000  # synthetic
    features: int = 20  # synthetic
    path: str | None = None  # file: a path or URI
    format: FileFormat = FileFormat.auto  # file
    separator: str = ","  # file: of a CSV
    table: str | None = None  # table: catalog.schema.table
    version: int | None = None  # table, and a Delta file: null is the newest


@dataclass(frozen=True)
class Prefix:
    """The roots below which tables are written."""

    local: str
    databricks: str


@dataclass(frozen=True)
class Data:
    """The source, what its columns are, and the split."""

    source: Source
    label: str
    delta_prefix: Prefix
    volume_name: str
    test_fraction: float
    positive: str | None = None
    key: str | None = None
    drop: list[str] = field(default_factory=list)
    columns: dict[str, Treatment] = field(default_factory=dict)
    null_values: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """What the contract says of one column of our tables."""

    type: ColumnType
    nullable: bool = False
    unique: bool = False
    min: float | None = None  # of numbers
    max: float | None = None
    categories: list[str] = field(default_factory=list)  # of text: all that may stand there; empty: any


@dataclass(frozen=True)
class Model:
    """What loading a model may construct."""

    trusted_types: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Registry:
    """The name under which a model that passes is registered; None: the experiment's."""

    model: str | None = None


@dataclass(frozen=True)
class Spark:
    """What runs prepare_data's Spark."""

    engine: str


@dataclass(frozen=True)
class Mlflow:
    """The tracking store, and what is logged by itself."""

    tracking_uri: str | None = None
    registry_uri: str | None = None
    log_datasets: bool = True


@dataclass(frozen=True)
class Step:
    """One step as conf declares it; `key` is its name in the config, and its module's in steps/."""

    step_name: str
    compute: str
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    external: list[str] = field(default_factory=list)
    headline: list[str] = field(default_factory=list)
    params: Any = field(default_factory=dict)
    timeout_s: float | None = None  # null: it may take as long as it likes
    retries: int = 0  # how often it is tried again after what can be transient
    script: str = ""  # the wheel's console script; where it isn't said, the key with dashes
    key: str = ""


@dataclass(frozen=True)
class Config:
    """The whole configuration of one pipeline run, resolved and checked."""

    seed: int
    env_name: str
    experiment_name: str
    backend: str
    mlflow: Mlflow
    spark: Spark
    data: Data
    model: Model
    registry: Registry
    steps: dict[str, Step]
    compute: dict[str, str] = field(default_factory=dict)
    contract: dict[str, Column] = field(default_factory=dict)
    max_parallel: int = 2
    fail_fast: bool = False
    reuse: bool = True
    profile: str = ""
    overrides: str = NONE
    written: Any = field(default_factory=dict, repr=False)  # as it was before interpolation: what may be logged

    @property
    def table_prefix(self) -> str:
        """The root below which this profile's tables stand."""
        prefix = self.data.delta_prefix
        return prefix.databricks if self.spark.engine == "databricks" else prefix.local

    def step(self, key: str) -> Step:
        """Return the step `key`.

        Raises:
            ConfigError: it isn't declared.
        """
        if key not in self.steps:
            raise ConfigError(f"There is no step {key}: conf/config.yaml declares {', '.join(self.steps)}.")
        return self.steps[key]


def profiles() -> list[str]:
    """Return the names of the profiles in conf/."""
    return sorted(p.stem for p in paths.conf().glob("*.yaml") if p.stem != "config")


def split_overrides(text: str) -> list[str]:
    """Split `a.b=1,c=2` into its assignments; a comma inside a value (`drop=[x,y]`) stays."""
    return [] if text in ("", NONE) else [part.strip() for part in _MARKS.split(text)]


def load(profile: str, overrides: Iterable[str] = ()) -> Config:
    """Return the checked configuration of `profile` with `overrides` (each `key=value`, or several by comma).

    Raises:
        ConfigError: an unknown profile or key, a wrong type, a missing value, a graph that doesn't close.
    """
    assignments = [part for text in overrides for part in split_overrides(text)]
    try:
        written = raw(profile, assignments)
        merged = OmegaConf.merge(OmegaConf.structured(Config), written)
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, profile)) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"The configuration of profile {profile} can't be read: {error}") from error
    steps = {
        key: _typed_params(dataclasses.replace(step, key=key, script=step.script or key.replace("_", "-")))
        for key, step in config.steps.items()
    }
    config = dataclasses.replace(
        config,
        steps=steps,
        profile=profile,
        overrides=",".join(assignments) or NONE,
        written=OmegaConf.to_container(written, resolve=False),
    )
    _check(config)
    return config


def raw(profile: str, assignments: Iterable[str] = ()) -> DictConfig:
    """Return base <- profile <- assignments, merged deeply but neither typed nor interpolated."""
    if profile not in profiles():
        raise ConfigError(
            f"There is no profile {profile!r}: conf/ has {', '.join(profiles())}. "
            f"A profile is a file: write conf/{profile}.yaml."
        )
    layers: dict[str, Any] = {}
    try:
        for stem in ("config", profile):
            name, path = f"conf/{stem}.yaml", paths.conf() / f"{stem}.yaml"
            layers[name] = OmegaConf.load(path)
            _refuse_traps(name, path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"conf/config.yaml or conf/{profile}.yaml is no YAML: {' '.join(str(error).split())}"
        ) from error
    merged = OmegaConf.create()
    for name, layer in {**layers, "--set": _assigned(assignments)}.items():
        if not isinstance(layer, DictConfig):
            raise ConfigError(f"{name} holds a list; it must be a mapping of keys to values.")
        plain, added = OmegaConf.to_container(merged, resolve=False), OmegaConf.to_container(layer, resolve=False)
        if key := _clash(plain, added):
            raise ConfigError(f"{name}: {key} is a list in one place, and a mapping of keys to values in another.")
        merged.merge_with(layer)
    refuse_secrets(_keys(OmegaConf.to_container(_assigned(assignments))), given=True)
    refuse_secrets(_keys(OmegaConf.to_container(merged, resolve=False)))
    return merged


def refuse_secrets(names: Iterable[str], given: bool = False) -> None:
    """Refuse names (of keys, dotted, or of options) that look like a secret's.

    Args:
        names: the names, never the values: those must not be shown.
        given: they came with the command. Under `mlflow run`, MLflow has stored them then, before our code ran.

    Raises:
        ConfigError: one does. MLflow's run, where there is one, is deleted.
    """
    for name in names:
        if re.fullmatch(r"contract\.[^.]+", name):  # a column's name: its values are declarations
            continue
        if _SECRET.fullmatch(name.rsplit(".", 1)[-1].replace("-", "_")):
            from ml_pipelines import tracking

            raise ConfigError(
                f"{name} looks like a secret, and this is no place for one: it would be logged. "
                "Take it from the environment or a Databricks secret scope where it is used."
                + (tracking.withdraw() if given else "")
            )


def _assigned(assignments: Iterable[str]) -> DictConfig:
    assignments = list(assignments)
    for text in assignments:
        if not re.match(r"[A-Za-z_][\w.]*=", text):
            raise ConfigError(f"--set takes key=value, for example data.test_fraction=0.3; {text!r} is not that.")
        if "${" in text:
            raise ConfigError(f"--set takes plain values: {text!r} holds an interpolation.")
    try:
        for text in assignments:
            _refuse_traps(f"--set {text}", text.partition("=")[2])
        return OmegaConf.from_dotlist(assignments)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"--set {' '.join(assignments)}: {' '.join(str(error).split())}") from error


def _clash(base: Any, layer: Any, prefix: str = "") -> str | None:
    """Return the first key under which one holds a list and the other a mapping."""
    for key in (key for key in layer if key in base):
        kinds = [type(base[key]), type(layer[key])]
        if kinds in ([dict, list], [list, dict]):
            return f"{prefix}{key}"
        if kinds == [dict, dict] and (found := _clash(base[key], layer[key], f"{prefix}{key}.")):
            return found
    return None


def _refuse_traps(where: str, text: str) -> None:
    """Refuse what YAML 1.1 reads otherwise than it looks: `no` is false to it, `010` is 8, `1:30` is 90."""
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.ScalarEvent) and not event.style and _TRAP.fullmatch(event.value):
            line = f", line {event.start_mark.line + 1}" if where.startswith("conf/") else ""
            raise ConfigError(
                f"{where}{line}: YAML reads {event.value} as {yaml.safe_load(event.value)}. "
                f'Quote it ("{event.value}") where a text is meant; else write true, false, or a plain decimal number.'
            )


def _keys(node: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


def _explain(error: OmegaConfBaseException, profile: str) -> str:
    what = str(error).split("\n", 1)[0].rstrip(".")
    what += "" if what.endswith("?") else "."
    key = getattr(error, "full_key", None)
    return f"{f'{key}: ' if key else ''}{what} (profile {profile}; every key stands in conf/config.yaml)"


def _typed_params(step: Step) -> Step:
    """Return the step with `params` as its module's own Params."""
    if not _IDENTIFIER.fullmatch(step.key):
        raise ConfigError(f"steps.{step.key}: a step's name is a Python module's: small letters, digits, underscores.")
    if step.key == "main":
        raise ConfigError("steps.main: main is the entry point of the whole pipeline. Give the step another name.")
    name = f"steps.{step.key}"
    if not isinstance(step.params, Mapping):
        raise ConfigError(f"{name}.params: {step.params!r} is no mapping of names to values.")
    try:
        params_type = importlib.import_module(name).Params
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(f"{name}: declared in conf, but there is no steps/{step.key}.py. Write it.") from error
    except AttributeError as error:
        raise ConfigError(f"{name}: steps/{step.key}.py has no dataclass Params (it may be empty).") from error
    try:
        merged = OmegaConf.merge(OmegaConf.structured(params_type), step.params)
        return dataclasses.replace(step, params=OmegaConf.to_object(merged))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        key, what = getattr(error, "full_key", None), str(error).split("\n", 1)[0].rstrip(".")
        raise ConfigError(f"{name}.params{f'.{key}' if key else ''}: {what}. (types: steps/{step.key}.py)") from error


def _check(config: Config) -> None:
    """Raise ConfigError for what types can't say."""
    for key, step in config.steps.items():
        for name in [*step.inputs, *step.outputs]:
            if not _IDENTIFIER.fullmatch(name) or keyword.iskeyword(name):
                raise ConfigError(
                    f"steps.{key}: {name!r} can't name an input or output: small letters, digits, underscores, "
                    "and no word of Python's own."
                )
            if name in OPTIONS:
                raise ConfigError(f"steps.{key}: {name} is an option of driver.py. Give the output another name.")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", step.script):
            raise ConfigError(f"steps.{key}.script: {step.script!r} names no command: small letters, digits, dashes.")
        if taken := [k for k, other in config.steps.items() if k != key and other.script == step.script]:
            raise ConfigError(f"steps.{key}.script: {step.script} is the script of {taken[0]} already.")
        if step.script in SCRIPTS:
            raise ConfigError(f"steps.{key}.script: {step.script} is the wheel's own. Give the step's another name.")
        if step.compute not in config.compute:
            known = ", ".join(config.compute) or "none"
            raise ConfigError(
                f"steps.{key}.compute: {step.compute!r} is not in compute ({known}). Add it to the profile."
            )
        if step.timeout_s is not None and not 0 < step.timeout_s < float("inf"):
            raise ConfigError(f"steps.{key}.timeout_s: {step.timeout_s} is no time limit: seconds above 0, or null.")
        if step.retries < 0:
            raise ConfigError(f"steps.{key}.retries: {step.retries} is no number of retries; it is at least 0.")
    graph.check({key: graph.Node(tuple(s.inputs), tuple(s.outputs)) for key, s in config.steps.items()})
    if config.max_parallel < 1:
        raise ConfigError(f"max_parallel: {config.max_parallel} steps at once run nothing; it is at least 1.")
    if not 0 < config.data.test_fraction < 1:
        raise ConfigError(f"data.test_fraction: {config.data.test_fraction} is not between 0 and 1.")
    if not re.fullmatch(r"sail|jvm|databricks|sc://\S+", config.spark.engine):
        raise ConfigError(f"spark.engine: {config.spark.engine!r} is none of sail, jvm, databricks, sc://host:port.")
    model, catalog = config.registry.model, (config.mlflow.registry_uri or "").startswith("databricks-uc")
    if (model is None and catalog) or (model is not None and not re.fullmatch(MODEL[catalog], model)):
        wanted = "catalog.schema.model" if catalog else "a name without / and :"
        raise ConfigError(f"registry.model: {model!r} can't name a model in this registry; it takes {wanted}.")
    _check_source(config.data)
    for name, column in config.contract.items():
        _check_column(f"contract.{name}", column)


def _check_source(data: Data) -> None:
    source = data.source
    needs = {SourceKind.file: "path", SourceKind.table: "table"}.get(source.kind)
    if needs and not getattr(source, needs):
        raise ConfigError(f"data.source.{needs}: a source of kind {source.kind.name} needs it.")
    if source.kind is SourceKind.synthetic and (source.rows < 0 or source.features < 1):
        raise ConfigError("data.source: synthetic rows and features are counts; features is at least 1.")
    if len(source.separator) != 1:
        raise ConfigError(f"data.source.separator: {source.separator!r} is not one character.")
    if source.table and not re.fullmatch(r"[\w-]+(\.[\w-]+){0,2}", source.table):
        raise ConfigError(f"data.source.table: {source.table!r} is not catalog.schema.table.")
    taken = [name for name in (data.label, data.key) if name in data.drop or name in data.columns]
    if taken or data.label == data.key:
        raise ConfigError("data: label and key are two columns, and neither stands in data.drop or data.columns.")


def _check_column(key: str, column: Column) -> None:
    numeric = column.type in (ColumnType.number, ColumnType.integer)
    if not numeric and (column.min, column.max) != (None, None):
        raise ConfigError(f"{key}: min and max are of numbers, and the column is of type {column.type.value}.")
    if column.categories and column.type is not ColumnType.text:
        raise ConfigError(f"{key}: categories are of text, and the column is of type {column.type.value}.")
    bounds = [bound for bound in (column.min, column.max) if bound is not None]
    if not all(map(math.isfinite, bounds)) or bounds != sorted(bounds):
        raise ConfigError(f"{key}: nothing is between min {column.min} and max {column.max}.")


def cluster_spec(config: Config, step: Step) -> dict[str, Any] | None:
    """Return a fresh copy of the step's cluster spec, or what stands for one; None where it runs on this machine.

    A cluster's id stands for that running cluster, and `serverless` for serverless compute.

    The wheel holds no specs: installed alone, it submits nothing.

    Raises:
        ConfigError: the profile names a file that isn't there, or isn't JSON.
    """
    value = config.compute[step.compute]
    if value == LOCAL or paths.checkout() is None:
        return None
    if value == "serverless":
        return dict(SERVERLESS)
    if re.fullmatch(r"\d{4}-\d{6}-\w+", value):
        return {"existing_cluster_id": value}
    try:
        return dict(json.loads((paths.root() / value).read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            f"compute.{step.compute}: {value} is no file, no cluster's id, and not serverless. "
            "Cluster specs stand in resources/clusters/."
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"compute.{step.compute}: {value} is no JSON object: {error}.") from error
