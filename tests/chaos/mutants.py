"""Change the code in one place and see whether a test fails, for each change in mutants.toml: `make mutants`.

Each change is made in a copy of the project. A mutant is killed if one of its tests fails; the score is the share of
mutants that are killed. `python -m chaos.mutants TEXT` (with PYTHONPATH=.:tests) tries only the mutants whose line
contains TEXT.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from conftest import NOT_COPIED, ROOT

LIST = Path(__file__).with_name("mutants.toml")
GOAL = 0.95  # the lowest score with which `make mutants` succeeds
AT_ONCE = 2  # mutants that are tried at the same time, each in a copy of its own
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--timeout=120")


@dataclass(frozen=True)
class Mutant:
    """A change of one module, and the tests of which at least one must fail because of it."""

    module: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.module}: {old} -> {new or '(nothing)'}"

    def problems(self, root: Path) -> Iterator[str]:
        """Yield why this entry of the list does not fit the code."""
        text = (root / self.module).read_text(encoding="utf-8") if (root / self.module).is_file() else ""
        if (count := text.count(self.old)) != 1:
            yield f"{self}: the old text stands {count} times in the module, not once"
        elif self.module.endswith(".py"):
            try:
                ast.parse(text.replace(self.old, self.new))
            except SyntaxError as error:
                yield f"{self}: the changed module is not Python: {error}"
        for test in self.tests:
            file, _, name = test.partition("::")
            path, definition = root / "tests" / file, rf"^def {re.escape(name)}\("
            if not (path.is_file() and re.search(definition, path.read_text(encoding="utf-8"), re.MULTILINE)):
                yield f"{self}: there is no test {test}"


def listed(file: Path = LIST) -> list[Mutant]:
    """Return the mutants of the list."""
    modules = tomllib.loads(file.read_text(encoding="utf-8"))
    return [Mutant(name, old, new, tuple(tests)) for name, changes in modules.items() for old, new, *tests in changes]


def pytest(copy: Path, tests: Iterable[str], *options: str) -> int:
    """Run these tests in a copy of the project, and return the exit code: 0 if they pass, 1 if one fails."""
    command = [sys.executable, "-m", "pytest", *OPTIONS, f"--basetemp={copy}_tests", *options]
    # Without bytecode, Python can't run the code of another mutant: it compares only seconds and sizes of files.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.run(
        [*command, *(f"tests/{test}" for test in tests)], cwd=copy, env=environment, **quiet
    ).returncode


def verdict(mutant: Mutant, copy: Path) -> str:
    """Change a copy of the project, run the mutant's tests, and change the copy back."""
    module = copy / mutant.module
    text = module.read_text(encoding="utf-8")
    module.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code = pytest(copy, mutant.tests)
    finally:
        module.write_text(text, encoding="utf-8")
    return {0: "SURVIVED", 1: "killed"}.get(code, f"NO TEST RAN, pytest ended with {code}")


def main(only: str = "", file: Path = LIST, root: Path = ROOT) -> int:
    """Try the mutants, print a line for each and the score, and return the exit code."""
    mutants = [mutant for mutant in listed(file) if only in str(mutant)]
    if problems := [problem for mutant in mutants for problem in mutant.problems(root)]:
        print(*problems, sep="\n")
        return 1
    copies: SimpleQueue[Path] = SimpleQueue()

    def is_killed(mutant: Mutant) -> bool:
        copy, started = copies.get(), time.monotonic()
        result = verdict(mutant, copy)
        copies.put(copy)
        print(f"{result:<8} {time.monotonic() - started:5.1f} s  {mutant}", flush=True)
        return result == "killed"

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        for i in range(AT_ONCE):
            copy = Path(shutil.copytree(root, Path(folder, str(i)), ignore=shutil.ignore_patterns(*NOT_COPIED)))
            copies.put(copy)
        if pytest(copy, {test for mutant in mutants for test in mutant.tests}, f"-n{AT_ONCE}"):
            print("The tests fail without any change. See why: make test")
            return 1
        killed = sum(pool.map(is_killed, mutants))
    print(f"{killed} of {len(mutants)} mutants killed: {killed / len(mutants):.1%}. The goal is {GOAL:.0%}.")
    return int(killed < GOAL * len(mutants))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
