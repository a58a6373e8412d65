"""Params: a wrong value of any param of any step is refused when the configuration is loaded, with its full key."""

import dataclasses
import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from conftest import ROOT, Result, Store

from ml_pipelines.authoring import rules
from ml_pipelines.authoring.rules import Limits, Share
from ml_pipelines.checks.quality_checks import CHECKS, settings_of
from ml_pipelines.checks.verdicts import Check
from ml_pipelines.config.loading import load
from ml_pipelines.errors import ConfigError
from steps.model_qa import Params

STEPS = sorted(path.stem for path in (ROOT / "steps").glob("*.py") if path.stem != "__init__")
# The assignment below `steps.`, and the message after the key. Each param of each step, and each setting of each
# check, occurs at least once.
WRONG = [
    ("train.params.estimator=HistGradientBoostingClassifier", "is not of the form <library>.<module>.<Class>"),
    ("train.params.estimator=os.System", "is not of the form <library>.<module>.<Class>"),
    ("train.params.estimator=sklearn.ensemble", "is not of the form <library>.<module>.<Class>"),
    ("train.params.estimator=sklearn.metrics.roc_auc_score", "is not of the form <library>.<module>.<Class>"),
    ("train.params.options=3", "3 is not a mapping. Write steps.train.params.options.KEY=VALUE."),
    ("train.params.categories=onehot", "onehot is not one of ordinal, one_hot, native. Did you mean one_hot?"),
    ("train.params.categories=7", "7 is not one of ordinal, one_hot, native."),
    ("train.params.missing=meen", "meen is not one of keep, median. Did you mean median?"),
    ("train.params.scale=maybe", "Value 'maybe' is not a valid bool"),
    (
        "train.params.categorys=ordinal",
        "Key 'categorys' not in 'Params'. Did you mean: 'categories'? See Params in steps/train",
    ),
    ("train.params.threshold=1.01", "1.01 is not from 0 to 1."),
    ("train.params.threshold=-0.01", "-0.01 is not from 0 to 1."),
    ("train.params.threshold=.nan", "nan is not from 0 to 1."),
    ("train.params.threshold=true", "could not be converted to Float"),
    ("train.params.treshold=0.5", "Did you mean: 'threshold'? See Params in steps/train.py."),
    ("evaluate.params.threshold=0.5", "this setting is now steps.train.params.threshold, because"),
    ("feature_importance.params.rows=0", "0 is not at least 1."),
    ("feature_importance.params.rows=2.5", "could not be converted to Integer"),
    ("feature_importance.params.repeats=0", "0 is not at least 1."),
    ("model_qa.params.on_failure=warm", "warm is not one of fail, warn. Did you mean warn?"),
    ("model_qa.params.level=1", "1.0 must be above 0 and below 1."),
    ("model_qa.params.level=95", "95.0 must be above 0 and below 1."),
    ("model_qa.params.level=.nan", "nan must be above 0 and below 1."),
    ("model_qa.params.slices=[purpose,age,purpose]", "purpose is listed twice."),
    ("model_qa.params.slices=purpose", "'purpose' is not a list. Write [purpose]."),
    ("model_qa.params.slice_rows=0", "0 is not at least 1."),
    ("model_qa.params.checks=3", "3 is not a mapping. Write steps.model_qa.params.checks.KEY=VALUE."),
    (
        "model_qa.params.checks.min_acu={threshold: 1}",
        "unknown key. Did you mean min_auc? The keys of checks: signature,",
    ),
    ("model_qa.params.checks.signature=true", "True is not a mapping. Write {}."),
    ("model_qa.params.checks.signature.threshold=1", "unknown key. checks.signature takes no keys. Set it to {}."),
    ("model_qa.params.checks.min_auc=0.7", "0.7 is not a mapping. Write {threshold: ...}."),
    ("model_qa.params.checks.min_auc.treshold=1", "unknown key. Did you mean threshold? The keys of checks.min_auc:"),
    ("model_qa.params.checks.min_auc.threshold=high", "'high' is not a number."),
    ("model_qa.params.checks.train_test_gap.threshold=.nan", "nan is not a finite number."),
    ("model_qa.params.checks.calibration.error=.inf", "inf is not a finite number."),
    ("model_qa.params.checks.calibration.ratio=0.8", "0.8 is not at least 1."),
    ("model_qa.params.checks.calibration.slope=0", "0 is not from 0.01 to 1."),
    ("model_qa.params.checks.calibration.bins=0", "0 is not from 1 to 1000."),
    ("model_qa.params.checks.calibration.bins=10.5", "10.5 is not a whole number."),
    ("model_qa.params.checks.calibration.bins=1001", "1001 is not from 1 to 1000."),
    ("model_qa.params.checks.min_auc.threshold=70", "70 is not from 0 to 1."),
    (
        "model_qa.params.checks.beats_baseline.threshold=1",
        "unknown key. checks.beats_baseline takes no keys. Set it to {}.",
    ),
    ("model_qa.params.checks.train_test_gap.threshold=-1.1", "-1.1 is not from -1 to 1."),
    ("model_qa.params.checks.drift.threshold=-0.1", "-0.1 is not at least 0."),
    ("model_qa.params.checks.latency={rows: 1, repeats: 2, threshold: -1}", ".threshold: -1 is not at least 0."),
    ("model_qa.params.checks.single_column.threshold=null", "None is not a number."),
    ("model_qa.params.checks.importance.threshold=true", "True is not a number."),
    ("model_qa.params.checks.importance.least=-.inf", "-inf is not a finite number."),
    ("model_qa.params.checks.worst_slice.ratio=0.5", "0.5 is not at least 1."),
    ("model_qa.params.checks.worst_slice.threshold=[1]", "[1] is not a number."),
    ("model_qa.params.checks.drift.threshold=.nan", "nan is not a finite number."),
    ("model_qa.params.checks.drift.p_value=1.5", "1.5 is not from 0 to 1."),
    ("model_qa.params.checks.drift.missing=20", "20 is not from 0 to 1."),
    ("model_qa.params.checks.champion.margin=-0.1", "-0.1 is not from 0 to 1."),
    ("model_qa.params.checks.stability={seeds: 1, rows: 9, threshold: 1}", ".seeds: 1 is not at least 2."),
    ("model_qa.params.checks.stability={seeds: 2, rows: 1, threshold: 1}", ".rows: 1 is not at least 2."),
    ("model_qa.params.checks.stability={seeds: 2, rows: 9, threshold: a}", ".threshold: 'a' is not a number."),
    (
        "model_qa.params.checks.stability={seeds: 2, threshold: 1}",
        ".rows: missing. The keys of checks.stability: seeds,",
    ),
    ("model_qa.params.checks.latency={rows: 0, repeats: 2, threshold: 9}", ".rows: 0 is not at least 1."),
    ("model_qa.params.checks.latency={rows: 1, repeats: 0, threshold: 9}", ".repeats: 0 is not at least 1."),
    (
        "model_qa.params.checks.latency={rows: 1, repeats: 2, threshold: .nan}",
        ".threshold: nan is not a finite number.",
    ),
]


