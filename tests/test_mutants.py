"""`make mutants`: its list fits the code, and a change that no test notices lowers the score."""

from pathlib import Path

import pytest
from chaos import mutants
from conftest import ROOT


def test_every_entry_of_the_list_fits_the_code() -> None:
    assert [problem for mutant in mutants.listed() for problem in mutant.problems(ROOT)] == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with one module and one test, which does not notice whether 10 is large."""
    (tmp_path / "project" / "tests").mkdir(parents=True)
    (tmp_path / "project" / "size.py").write_text("def is_large(number):\n    return number > 9\n")
    test = "from size import is_large\n\n\ndef test_large():\n    assert is_large(20) and not is_large(3)\n"
    (tmp_path / "project" / "tests" / "test_size.py").write_text(test)
    return tmp_path / "project"


def try_all(project: Path, *changes: tuple[str, str], test: str = "test_size.py::test_large") -> int:
    entries = ", ".join(f"['{old}', '{new}', '{test}']" for old, new in changes)
    (project.parent / "list.toml").write_text(f'"size.py" = [{entries}]')
    return mutants.main(file=project.parent / "list.toml", root=project)


@pytest.mark.slow
def test_a_change_that_no_test_notices_lowers_the_score(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert try_all(project, ("> 9", "< 9"), ("> 9", "> 10")) == 1
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines[0] == "1 of 2 mutants killed: 50.0%. The goal is 95%."
    assert lines[1].startswith("SURVIVED") and lines[1].endswith("size.py: > 9 -> > 10")
    assert lines[2].startswith("killed") and lines[2].endswith("size.py: > 9 -> < 9")
    assert try_all(project, ("> 9", "< 9")) == 0
    assert "> 9" in (project / "size.py").read_text()


@pytest.mark.parametrize(
    ("old", "new", "test", "problem"),
    [
        ("> 8", "< 9", "test_size.py::test_large", "size.py: > 8 -> < 9: the old text stands 0 times in the module"),
        ("number", "n", "test_size.py::test_large", "the old text stands 2 times in the module, not once"),
        ("> 9", ">> > 9", "test_size.py::test_large", "the changed module is not Python: invalid syntax"),
        ("> 9", "< 9", "test_size.py::test_small", "there is no test test_size.py::test_small"),
        ("> 9", "< 9", "test_weight.py::test_large", "there is no test test_weight.py::test_large"),
    ],
)
def test_an_entry_that_does_not_fit_the_code_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, test: str, problem: str
) -> None:
    assert try_all(project, (old, new), test=test) == 1
    assert problem in capsys.readouterr().out
