"""The wheel, which a cluster installs. It must not require Spark: that would replace the cluster's own Spark."""

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
import yaml
from building import build, sources
from conftest import FAST, ROOT, Result, Store

from ml_pipelines.system.wheel_version import version

pytestmark = pytest.mark.slow

SPARK = {"pyspark", "delta-spark", "pysail"}


@pytest.fixture(scope="module")
def wheel_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build(sources(folder), folder)


@pytest.fixture(scope="module")
def wheel(wheel_path: Path) -> ZipFile:
    return ZipFile(wheel_path)


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    return message_from_string(text(wheel, "METADATA"))


def text(wheel: ZipFile, name: str) -> str:
    return wheel.read(next(entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}"))).decode()


def required(metadata: Message, extra: str | None) -> set[str]:
    """Return the names of the packages that the wheel requires without an extra, or only with this extra."""
    names = set()
    for line in metadata.get_all("Requires-Dist", []):
        requirement, _, marker = line.partition(";")
        if re.findall(r"extra *== *['\"](\w+)['\"]", marker) == ([extra] if extra else []):
            names.add(re.split(r"[\[<>=!~ ]", requirement.strip())[0])
    return names


def test_the_wheel_itself_requires_no_spark(metadata: Message) -> None:
    base = required(metadata, None)
    assert base & SPARK == set()
    assert base >= {"mlflow", "polars", "deltalake", "scikit-learn", "skops", "omegaconf", "click", "databricks-sdk"}


def test_the_extra_local_requires_the_engines(metadata: Message) -> None:
    extras = ["catboost", "explain", "lightgbm", "local", "xgboost"]
    assert sorted(metadata.get_all("Provides-Extra", [])) == extras
    assert required(metadata, "local") >= SPARK


def test_commands_and_backends_are_entry_points(wheel: ZipFile) -> None:
    points = ConfigParser()
    points.read_string(text(wheel, "entry_points.txt"))
    assert dict(points["console_scripts"]) == {
        "ml-pipelines": "ml_pipelines.cli.main:main",
        "local-pipeline": "ml_pipelines.cli.tasks:local_pipeline",
        "close-pipeline": "ml_pipelines.cli.tasks:close_pipeline",
        "prepare-data": "ml_pipelines.cli.tasks:prepare_data",
        "train-model": "ml_pipelines.cli.tasks:train",
        "evaluate-model": "ml_pipelines.cli.tasks:evaluate",
        "feature-importance": "ml_pipelines.cli.tasks:feature_importance",
        "model-qa": "ml_pipelines.cli.tasks:model_qa",
        "score-data": "ml_pipelines.cli.tasks:score",
    }
    assert dict(points["mlflow.project_backend"]) == {
        "inline": "ml_pipelines.backends.inline:InlineBackend",
        "forkserver": "ml_pipelines.backends.forked:ForkServerBackend",
        "databricks-jobs": "ml_pipelines.backends.databricks_jobs:JobsBackend",
    }


def test_the_wheel_holds_only_the_library_the_steps_and_the_configuration(wheel: ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = [path for name in ("ml_pipelines", "steps") for path in (ROOT / name).rglob("*") if path.is_file()]
    code = {str(path.relative_to(ROOT)) for path in files if path.parent.name != "__pycache__"}
    assert names == code | {f"ml_pipelines/conf/{path.name}" for path in (ROOT / "conf").iterdir()}


# -- the version of the wheel


def git(project: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(project), *who, *arguments], check=True, capture_output=True)


def test_without_git_the_version_is_the_fallback_and_a_hash_of_the_content(tmp_path: Path) -> None:
    project = sources(tmp_path)
    first = version(project)
    assert re.fullmatch(r"0\.1\.0\+c[0-9a-f]{10}", first)
    assert version(project) == first == version(sources(tmp_path / "elsewhere"))
    versions = {first}
    for name in ("other", "third"):  # of one length, as most changes of a number are
        (project / "conf" / "dev.yaml").write_text(f"env_name: {name}\n")
        versions.add(version(project))
    assert len(versions) == 3


def test_with_git_the_version_names_the_commit_and_changes_with_the_content(tmp_path: Path) -> None:
    project = sources(tmp_path)
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message=one")
    clean = version(project)
    assert re.fullmatch(r"0\.1\.0\.dev1\+g[0-9a-f]{8}\.c[0-9a-f]{10}", clean)
    module = project / "steps" / "train.py"
    versions = {clean}
    for comment in ("# dirty", "# dirty in another way"):  # on the same day and the same commit
        module.write_text(f"{module.read_text()}{comment}\n")
        versions.add(version(project))
    assert len(versions) == 3
    git(project, "commit", "--quiet", "--all", "--message=two")
    git(project, "tag", "v0.2.0")
    assert version(project).startswith("0.2.0+g")
    (project / "unrelated.txt").write_text("not in the wheel")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message=three")
    assert version(project).startswith("0.2.0.post1+g")


def test_a_repository_around_the_project_does_not_set_its_version(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert version(sources(tmp_path)).startswith("0.1.0+c")


# -- as the bundle builds it


def test_after_an_edit_the_bundle_finds_only_the_new_wheel(tmp_path: Path) -> None:
    """Of several wheels in dist/, the Databricks CLI uploads the highest version, and digests have no order."""
    if not (uv := shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")):
        pytest.skip("no uv")
    project = sources(tmp_path)
    artifact = yaml.safe_load((ROOT / "databricks.yml").read_text())["artifacts"]["wheel"]
    assert (artifact["path"], "files" in artifact) == (".", False)  # then the CLI takes dist/*.whl
    environment = {**os.environ, "PATH": f"{Path(uv).parent}{os.pathsep}{os.environ['PATH']}"}
    seen = []
    for comment in ("# one", "# two", "# three"):
        with (project / "steps" / "train.py").open("a") as file:
            file.write(f"{comment}\n")
        for offline in ("1", "0"):
            command = ["sh", "-ec", artifact["build"]]
            env = {**environment, "UV_OFFLINE": offline}
            done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=100)
            if done.returncode == 0:
                break
        if done.returncode and not os.environ.get("CI"):
            pytest.skip(f"the wheel can't be built here: {done.stderr[-200:]}")
        assert done.returncode == 0, done.stderr
        (built,) = (project / "dist").glob("*.whl")
        assert f"{comment}\n".encode() in ZipFile(built).read("steps/train.py")
        seen.append(built.name)
    assert len(set(seen)) == 3


# -- installed in a fresh environment


@dataclass(frozen=True)
class Installed:
    """A fresh environment with the wheel, and a folder outside any checkout."""

    bin: Path
    folder: Path

    def __call__(self, *command: str, **environment: str) -> Result:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHONPATH"))
        }
        result = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.folder,
            env={**inherited, **environment},
            capture_output=True,
            text=True,
            timeout=200,
        )
        return Result(result.returncode, result.stdout, result.stderr)


