"""Tests of `ml-pipelines clean`: which tables it deletes and, above all, which tables it keeps."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click.testing
import pytest
from click.testing import CliRunner
from conftest import Result, Store, drive_in, use

from ml_pipelines.cli import main
from ml_pipelines.errors import ConfigError, StepFailed
from ml_pipelines.system import folders as system_folders
from ml_pipelines.system import processes
from ml_pipelines.tracking import cleaning, lineage

Drive = Callable[..., Result]
Clean = Callable[..., str]
OTHER = "0123" * 8  # a pipeline run that this store does not have


@pytest.fixture(scope="module")
def three_runs(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with three runs of prepare_data, each with its own seed and tables."""
    folder = tmp_path_factory.mktemp("three")
    shutil.copy(migrated, folder / "mlflow.db")
    store = Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "delta")
    with pytest.MonkeyPatch.context() as patch:
        use(store, patch)
        for seed in (1, 2, 3):
            assert drive_in(store, "--only=prepare_data", f"--set=seed={seed}").code == 0
    return store


@pytest.fixture
def own_store(three_runs: Store, store: Store) -> Iterator[Store]:
    """Give the test a copy of the three runs; their tables are restored after the test."""
    three_runs.copy_to(store)
    backup = store.tables.parent / "kept"
    shutil.copytree(three_runs.tables, backup)
    yield Store(store.uri, three_runs.tables)
    shutil.rmtree(three_runs.tables, ignore_errors=True)
    shutil.move(backup, three_runs.tables)


@pytest.fixture
def clean(own_store: Store) -> Clean:
    def run(*arguments: str, prefix: Path = own_store.tables) -> str:
        result = run_clean(prefix, *arguments)
        assert result.exit_code == 0, result.output
        return result.output

    return run


def run_clean(prefix: Path, *arguments: str) -> click.testing.Result:
    options = [f"--set=data.delta_prefix.local={prefix}", "--older-than=0m"]
    return CliRunner().invoke(main.commands, ["clean", *options, *arguments], catch_exceptions=False)


def folders(store: Store) -> set[str]:
    """Return the pipeline runs that have tables."""
    return {path.parent.parent.name.removeprefix("pipeline_run_") for path in store.tables.glob("*/*/*/*/*")}


def parents(store: Store) -> list[str]:
    """Return the pipeline runs, the newest first."""
    return [run.info.run_id for run in store.runs("tags.`mlflow.runName` = 'pipeline_run'")]


def test_clean_without_delete_removes_nothing(own_store: Store, clean: Clean) -> None:
    output = clean("--keep=1")
    assert "2 folders can be deleted: add --delete." in " ".join(output.split())[-80:]
    assert folders(own_store) == set(parents(own_store))
    assert all(run_id in output for run_id in parents(own_store)[1:])


def test_clean_keeps_the_newest_tables_and_deletes_the_others(own_store: Store, clean: Clean) -> None:
    assert "in 2 folders deleted." in clean("--keep=1", "--delete")
    assert folders(own_store) == {parents(own_store)[0]}
    assert len(list(own_store.tables.glob("*/*/*"))) == 1


def test_clean_keeps_tables_younger_than_the_limit(own_store: Store, clean: Clean) -> None:
    clean("--keep=0", "--delete", "--older-than=1d")
    assert folders(own_store) == set(parents(own_store))


def test_clean_keeps_a_table_that_a_newer_run_reused(own_store: Store, clean: Clean) -> None:
    drive = partial(drive_in, own_store)
    assert drive("--to=train", "--set=seed=1").code == 0  # reuses the tables of the first run
    assert "reused" in drive("--dry-run", "--set=seed=1").out
    oldest = parents(own_store)[-1]
    clean("--keep=1", "--delete")
    assert folders(own_store) == {oldest}


def test_clean_keeps_a_table_that_a_newer_run_read(own_store: Store, clean: Clean) -> None:
    first = own_store.runs("tags.step = 'prepare_data'")[-1]
    uri = lineage.outputs(first)["train_uri"]
    assert drive_in(own_store, "--step=train", f"--train-uri={uri}", "--profile=local").code == 0
    clean("--keep=1", "--delete")
    assert folders(own_store) == {parents(own_store)[-1]}


