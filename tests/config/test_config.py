"""Tests of the configuration: it merges base, profile and --set, checks the result, and freezes it."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from databricks.sdk.service.compute import ClusterSpec, DataSecurityMode

import driver
from ml_pipelines.config import loading, overrides, schema
from ml_pipelines.config.compute import cluster_spec
from ml_pipelines.config.rules import OPTIONS
from ml_pipelines.errors import ConfigError
from ml_pipelines.system import paths

LEAST = {
    "env_name": "env_name: x",
    "experiment_name": "experiment_name: x",
    "backend": "backend: inline",
    "compute": "compute: {spark: local, single_node: local}",
}


def refusal(*overrides: str, profile: str = "local") -> str:
    """Return the one-line error that refuses this configuration."""
    with pytest.raises(ConfigError) as error:
        loading.load(profile, overrides)
    message = str(error.value)
    assert "\n" not in message and message
    return message


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that writes a profile into a copy of conf/, with the required keys, and returns its name."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.setattr(paths, "root", lambda: tmp_path)

    def write(text: str, least: bool = True) -> str:
        lines = [line for key, line in LEAST.items() if least and f"{key}:" not in text]
        (tmp_path / "conf" / "mine.yaml").write_bytes("\n".join([*lines, text]).encode("latin-1"))
        return "mine"

    return write


# -- merging


def test_a_profile_changes_one_key_and_keeps_its_siblings(profile: Callable[..., str]) -> None:
    loaded = loading.load(profile("data: {source: {rows: 7}}"))
    assert (loaded.data.source.rows, loaded.data.source.features, loaded.data.label) == (7, 20, "label")
    assert loaded.profile == "mine" and "mine" in loading.profiles()


def test_set_overrides_the_profile_and_the_last_set_wins(profile: Callable[..., str]) -> None:
    loaded = loading.load(profile("seed: 1\nmax_parallel: 5"), ["seed=2", "seed=3"])
    assert (loaded.seed, loaded.max_parallel) == (3, 5)


def test_a_profile_replaces_a_whole_list(profile: Callable[..., str]) -> None:
    assert loading.load(profile("data: {null_values: [x]}")).data.null_values == ["x"]


def test_an_empty_profile_lacks_the_required_keys(profile: Callable[..., str]) -> None:
    assert "env_name" in refusal(profile=profile("", least=False))


@pytest.mark.parametrize(
    ("text", "assignments"),
    [
        ("none", []),
        ("", []),
        ("a.b=1", ["a.b=1"]),
        ("a.b=1,c=2", ["a.b=1", "c=2"]),
        ("a=[x,y],b=[1, 2], c=3", ["a=[x,y]", "b=[1, 2]", "c=3"]),
        ("a={x: 1, y: 2},b=1", ["a={x: 1, y: 2}", "b=1"]),
        ("data.source.separator=,,seed=1", ["data.source.separator=,", "seed=1"]),
        ("data.drop=[group,odds=ratio],seed=1", ["data.drop=[group,odds=ratio]", "seed=1"]),
        ("data.label='a,b=c',seed=1", ["data.label='a,b=c'", "seed=1"]),
        ('a={"x]": [1,b=2]},b=1', ['a={"x]": [1,b=2]}', "b=1"]),
        ("a=x[1,b=2", ["a=x[1", "b=2"]),
        ("a=[1,b=2", ["a=[1", "b=2"]),
        ("""a."b.c,d='e"=1,a.'"'=2""", ["""a."b.c,d='e"=1""", """a.'"'=2"""]),
    ],
)
def test_set_splits_at_commas_between_assignments_only(text: str, assignments: list[str]) -> None:
    assert overrides.split_overrides(text) == assignments
    assert overrides.split_overrides(",".join(assignments)) == assignments


def test_overrides_written_as_one_text_load_the_same_configuration() -> None:
    first = loading.load("local", ["data.drop=[a,b],seed=3", "data.columns={c: category}"])
    assert loading.load("local", [first.overrides]) == first
    assert (first.data.drop, first.seed, first.data.columns) == (["a", "b"], 3, {"c": schema.Treatment.category})
    assert loading.load("local").overrides == schema.NONE


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ('data.columns."petal.length"=category', "petal.length"),
        ("data.columns.'petal.length'=category", "petal.length"),
        (r'data.columns."a\"b"=category', 'a"b'),
        ('data.columns."Unnamed: 0"=category', "Unnamed: 0"),
        ("data.columns.1E5=category", "1E5"),
        ("data.columns={7E1: category}", "7E1"),
        ("data.columns={petal.length: category}", "petal.length"),
        ("data.columns.password=category", "password"),
    ],
)
def test_a_column_with_an_odd_name_can_be_set(assignment: str, key: str) -> None:
    loaded = loading.load("local", [assignment])
    assert loaded.data.columns == {key: schema.Treatment.category}
    assert loading.load("local", [loaded.overrides]) == loaded


SPELLINGS = ["1E5", "7E1", "1e5", "-999.00", "1.50", "1_000", ".5", "true", "TRUE", ".inf", "2024-01-01"]


@pytest.mark.parametrize(
    "name",
    [
        "bwt",
        "loan id",
        "a.b",
        "a,b",
        "x]",
        "no",
        "010",
        "1E5",
        "null",
        "Unnamed: 0",
        "it's",
        'say "hi"',
        "",
        " é",
        "a=b",
    ],
)
def test_the_settings_that_messages_name_load_with_any_column(name: str) -> None:
    data = loading.load("local", [overrides.drop_setting(name, ["a: b"])]).data
    assert data.drop == ["a: b", name]
    assert list(loading.load("local", [f"{overrides.column_key(name)}=category"]).data.columns) == [name]


def test_the_settings_that_messages_name_have_quotes_only_if_needed() -> None:
    assert overrides.drop_setting("loan id", ["opened"]) == "data.drop=[opened,loan id]"
    assert overrides.column_key("zip") == "data.columns.zip"
    assert overrides.column_key("loan id") == 'data.columns."loan id"'


def test_text_that_looks_like_a_number_keeps_its_spelling(profile: Callable[..., str]) -> None:
    listed = ", ".join(SPELLINGS)
    written = f"data: {{null_values: [{listed}], drop: [é, 1E5]}}\nregistry: {{model: 1E5}}"
    for loaded in (
        loading.load("local", [f"data.null_values=[{listed}],data.drop=[é, 1E5],registry.model=1E5"]),
        loading.load(profile(written.replace("é", "e"))),
    ):
        assert loaded.data.null_values == SPELLINGS
        assert loaded.data.drop[1] == "1E5"
        assert loaded.registry.model == "1E5"


def test_text_that_looks_like_a_number_keeps_its_spelling_in_a_contract_and_in_params(
    profile: Callable[..., str],
) -> None:
    loaded = loading.load(profile("contract: {7E1: {type: text, categories: [1E5, &a 2E5, *a]}}"))
    assert loaded.contract["7E1"].categories == ["1E5", "2E5", "2E5"]
    loaded = loading.load("local", ["steps.model_qa.params.slices=[1E5],data.columns={a: &a category, b: *a}"])
    assert loaded.steps["model_qa"].params.slices == ["1E5"]
    assert set(loaded.data.columns) == {"a", "b"}


def test_null_is_null_except_in_a_list_of_texts() -> None:
    loaded = loading.load("local", ["data.key=null,data.positive=,data.null_values=[null, ~]"])
    assert (loaded.data.key, loaded.data.positive, loaded.data.null_values) == (None, None, ["null", "~"])


@pytest.mark.parametrize("text", ["data: {positive: 1E5, label: y}", "data:\n  label: y\n  positive: 1E5\n"])
def test_the_positive_value_keeps_its_spelling(profile: Callable[..., str], text: str) -> None:
    assert loading.load(profile(text)).data.positive == "1E5"


def test_a_profile_can_read_a_value_from_the_environment(
    profile: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHO", "me")
    assert loading.load(profile("experiment_name: ${oc.env:WHO}")).experiment_name == "me"


def test_the_loaded_configuration_is_frozen() -> None:
    loaded = loading.load("local")
    train = loaded.steps["train"]
    for thing in (loaded, loaded.data, loaded.data.source, loaded.mlflow, loaded.spark, train, train.params):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, dataclasses.fields(thing)[0].name, None)


def test_params_have_the_type_of_the_step_module() -> None:
    from steps.train import Params

    params = loading.load("local", ["steps.train.params.options.max_iter=5"]).steps["train"].params
    assert isinstance(params, Params)
    assert params.options == {"max_iter": 5}


# -- refusals: each message names the key


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        # unknown keys, with the nearest known one
        ("data.test_fractoin=0.3", ["data.test_fractoin", "Did you mean", "test_fraction"]),
        ("dataa.label=x", ["dataa", "Did you mean", "data"]),
        ("steps.train.parms.x=1", ["steps.train.parms", "params"]),
        ("steps.train.params.treshold=1", ["steps.train.params.treshold", "threshold", "steps/train.py"]),
        # wrong types
        ("seed=x", ["seed", "'x'", "Integer"]),
        ("data.test_fraction=half", ["data.test_fraction", "'half'"]),
        ("data.drop=x", ["data.drop"]),
        ("data=3", ["data"]),
        ("steps=[1]", ["steps", "list"]),
        ("data.columns=[a]", ["data.columns", "list"]),
        ("data.source.kind=excel", ["data.source.kind", "excel", "synthetic, file, table, sample"]),
        ("data.columns.zip=categry", ["data.columns.zip", "number, category"]),
        ("steps.train.params.threshold=high", ["steps.train.params.threshold", "'high'", "Float"]),
        ("steps.train.params=3", ["steps.train.params", "3"]),
        # a list, a mapping or a single value in place of another
        ("data.drop=since", ["data.drop: 'since' is not a list. Write [since]."]),
        ("data.drop=a,b", ["data.drop: 'a,b' is not a list. Write [a,b]."]),
        ("data.label=[a]", ["data.label: ['a'] is a list, but this key takes a single value."]),
        ("data.source=x.csv", ["data.source: 'x.csv' is not a mapping of kind, rows,", "data.source.KEY=VALUE"]),
        ("compute.spark=[local]", ["compute.spark: ['local'] is a list"]),
        # missing values
        ("steps.trian.params.estimator=x", ["steps.trian: there is no such step. Did you mean train?"]),
        ("contract.age={min: 3}", ["contract.age.type: has no value, and needs one."]),
        (
            "steps.scores={compute: spark}",
            ["steps.scores: there is no such step", "Did you mean score?", "step_name and compute"],
        ),
        ("seed=", ["seed"]),
        ("data.source.kind=file", ["data.source.path"]),
        ("data.source.kind=table", ["data.source.table"]),
        # values of the right type that are out of range
        ("data.test_fraction=0", ["data.test_fraction", "0.0"]),
        ("data.test_fraction=1", ["data.test_fraction"]),
        ("data.test_fraction=-0.2", ["data.test_fraction"]),
        ("data.test_fraction=.nan", ["data.test_fraction"]),
        ("seed=-1", ["seed", "from 0 to 4294967295"]),
        ("seed=4294967296", ["seed", "4294967296"]),
        ("max_parallel=0", ["max_parallel"]),
        ("steps.train.timeout_s=0", ["steps.train.timeout_s", "0.0"]),
        ("steps.train.timeout_s=-1", ["steps.train.timeout_s", "-1.0"]),
        ("steps.train.timeout_s=.nan", ["steps.train.timeout_s", "nan"]),
        ("steps.train.retries=-1", ["steps.train.retries", "-1"]),
        ("steps.train.retries=twice", ["steps.train.retries", "twice"]),
        ("spark.engine=duckdb", ["spark.engine", "sail, jvm, databricks, sc://"]),
        ("data.source.separator=;;", ["data.source.separator"]),
        ("data.source.features=0", ["data.source", "features"]),
        ("data.source.table=a b", ["data.source.table"]),
        ("data.label=id", ["label", "key"]),
        ("data.drop=[label]", ["label", "data.drop"]),
        ("data.columns.id=number", ["key", "data.columns"]),
        ("steps.train.compute=gpu", ["steps.train.compute", "'gpu'", "spark, single_node"]),
        # steps
        ("steps.scores={step_name: s, compute: spark}", ["steps.scores", "steps/scores.py"]),
        ("steps.Bad={step_name: s, compute: spark}", ["steps.Bad", "small letters"]),
        ("steps.main={step_name: s, compute: spark}", ["steps.main", "entry point"]),
        ("steps.train.outputs=[model-uri]", ["steps.train", "'model-uri'", "small letters"]),
        ("steps.train.outputs=[class]", ["steps.train", "'class'", "Python"]),
        ("steps.train.outputs=[test_uri]", ["steps.train.outputs", "test_uri", "prepare_data"]),
        ("steps.train.inputs=[train_url]", ["steps.train.inputs", "train_url", "train_uri"]),
        ("steps.prepare_data.inputs=[qa_passed]", ["steps", "cycle", "prepare_data -> train"]),
        # the command line
        ("seed", ["--set seed:", "key=value"]),
        ("=1", ["--set", "key=value"]),
        ("seed=[1", ["--set", "seed=[1"]),
        ("data.label=${seed}", ["--set", "${seed}", "interpolation"]),
        ("data.label=${oc.env:HOME}", ["--set", "interpolation"]),
        (r'data.label="\x24{oc.env:HOME}"', ["--set data.label", "interpolation"]),
        (r'data.label="\u0024{oc.env:HOME}"', ["--set data.label", "interpolation"]),
        (r'data.drop=[a, {b: "\x24{oc.env:HOME}"}]', ["--set data.drop"]),
        (r'steps.train.params.options={"\x24{seed}": 1}', ["--set steps.train.params.options", "interpolation"]),
        ("data.label=!!python/object/apply:os.getcwd []", ["--set", "tag"]),
        # names of columns
        ("data.drop=[Unnamed: 0]", ["--set data.drop", "as a mapping", 'write "Unnamed: 0"']),
        ("data.label=a: b", ["--set data.label", 'write "a: b"']),
        ("data.columns.petal.length=category", ['data.columns."petal.length"=category']),
        ("contract.petal.length.type=number", ['contract."petal.length".type=number']),
        ("contract.age.typ=number", ["contract.age.typ", "Did you mean"]),
        # too much
        (f"data.drop={'[' * 3000}", ["--set data.drop", "more than 50 levels"]),
        (f"data.drop={'[' * 3000}{']' * 3000}", ["--set data.drop", "more than 50 levels"]),
    ],
)
def test_the_error_for_a_wrong_key_or_value_names_it_in_one_line(assignment: str, parts: list[str]) -> None:
    message = refusal(assignment)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    "assignment", ["seed", "data.source.separator", "backend", "spark.engine", "steps.train.compute", "x", "data.drop"]
)
def test_a_long_value_is_cut_in_the_message(assignment: str) -> None:
    for text in (f"{assignment}={'y' * 9999}", f"{assignment}.{'y' * 9999}=1", f"{'y' * 9999} {assignment}"):
        if not text.startswith("backend="):  # driver.py looks up the backend
            assert len(refusal(text)) < 400


@pytest.mark.parametrize("key", ["mlflow.password", "data.api_key", "aws_access_key", "x.db_secret", "GITHUB_TOKEN"])
def test_a_key_that_looks_like_a_secret_is_refused_without_showing_its_value(key: str) -> None:
    message = refusal(f"{key}=hunter2")
    assert key in message and "secret" in message and "hunter2" not in message


@pytest.mark.parametrize("value", ["no", "Yes", "on", "OFF", "010", "-07", "0x1F", "1:30"])
def test_values_that_yaml_misreads_must_be_quoted(value: str, profile: Callable[..., str]) -> None:
    for message in (refusal(f"data.label={value}"), refusal(f"data.null_values=[a, {value}]")):
        assert "--set data." in message and f'"{value}"' in message
    assert "conf/mine.yaml, line 5" in refusal(profile=profile(f"data: {{label: {value}}}"))
    assert loading.load(profile(f"data: {{label: '{value}'}}"), [f'data.key="{value}x"']).data.label == value


def test_an_output_must_not_have_the_name_of_a_driver_option() -> None:
    options = {name.lstrip("-").replace("-", "_") for option in driver.main.params for name in option.opts}
    assert options - {"inputs"} <= OPTIONS
    for name in sorted(OPTIONS - {"from"}):
        assert name in refusal(f"steps.train.outputs=[{name}]")


# -- profiles


@pytest.mark.parametrize("name", ["prd", "config", "../conf/local", "", "local.yaml"])
def test_the_error_for_an_unknown_profile_lists_the_profiles(name: str) -> None:
    assert "dev, local, prod" in refusal(profile=name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1", "conf/mine.yaml is not valid YAML"),
        ("\tseed: 1", "conf/mine.yaml is not valid YAML"),
        (f"seed: {'[' * 3000}", "conf/mine.yaml: lists and mappings are nested in more than 50 levels"),
        ("seed: &a [*a]", "conf/mine.yaml is not valid YAML"),
        ("data: {drop: [Unnamed: 0]}", """conf/mine.yaml, line 5: YAML reads 'Unnamed: 0' as a mapping"""),
        ("seed: 1\nseed: 2", "duplicate key seed"),
        ("seed: !!python/object/apply:os.getcwd []", "tag"),
        ("label: \xff", "conf/mine.yaml is not valid YAML"),
        ("data: [label]", "conf/mine.yaml: data is a list"),
        ("sead: 1", "sead"),
        ("seed: ${nope}", "seed: Interpolation key 'nope' not found"),
        ("experiment_name: ${oc.env:NO_SUCH_VARIABLE}", "experiment_name"),
        ("\n".join(["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]", *(f"{y}: &{y} [{', '.join([f'*{x}'] * 9)}]"
                    for x, y in zip("abcdef", "bcdefg", strict=True))]), "expansion"),
    ],
)  # fmt: skip
def test_a_broken_profile_gives_a_one_line_error(profile: Callable[..., str], text: str, message: str) -> None:
    assert message in refusal(profile=profile(text))


def test_a_profile_that_is_a_list_is_refused(profile: Callable[..., str]) -> None:
    assert "conf/mine.yaml is a list" in refusal(profile=profile("- seed: 1", least=False))


@pytest.mark.parametrize("name", ["dev", "prod"])
def test_the_databricks_profiles_have_valid_cluster_specs(name: str) -> None:
    loaded = loading.load(name)
    assert (loaded.env_name, loaded.spark.engine, loaded.mlflow.tracking_uri) == (name, "databricks", "databricks")
    for step in loaded.steps.values():
        content = cluster_spec(loaded, step)
        assert content == json.loads((ROOT / f"resources/clusters/{name}/{step.compute}.json").read_text())
        spec = ClusterSpec.from_dict(content)
        assert spec.as_dict() == content, "a field that the SDK doesn't know"
        assert (spec.num_workers is None) != (spec.autoscale is None), "one size each"
        assert spec.data_security_mode is DataSecurityMode.SINGLE_USER
        if step.compute == "single_node":
            assert spec.num_workers == 0
            assert spec.spark_conf == {
                "spark.databricks.cluster.profile": "singleNode",
                "spark.master": "local[*]",
            }
            assert (spec.custom_tags or {})["ResourceClass"] == "SingleNode"


def test_one_setting_selects_a_running_cluster_or_serverless() -> None:
    loaded = loading.load("dev", ["compute.spark=0923-164208-meows279,compute.single_node=serverless"])
    assert cluster_spec(loaded, loaded.steps["prepare_data"]) == {"existing_cluster_id": "0923-164208-meows279"}
    assert cluster_spec(loaded, loaded.steps["train"]) == {"environment_version": "4"}


def test_the_error_names_a_cluster_spec_that_does_not_exist() -> None:
    loaded = loading.load("local", ["compute.spark=resources/clusters/x.json"])
    with pytest.raises(ConfigError, match=r"compute\.spark: the file resources/clusters/x\.json can't be read"):
        cluster_spec(loaded, loaded.steps["prepare_data"])


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "\x1b[2J", "{"])
def test_a_broken_cluster_spec_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    loaded = loading.load("local", [f"compute.spark={tmp_path}/x.json"])
    with pytest.raises(ConfigError, match=r"^compute\.spark: \S+/x\.json is not a JSON object: .+\.$"):
        cluster_spec(loaded, loaded.steps["prepare_data"])


def test_the_error_names_a_step_without_params(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "steps.empty", ModuleType("steps.empty"))
    with pytest.raises(ConfigError, match=r"steps\.empty: steps/empty\.py has no dataclass Params"):
        loading.load("local", ["steps.empty={step_name: s, compute: spark}"])
