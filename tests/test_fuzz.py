"""Tests of random input in a conf file, on the command line and in an MLproject parameter: each error is one line.

No input causes a traceback, runs a command or writes a file outside the test's folder.
`FUZZ=50` tries fifty times as many inputs (`make chaos` sets it).
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow.projects.utils
import pytest
import yaml
from conftest import ROOT, Result, drive_in, use
from conftest import Store as OpenedStore
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ml_pipelines.config import loading, schema
from ml_pipelines.errors import ConfigError
from ml_pipelines.system import paths

pytestmark = pytest.mark.slow
TIMES = int(os.environ.get("FUZZ", "1"))
CALM = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
NASTY = [
    "$(touch ran)", "`touch ran`", "; touch ran;", "' touch ran '", '" touch ran "', "| touch ran", "\n touch ran\n",
    "&& touch ran", "../../escaped", "/etc/passwd", "file:///etc/passwd", "--profile=prod", "-rf", "", " ", "é", "\x00",
    "\ud800", "a" * 300, "${oc.env:HOME}", "${seed}", "!!python/object/apply:os.system ['touch ran']", "[", "???",
    "{a: [1, {b: 2}]}", "&a [*a]", "1e999", ".nan", "-1", "no", "010", "null", "%s", "{0.__class__}", "{profile}",
    "\\", "*", "~",
]  # fmt: skip
VALUES = st.one_of(st.sampled_from(NASTY), st.text(max_size=20), st.integers().map(str), st.floats().map(str))
KEYS = st.one_of(
    st.sampled_from(
        ["seed", "data", "data.label", "data.drop", "data.columns", "data.source.kind", "data.source.path", "env_name",
         "data.source.rows", "data.test_fraction", "data.delta_prefix.local", "spark.engine", "steps", "steps.train",
         "steps.train.params", "steps.train.inputs", "steps.train.step_name", "steps.train.timeout_s", "compute",
         "compute.spark", "experiment_name", "mlflow.tracking_uri", "model.trusted_types", "backend", "max_parallel"]
    ),
    st.text("abc._-$ =[]{}", max_size=12),
)  # fmt: skip
SETTINGS = st.builds("{}={}".format, KEYS, VALUES)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a copy of the project's conf that replaces the project; the tests fuzz its profile `mine`."""
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("conf/config.yaml", "conf/local.yaml", "MLproject"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text((ROOT / name).read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "root", lambda: folder)
        patch.chdir(folder)
        yield folder


def load_error(profile: str, assignments: list[str]) -> str:
    """Return the error's one line, or an empty text if the configuration loads."""
    try:
        loading.load(profile, assignments)
    except ConfigError as error:
        assert str(error)
        return str(error)
    return ""


# -- conf files


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), VALUES)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEYS.map(lambda key: key.split(".")[-1]), inner, max_size=3)
    ),
    max_leaves=8,
)
TOP = st.sampled_from([name for name in schema.Config.__dataclass_fields__ if name not in ("profile", "overrides")])


@settings(deadline=None, max_examples=150 * TIMES, suppress_health_check=CALM)
@given(st.dictionaries(st.one_of(TOP, KEYS), TREES, max_size=4))
def test_any_tree_as_a_profile_loads_or_gives_one_error(mine: Path, tree: dict[str, object]) -> None:
    text = yaml.safe_dump(tree, allow_unicode=False)
    (mine / "conf" / "mine.yaml").write_text(text)
    load_error("mine", [])
    assert not list(mine.rglob("ran*"))


