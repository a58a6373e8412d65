"""What a step imports and opens by names that only its process knows makes the step run again when it changes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from blocking import begin_with
from conftest import Result, Store, rows

# At the end of steps/train.py: reads when the module is imported, and when the step runs.
READS = """

import importlib
import os
from pathlib import Path

from myfeatures import FACTOR  # a module beside driver.py

ROOT = Path(__file__).parents[1]
EARLY = (ROOT / "early.txt").read_text()
chosen = importlib.import_module("steps." + "chosen")
_run = run


def run(step, *, train_uri):
    import polars as pl

    late = importlib.import_module("late" + "features.core")
    pl.read_csv(ROOT / "cells.csv")
    pl.scan_csv("many/*.csv").collect()
    [path.read_text() for path in sorted(Path("listed").glob("*.txt"))]
    exec(compile((ROOT / "rules" / "rules.py").read_text(), "rules", "exec"))
    try:
        Path("perhaps.txt").read_text()
    except FileNotFoundError:
        pass
    Path("own.txt").write_text("x")
    Path("own.txt").read_text()
    Path("temporary.txt").write_text("x")
    os.environ.get("RATE"), os.environ.get("API_TOKEN")
    return _run(step, train_uri=train_uri)
"""
FILES = {
    "myfeatures.py": "FACTOR = 1\n",
    "early.txt": "1",
    "steps/chosen/__init__.py": "from .core import K\n",
    "steps/chosen/core.py": "K = 1\n",
    "latefeatures/__init__.py": "",
    "latefeatures/core.py": "K = 1\n",
    "cells.csv": "a,b\n1,2\n",
    "many/a.csv": "a,b\n1,2\n",
    "listed/a.txt": "1",
    "rules/rules.py": "RULE = 1\n",
}
# (file or variable, new content, reason that the plan shows for train)
CHANGES = [
    ("README.md", "unread", "reused: unchanged"),
    ("own.txt", "y", "reused: unchanged"),
    ("myfeatures.py", "FACTOR = 1  # a remark\n", "reused: unchanged"),
    ("latefeatures/core.py", "K = 1  # a remark\n", "reused: unchanged"),
    ("myfeatures.py", "FACTOR = 2\n", "runs: code changed (myfeatures)"),
    ("steps/chosen/__init__.py", "K = 1\n", "runs: code changed (steps.chosen)"),
    ("steps/chosen/core.py", "K = 2\n", "runs: code changed (steps.chosen.core)"),
    ("latefeatures/__init__.py", "K = 1\n", "runs: code changed (latefeatures)"),
    ("latefeatures/core.py", "K = 2\n", "runs: code changed (latefeatures.core)"),
    ("rules/rules.py", "RULE = 2\n", "runs: code changed (rules.rules)"),
    ("early.txt", "2", "runs: file changed (early.txt)"),
    ("cells.csv", "a,b\n1,3\n", "runs: file changed (cells.csv)"),
    ("many/a.csv", "a,b\n1,3\n", "runs: file changed (many/a.csv)"),
    ("many/b.csv", "a,b\n1,3\n", "runs: file changed (many)"),
    ("listed/a.txt", "2", "runs: file changed (listed/a.txt)"),
    ("listed/b.txt", "1", "runs: file changed (listed)"),
    ("perhaps.txt", "1", "runs: file changed (perhaps.txt)"),
    ("$RATE", "0.5", "runs: environment changed (RATE)"),
    ("$API_TOKEN", "2", "reused: unchanged"),
    ("$OTHER", "1", "reused: unchanged"),
]
# Shows the plan after each change, and undoes the change. `--backend` first runs train again in this process.
PLANS = """
import json, os, sys
from pathlib import Path
import click.testing
import driver

def drive(*options):
    result = click.testing.CliRunner().invoke(driver.main, options)
    assert result.exit_code == 0, result.output
    return result.output

def plan():
    return drive("--dry-run", "--to=train").rsplit("02_train", 1)[1].split("\\n")[2].strip()

if sys.argv[1:]:
    drive("--only=train", *sys.argv[1:])
for name, new in json.load(sys.stdin):
    file = Path(name)
    before = os.environ.get(name[1:]) if name[0] == "$" else file.read_text() if file.exists() else None
    def put(content):
        if name[0] == "$":
            os.environ.update({name[1:]: content}) if content is not None else os.environ.pop(name[1:])
        else:
            file.write_text(content) if content is not None else file.unlink()
    put(new)
    shown = plan()
    put(before)
    print(json.dumps([name, new, shown]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_step_really_read_is_compared(
    small: Path, store: Store, shell: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in FILES.items():
        (small / name).parent.mkdir(exist_ok=True)
        (small / name).write_text(text)
    with (small / "steps" / "train.py").open("a") as module:
        module.write(READS)
    monkeypatch.setenv("PYTHONPATH", str(small))
    monkeypatch.setenv("API_TOKEN", "1")
    done = shell("python", "driver.py", "--to=train", cwd=small)
    assert done.code == 0, done.text
    forked = json.loads(store.artifact(store.child("train"), "observed.json").read_text())

    def plans(expected: list[tuple[str, str, str]], *options: str) -> list[tuple[str, str, str]]:
        changes = json.dumps([change[:2] for change in expected])
        done = subprocess.run(
            [sys.executable, "-c", PLANS, *options], cwd=small, input=changes, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [(str(name), str(new), str(shown)) for name, new, shown in map(json.loads, done.stdout.splitlines())]

    assert plans(CHANGES) == CHANGES
    again = [CHANGES[4], CHANGES[11]]
    assert plans(again, "--backend=inline") == again
    assert json.loads(store.artifact(store.child("train"), "observed.json").read_text()) == forked
    run = store.child("train")
    assert run.data.tags["observed"] == str(len(forked)) and not any("own.txt" in name for name in forked)
    assert "observed.json" not in store.artifacts(store.child("prepare_data"))
    parts = json.loads(store.artifact(run, "fingerprint.json").read_text())
    assert forked.items() <= parts.items() and parts["variable API_TOKEN"] == "set"


@pytest.mark.slow
def test_an_edit_while_a_step_runs_makes_its_result_unusable(
    small: Path, store: Store, shell: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(small))
    csv, train = small / "rows.csv", small / "steps" / "train.py"
    csv.write_text(rows(400))
    edited = f"__import__('pathlib').Path({str(train)!r}).open('a').write('K = 1')"
    begin_with(small, "prepare_data", f"_os.utime({str(csv)!r})")
    begin_with(small, "train", edited)
    before = train.read_text()
    source = "--set=data.source.kind=file,data.source.path=rows.csv"
    done = shell("python", "driver.py", "--to=train", source, cwd=small)
    assert done.code == 0, done.text
    train.write_text(before)
    assert "runs: source changed" in shell("python", "driver.py", "--to=train", source, "--dry-run", cwd=small).out
    parts = json.loads(store.artifact(store.child("train"), "fingerprint.json").read_text())
    assert {name for name, value in parts.items() if value == "edited while the step ran"} == {"code steps.train"}
