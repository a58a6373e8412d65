"""The wheel: what a cluster gets. It must not require Spark, which would replace the cluster's own."""

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import FAST, ROOT, Result, Store

from ml_pipelines.wheel import version

pytestmark = pytest.mark.slow

SPARK = {"pyspark", "delta-spark", "pysail"}


def build(project: Path, folder: Path) -> Path:
    """Build the wheel and return it: from uv's cache where that has what hatchling needs, else by the network."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    by_uv = [uv or "uv", "build", "--quiet", "--wheel", f"--out-dir={folder}", str(project)]
    by_pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(project)]
    for command in [[*by_uv, "--offline"], by_uv] if uv else [by_pip]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        if done.returncode == 0:
            return next(folder.glob("*.whl"))
    if os.environ.get("CI") or not re.search(r"(?i)no module named pip|offline|network|connect|fetch", done.stderr):
        pytest.fail(f"the wheel can't be built: {done.stderr}")
    pytest.skip(f"no network, and nothing in a cache, to build the wheel with: {done.stderr.strip()[-200:]}")


def sources(folder: Path) -> Path:
    """Copy what the wheel is made of, and return the copy."""
    project = folder / "project"
    for name in ("ml_pipelines", "steps", "conf"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    return project


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build(sources(folder), folder)


@pytest.fixture(scope="module")
def wheel(built: Path) -> ZipFile:
    return ZipFile(built)


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    return message_from_string(text(wheel, "METADATA"))


def text(wheel: ZipFile, name: str) -> str:
    return wheel.read(next(entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}"))).decode()


def required(metadata: Message, extra: str | None) -> set[str]:
    """Return the names of what the package requires by itself, or with an extra only."""
    found = set()
    for line in metadata.get_all("Requires-Dist", []):
        requirement, _, marker = line.partition(";")
        if re.findall(r"extra *== *['\"](\w+)['\"]", marker) == ([extra] if extra else []):
            found.add(re.split(r"[\[<>=!~ ]", requirement.strip())[0])
    return found


def test_the_wheel_itself_requires_no_spark(metadata: Message) -> None:
    base = required(metadata, None)
    assert base & SPARK == set()
    assert base >= {"mlflow", "polars", "deltalake", "scikit-learn", "skops", "omegaconf", "click", "databricks-sdk"}


def test_the_extra_local_brings_the_engines(metadata: Message) -> None:
    assert metadata.get_all("Provides-Extra") == ["local"]
    assert required(metadata, "local") >= SPARK


def test_commands_and_backends_are_entry_points(wheel: ZipFile) -> None:
    points = ConfigParser()
    points.read_string(text(wheel, "entry_points.txt"))
    assert dict(points["console_scripts"]) == {
        "ml-pipelines": "ml_pipelines.cli:main",
        "local-pipeline": "ml_pipelines.tasks:local_pipeline",
        "close-pipeline": "ml_pipelines.tasks:close_pipeline",
        "prepare-data": "ml_pipelines.tasks:prepare_data",
        "train-model": "ml_pipelines.tasks:train",
        "evaluate-model": "ml_pipelines.tasks:evaluate",
        "feature-importance": "ml_pipelines.tasks:feature_importance",
        "model-qa": "ml_pipelines.tasks:model_qa",
    }
    assert dict(points["mlflow.project_backend"]) == {
        "inline": "ml_pipelines.backends:InlineBackend",
        "forkserver": "ml_pipelines.backends:ForkServerBackend",
        "databricks-jobs": "ml_pipelines.databricks.jobs:JobsBackend",
    }


def test_the_wheel_holds_the_library_the_steps_and_the_configuration_and_nothing_else(wheel: ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = [path for name in ("ml_pipelines", "steps") for path in (ROOT / name).rglob("*") if path.is_file()]
    code = {str(path.relative_to(ROOT)) for path in files if path.parent.name != "__pycache__"}
    assert held == code | {f"ml_pipelines/conf/{path.name}" for path in (ROOT / "conf").iterdir()}


# -- its version


def git(project: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(project), *who, *arguments], check=True, capture_output=True)


def test_without_git_the_version_is_the_fallback_and_the_content(tmp_path: Path) -> None:
    project = sources(tmp_path)
    first = version(project)
    assert re.fullmatch(r"0\.1\.0\+c[0-9a-f]{10}", first)
    assert version(project) == first == version(sources(tmp_path / "elsewhere"))
    (project / "conf" / "dev.yaml").write_text("env_name: other\n")
    assert version(project) != first


def test_with_git_the_version_names_the_commit_and_differs_where_the_content_does(tmp_path: Path) -> None:
    project = sources(tmp_path)
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message=one")
    clean = version(project)
    assert re.fullmatch(r"0\.1\.0\.dev1\+g[0-9a-f]{8}\.c[0-9a-f]{10}", clean)
    module = project / "steps" / "train.py"
    seen = {clean}
    for comment in ("# dirty", "# dirty in another way"):  # on one day, on one commit
        module.write_text(f"{module.read_text()}{comment}\n")
        seen.add(version(project))
    assert len(seen) == 3
    git(project, "commit", "--quiet", "--all", "--message=two")
    git(project, "tag", "v0.2.0")
    assert version(project).startswith("0.2.0+g")
    (project / "unrelated.txt").write_text("not in the wheel")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message=three")
    assert version(project).startswith("0.2.0.post1+g")


def test_a_repository_around_the_project_is_not_its_own(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert version(sources(tmp_path)).startswith("0.1.0+c")


# -- installed alone


@dataclass(frozen=True)
class Installed:
    """A fresh environment with the wheel, and a folder away from any checkout."""

    bin: Path
    folder: Path

    def __call__(self, *command: str, **environment: str) -> Result:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHONPATH"))
        }
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.folder,
            env={**inherited, **environment},
            capture_output=True,
            text=True,
            timeout=200,
        )
        return Result(done.returncode, done.stdout, done.stderr)


def install(folder: Path, *requirements: str, beside: Path | None = None) -> Installed:
    """Install into a fresh environment what set-up left in uv's cache, at the versions of the lock.

    Packages of the folder `beside` are there already, as on a cluster.
    """
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("no uv, and so no cache to install from")
    environment, away = folder / "environment", folder / "away"
    away.mkdir(parents=True)
    subprocess.run([uv, "venv", "--quiet", f"--python={sys.executable}", str(environment)], check=True)
    if beside:
        (site,) = environment.glob("lib/python*/site-packages")
        shutil.copytree(beside, site, dirs_exist_ok=True)
    how = [f"--python={environment / 'bin' / 'python'}", f"--constraint={ROOT / 'requirements.lock'}"]
    command = [uv, "pip", "install", "--quiet", "--offline", *how, *requirements]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"not all in uv's cache: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr
    return Installed(environment / "bin", away)


@pytest.fixture(scope="module")
def laptop(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(tmp_path_factory.mktemp("laptop"), f"ml-pipelines[local] @ file://{built}")


@pytest.fixture(scope="module")
def pipeline(laptop: Installed) -> Result:
    return laptop("local-pipeline", "pipeline=local", f"--set={FAST}")


def last_run(folder: Path) -> Store:
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder / ".data" / "delta")


def test_local_pipeline_runs_everything_in_one_process_away_from_the_checkout(
    laptop: Installed, pipeline: Result
) -> None:
    assert pipeline.code == 0, pipeline.text
    store = last_run(laptop.folder)
    parent = store.parent()
    assert parent.info.status == "FINISHED"
    assert set(store.statuses(parent).values()) == {"FINISHED"} and len(store.below(parent)) == 5
    assert "mlflow.source.git.commit" not in parent.data.tags
    assert re.fullmatch(r"0\.1\.0\+c[0-9a-f]{10}", parent.data.tags["package_version"])
    assert store.child("train").data.tags["output.model_uri"]
    assert list(store.tables.rglob("_delta_log")), "the tables stand in the working directory"
    again = laptop("local-pipeline", f"--set={FAST}")
    assert (again.code, again.out.split(":")[0]) == (0, "Nothing has changed")


@pytest.mark.parametrize("script", ["prepare-data", "train-model", "evaluate-model", "feature-importance", "model-qa"])
def test_each_step_is_a_command_that_takes_options_and_a_profile_as_the_seed_did(
    script: str, laptop: Installed, pipeline: Result
) -> None:
    parent = last_run(laptop.folder).parent().info.run_id
    done = laptop(script, "pipeline=local", f"--set={FAST}", f"--pipeline-run-id={parent}")
    assert done.code == 0, done.text
    run = last_run(laptop.folder).runs()[0]
    assert (run.info.status, run.data.tags["exit_code"]) == ("FINISHED", "0")
    assert f"{run.info.run_name} " in done.out


def test_python_m_does_as_the_console_script(laptop: Installed, pipeline: Result) -> None:
    given = ["pipeline=local", f"--set={FAST}", "--train-uri=/nowhere"]
    by_script, by_step, by_name = (
        laptop(*command, *given)
        for command in (
            ["train-model"],
            ["python", "-m", "ml_pipelines", "train"],
            ["python", "-m", "ml_pipelines", "train-model"],
        )
    )
    assert by_script.code == by_step.code == by_name.code == 3
    said = [re.sub(r"\(run \w+\)", "", result.err.splitlines()[-1]) for result in (by_script, by_step, by_name)]
    assert len(set(said)) == 1 and "/nowhere" in said[0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["pipeline=nope"], 2, "There is no profile 'nope'"),
        (["profile=local"], 2, "train-model takes options, and pipeline=<profile>; 'profile=local' is neither."),
        (["--trian-uri=x"], 2, "No such option '--trian-uri'"),
        ([], 2, "needs train_uri"),
    ],
)
def test_a_wrong_call_is_one_line_and_its_exit_code(
    arguments: list[str], code: int, said: str, laptop: Installed
) -> None:
    done = laptop("train-model", *arguments)
    assert done.code == code and said in done.err and "Traceback" not in done.err
    assert len(done.err.splitlines()) == 1


AS_A_TASK = """
import importlib.metadata, sys
(script,) = importlib.metadata.entry_points(group="console_scripts", name=sys.argv[1])
sys.argv[1:] = sys.argv[2:]
try:
    script.load()()
