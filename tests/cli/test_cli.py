"""Tests of the command `ml-pipelines`: its help, the merged configuration, and exit codes."""

import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import Result, Store
from omegaconf import OmegaConf

from ml_pipelines.cli import main, tasks
from ml_pipelines.config import loading, schema

COMMANDS = sorted(main.commands.commands)


def run_cli(*arguments: str) -> Result:
    """Run the command in this process, and return its result."""
    result = CliRunner().invoke(main.commands, list(arguments))
    return Result(result.exit_code, result.stdout, result.stderr)


def test_help_lists_every_command() -> None:
    result = run_cli("--help")
    assert result.code == 0
    assert len(COMMANDS) <= 14 and main.commands.help
    for name in COMMANDS:
        assert f"  {name} " in result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_has_help(name: str) -> None:
    command = main.commands.commands[name]
    assert command.help and command.help.endswith(".")
    for option in command.params:
        assert isinstance(option, click.Argument) or (isinstance(option, click.Option) and option.help), option.name
    result = run_cli(name, "--help")
    assert result.code == 0 and command.help in " ".join(result.out.split())


@pytest.mark.parametrize("profile", loading.profiles())
def test_config_prints_the_whole_configuration_as_yaml(profile: str) -> None:
    result = run_cli("config", "--profile", profile, "--set", "seed=7,data.drop=[a,b]")
    assert result.code == 0
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema.Config), OmegaConf.create(result.out)))
    loaded = loading.load(profile, ["seed=7,data.drop=[a,b]"])
    assert isinstance(config, schema.Config)
    assert (config.seed, config.data, config.compute, config.backend) == (
        7,
        loaded.data,
        loaded.compute,
        loaded.backend,
    )
    assert list(config.steps) == list(loaded.steps)


def test_the_output_of_config_works_as_a_profile(shell: Callable[..., Result], project: Path) -> None:
    first = shell("ml-pipelines", "config", "--set=seed=7", cwd=project, PYTHONPATH=str(project))
    (project / "conf" / "again.yaml").write_text(first.out)
    second = shell("ml-pipelines", "config", "--profile=again", cwd=project, PYTHONPATH=str(project))
    assert (first.code, second.code) == (0, 0), first.text + second.text
    assert "seed: 7" in first.out and second.out == first.out


def test_config_prints_a_variables_name_and_not_its_value(shell: Callable[..., Result], project: Path) -> None:
    with (project / "conf" / "local.yaml").open("a") as file:
        file.write("mlflow: {tracking_uri: '${oc.env:STORE}'}\n")
    result = shell("ml-pipelines", "config", cwd=project, PYTHONPATH=str(project), STORE="sqlite:///hidden.db")
    assert result.code == 0 and "${oc.env:STORE}" in result.out and "hidden" not in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "--profile=prd"], "Profile 'prd' doesn't exist. Did you mean prod? Use one of: dev, local, prod"),
        (["config", "--set=sede=1"], "sede"),
        (["parity", "--set=data.test_fraction=2"], "data.test_fraction"),
    ],
)
def test_a_wrong_option_gives_one_line_and_exit_code_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ml-pipelines", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        main.main()
    output = capsys.readouterr()
    assert (exit_info.value.code, output.out, output.err.count("\n")) == (2, "", 1)
    assert message in output.err


@pytest.mark.parametrize("arguments", [["nonsense"], ["sync", "--chek"], ["config", "extra"]])
def test_an_unknown_command_or_option_is_a_usage_error(arguments: list[str]) -> None:
    result = run_cli(*arguments)
    assert result.code == 2 and arguments[-1].lstrip("-") in result.err


@pytest.mark.parametrize("code", [3, 5, 124, 130])
def test_a_console_script_ends_with_the_exit_code_of_its_step(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(tasks.step_run, "execute", lambda *_, **__: code)
    monkeypatch.setattr(sys, "argv", ["train-model", "--train-uri=/nowhere"])
    with pytest.raises(SystemExit) as end:
        tasks.train()
    assert end.value.code == code
