"""The modules that an import executes are found as Python finds them; a change of any of them changes the digest."""

import importlib.machinery
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_pipelines.system import paths
from ml_pipelines.system.source_code import SourceCode

Write = Callable[..., None]
EXTENSION = f"steps/_fast{importlib.machinery.EXTENSION_SUFFIXES[0]}"
# Prints the files of all modules that an import of steps.train, and a call of its function f, have executed.
EXECUTED = """
import json, sys
import steps.train
getattr(steps.train, "f", int)()
print(json.dumps([getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]))
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes files (path -> text) into an empty checkout."""
    for name in ("code", "checkout", "root"):
        monkeypatch.setattr(paths, name, lambda: tmp_path)

    def written(**files: str) -> None:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return written


@pytest.mark.parametrize(
    ("imports", "files"),
    [
        ("import steps.extra.core", ["steps/extra/__init__.py", "steps/extra/core.py"]),
        ("from steps.extra import K", ["steps/extra/__init__.py"]),
        ("from steps import extra", ["steps/extra/__init__.py"]),
        ("from .extra import core", ["steps/extra/__init__.py", "steps/extra/core.py"]),
        ("from . import extra", ["steps/extra/__init__.py"]),
        ("from steps.extra.core import *", ["steps/extra/__init__.py", "steps/extra/core.py"]),
        ("import steps.open.core", ["steps/open/core.py"]),  # a folder without __init__.py
        ("import beside", ["beside.py"]),
        ("import features.scale", ["features/__init__.py", "features/scale.py"]),
        ("def f():\n    import beside", ["beside.py"]),
        ("import importlib\nimportlib.import_module('beside')", ["beside.py"]),
        ("from importlib import import_module\nimport_module('.extra', __package__)", ["steps/extra/__init__.py"]),
        ("beside = __import__('beside')", ["beside.py"]),
        ("import steps.both", ["steps/both/__init__.py"]),  # a package wins over the module both.py
    ],
)
def test_imports_are_followed_as_python_does(write: Write, tmp_path: Path, imports: str, files: list[str]) -> None:
    everything = ["steps/__init__.py", "steps/extra/__init__.py", "steps/extra/core.py", "steps/open/core.py"]
    everything += ["beside.py", "features/__init__.py", "features/scale.py", "steps/both/__init__.py", "steps/both.py"]
    write(**dict.fromkeys(everything, "K = 1"), **{"steps/train.py": imports})
    found = {str(SourceCode().file(name)) for name in SourceCode().reachable("steps.train")}
    assert {str(Path(name).relative_to(tmp_path)) for name in found} == {"steps/__init__.py", "steps/train.py", *files}
    done = subprocess.run([sys.executable, "-c", EXECUTED], cwd=tmp_path, capture_output=True, text=True, check=True)
    executed = {file for file in json.loads(done.stdout) if file.startswith(str(tmp_path))}
    assert executed == found


@pytest.mark.parametrize(
    ("relative", "file"),
    [
        ("from .core import K", "steps/extra/core.py"),
        ("from . import core", "steps/extra/core.py"),
        ("from .core import *", "steps/extra/core.py"),
        ("from .. import beyond", "steps/beyond.py"),
        ("from .deep import core", "steps/extra/deep/core.py"),
        ("from ..both import K", "steps/both/__init__.py"),
        ("from . import *", "steps/extra/core.py"),  # __all__ may name core
    ],
)
@pytest.mark.parametrize("old_suffix", ["", "\n# a remark"])
def test_a_relative_import_of_a_package_is_followed(write: Write, relative: str, file: str, old_suffix: str) -> None:
    names = ["steps/extra/core.py", "steps/beyond.py", "steps/extra/deep/core.py", "steps/both/__init__.py"]
    write(
        **dict.fromkeys(names, "K = 1"), **{"steps/train.py": "import steps.extra", "steps/extra/__init__.py": relative}
    )
    before = SourceCode().code("steps.train")
    write(**{file: f"K = 1{old_suffix}"})
    assert SourceCode().code("steps.train") == before
    write(**{file: "K = 2"})
    assert SourceCode().code("steps.train") != before


def test_a_compiled_module_counts_by_its_bytes(write: Write) -> None:
    write(**{"steps/train.py": "from steps import _fast", EXTENSION: "one"})
    before = SourceCode().code("steps.train")
    write(**{EXTENSION: "two"})
    assert before.keys() == {"steps.train", "steps._fast"}
    assert SourceCode().code("steps.train")["steps._fast"] != before["steps._fast"]


def test_a_new_package_beside_a_module_of_the_same_name_is_a_change(write: Write) -> None:
    write(**{"steps/train.py": "import steps.both", "steps/both.py": "K = 1"})
    before = SourceCode().code("steps.train")
    write(**{"steps/both/__init__.py": "K = 2"})
    assert SourceCode().code("steps.train") != before


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("os.environ['RATE']", {"RATE"}),
        ("os.environ.get('RATE', '1')", {"RATE"}),
        ("os.getenv('RATE')", {"RATE"}),
        ("getenv('RATE')", {"RATE"}),
        ("'RATE' in environ", {"RATE"}),
        ("os.environ[name]", set()),
        ("options.get('RATE')", set()),
    ],
)
def test_environment_variables_are_found_by_their_literal_names(write: Write, code: str, names: set[str]) -> None:
    write(**{"steps/train.py": f"x = {code}"})
    assert SourceCode().variables("steps.train") == names


def test_installed_packages_are_not_the_projects_own(write: Write) -> None:
    write(**{"steps/train.py": "import polars, numpy.linalg, beside", "beside.py": "", "polars/notes.txt": ""})
    code = SourceCode()
    assert code.third_party(("steps.train",)) == {"polars", "numpy"}


def test_a_module_that_python_cannot_parse_counts_by_its_bytes(write: Write) -> None:
    write(**{"steps/train.py": "import steps.broken", "steps/broken.py": "def ("})
    before = SourceCode().code("steps.train")
    write(**{"steps/broken.py": "def (("})
    assert SourceCode().code("steps.train") != before
