"""`ml-pipelines clean`: what goes, and above all what stays."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Result, Store, drive_in, use

from ml_pipelines import cli, lineage, processes
from ml_pipelines.errors import ConfigError

Drive = Callable[..., Result]
Clean = Callable[..., str]
OTHER = "0123" * 8  # a pipeline run that this store knows nothing of


@pytest.fixture(scope="module")
def three(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with three runs of prepare_data, each with tables of its own, the last of another seed."""
    folder = tmp_path_factory.mktemp("three")
    shutil.copy(migrated, folder / "mlflow.db")
    store = Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "delta")
    with pytest.MonkeyPatch.context() as patch:
        use(store, patch)
        for seed in (1, 2, 3):
            assert drive_in(store, "--only=prepare_data", f"--set=seed={seed}").code == 0
    return store


@pytest.fixture
def opened(three: Store, store: Store) -> Iterator[Store]:
    """Give the test a copy of these runs, and of their tables at the paths that the runs name."""
    three.copy_to(store)
    kept = store.tables.parent / "kept"
    shutil.copytree(three.tables, kept)
    yield Store(store.uri, three.tables)
    shutil.rmtree(three.tables, ignore_errors=True)
    shutil.move(kept, three.tables)


@pytest.fixture
def clean(opened: Store) -> Clean:
    def run(*arguments: str) -> str:
        prefix = f"--set=data.delta_prefix.local={opened.tables}"
        done = CliRunner().invoke(
            cli.commands, ["clean", prefix, "--older-than=0m", *arguments], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return done.output

    return run


def folders(store: Store) -> set[str]:
    """Return the pipeline runs that have tables."""
    return {path.parent.parent.name.removeprefix("pipeline_run_") for path in store.tables.glob("*/*/*/*/*")}


def parents(store: Store) -> list[str]:
    """Return the pipeline runs, the newest first."""
    return [run.info.run_id for run in store.runs("tags.`mlflow.runName` = 'pipeline_run'")]


def test_a_dry_run_comes_first_and_removes_nothing(opened: Store, clean: Clean) -> None:
    said = clean("--keep=1")
    assert "2 folders could go. Nothing was removed: add --delete." in " ".join(said.split())[-80:]
    assert folders(opened) == set(parents(opened))
    assert all(run_id in said for run_id in parents(opened)[1:])


def test_the_newest_are_kept_and_the_others_go(opened: Store, clean: Clean) -> None:
    assert "in 2 folders removed." in clean("--keep=1", "--delete")
    assert folders(opened) == {parents(opened)[0]}
    assert len(list(opened.tables.glob("*/*/*"))) == 1


def test_what_is_younger_stays(opened: Store, clean: Clean) -> None:
    clean("--keep=0", "--delete", "--older-than=1d")
    assert folders(opened) == set(parents(opened))


def test_a_table_that_a_kept_run_reused_stays(opened: Store, clean: Clean) -> None:
    drive = partial(drive_in, opened)
    assert drive("--to=train", "--set=seed=1").code == 0  # on the tables of the first run
    assert "reused" in drive("--dry-run", "--set=seed=1").out
    oldest = parents(opened)[-1]
    clean("--keep=1", "--delete")
    assert folders(opened) == {oldest}


def test_a_table_that_a_kept_run_was_given_stays(opened: Store, clean: Clean) -> None:
    first = opened.runs("tags.step = 'prepare_data'")[-1]
    uri = lineage.outputs(first)["train_uri"]
    assert drive_in(opened, "--step=train", f"--train-uri={uri}", "--profile=local").code == 0
    clean("--keep=1", "--delete")
    assert folders(opened) == {parents(opened)[-1]}


def test_the_tables_of_a_registered_model_stay(opened: Store, clean: Clean) -> None:
    assert drive_in(opened, "--to=train", "--set=seed=1").code == 0
    train = opened.child("train")
    opened.client.create_registered_model("champion")
    opened.client.create_model_version("champion", train.data.tags["output.model_uri"], train.info.run_id)
    oldest = parents(opened)[-1]
    clean("--keep=0", "--delete")
    assert folders(opened) == {oldest}


def test_the_tables_of_a_run_under_way_stay_and_those_of_a_killed_one_go(opened: Store, clean: Clean) -> None:
    _, middle, oldest = parents(opened)
    for run_id, process in ((middle, processes.identity()["process"]), (oldest, "gone")):
        opened.client.set_tag(run_id, "process", process.replace("gone", f"{processes._host()} 1 17"))
        opened.client.update_run(run_id, status="RUNNING")
    said = clean("--keep=0", "--delete")
    assert folders(opened) == {middle}
    assert f"Marked KILLED, since their process is gone: runs {oldest[:8]}" in said


def test_what_no_run_of_this_store_wrote_is_left_alone(opened: Store, clean: Clean) -> None:
    other = next(opened.tables.glob("*/*")) / f"pipeline_run_{OTHER}" / "01_x" / "train"
    other.mkdir(parents=True)
    clean("--keep=0", "--delete")
    assert folders(opened) == {OTHER}
    shutil.rmtree(other.parent.parent)


def test_half_a_table_of_a_killed_run_goes(opened: Store, clean: Clean) -> None:
    """It stands in no output: the run was killed before it could hand it on."""
    half = (
        next(opened.tables.glob("*/*")) / f"pipeline_run_{parents(opened)[-1]}" / "01_prepare_data_deadbeef" / "train"
    )
    half.mkdir(parents=True)
    clean("--keep=1", "--delete")
    assert folders(opened) == {parents(opened)[0]}


def test_a_step_whose_table_went_is_computed_again(opened: Store, clean: Clean) -> None:
    clean("--keep=0", "--delete")
    result = drive_in(opened, "--to=prepare_data", "--set=seed=2")
    assert result.code == 0
    assert "outputs are gone or damaged" in result.out


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1w", ""])
def test_an_age_that_is_none_is_said(clean: Clean, age: str) -> None:
    with pytest.raises(ConfigError, match=r"is no age\. Say for example 30d"):
        clean(f"--older-than={age}")
