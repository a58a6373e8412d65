"""The pages tell the truth: links lead somewhere, options and keys are told of, and what a page says to paste runs."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import FAST, ROOT, Result, Store

import driver
from ml_pipelines import cli
from ml_pipelines.config import Column, ColumnType, Data, FileFormat, Source, SourceKind

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def text(*names: str) -> str:
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_option_of_driver_is_told_of() -> None:
    pages = text("README.md", "docs/running.md")
    options = {name for parameter in driver.main.params for name in parameter.opts if name.startswith("--")}
    internal = {"--step"}  # MLproject's entry points' own
    assert not [option for option in options - internal if option not in pages]


def test_every_command_is_told_of() -> None:
    pages = text(
        "README.md",
        *(f"docs/{name}" for name in ("running.md", "engines.md", "development.md", "contract.md", "report.md")),
    )
    assert not [name for name in cli.commands.commands if f"ml-pipelines {name}" not in pages and name != "sync"]
    assert "make sync" in pages


def test_every_key_of_data_is_told_of() -> None:
    page = text("docs/data.md")
    elsewhere = {"volume_name", "delta_prefix"}  # where tables go: docs/running.md
    keys = [field.name for kind in (Data, Source) for field in fields(kind) if field.name not in elsewhere]
    keys += [member.value for kind in (SourceKind, FileFormat) for member in kind]
    assert not [key for key in keys if key not in page]


def test_every_key_of_a_contract_is_told_of() -> None:
    page = text("docs/contract.md")
    names = [field.name for field in fields(Column)] + [member.value for member in ColumnType]
    assert not [name for name in names if f"`{name}`" not in page]


def test_every_exit_code_is_told_of() -> None:
    from ml_pipelines import errors

    codes = {kind.exit_code for kind in errors.PipelineError.__subclasses__()} | {129, 130, 143}
    table = text("docs/running.md").partition("## Exit codes")[2].partition("##")[0]
    told = ",".join(re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE))
    assert codes == {int(code) for code in told.split(",")}


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_the_list_of_make_targets_is_what_make_prints() -> None:
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout in text("docs/development.md")


@pytest.mark.slow
def test_the_page_on_a_sixth_step_works_as_it_is_pasted(
    project: Path, shell: Callable[..., Result], store: Store
) -> None:
    page = text("docs/new-step.md")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    module, test = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with (project / "conf" / "config.yaml").open("a") as config:
        config.write(block)
    (project / "steps" / "score_bands.py").write_text(module)
    (project / "tests" / "steps").mkdir(parents=True)
    (project / "tests" / "steps" / "test_score_bands.py").write_text(test)
    shutil.copy(ROOT / "tests" / "recording.py", project / "tests")
    paths = f"{project}:{project / 'tests'}"

    def run(*command: str) -> str:
        result = shell(*command, cwd=project, PYTHONPATH=paths)
        assert result.code == 0, result.text
        return result.out

    synced = run("ml-pipelines", "sync")
    told = page.partition("ml-pipelines sync\n")[2].partition("```")[0].splitlines(keepends=True)
    assert re.fullmatch("".join("(.*\n)*" if line == "...\n" else re.escape(line) for line in told), synced)
    assert "2 passed" in run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/steps")
    assert re.search(r"✓ 06_score_bands .* rows by score", run("python", "driver.py", f"--set={FAST}"))
    assert store.child("score_bands").info.status == "FINISHED"


@pytest.mark.slow
def test_the_page_on_the_gate_shows_a_check_of_one_s_own_that_works(
    project: Path, shell: Callable[..., Result], store: Store
) -> None:
    (function,) = re.findall(r"```python\n(.*?)```", text("docs/qa.md"), re.DOTALL)
    *_, block = re.findall(r"```yaml\n(.*?)```", text("docs/qa.md"), re.DOTALL)
    with (project / "steps" / "checks.py").open("a") as module:
        module.write(f"\n\n{function}")
    with (project / "conf" / "local.yaml").open("a") as profile:
        profile.write(block)
    done = shell("python", "driver.py", f"--set={FAST}", cwd=project, PYTHONPATH=str(project))
    assert done.code == 0, done.text
    report = json.loads(store.artifact(store.child("model_qa"), "qa_report.json").read_text())
    assert ("few_alarms", "passed") in [(check["check"], check["verdict"]) for check in report["checks"]]


def test_every_check_is_told_of() -> None:
    from steps.checks import CHECKS

    assert not [name for name in CHECKS if f"| `{name}` |" not in text("docs/qa.md")]
