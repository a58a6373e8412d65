"""The pipeline `score` adds its batch to `score.target` once, also after a kill, a lost target, or beside itself."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT, SMALL, Result, Store, drive_in

SYNTHETIC = "--set=score.source.kind=synthetic,score.source.rows=400,score.source.features=4"
Score = Callable[..., Result]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def score(earlier: Store, target: Path) -> Score:
    """Return a function that scores 400 rows and adds them to the target."""

    def run(*more: str) -> Result:
        return drive_in(earlier, "--pipeline=score", SYNTHETIC, f"--set=score.target={target}", *more)

    return run


def batches(target: Path) -> dict[str, int]:
    """Return batch -> number of its rows in the target."""
    return dict(pl.read_delta(str(target))["batch_id"].value_counts().rows())


def test_a_run_adds_its_batch_and_the_next_run_adds_it_again_only_if_the_target_is_lost(
    score: Score, earlier: Store, target: Path
) -> None:
    first = score()
    assert first.code == 0, first.text
    assert f" · added to {target}" in first.out
    [batch_id] = batches(target)
    tags = earlier.child("score").data.tags
    assert (tags["batch_id"], tags["target"], tags["target_batch"]) == (batch_id, str(target), "added to")
    assert "Up to date" in score().text
    assert f"was already in {target}" in score("--force").out
    assert batches(target) == {batch_id: 400}
    shutil.rmtree(target)
    again = score()
    assert f"added to {target}" in again.out
    assert "ran: outputs are missing or damaged" in again.out
    assert batches(target) == {batch_id: 400}


def test_other_columns_stop_the_run_before_it_writes_or_are_added(score: Score, earlier: Store, target: Path) -> None:
    narrow = "--set=score.features=false,score.batch_id=narrow"
    assert score(narrow).code == 0
    tables = sorted(earlier.tables.rglob("scored"))
    refused = score()
    assert (refused.code, "new in the batch: f0, f1, f2, f3. Set score.target to" in refused.text) == (3, True)
    assert sorted(earlier.tables.rglob("scored")) == tables
    assert list(batches(target)) == ["narrow"]
    widened = score("--set=score.target_schema=widen")
    assert widened.code == 0, widened.text
    assert f"warning: The columns of {target} differ from the batch's: new in the batch: f0, f1, f2, f3" in widened.text
    assert sorted(batches(target).values()) == [400, 400]


def test_a_target_that_can_not_be_one_stops_the_run_before_it_reads(score: Score, earlier: Store, target: Path) -> None:
    target.write_text("mine")
    assert (score().code, f"score.target: {target} is not a Delta table" in score().text) == (2, True)
    bad = drive_in(earlier, "--pipeline=score", SYNTHETIC, "--set=score.target=scores")
    assert (bad.code, "score.target: 'scores' is not a path or URI" in bad.err) == (2, True)
    same = "--set=score.source.kind=file,score.source.path=./rows,score.target=./rows"
    assert "score.target: this is score.source" in drive_in(earlier, "--pipeline=score", same).err


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.jvm
@pytest.mark.usefixtures("java")
def test_the_jvm_gives_the_same_scores_to_the_last_digit_and_adds_them_too(
    score: Score, earlier: Store, target: Path, shell: Callable[..., Result]
) -> None:
    assert score("--set=score.batch_id=sail").code == 0
    settings = f"data.delta_prefix.local={earlier.tables},score.target={target},score.batch_id=jvm,spark.engine=jvm"
    result = shell("python", "driver.py", "--pipeline=score", SYNTHETIC, f"--set={settings}", "--backend=inline")
    assert f" · added to {target}" in result.out, result.text
    by_engine = pl.read_delta(str(target)).sort("id").partition_by("batch_id", as_dict=True)
    sail, jvm = (by_engine[name,].drop("scored_at", "batch_id") for name in ("sail", "jvm"))
    assert (sail.height, jvm.height) == (400, 400)
    assert sail.equals(jvm)


def in_a_process(store: Store, target: Path, experiment: str, before: str = "") -> list[str]:
    """Return a command that scores the batch in an experiment of its own; it executes `before` first."""
    settings = f"data.delta_prefix.local={store.tables},{SMALL},score.target={target},experiment_name={experiment}"
    settings += ",registry.model=local_pipeline_experiment"
    arguments = ["--pipeline=score", SYNTHETIC, f"--set={settings}", "--backend=inline"]
    return [sys.executable, "-c", f"{before}\nimport driver\ndriver.main({arguments})"]


KILL = """
import os, signal
from ml_pipelines.data import targets
targets.add_batch = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_between_its_table_and_the_target_adds_its_batch_when_it_runs_again(
    earlier: Store, target: Path
) -> None:
    killed = subprocess.run(in_a_process(earlier, target, "loans", KILL), cwd=ROOT, check=False)
    assert killed.returncode == -9
    assert list(earlier.tables.rglob("scored/_delta_log"))
    assert not target.exists()
    again = subprocess.run(in_a_process(earlier, target, "loans"), cwd=ROOT, check=False, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert list(batches(target).values()) == [400]


@pytest.mark.slow
def test_two_runs_of_the_same_batch_at_once_add_it_once(earlier: Store, target: Path) -> None:
    both = [
        subprocess.Popen(in_a_process(earlier, target, name), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    outs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("added to" in out for out in outs) == [False, True]
    assert list(batches(target).values()) == [400]