@pytest.mark.parametrize("by", ["dots", "a link"])
def test_clean_keeps_a_table_that_a_kept_run_names_by_another_path(
    own_store: Store, clean: Clean, tmp_path: Path, by: str
) -> None:
    first, newest = (own_store.runs("tags.step = 'prepare_data'")[i] for i in (-1, 0))
    uri = lineage.outputs(first)["train_uri"]
    if by == "dots":
        other = f"{own_store.tables}/nowhere/../{Path(uri).relative_to(own_store.tables)}"
    else:
        (tmp_path / "link").symlink_to(own_store.tables)
        other = f"{tmp_path}/link/{Path(uri).relative_to(own_store.tables)}"
    own_store.client.set_tag(newest.info.run_id, "output.train_uri", other)
    clean("--keep=1", "--delete")
    assert folders(own_store) == {parents(own_store)[-1], parents(own_store)[0]}


def test_clean_keeps_the_tables_of_a_registered_model(own_store: Store, clean: Clean) -> None:
    assert drive_in(own_store, "--to=train", "--set=seed=1").code == 0
    train = own_store.child("train")
    own_store.client.create_registered_model("champion")
    own_store.client.create_model_version("champion", train.data.tags["output.model_uri"], train.info.run_id)
    oldest = parents(own_store)[-1]
    clean("--keep=0", "--delete")
    assert folders(own_store) == {oldest}


@pytest.mark.slow
def test_clean_keeps_the_tables_of_a_run_that_reused_a_registered_model(own_store: Store, clean: Clean) -> None:
    """The newer run wrote the same rows again, so its tables are those that its copy of the model belongs to."""
    assert drive_in(own_store, "--to=train", "--set=seed=1").code == 0
    train = own_store.child("train")
    own_store.client.create_registered_model("champion")
    own_store.client.create_model_version("champion", train.data.tags["output.model_uri"], train.info.run_id)
    assert drive_in(own_store, "--to=train", "--set=seed=1", "--force=prepare_data").code == 0
    assert own_store.child("train").data.tags["reused_from"] == train.info.run_id
    newest, oldest = parents(own_store)[0], parents(own_store)[-1]
    clean("--keep=0", "--delete")
    assert folders(own_store) == {newest, oldest}


def test_clean_keeps_tables_of_an_active_run_and_deletes_those_of_a_killed_run(own_store: Store, clean: Clean) -> None:
    _, middle, oldest = parents(own_store)
    for run_id, process in ((middle, processes.process_tag()["process"]), (oldest, "gone")):
        own_store.client.set_tag(run_id, "process", process.replace("gone", f"{processes._host()} 1 17"))
        own_store.client.update_run(run_id, status="RUNNING")
    output = clean("--keep=0", "--delete")
    assert folders(own_store) == {middle}
    assert f"Marked as KILLED runs whose process is gone: {oldest[:8]}" in output


def test_clean_keeps_the_tables_of_another_store(own_store: Store, clean: Clean) -> None:
    other = next(own_store.tables.glob("*/*")) / f"pipeline_run_{OTHER}" / "01_x" / "train"
    other.mkdir(parents=True)
    clean("--keep=0", "--delete")
    assert folders(own_store) == {OTHER}
    shutil.rmtree(other.parent.parent)


def test_clean_keeps_the_tables_of_another_store_that_a_tag_of_this_store_names(own_store: Store, clean: Clean) -> None:
    other = next(own_store.tables.glob("*/*")) / f"pipeline_run_{OTHER}" / "01_x" / "train"
    other.mkdir(parents=True)
    own_store.client.set_tag(own_store.runs()[0].info.run_id, "mlflow.parentRunId", OTHER)
    clean("--keep=0", "--delete")
    assert other.is_dir()
    shutil.rmtree(other.parent.parent)


def test_keep_counts_a_pipeline_run_that_mlflow_run_put_into_experiment_0(own_store: Store, clean: Clean) -> None:
    run_id = own_store.client.create_run("0", tags={"mlflow.runName": "pipeline_run"}).info.run_id
    table = next(own_store.tables.glob("*/*")) / f"pipeline_run_{run_id}" / "01_prepare_data_deadbeef" / "train"
    table.mkdir(parents=True)
    own_store.client.set_terminated(run_id)
    clean("--keep=1", "--delete")
    assert folders(own_store) == {run_id}


