"""Tests of the documentation: links have targets, pages name all options and keys, and the code to paste works."""

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
from ml_pipelines.cli import main
from ml_pipelines.config.schema import Column, ColumnType, Data, FileFormat, Source, SourceKind

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def text(*names: str) -> str:
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_the_docs_name_every_option_of_the_driver() -> None:
    pages = text("README.md", "docs/running.md")
    options = {name for parameter in driver.main.params for name in parameter.opts if name.startswith("--")}
    internal = {"--step"}  # only MLproject's entry points use it
    assert not [option for option in options - internal if option not in pages]


def test_the_docs_name_every_command() -> None:
    pages = text(
        "README.md",
        *(f"docs/{name}" for name in ("running.md", "engines.md", "development.md", "contract.md", "report.md")),
    )
    assert not [name for name in main.commands.commands if f"ml-pipelines {name}" not in pages and name != "sync"]
    assert "make sync" in pages


def test_the_docs_name_every_key_of_data() -> None:
    page = text("docs/data.md")
    elsewhere = {"volume_name", "delta_prefix"}  # where tables go: docs/running.md
    keys = [field.name for kind in (Data, Source) for field in fields(kind) if field.name not in elsewhere]
    keys += [member.value for kind in (SourceKind, FileFormat) for member in kind]
    assert not [key for key in keys if key not in page]


def test_the_docs_name_every_key_of_a_contract() -> None:
    page = text("docs/contract.md")
    names = [field.name for field in fields(Column)] + [member.value for member in ColumnType]
    assert not [name for name in names if f"`{name}`" not in page]


def test_the_docs_name_every_exit_code() -> None:
    from ml_pipelines import errors

    codes = {kind.exit_code for kind in errors.PipelineError.__subclasses__()} | {129, 130, 143}
    table = text("docs/running.md").partition("## Exit codes")[2].partition("##")[0]
    documented_codes = ",".join(re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE))
    assert codes == {int(code) for code in documented_codes.split(",")}


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_the_docs_list_the_make_targets_as_make_prints_them() -> None:
    result = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout in text("docs/development.md")


@pytest.mark.slow
def test_the_code_on_the_new_step_page_works(project: Path, shell: Callable[..., Result], store: Store) -> None:
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

    output = run("ml-pipelines", "sync")
    expected = page.partition("ml-pipelines sync\n")[2].partition("```")[0].splitlines(keepends=True)
    assert re.fullmatch("".join("(.*\n)*" if line == "...\n" else re.escape(line) for line in expected), output)
    assert "2 passed" in run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/steps")
    assert re.search(r"✓ 06_score_bands .* rows by score", run("python", "driver.py", f"--set={FAST}"))
    assert store.child("score_bands").info.status == "FINISHED"


@pytest.mark.slow
def test_the_custom_check_on_the_quality_gate_page_works(
    project: Path, shell: Callable[..., Result], store: Store
) -> None:
    (function,) = re.findall(r"```python\n(.*?)```", text("docs/qa.md"), re.DOTALL)
    *_, block = re.findall(r"```yaml\n(.*?)```", text("docs/qa.md"), re.DOTALL)
    with (project / "ml_pipelines" / "checks" / "quality_checks.py").open("a") as module:
        module.write(f"\n\n{function}")
    with (project / "conf" / "local.yaml").open("a") as profile:
        profile.write(block)
    result = shell("python", "driver.py", f"--set={FAST}", cwd=project, PYTHONPATH=str(project))
    assert result.code == 0, result.text
    report = json.loads(store.artifact(store.child("model_qa"), "qa_report.json").read_text())
    assert ("few_alarms", "passed") in [(check["check"], check["verdict"]) for check in report["checks"]]


def test_the_docs_name_every_check() -> None:
    from ml_pipelines.checks.quality_checks import CHECKS

    assert not [name for name in CHECKS if f"| `{name}` |" not in text("docs/qa.md")]