def refusal(assignment: str) -> str:
    """Return the one line that refuses the configuration."""
    with pytest.raises(ConfigError) as error:
        load("local", [assignment])
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("assignment", "reason"), WRONG)
def test_a_wrong_param_is_refused_with_its_full_key(assignment: str, reason: str) -> None:
    key, message = f"steps.{assignment.partition('=')[0]}", refusal(f"steps.{assignment}")
    inner = re.match(r"\.(\w+): ", reason)  # the key of a value inside the braces of the assignment
    assert message.startswith(f"{key}{reason}" if inner else f"{key}: ")
    assert reason in message


def test_the_table_covers_each_param_and_each_setting() -> None:
    params = {
        f"{name}.params.{field.name}"
        for name, step in load("local").steps.items()
        for field in dataclasses.fields(step.params)
    }
    settings = {f"model_qa.params.checks.{name}.{key}" for name in CHECKS for key in settings_of(name)}
    covered_keys = set()
    for assignment, reason in WRONG:
        key = assignment.partition("=")[0]
        inner = re.match(r"\.(\w+): ", reason)
        covered_keys.add(f"{key}.{inner[1]}" if inner else key)
    assert params | settings <= covered_keys


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in CHECKS for key in settings_of(name)])
def test_each_setting_of_a_check_has_a_range(name: str, key: str) -> None:
    ranges = {setting: rules.type_and_limits(annotation) for setting, annotation in settings_of(name).items()}
    lowest = {setting: kind(limits.low) for setting, (kind, limits) in ranges.items()}  # fails without a lower limit
    kind, (low, high) = ranges[key][0], dataclasses.astuple(ranges[key][1])
    for value in (lowest[key], kind(min(high, 1e6))):
        Params({name: {**lowest, key: value}})
    beyond = [low - 1, high + 1] if kind is int else [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)]
    for value in [*beyond, math.nan, math.inf, None, True, "high", *([low + 0.5] if kind is int else [])]:
        with pytest.raises(ValueError, match=rf"^checks\.{name}\.{key}: "):
            Params({name: {**lowest, key: value}})


@pytest.mark.parametrize(
    "assignment",
    [
        "train.params.threshold=0",
        "train.params.threshold=1",
        "feature_importance.params={rows: 1, repeats: 1}",
        "model_qa.params.slice_rows=1",
        "model_qa.params.checks.champion.margin=0",
        "model_qa.params.checks.drift.p_value=1",
        "model_qa.params.checks.min_auc.threshold=1",
        "model_qa.params.checks.train_test_gap.threshold=-1",
        "model_qa.params.checks.drift.threshold=9",
        "model_qa.params.checks.stability={seeds: 2, rows: 2, threshold: 0}",
        "model_qa.params.checks.latency=null",
        "train.params.estimator=sklearn.ensemble._forest.RandomForestClassifier",
    ],
)
def test_valid_params_are_accepted(assignment: str) -> None:
    load("local", [f"steps.{assignment}"])