except BaseException as error:
    print(type(error).__name__, isinstance(error, Exception))
else:
    print("returned")
"""


def test_called_as_a_task_success_returns_and_failure_is_raised(laptop: Installed, pipeline: Result) -> None:
    """A cluster may take any SystemExit, even of code 0, for a failure."""
    runtime = {"DATABRICKS_RUNTIME_VERSION": "17.3"}
    parent = last_run(laptop.folder).parent().info.run_id

    def call(script: str, *arguments: str) -> str:
        return laptop("python", "-c", AS_A_TASK, script, *arguments, **runtime).out.splitlines()[-1]

    assert call("train-model", f"--pipeline-run-id={parent}", f"--set={FAST}") == "returned"
    assert call("train-model", "--help") == "returned"
    assert call("local-pipeline", f"--set={FAST}") == "returned"
    assert call("train-model", "--train-uri=/nowhere") == "BadData True"
    assert call("train-model", "pipeline=nope") == "ConfigError True"


def test_beside_a_runtimes_own_spark_the_wheel_leaves_that_alone(built: Path, tmp_path: Path) -> None:
    own = tmp_path / "runtime"
    (own / "pyspark").mkdir(parents=True)
    (own / "pyspark" / "__init__.py").write_text("whose = 'the runtime'\n")
    (own / "pyspark-4.0.0.dist-info").mkdir()
    (own / "pyspark-4.0.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pyspark\nVersion: 4.0.0\n")
    (own / "pyspark-4.0.0.dist-info" / "RECORD").write_text("pyspark/__init__.py,,\n")
    cluster = install(tmp_path, str(built), beside=own)
    seen = "import pyspark; from importlib.metadata import version; print(pyspark.whose, version('pyspark'))"
    assert cluster("python", "-c", seen).out == "the runtime 4.0.0\n"
    assert not [*cluster.bin.parent.rglob("pysail*"), *cluster.bin.parent.rglob("delta_spark*")]
    assert cluster("train-model", "--help").code == 0
