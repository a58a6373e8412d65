"""The registered model: what a pipeline run leaves in the registry, and who is champion, whoever comes when."""

import json
import random
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import CHECKS, Result, Store, drive_in
from test_mlflow_run import server  # noqa: F401
from test_reuse import rows

from ml_pipelines import cli, processes, registry, tracking
from ml_pipelines.config import Config, load
from ml_pipelines.errors import ConfigError
from ml_pipelines.registry import Version

NAME = "local_pipeline_experiment"
MORE = "--set=steps.train.params.options.max_iter=20"  # a better model
LESS = "--set=steps.train.params.options.max_iter=1"  # a worse one
Drive = Callable[..., Result]


def alias(store: Store, name: str = "champion") -> int:
    return int(store.client.get_model_version_by_alias(NAME, name).version)


def versions(store: Store) -> list[int]:
    return sorted(int(found.version) for found in store.client.search_model_versions(f"name = '{NAME}'"))


def tags(store: Store, version: int) -> dict[str, str]:
    return dict(store.client.get_model_version(NAME, str(version)).tags)


def command(*arguments: str) -> Result:
    """Run ml-pipelines' command in this process."""
    done = CliRunner().invoke(cli.commands, arguments)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def again(earlier: Store, finished: Store) -> Drive:
    """Run driver.py's command where an earlier run finished, and its tables may be taken."""
    return partial(drive_in, Store(earlier.uri, finished.tables))


# -- through the pipeline


def test_the_first_model_that_passes_is_registered_and_champion(finished: Store) -> None:
    assert versions(finished) == [1]
    assert (alias(finished), alias(finished, "challenger")) == (1, 1)
    found, train = tags(finished, 1), finished.child("train")
    assert finished.client.get_model_version(NAME, "1").run_id == train.info.run_id == found["train_run_id"]
    assert found["pipeline_run_id"] == finished.parent().info.run_id
    assert found["verdict"] == "passed"
    assert float(found["test_auc"]) == pytest.approx(finished.child("evaluate").data.metrics["test_auc"])
    prepared = finished.child("prepare_data").data.tags
    for side in ("train", "test"):
        assert found[f"{side}_uri"] == prepared[f"output.{side}_uri"]
        assert found[f"{side}_version"] == prepared[f"output.{side}_uri.version"]
        assert found[f"{side}_digest"] == prepared[f"output.{side}_uri.digest"]
    assert finished.parent().data.tags["verdict"] == "passed"


def test_the_end_says_who_is_champion(earlier: Store, again: Drive) -> None:
    better = again(MORE).out.splitlines()[-2]
    assert " · champion is version 2 (auc 0." in better and ", was 0." in better
    assert (alias(earlier), alias(earlier, "challenger")) == (2, 2)
    assert tags(earlier, 2)["champion_before"] == "1"


def test_a_model_that_is_no_better_is_the_challenger(earlier: Store, again: Drive) -> None:
    result = again(LESS, f"--set={CHECKS}.champion=null,{CHECKS}.min_auc=null")
    assert " · challenger is version 2 (auc 0." in result.out and ", champion is version 1 (auc 0." in result.out
    assert (alias(earlier), alias(earlier, "challenger")) == (1, 2)


def test_a_champion_that_the_run_itself_made_is_no_change(earlier: Store, again: Drive) -> None:
    assert "Nothing has changed" in again().out
    assert again(MORE).code == 0
    assert "Nothing has changed" in again(MORE).out
    assert versions(earlier) == [1, 2]


def test_another_champion_is_a_change_and_a_model_is_registered_once(earlier: Store, again: Drive) -> None:
    assert again(MORE).code == 0
    result = again(f"--set={CHECKS}.champion=null")  # a champion that is better than this model
    assert result.code == 0, result.text
    assert versions(earlier) == [1, 2]
    assert alias(earlier) == 2
    assert again("--only=model_qa", f"--set={CHECKS}.champion=null").code == 0
    assert versions(earlier) == [1, 2]


def test_the_reason_to_judge_again_is_the_champion(earlier: Store, again: Drive) -> None:
    assert again(MORE).code == 0
    assert command("rollback", "--reason", "to see").code == 0
    assert "runs: external changed (champion)" in again("--dry-run", MORE).out


def test_a_resumed_pipeline_registers_what_it_finishes(earlier: Store, again: Drive, monkeypatch: Any) -> None:
    def fail(*_: object) -> None:
        raise OSError("the registry is away")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "crown", fail)
        broken = again(MORE)
    assert broken.code == 4
    assert (versions(earlier), alias(earlier)) == ([1, 2], 1)
    resumed = again(f"--resume={earlier.parent().info.run_id}", MORE)
    assert resumed.code == 0, resumed.text
    assert (versions(earlier), alias(earlier)) == ([1, 2], 2)