@settings(deadline=None, max_examples=150 * TIMES, suppress_health_check=CALM)
@given(st.one_of(st.text(max_size=80), st.lists(SETTINGS, max_size=4).map("\n".join)))
@example("? [a]\n: b")
@example("{a: b}: c")
@example("1: 2\n2020-01-01: 3")
def test_any_text_as_a_profile_loads_or_gives_one_error(mine: Path, text: str) -> None:
    (mine / "conf" / "mine.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    load_error("mine", [])
    assert not list(mine.rglob("ran*"))


# -- merging


NUMBERS = st.dictionaries(
    st.sampled_from(["seed", "max_parallel", "data.source.rows", "data.source.features", "steps.train.retries"]),
    st.integers(1, 10**6),
)


def value(loaded: object, key: str) -> object:
    for part in key.split("."):
        loaded = loaded[part] if isinstance(loaded, dict) else getattr(loaded, part)
    return loaded


@settings(deadline=None, max_examples=30 * TIMES, suppress_health_check=CALM)
@given(NUMBERS, NUMBERS)
def test_set_overrides_the_profile_and_the_profile_overrides_the_base(
    mine: Path, profile: dict[str, int], overrides: dict[str, int]
) -> None:
    base = loading.load("local")
    tree: dict[str, object] = yaml.safe_load((ROOT / "conf" / "local.yaml").read_text())
    for key, number in profile.items():
        *folders, leaf = key.split(".")
        place: dict[str, object] = tree
        for name in folders:
            place = place.setdefault(name, {})  # type: ignore[assignment]
        place[leaf] = number
    (mine / "conf" / "mine.yaml").write_text(yaml.safe_dump(tree))
    loaded = loading.load("mine", [f"{key}={number}" for key, number in overrides.items()])
    for key in ("seed", "max_parallel", "data.source.rows", "data.source.features", "steps.train.retries"):
        assert value(loaded, key) == overrides.get(key, profile.get(key, value(base, key)))
    assert (loaded.data.label, loaded.steps["evaluate"]) == (base.data.label, base.steps["evaluate"])
    assert loading.load("mine", [loaded.overrides]) == loaded


# -- the command line


@pytest.fixture(scope="module")
def dry_run(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Result]]:
    """Return a function that runs driver.py --dry-run in an empty folder with an empty store."""
    folder = tmp_path_factory.mktemp("dry")
    store = OpenedStore(f"sqlite:///{folder / 'none.db'}", folder / "delta")
    with pytest.MonkeyPatch.context() as patch:
        use(store, patch)
        patch.chdir(folder)
        yield lambda *arguments: drive_in(store, "--dry-run", *arguments, small=False)
    assert list(folder.iterdir()) == []


ARGUMENTS = st.lists(
    st.one_of(
        SETTINGS.map("--set={}".format),
        *(VALUES.map(f"--{name}={{}}".format) for name in ("profile", "only", "from", "force", "backend", "resume")),
        VALUES,
    ),
    max_size=3,
)


@settings(deadline=None, max_examples=80 * TIMES, suppress_health_check=CALM)
@given(ARGUMENTS)
def test_any_command_line_gives_a_plan_or_one_error(dry_run: Callable[..., Result], arguments: list[str]) -> None:
    result = dry_run(*arguments)  # an exception that isn't SystemExit is raised here
    assert result.code in (0, 2), result.text
    assert "Traceback" not in result.text


# -- MLproject


@pytest.mark.skipif(sys.platform == "win32", reason="no bash")
@settings(deadline=None, max_examples=40 * TIMES, suppress_health_check=CALM)
@given(
    st.sampled_from(["main", *loading.load("local").steps]),
    VALUES.filter(lambda v: "\x00" not in v and v.isprintable()),
)
@example("main", "\n touch ran\n")
def test_any_parameter_stays_one_word_of_the_command(tmp_path: Path, entry_point: str, value: str) -> None:
    point = mlflow.projects.utils.load_project(str(ROOT)).get_entry_point(entry_point)
    command = point.compute_command(dict.fromkeys(point.parameters, value), storage_dir=str(tmp_path))
    result = subprocess.run(
        ["bash", "-c", f"python() {{ printf '%s\\0' \"$@\"; }}; {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    words = result.stdout.split("\0")[:-1]
    assert len(words) == 1 + (entry_point != "main") + len(point.parameters)
    assert all(word.partition("=")[2] == value for word in words[1 + (entry_point != "main") :])
    assert list(tmp_path.iterdir()) == []