@pytest.mark.parametrize("spelling", ["a link", "dots"])
def test_clean_keeps_a_reused_table_if_the_prefix_is_spelled_another_way(
    own_store: Store, clean: Clean, tmp_path: Path, spelling: str
) -> None:
    if spelling == "dots":  # as two checkouts in one folder spell ../delta, which they share
        (own_store.tables.parent / "checkout").mkdir()
        prefix = Path(f"{own_store.tables.parent}/checkout/../{own_store.tables.name}")
    else:
        prefix = tmp_path / "link"
        prefix.symlink_to(own_store.tables)
    first, newest = (own_store.runs("tags.step = 'prepare_data'")[i] for i in (-1, 0))
    own_store.client.set_tag(newest.info.run_id, "output.train_uri", lineage.outputs(first)["train_uri"])
    clean("--keep=1", "--delete", prefix=prefix)
    assert folders(own_store) == {parents(own_store)[-1], parents(own_store)[0]}


@pytest.mark.parametrize("part", [1, 2, 3, 4], ids=["env", "experiment", "pipeline run", "step"])
def test_a_folder_that_became_a_link_is_not_followed(
    own_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """Between the look and the removal, somebody moves the folder away and puts a link in its place."""
    victim = tmp_path / "moved"
    remove = system_folders.remove_below

    def swap(base: Path, folder: Path, *more: system_folders.Identity) -> None:
        place = base.joinpath(*folder.relative_to(base).parts[:part])
        place.rename(victim)
        place.symlink_to(victim)
        try:
            remove(base, folder, *more)
        finally:
            place.unlink()
            victim.rename(place)

    monkeypatch.setattr(system_folders, "remove_below", swap)
    before = set(own_store.tables.rglob("*"))
    with pytest.raises(StepFailed, match="1 of 1 folders can't be deleted"):
        run_clean(own_store.tables, "--keep=2", "--delete")
    assert set(own_store.tables.rglob("*")) == before


def test_clean_deletes_no_folder_that_took_the_place_of_another(
    own_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = system_folders.remove_below

    def swap(base: Path, folder: Path, *more: system_folders.Identity) -> None:
        folder.rename(tmp_path / "moved")
        (folder / "mine").mkdir(parents=True)
        remove(base, folder, *more)

    monkeypatch.setattr(system_folders, "remove_below", swap)
    with pytest.raises(StepFailed):
        run_clean(own_store.tables, "--keep=2", "--delete")
    assert len(list(own_store.tables.rglob("mine"))) == 1


def test_tables_behind_a_link_below_the_prefix_stay(own_store: Store, clean: Clean, tmp_path: Path) -> None:
    env = next(own_store.tables.glob("*"))
    env.rename(tmp_path / "elsewhere")
    env.symlink_to(tmp_path / "elsewhere")
    assert f"{env} is a link: the tables in it stay." in clean("--keep=0", "--delete")
    assert len(list((tmp_path / "elsewhere").glob("*/pipeline_run_*"))) == 3


def test_clean_reports_a_folder_that_it_cannot_delete_and_goes_on(
    own_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = min(own_store.tables.glob("*/*/pipeline_run_*/*"))
    remove = shutil.rmtree

    def rmtree(name: str, **options: int) -> None:
        if name == stuck.name:
            raise PermissionError(13, "Permission denied", f"{name}/train")
        remove(name, **options)

    monkeypatch.setattr(system_folders.shutil, "rmtree", rmtree)
    with pytest.raises(StepFailed, match=r"1 of 3 folders can't be deleted: see the lines above\."):
        run_clean(own_store.tables, "--keep=0", "--delete")
    assert list(own_store.tables.glob("*/*/pipeline_run_*/*")) == [stuck]


def test_clean_deletes_the_incomplete_table_of_a_killed_run(own_store: Store, clean: Clean) -> None:
    """No output names this table: the run was killed before it could log one."""
    run_folder = next(own_store.tables.glob("*/*")) / f"pipeline_run_{parents(own_store)[-1]}"
    incomplete = run_folder / "01_prepare_data_deadbeef" / "train"
    incomplete.mkdir(parents=True)
    clean("--keep=1", "--delete")
    assert folders(own_store) == {parents(own_store)[0]}


def test_a_step_runs_again_after_its_table_was_deleted(own_store: Store, clean: Clean) -> None:
    clean("--keep=0", "--delete")
    result = drive_in(own_store, "--to=prepare_data", "--set=seed=2")
    assert result.code == 0
    assert "outputs are missing or damaged" in result.out


def test_an_age_is_in_minutes_hours_or_days() -> None:
    assert [cleaning.age_in_seconds(age) for age in ("45m", "12h", "30d")] == [2_700, 43_200, 2_592_000]


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1w", ""])
def test_an_invalid_age_is_refused(clean: Clean, age: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an age\. Write for example 30d"):
        clean(f"--older-than={age}")