def test_worsened_data_is_refused_and_nothing_is_registered(store: Store, drive: Drive, tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    options = f"--set=data.source.kind=file,data.source.path={source},{CHECKS}.min_auc.threshold=0.7"
    source.write_text(rows(1000))
    assert drive(options).code == 0
    lines = rows(1000).splitlines()
    draw = random.Random(1)
    worse = [lines[0], *(f"{line[:-1]}{draw.randint(0, 1)}" for line in lines[1:])]
    source.write_text("\n".join(worse) + "\n")
    refused = drive(options)
    assert refused.code == 5, refused.text
    assert "min_auc: test auc" in refused.out
    parent = store.parent()
    assert (parent.info.status, parent.data.tags["verdict"]) == ("FAILED", "refused")
    assert (versions(store), alias(store)) == ([1], 1)


def test_a_warned_model_is_registered_but_not_champion(store: Store, drive: Drive) -> None:
    result = drive(f"--set={CHECKS}.min_auc.threshold=1.1,steps.model_qa.params.on_failure=warn")
    assert result.code == 0
    assert " · challenger is version 1 (auc 0." in result.out
    assert store.parent().data.tags["verdict"] == "warned"
    assert tags(store, 1)["verdict"] == "warned"
    assert registry.champion(load("local")) is None


def test_the_name_is_the_profile_s(store: Store, drive: Drive) -> None:
    assert drive("--set=registry.model=loans").code == 0
    assert [found.name for found in store.client.search_registered_models()] == ["loans"]


# -- by hand


def test_promote_and_rollback_move_the_alias_and_record_why(earlier: Store, again: Drive) -> None:
    assert again(LESS, f"--set={CHECKS}.champion=null,{CHECKS}.min_auc=null").code == 0
    promoted = command("promote", "2", "--reason", "it is smaller")
    assert promoted.out == f"Champion of {NAME} is version 2, was 1.\n"
    assert alias(earlier) == 2
    assert tags(earlier, 2)["promoted_reason"].startswith("it is smaller (")
    assert tags(earlier, 1)["demoted_reason"].startswith("it is smaller (")

    back = command("rollback", "--reason", "complaints")
    assert back.out == f"Champion of {NAME} is version 1, was 2.\n"
    assert alias(earlier) == 1
    assert tags(earlier, 2)["demoted_reason"].startswith("complaints (")
    assert "demoted_reason" not in tags(earlier, 1)


def test_no_pipeline_gives_the_alias_back_to_what_a_person_demoted(earlier: Store, again: Drive) -> None:
    assert again(MORE).code == 0
    assert command("rollback", "--reason", "complaints").code == 0
    result = again(MORE)  # the champion is another one: judged again, and it is still better
    assert result.code == 0, result.text
    assert ", champion is version 1 (auc 0." in result.out
    assert alias(earlier) == 1
    assert command("promote", "2", "--reason", "they were wrong").code == 0
    assert alias(earlier) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("promote", "7"), "Model Version (name=local_pipeline_experiment, version=7) not found"),
        (("promote", "1"), "Version 1 of local_pipeline_experiment is champion already."),
        (("rollback",), "had no champion before version 1. Name a version: ml-pipelines promote VERSION"),
        (("rollback", "--set=registry.model=other"), "Model other has no champion."),
    ],
)
def test_what_can_not_be_done_by_hand_is_one_line(earlier: Store, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        command(*arguments, "--reason=so")
    assert message in str(error.value)
    assert alias(earlier) == 1


# -- two at once


def registered(count: int) -> tuple[Config, list[Version]]:
    """Return so many versions, as pipelines have registered them that are not yet further than that."""
    config = load("local")
    tracking.connect(config)
    experiment = tracking.experiment_id("models")
    runs = [str(tracking.client().create_run(experiment).info.run_id) for _ in range(count)]
    tracking.client().create_registered_model(NAME)
    for run in runs:
        tracking.client().create_model_version(NAME, f"runs:/{run}/model", run, {"verdict": "passed"})
    found = [registry._of_run(NAME, run) for run in runs]
    return config, [version for version in found if version]


@pytest.mark.parametrize("better", [0, 1])
def test_of_two_pipelines_at_once_the_better_model_ends_as_champion(
    store: Store, monkeypatch: pytest.MonkeyPatch, better: int
) -> None:
    """Without the lock, as on a server: both look, both see no champion, both set the alias."""
    config, pair = registered(2)
    barrier = threading.Barrier(2, timeout=60)
    first_look = threading.local()
    look = registry._by_alias

    def look_together(name: str) -> Version | None:
        found = look(name)
        if not hasattr(first_look, "done"):
            first_look.done = True
            barrier.wait()
        return found

    monkeypatch.setattr(registry, "_by_alias", look_together)
    monkeypatch.setattr(processes, "alone_at", nullcontext)
    areas = {pair[better].version: 0.9, pair[1 - better].version: 0.8}
    threads = [
        threading.Thread(target=registry.crown, args=(config, mine, lambda version: areas[version.version]))
        for mine in pair
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not barrier.broken
    assert alias(store) == pair[better].version


def test_a_late_setter_that_saw_an_old_champion_gives_way_to_the_better_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worse one looks, the better one does all of its work, then the worse one sets the alias."""
    config, (better, worse) = registered(2)
    areas = {better.version: 0.9, worse.version: 0.8}
    monkeypatch.setattr(processes, "alone_at", nullcontext)
    store.client.set_registered_model_alias(NAME, "champion", str(better.version))
    monkeypatch.setattr(registry, "_by_alias", stale_once(registry._by_alias))
    registry.crown(config, worse, lambda version: areas[version.version])
    assert alias(store) == better.version


def stale_once(look: Callable[[str], Version | None]) -> Callable[[str], Version | None]:
    answers = [lambda _: None]

    def looked(name: str) -> Version | None:
        return answers.pop()(name) if answers else look(name)

    return looked


def test_a_lock_lets_one_pipeline_at_a_time_choose(store: Store) -> None:
    config, pair = registered(2)
    thread = threading.Thread(target=registry.crown, args=(config, pair[1], lambda version: float(version.version)))
    with processes.alone_at(store.uri):
        thread.start()
        thread.join(1)
        assert thread.is_alive()
        assert registry.champion(config) is None
    thread.join(60)
    assert alias(store) == pair[1].version


def test_a_model_that_can_not_be_judged_takes_nothing_and_loses_nothing(store: Store) -> None:
    config, (unknown, mine) = registered(2)

    def area_of(version: Version) -> float | None:
        return None if version.version == unknown.version else 0.7

    assert registry.crown(config, mine, area_of)[1].version == mine.version  # type: ignore[union-attr]
    store.client.set_registered_model_alias(NAME, "champion", str(unknown.version))
    before, now = registry.crown(config, mine, area_of)
    assert before and now and before.version == now.version == unknown.version


def test_of_equals_the_holder_stays(store: Store) -> None:
    config, (first, second) = registered(2)
    registry.crown(config, second, lambda _: 0.5)  # nobody holds it: the older one
    assert alias(store) == first.version
    store.client.set_registered_model_alias(NAME, "champion", str(second.version))
    registry.crown(config, first, lambda _: 0.5)
    assert alias(store) == second.version


# -- elsewhere


@pytest.mark.slow
def test_a_server_s_registry_works_as_the_file_s(
    store: Store,
    drive: Drive,
    server: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert " · champion is version 1 (auc 0." in drive().out
    assert ", was 0." in drive(MORE).out
    assert command("rollback", "--reason=so").code == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [("a/b", "it takes a name without / and :"), ("a:b", "it takes a name without / and :")],
)
def test_a_name_that_no_registry_takes_is_told_before_anything_runs(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"registry.model: '{name}' can't name a model in this registry; {message}"):
        load("local", [f"registry.model={name}"])


@pytest.mark.parametrize("name", ["null", "model", "schema.model"])
def test_unity_catalog_wants_three_names(name: str) -> None:
    with pytest.raises(ConfigError, match=r"it takes catalog\.schema\.model"):
        load("local", ["mlflow.registry_uri=databricks-uc", f"registry.model={name}"])


@pytest.mark.parametrize("profile", ["dev", "prod"])
def test_the_profiles_of_databricks_register_in_their_own_schema(profile: str) -> None:
    config = load(profile)
    assert config.mlflow.registry_uri == "databricks-uc"
    assert registry.model_name(config) == f"ml_artifacts.{profile}.ml_pipeline"


# -- served


@pytest.mark.slow
def test_mlflow_itself_predicts_a_csv_by_the_champion(
    store: Store, drive: Drive, shell: Callable[..., Result], tmp_path: Path
) -> None:
    """Text columns, a code with a zero in front, a missing number and text, columns of no use, columns in any order."""
    source = tmp_path / "rows.csv"
    source.write_text(rows(400).replace("kind", "code").replace(",a,", ",007,").replace(",b,", ",7,"))
    columns = "data.columns={code: category}"
    assert drive(f"--set=data.source.kind=file,data.source.path={source}", f"--set={columns}").code == 0

    asked = tmp_path / "asked.csv"
    asked.write_text("more,code,x,id\n1,007,0.05,1\n2,7,0.95,2\n3,,0.95,3\n4,007,,4\n5,new,0.05,5\n")
    model, answers = f"models:/{NAME}@champion", tmp_path / "answers.json"
    how = ["--env-manager", "local", "-t", "csv", "-i", str(asked), "-o", str(answers)]
    done = shell("mlflow", "models", "predict", "-m", model, *how, cwd=tmp_path)
    assert done.code == 0, done.text
    frame = pd.DataFrame({"x": [0.05, 0.95, 0.95, None, 0.05], "code": ["007", "7", None, "007", "new"]})
    expected = mlflow.pyfunc.load_model(model).predict(frame).tolist()
    assert json.loads(answers.read_text())["predictions"] == expected
    assert expected[:2] == [0, 1]