def install(folder: Path, *requirements: str, beside: Path | None = None) -> Installed:
    """Install from uv's cache into a fresh environment, at the versions of the lock.

    The environment already has the packages of the folder `beside`, as a cluster has its own.
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
    options = [f"--python={environment / 'bin' / 'python'}", f"--constraint={ROOT / 'requirements.lock'}"]
    command = [uv, "pip", "install", "--quiet", "--offline", *options, *requirements]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if result.returncode and not os.environ.get("CI"):
        pytest.skip(f"not all in uv's cache: {result.stderr.strip()[-300:]}")
    assert result.returncode == 0, result.stderr
    return Installed(environment / "bin", away)


@pytest.fixture(scope="module")
def laptop(wheel_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(tmp_path_factory.mktemp("laptop"), f"ml-pipelines[local] @ file://{wheel_path}")


@pytest.fixture(scope="module")
def pipeline(laptop: Installed) -> Result:
    return laptop("local-pipeline", "pipeline=local", f"--set={FAST}")


def last_run(folder: Path) -> Store:
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder / ".data" / "delta")


def test_local_pipeline_runs_all_steps_in_one_process_outside_the_checkout(laptop: Installed, pipeline: Result) -> None:
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
    assert (again.code, again.out.split(":")[0]) == (0, "Up to date")


@pytest.mark.parametrize("script", ["prepare-data", "train-model", "evaluate-model", "feature-importance", "model-qa"])
def test_each_step_is_a_command_that_takes_options_and_a_profile(
    script: str, laptop: Installed, pipeline: Result
) -> None:
    parent = last_run(laptop.folder).parent().info.run_id
    result = laptop(script, "pipeline=local", f"--set={FAST}", f"--pipeline-run-id={parent}")
    assert result.code == 0, result.text
    run = last_run(laptop.folder).runs()[0]
    assert (run.info.status, run.data.tags["exit_code"]) == ("FINISHED", "0")
    assert f"{run.info.run_name} " in result.out


def test_python_m_works_like_the_console_script(laptop: Installed, pipeline: Result) -> None:
    arguments = ["pipeline=local", f"--set={FAST}", "--train-uri=/nowhere"]
    by_script, by_step, by_name = (
        laptop(*command, *arguments)
        for command in (
            ["train-model"],
            ["python", "-m", "ml_pipelines", "train"],
            ["python", "-m", "ml_pipelines", "train-model"],
        )
    )
    assert by_script.code == by_step.code == by_name.code == 3
    messages = [re.sub(r"\(run \w+\)", "", result.err.splitlines()[-1]) for result in (by_script, by_step, by_name)]
    assert len(set(messages)) == 1 and "/nowhere" in messages[0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pipeline=nope"], 2, "Profile 'nope' doesn't exist"),
        (["profile=local"], 2, "train-model: unexpected argument 'profile=local'. Use options, or pipeline=<profile>."),
        (["--trian-uri=x"], 2, "No such option '--trian-uri'"),
        ([], 2, "needs train_uri"),
    ],
)
def test_a_wrong_call_gives_one_line_and_its_exit_code(
    arguments: list[str], code: int, message: str, laptop: Installed
) -> None:
    result = laptop("train-model", *arguments)
    assert result.code == code and message in result.err and "Traceback" not in result.err
    assert len(result.err.splitlines()) == 1


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


def test_a_script_called_as_a_task_returns_on_success_and_raises_on_failure(
    laptop: Installed, pipeline: Result
) -> None:
    """A cluster may treat any SystemExit, even with code 0, as a failure."""
    runtime = {"DATABRICKS_RUNTIME_VERSION": "17.3"}
    parent = last_run(laptop.folder).parent().info.run_id

    def call(script: str, *arguments: str) -> str:
        return laptop("python", "-c", AS_A_TASK, script, *arguments, **runtime).out.splitlines()[-1]

    assert call("train-model", f"--pipeline-run-id={parent}", f"--set={FAST}") == "returned"
    assert call("train-model", "--help") == "returned"
    assert call("local-pipeline", f"--set={FAST}") == "returned"
    assert call("train-model", "--train-uri=/nowhere") == "BadData True"
    assert call("train-model", "pipeline=nope") == "ConfigError True"


def test_the_wheel_leaves_the_own_spark_of_a_runtime_alone(wheel_path: Path, tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    (runtime / "pyspark").mkdir(parents=True)
    (runtime / "pyspark" / "__init__.py").write_text("whose = 'the runtime'\n")
    (runtime / "pyspark-4.0.0.dist-info").mkdir()
    (runtime / "pyspark-4.0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: pyspark\nVersion: 4.0.0\n"
    )
    (runtime / "pyspark-4.0.0.dist-info" / "RECORD").write_text("pyspark/__init__.py,,\n")
    cluster = install(tmp_path, str(wheel_path), beside=runtime)
    code = "import pyspark; from importlib.metadata import version; print(pyspark.whose, version('pyspark'))"
    assert cluster("python", "-c", code).out == "the runtime 4.0.0\n"
    assert not [*cluster.bin.parent.rglob("pysail*"), *cluster.bin.parent.rglob("delta_spark*")]
    assert cluster("train-model", "--help").code == 0