def test_a_wrong_param_gives_exit_code_2_one_line_and_no_run(drive: Callable[..., Result], store: Store) -> None:
    result = drive("--set=steps.train.params.categories=onehot")
    assert result.code == 2
    assert result.text.splitlines() == [
        "steps.train.params.categories: onehot is not one of ordinal, one_hot, native. Did you mean one_hot?"
    ]
    assert store.runs() == []
    assert not store.tables.exists()


# -- a user's own check follows its annotations


def refusal_of_number(value: object, annotation: Any) -> str:
    with pytest.raises(ValueError, match=r"^x: ") as error:
        rules.number("x", value, annotation)
    return str(error.value)


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [1, 7], [0, -1, 1.0, True, "1", None, math.nan]),
        (float, [0, -1.5, 10], [math.nan, math.inf, -math.inf, 10**400, True, "1"]),
        (Share, [0, 1, 0.5], [-0.1, 1.1, math.nan]),
        (Annotated[int, Limits(low=0)], [0, 3], [-1, 0.5]),
        (Annotated[float, Limits(low=0.5)], [0.5, 2], [0.4, math.inf]),
        (Annotated[int, "no limits"], [1], [0]),
    ],
)
def test_a_number_must_satisfy_its_annotation(annotation: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        rules.number("x", value, annotation)
    for value in bad:
        assert refusal_of_number(value, annotation)


def test_the_settings_of_a_users_own_check_must_satisfy_its_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    def few_alarms(score: object, *, from_score: Share, rows: int, most: float) -> Check:
        raise NotImplementedError

    monkeypatch.setitem(CHECKS, "few_alarms", few_alarms)
    key = "steps.model_qa.params.checks.few_alarms"
    load("local", [f"{key}={{from_score: 0.9, rows: 3, most: -1}}"])
    assert refusal(f"{key}={{from_score: 9, rows: 3, most: 1}}") == f"{key}.from_score: 9 is not from 0 to 1."
    assert refusal(f"{key}={{from_score: 0.9, rows: 3.5, most: 1}}") == f"{key}.rows: 3.5 is not a whole number."


def test_an_error_that_params_raise_is_reported_with_the_key_of_the_params(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Params:
        rows: int

        def __post_init__(self) -> None:
            raise ValueError("the number must be even\nand more")

    monkeypatch.setattr("steps.evaluate.Params", Params)
    assert refusal("steps.evaluate.params.rows=1") == "steps.evaluate.params: the number must be even."


# -- other settings that would fail only in a run


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed=-1", "seed: -1 is not from 0 to 4294967295"),
        ("data.split_seed=-1", "data.split_seed: -1 is not from 0 to 4294967295"),
        ("seed=4294967296", "seed: 4294967296 is not from 0 to 4294967295"),
        ("steps.train.external=[conf/bands.csv]", f"steps.train.external: {ROOT / 'conf/bands.csv'} is not a file."),
        ("steps.model_qa.external=[champoin]", "steps.model_qa.external: "),
        ("data.source={kind: table, table: a.b, version: -1}", "data.source.version: -1 is not a version"),
        ("data.positive=churned", "data.positive: the label of the synthetic source is 0 or 1, not 'churned'."),
    ],
)
def test_a_setting_that_would_fail_later_is_refused_at_once(assignment: str, message: str) -> None:
    assert refusal(assignment).startswith(message)


@pytest.mark.parametrize("assignment", ["seed=4294967295", "steps.train.external=[LICENSE]", "data.positive=0"])
def test_a_valid_setting_is_accepted(assignment: str) -> None:
    load("local", [assignment])


# -- the configuration imports each step's module

LIGHT = {"errors", "text", "system", "config", "data", "authoring", "checks", "modelling", "problems"}
HEAVY = {"mlflow", "polars", "deltalake", "pyspark", "sklearn", "matplotlib", "numpy", "pandas", "scipy"}


@pytest.mark.parametrize("name", STEPS)
def test_the_module_of_a_step_imports_no_heavy_package(name: str) -> None:
    code = f"import sys, steps.{name}; steps.{name}.Params; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = [module.split(".") for module in result.stdout.split()]
    assert {top for top, *_ in modules} & HEAVY == set()
    assert {below[0] for top, *below in modules if top == "ml_pipelines" and below} <= LIGHT
    assert {below[0] for top, *below in modules if top == "steps" and below} - {"prepare_data"} == {name} - {
        "prepare_data"
    }
