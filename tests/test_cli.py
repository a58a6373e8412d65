"""`ml-pipelines`: its help, the merged configuration, and exit codes."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import Result
from omegaconf import OmegaConf

from ml_pipelines import cli, config

COMMANDS = sorted(cli.commands.commands)


def typed(*arguments: str) -> Result:
    """Return what the command prints, run in this process."""
    done = CliRunner().invoke(cli.commands, list(arguments))
    return Result(done.exit_code, done.stdout, done.stderr)


def test_help_lists_every_command_with_what_it_does() -> None:
    result = typed("--help")
    assert result.code == 0
    assert len(COMMANDS) <= 10 and cli.commands.help
    for name in COMMANDS:
        assert f"  {name} " in result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_has_help(name: str) -> None:
    command = cli.commands.commands[name]
    assert command.help and command.help.endswith(".")
    for option in command.params:
        assert isinstance(option, click.Argument) or (isinstance(option, click.Option) and option.help), option.name
    result = typed(name, "--help")
    assert result.code == 0 and command.help in " ".join(result.out.split())


@pytest.mark.parametrize("profile", config.profiles())
def test_config_prints_yaml_that_is_the_whole_configuration(profile: str) -> None:
    printed = typed("config", "--profile", profile, "--set", "seed=7,data.drop=[a,b]")
    assert printed.code == 0
    again = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config.Config), OmegaConf.create(printed.out)))
    loaded = config.load(profile, ["seed=7,data.drop=[a,b]"])
    assert isinstance(again, config.Config)
    assert (again.seed, again.data, again.compute, again.backend) == (7, loaded.data, loaded.compute, loaded.backend)
    assert list(again.steps) == list(loaded.steps)


def test_what_config_prints_can_be_a_profile_again(shell: Callable[..., Result], project: Path) -> None:
    printed = shell("ml-pipelines", "config", "--set=seed=7", cwd=project, PYTHONPATH=str(project))
    (project / "conf" / "again.yaml").write_text(printed.out)
    again = shell("ml-pipelines", "config", "--profile=again", cwd=project, PYTHONPATH=str(project))
    assert (printed.code, again.code) == (0, 0), printed.text + again.text
    assert "seed: 7" in printed.out and again.out == printed.out


def test_config_prints_a_variables_name_and_not_its_value(shell: Callable[..., Result], project: Path) -> None:
    with (project / "conf" / "local.yaml").open("a") as file:
        file.write("mlflow: {tracking_uri: '${oc.env:STORE}'}\n")
    result = shell("ml-pipelines", "config", cwd=project, PYTHONPATH=str(project), STORE="sqlite:///hidden.db")
    assert result.code == 0 and "${oc.env:STORE}" in result.out and "hidden" not in result.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["config", "--profile=prd"], "There is no profile 'prd': conf/ has dev, local, prod"),
        (["config", "--set=sede=1"], "sede"),
        (["parity", "--set=data.test_fraction=2"], "data.test_fraction"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ml-pipelines", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    seen = capsys.readouterr()
    assert (ended.value.code, seen.out, seen.err.count("\n")) == (2, "", 1)
    assert said in seen.err


@pytest.mark.parametrize("arguments", [["nonsense"], ["sync", "--chek"], ["config", "extra"]])
def test_an_unknown_command_or_option_is_a_usage_error(arguments: list[str]) -> None:
    result = typed(*arguments)
    assert result.code == 2 and arguments[-1].lstrip("-") in result.err
