"""`ml-pipelines sync`: MLproject and conda.yaml follow the declarations and keep what people wrote."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Result, change

from ml_pipelines.config import loading

Sync = Callable[..., Result]

POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
NEW_STEP = """
  score_bands:
    step_name: 06_score_bands
    inputs: [test_uri, train_run_id]
    outputs: [bands]
    compute: single_node
"""


@pytest.fixture
def sync(shell: Callable[..., Result], project: Path) -> Sync:
    """Run `ml-pipelines sync` on the copy of the project."""
    return lambda *options: shell("ml-pipelines", "sync", *options, cwd=project, PYTHONPATH=str(project))


def entry_point(project: Path, name: str) -> dict[str, dict[str, object]]:
    point: dict[str, dict[str, object]] = yaml.safe_load((project / "MLproject").read_text())["entry_points"][name]
    return point


# -- this project's own MLproject


def test_every_step_and_main_is_an_entry_point() -> None:
    assert list(POINTS) == ["main", *loading.load("local").steps]


@pytest.mark.parametrize("name", POINTS)
def test_no_placeholder_is_in_quotes(name: str) -> None:
    """MLflow quotes the values; inside our own quotes, a shell would execute `;` and `$()` in a value."""
    command = POINTS[name]["command"]
    assert not re.search(r"""["'`]\s*\{|\}\s*["'`]""", command)
    assert set(re.findall(r"--([\w-]+)=\{(\w+)\}", command)) == {
        (p.replace("_", "-"), p) for p in POINTS[name]["parameters"]
    }


@pytest.mark.parametrize("name", POINTS)
def test_every_parameter_has_a_default_that_survives_every_backend(name: str) -> None:
    for parameter, declared in POINTS[name]["parameters"].items():
        assert declared == {"type": "string", "default": "local" if parameter == "profile" else "none"}


@pytest.mark.parametrize("name", POINTS)
def test_every_command_starts_the_driver(name: str) -> None:
    step = "" if name == "main" else f" --step={name}"
    assert POINTS[name]["command"].startswith(f"python driver.py{step} --")


# -- on a copy


def test_sync_leaves_an_up_to_date_project_unchanged(sync: Sync, project: Path) -> None:
    before = {name: (project / name).read_bytes() for name in ("MLproject", "conda.yaml")}
    for result in (sync("--check"), sync()):
        assert (result.code, result.text) == (0, "")
    assert {name: (project / name).read_bytes() for name in before} == before


def test_a_new_step_becomes_an_entry_point_and_nothing_else_changes(sync: Sync, project: Path) -> None:
    before = (project / "MLproject").read_text()
    with (project / "conf" / "config.yaml").open("a") as file:
        file.write(NEW_STEP)
    (project / "steps" / "score_bands.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass Params:\n    pass\n"
    )
    assert sync().code == 0
    assert (project / "MLproject").read_text().startswith(before)
    new_point = entry_point(project, "score_bands")
    assert list(new_point["parameters"]) == ["test_uri", "train_run_id", "pipeline_run_id", "profile", "set"]
    assert new_point["command"] == (
        "python driver.py --step=score_bands --test-uri={test_uri} --train-run-id={train_run_id} "
        "--pipeline-run-id={pipeline_run_id} --profile={profile} --set={set}"
    )
    assert sync("--check").code == 0


@pytest.mark.slow
def test_sync_updates_the_parameters_and_the_command_of_a_changed_input(sync: Sync, project: Path) -> None:
    before = (project / "MLproject").read_text().splitlines()
    change(project / "conf" / "config.yaml", "inputs: [test_uri, train_run_id]", "inputs: [test_uri, model_uri]")
    assert sync().code == 0
    point = entry_point(project, "evaluate")
    assert set(point["parameters"]) == {"test_uri", "model_uri", "pipeline_run_id", "profile", "set"}
    assert "--model-uri={model_uri}" in point["command"] and "train" not in str(point["command"])
    after = (project / "MLproject").read_text().splitlines()
    assert len([line for line in after if line not in before]) == 2  # a parameter and a command
    assert sync("--check").code == 0


def test_check_names_file_and_line_changes_nothing_and_exits_1(sync: Sync, project: Path) -> None:
    path = project / "MLproject"
    change(path, "      test_headline: {type: string, default: none}\n", "")
    before = path.read_bytes()
    line = before.decode().splitlines().index(f'    command: "{POINTS["model_qa"]["command"]}"')
    result = sync("--check")
    assert result.code == 1 and path.read_bytes() == before
    assert f"MLproject:{line + 1}: + test_headline: {{type: string, default: none}}" in result.out
    assert "make sync" in result.err
    assert sync().code == 0 and sync("--check").code == 0


@pytest.mark.slow
def test_sync_keeps_what_people_wrote_byte_for_byte(sync: Sync, project: Path) -> None:
    path = project / "MLproject"
    command = POINTS["train"]["command"]
    change(
        path,
        "\nentry_points:\n",
        "\n\n# Ours.\nentry_points:   # all of them\n  notebook:\n    command: 'jupyter lab'\n",
    )
    change(
        path,
        "  train:\n    parameters:\n",
        "  train:  # the long one\n    parameters:\n      note: {type: string, default: none}\n",
    )
    change(path, command, f"nice {command} --note={{note}} --backend=local")
    change(path, "    - click==", "    - holidays>=0.5   # ours too\n    - click==")
    before = path.read_bytes()
    assert sync("--check").text == ""

    change(project / "conf" / "config.yaml", "    inputs: [train_uri]\n", "    inputs: [train_uri, test_uri]\n")
    assert sync().code == 0
    train = entry_point(project, "train")
    assert str(train["command"]).startswith("nice python driver.py --step=train --")
    assert str(train["command"]).endswith(" --backend=local") and "--note={note}" in train["command"]
    assert "test_uri" in train["parameters"] and "note" in train["parameters"]
    lost_lines = [line for line in before.splitlines() if line not in path.read_bytes().splitlines()]
    assert len(lost_lines) == 1 and b"nice" in lost_lines[0]  # the command, which got its new input


@pytest.mark.slow
def test_sync_removes_quotes_around_a_placeholder(sync: Sync, project: Path) -> None:
    change(project / "MLproject", "--step=train --train-uri={train_uri}", "--step=train --train-uri='{train_uri}'")
    assert sync("--check").code == 1
    assert sync().code == 0
    assert entry_point(project, "train")["command"] == POINTS["train"]["command"]


def test_sync_removes_the_entry_point_of_a_step_that_no_longer_exists(sync: Sync, project: Path) -> None:
    before = (project / "MLproject").read_bytes()
    with (project / "MLproject").open("a") as file:
        file.write('  old:\n    parameters:\n      set: {type: string, default: none}\n'
                   '    command: "python driver.py --step=old --set={set}"\n')  # fmt: skip
    assert sync().code == 0
    assert (project / "MLproject").read_bytes() == before


def test_sync_updates_each_pin_in_its_place(sync: Sync, project: Path) -> None:
    change(project / "conda.yaml", "      - skops==", "      - holidays==0.5  # ours\n      - skops==")
    lines = {name: (project / name).read_text().splitlines() for name in ("MLproject", "conda.yaml")}
    lock = project / "requirements.lock"
    lock.write_text(re.sub(r"(?m)^(click|skops|pysail)==\S+", r"\1==99.1", lock.read_text()))
    assert sync().code == 0
    for name, before in lines.items():
        expected = [re.sub(r"- (click|skops|pysail)==\S+", r"- \1==99.1", line) for line in before]
        assert (project / name).read_text().splitlines() == expected
    assert "      - holidays==0.5  # ours" in (project / "conda.yaml").read_text()


def test_a_new_requirement_is_added_and_no_other_line_changes(sync: Sync, project: Path) -> None:
    lines = {name: (project / name).read_text().splitlines() for name in ("MLproject", "conda.yaml")}
    change(project / "pyproject.toml", '    "polars>=', '    "zstandard>=0.1",\n    "polars>=')
    with (project / "requirements.lock").open("a") as file:
        file.write("zstandard==0.25.0\n")
    assert sync().code == 0
    for name, before in lines.items():
        after = (project / name).read_text().splitlines()
        assert [line for line in after if line.strip() != "- zstandard==0.25.0"] == before
        index = after.index(next(line for line in after if line not in before))
        assert after[index - 1].strip().startswith("- "), "it stands among the others"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("MLproject", "name: [x\n", "MLproject can't be updated"),
        ("MLproject", "name: x\n", "MLproject can't be updated: KeyError 'databricks_spark_job'"),
        ("conda.yaml", "dependencies: [python=3.12]\n", "conda.yaml can't be updated"),
        ("requirements.lock", "", "requirements.lock lacks click. Run `make lock`."),
    ],
)
def test_a_broken_file_is_named_in_one_line(sync: Sync, project: Path, name: str, text: str, message: str) -> None:
    (project / name).write_text(text)
    result = sync()
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err
