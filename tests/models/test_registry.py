"""The registered model: what a pipeline run registers, and which version is champion, also with concurrent runs."""

import hashlib
import json
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import CHECKS, Result, Store, drive_in, rows
from reporting import table_tags

from ml_pipelines.cli import main
from ml_pipelines.config.loading import load
from ml_pipelines.config.schema import Config
from ml_pipelines.errors import ConfigError
from ml_pipelines.execution.context import TrackedContext
from ml_pipelines.models import registry
from ml_pipelines.models.registry import Version
from ml_pipelines.system import locks
from ml_pipelines.tracking.store import Store as TrackingStore

NAME = "local_pipeline_experiment"
BETTER = "--set=steps.train.params.options.max_iter=4"  # on this test table, 4 trees are better than 5
WORSE = "--set=steps.train.params.options.max_iter=1"
Drive = Callable[..., Result]
Look = Callable[[TrackingStore, str], Version | None]


def alias(store: Store, name: str = "champion") -> int:
    return int(store.client.get_model_version_by_alias(NAME, name).version)


def versions(store: Store) -> list[int]:
    return sorted(int(version.version) for version in store.client.search_model_versions(f"name = '{NAME}'"))


def tags(store: Store, version: int) -> dict[str, str]:
    return dict(store.client.get_model_version(NAME, str(version)).tags)


def command(*arguments: str) -> Result:
    """Run ml-pipelines' command in this process."""
    result = CliRunner().invoke(main.commands, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def drive_again(earlier: Store, finished: Store) -> Drive:
    """Run driver.py's command in a store with a finished pipeline run, whose tables it may reuse."""
    return partial(drive_in, Store(earlier.uri, finished.tables))


# -- through the pipeline


def test_the_first_model_that_passes_is_registered_as_champion(finished: Store) -> None:
    assert versions(finished) == [1]
    assert (alias(finished), alias(finished, "challenger")) == (1, 1)
    version_tags, train = tags(finished, 1), finished.child("train")
    assert finished.client.get_model_version(NAME, "1").run_id == train.info.run_id == version_tags["train_run_id"]
    assert version_tags["pipeline_run_id"] == finished.parent().info.run_id
    assert version_tags["verdict"] == "passed"
    assert version_tags["model_digest"] == train.data.tags["output.model_uri.digest"]
    assert float(version_tags["test_auc"]) == pytest.approx(finished.child("evaluate").data.metrics["test_auc"])
    prepare_tags = finished.child("prepare_data").data.tags
    for side in ("train", "test"):
        assert version_tags[f"{side}_uri"] == prepare_tags[f"output.{side}_uri"]
        assert version_tags[f"{side}_version"] == prepare_tags[f"output.{side}_uri.version"]
        assert version_tags[f"{side}_digest"] == prepare_tags[f"output.{side}_uri.digest"]
    assert finished.parent().data.tags["verdict"] == "passed"
    split = {"split_kind": "key", "split_key": "id", "split_seed": "42", "split_fraction": "0.2"}
    label = {"label_name": "label", "label_0": "0", "label_1": "1"}
    assert version_tags.items() >= (split | label).items()


@pytest.mark.slow
def test_the_last_lines_name_the_champion(earlier: Store, drive_again: Drive) -> None:
    line = drive_again(BETTER).out.splitlines()[-2]
    assert " · champion is version 2 (auc 0." in line and ", was 0." in line
    assert (alias(earlier), alias(earlier, "challenger")) == (2, 2)
    assert tags(earlier, 2)["champion_before"] == "1"


@pytest.mark.slow
def test_a_champion_whose_train_run_now_names_another_file_is_never_loaded(
    earlier: Store, drive_again: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who can write runs, but not the registry, replaces the model's file and its digest."""
    train = earlier.child("train")
    evil = (earlier.tables.parent / "evil").resolve()
    shutil.copytree(mlflow.artifacts.download_artifacts(train.data.tags["output.model_uri"]), evil)
    (evil / "model.skops").write_bytes(b"forged")
    digest = hashlib.sha256(b"forged").hexdigest()
    earlier.client.set_tag(train.info.run_id, "output.model_uri", str(evil))
    earlier.client.set_tag(train.info.run_id, "output.model_uri.digest", digest)
    result = drive_again(BETTER)
    assert result.code == 0, result.text
    checks = json.loads(earlier.artifact(earlier.child("model_qa"), "qa_report.json").read_text())["checks"]
    (champion,) = (check for check in checks if check["check"] == "champion")
    assert "was registered with another model file" in champion["reason"]


@pytest.mark.slow
def test_a_champion_whose_files_were_deleted_is_replaced_by_the_model_that_is_trained_anew(
    store: Store, drive: Drive
) -> None:
    assert drive().code == 0
    model = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion"))
    shutil.rmtree(model.parents[1])  # the folder `models` of the experiment
    result = drive()
    assert result.code == 0, result.text
    assert re.search(r" · champion is version 2 \(auc 0\.\d+; the files of version 1 are lost\)", result.out)
    assert (versions(store), alias(store)) == ([1, 2], 2)
    assert "champion_before" not in tags(store, 2)  # a rollback would make the lost version champion
    assert mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    assert "Up to date" in drive().out


@pytest.mark.slow
def test_a_lost_champion_runs_the_gate_again_even_if_the_challenger_is_unchanged(store: Store, drive: Drive) -> None:
    assert drive().code == 0
    lost = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion"))
    worse = (WORSE, f"--set={CHECKS}.champion=null,{CHECKS}.min_auc=null")
    assert " · challenger is version 2 " in drive(*worse).out
    shutil.rmtree(lost)
    result = drive(*worse)
    assert result.code == 0 and "ran: external changed (champion)" in result.out, result.text
    assert alias(store) == 2
    assert "= 02_train" in result.out


@pytest.mark.slow
def test_a_model_that_is_not_better_becomes_the_challenger(earlier: Store, drive_again: Drive) -> None:
    result = drive_again(WORSE, f"--set={CHECKS}.champion=null,{CHECKS}.min_auc=null")
    assert " · challenger is version 2 (auc 0." in result.out and ", champion is version 1 (auc 0." in result.out
    assert (alias(earlier), alias(earlier, "challenger")) == (1, 2)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("data.positive=0", "its class 1 is label = 1 (0: 0), but here it is label = 0 (0: 1)."),
        (
            "data.split_seed=7",
            "its split was another one (data.split_seed 42 -> 7), and it can have trained on all but ",
        ),
    ],
)
def test_a_champion_that_can_t_be_compared_keeps_its_alias(
    earlier: Store, drive_again: Drive, setting: str, reason: str
) -> None:
    result = drive_again(BETTER, f"--set={setting}")
    assert result.code == 0, result.text
    assert f"not compared with version 1: {reason}" in result.out
    assert "challenger is version 2 (auc 0." in result.out and ", champion is version 1 (not compared)" in result.out
    assert (versions(earlier), alias(earlier), alias(earlier, "challenger")) == ([1, 2], 1, 2)


@pytest.mark.slow
def test_a_champion_from_the_same_pipeline_run_does_not_run_the_gate_again(earlier: Store, drive_again: Drive) -> None:
    assert "Up to date" in drive_again().out
    assert drive_again(BETTER).code == 0
    assert "Up to date" in drive_again(BETTER).out
    assert versions(earlier) == [1, 2]


@pytest.mark.slow
def test_another_champion_runs_the_gate_again_and_registers_no_second_version(
    earlier: Store, drive_again: Drive
) -> None:
    assert drive_again(BETTER).code == 0
    result = drive_again(f"--set={CHECKS}.champion=null")  # a champion that is better than this model
    assert result.code == 0, result.text
    assert versions(earlier) == [1, 2]
    assert alias(earlier) == 2
    assert drive_again("--only=model_qa", f"--set={CHECKS}.champion=null").code == 0
    assert versions(earlier) == [1, 2]


@pytest.mark.slow
def test_a_dry_run_names_the_changed_champion_as_the_reason(earlier: Store, drive_again: Drive) -> None:
    assert drive_again(BETTER).code == 0
    assert command("rollback", "--reason", "to see").code == 0
    assert "runs: external changed (champion)" in drive_again("--dry-run", BETTER).out


def test_another_rule_for_the_champion_runs_the_gate_again(earlier: Store, drive_again: Drive) -> None:
    dry_run = drive_again("--dry-run", "--set=registry.crown=better").out
    assert "registry.crown not_worse -> better" in dry_run
    assert dry_run.count("runs: ") == 1


@pytest.mark.slow
def test_a_resumed_pipeline_run_registers_its_model(earlier: Store, drive_again: Drive, monkeypatch: Any) -> None:
    def fail(*_: object) -> None:
        raise OSError("the registry is away")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "promote_best", fail)
        failed_result = drive_again(BETTER)
    assert failed_result.code == 4
    assert (versions(earlier), alias(earlier)) == ([1, 2], 1)
    resumed_result = drive_again(f"--resume={earlier.parent().info.run_id}", BETTER)
    assert resumed_result.code == 0, resumed_result.text
    assert (versions(earlier), alias(earlier)) == ([1, 2], 2)


@pytest.mark.slow
def test_a_model_on_worse_data_is_refused_and_not_registered(store: Store, drive: Drive, tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    options = f"--set=data.source.kind=file,data.source.path={source},{CHECKS}.min_auc.threshold=0.7"
    source.write_text(rows(1000))
    assert drive(options).code == 0
    lines = rows(1000).splitlines()
    draw = random.Random(1)
    worse = [lines[0], *(f"{line[:-1]}{draw.randint(0, 1)}" for line in lines[1:])]
    source.write_text("\n".join(worse) + "\n")
    result = drive(options)
    assert result.code == 5, result.text
    assert "min_auc: test auc" in result.out
    parent = store.parent()
    assert (parent.info.status, parent.data.tags["verdict"]) == ("FAILED", "refused")
    assert (versions(store), alias(store)) == ([1], 1)


@pytest.mark.slow
def test_a_warned_model_is_registered_but_not_champion(store: Store, drive: Drive) -> None:
    result = drive(f"--set={CHECKS}.min_auc.threshold=1,steps.model_qa.params.on_failure=warn")
    assert result.code == 0
    assert " · challenger is version 1 (auc 0." in result.out
    assert store.parent().data.tags["verdict"] == "warned"
    assert tags(store, 1)["verdict"] == "warned"
    assert registry.current_champion(store.opened, load("local")) is None


def test_an_undecided_model_is_registered_and_the_alias_stays(earlier: Store, drive_again: Drive) -> None:
    auc = earlier.child("evaluate").data.metrics["test_auc"]
    result = drive_again(BETTER, f"--set={CHECKS}.min_auc.threshold={auc - 0.01}")
    assert result.code == 0, result.text
    assert " 1 undecided" in result.out and " · undecided: min_auc: test auc is 0." in result.out
    assert " · challenger is version 2 (auc 0." in result.out
    assert re.search(r", champion is version 1 \(auc 0\.\d+\); undecided: min_auc · ", result.out)
    assert earlier.parent().data.tags["verdict"] == earlier.child("model_qa").data.tags["verdict"] == "undecided"
    assert (versions(earlier), alias(earlier), tags(earlier, 2)["verdict"]) == ([1, 2], 1, "undecided")
    assert " · 2 models were judged on these test rows" in result.out
    assert (
        drive_again("--force", "--only=model_qa", BETTER).out.count(" · 2 models were judged on these test rows") == 1
    )


@pytest.mark.slow
def test_the_profile_sets_the_name_of_the_model(store: Store, drive: Drive) -> None:
    assert drive("--set=registry.model=loans").code == 0
    assert [model.name for model in store.client.search_registered_models()] == ["loans"]


# -- by hand


def test_promote_and_rollback_move_the_alias_and_record_why(earlier: Store, drive_again: Drive) -> None:
    assert drive_again(WORSE, f"--set={CHECKS}.champion=null,{CHECKS}.min_auc=null").code == 0
    promotion = command("promote", "2", "--reason", "it is smaller")
    assert promotion.out == f"The champion of {NAME} is version 2, previously 1.\n"
    assert alias(earlier) == 2
    assert tags(earlier, 2)["promoted_reason"].startswith("it is smaller (")
    assert tags(earlier, 1)["demoted_reason"].startswith("it is smaller (")

    rollback = command("rollback", "--reason", "complaints")
    assert rollback.out == f"The champion of {NAME} is version 1, previously 2.\n"
    assert alias(earlier) == 1
    assert tags(earlier, 2)["demoted_reason"].startswith("complaints (")
    assert "demoted_reason" not in tags(earlier, 1)


@pytest.mark.slow
def test_a_pipeline_never_promotes_a_version_that_a_person_demoted(earlier: Store, drive_again: Drive) -> None:
    assert drive_again(BETTER).code == 0
    assert command("rollback", "--reason", "complaints").code == 0
    result = drive_again(BETTER)  # another champion: the model is judged again, and it is still better
    assert result.code == 0, result.text
    assert ", champion is version 1 (auc 0." in result.out
    assert alias(earlier) == 1
    assert command("promote", "2", "--reason", "they were wrong").code == 0
    assert alias(earlier) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("promote", "7"), "Model Version (name=local_pipeline_experiment, version=7) not found"),
        (("promote", "1"), "Version 1 of local_pipeline_experiment is already champion."),
        (("rollback",), "had no champion before version 1. Choose a version: ml-pipelines promote VERSION"),
        (("rollback", "--set=registry.model=other"), "Model other has no champion."),
    ],
)
def test_an_invalid_promote_or_rollback_is_refused(earlier: Store, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        command(*arguments, "--reason=so")
    assert message in str(error.value)
    assert alias(earlier) == 1


@pytest.mark.parametrize("arguments", [("promote", "2"), ("rollback",)])
def test_a_version_whose_files_are_lost_does_not_become_champion_by_hand(
    earlier: Store, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    earlier.client.create_model_version(NAME, str(tmp_path), tags={"verdict": "passed"})  # an empty folder
    earlier.client.set_model_version_tag(NAME, "1", "champion_before", "2")
    with pytest.raises(ConfigError, match=f"The files of version 2 of {NAME} are lost"):
        command(*arguments, "--reason=so")
    assert alias(earlier) == 1 and "promoted_reason" not in tags(earlier, 2)


# -- two pipelines at once


def register_versions(store: Store, count: int) -> tuple[Config, list[Version]]:
    """Return the configuration and `count` new versions, which no pipeline has compared with the champion yet."""
    config = load("local")
    client, experiment = store.client, store.opened.experiment_id("models")
    runs = [str(client.create_run(experiment).info.run_id) for _ in range(count)]
    client.create_registered_model(NAME)
    for run in runs:
        client.create_model_version(NAME, f"runs:/{run}/model", run, {"verdict": "passed"})
    registered_versions = [registry._version_of_run(store.opened, NAME, run) for run in runs]
    return config, [version for version in registered_versions if version]


@pytest.mark.parametrize("better", [0, 1])
def test_the_better_model_of_two_concurrent_pipelines_becomes_champion(
    store: Store, monkeypatch: pytest.MonkeyPatch, better: int
) -> None:
    """Without the lock, as on a server: both pipelines see no champion, and both set the alias."""
    config, pair = register_versions(store, 2)
    barrier = threading.Barrier(2, timeout=60)
    first_look = threading.local()
    look = registry._by_alias

    def look_together(opened: TrackingStore, name: str) -> Version | None:
        champion = look(opened, name)
        if not hasattr(first_look, "done"):
            first_look.done = True
            barrier.wait()
        return champion

    monkeypatch.setattr(registry, "_by_alias", look_together)
    monkeypatch.setattr(locks, "alone_at", nullcontext)
    areas = {pair[better].version: 0.9, pair[1 - better].version: 0.8}
    threads = [
        threading.Thread(target=registry.promote_best, args=(store.opened, config, candidate, higher(areas)))
        for candidate in pair
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not barrier.broken
    assert alias(store) == pair[better].version


def test_a_pipeline_that_saw_an_old_champion_does_not_replace_the_better_model(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worse pipeline reads the champion, then the better one finishes, then the worse one sets the alias."""
    config, (better, worse) = register_versions(store, 2)
    areas = {better.version: 0.9, worse.version: 0.8}
    monkeypatch.setattr(locks, "alone_at", nullcontext)
    store.client.set_registered_model_alias(NAME, "champion", str(better.version))
    monkeypatch.setattr(registry, "_by_alias", stale_once(registry._by_alias))
    registry.promote_best(store.opened, config, worse, higher(areas))
    assert alias(store) == better.version


def higher(areas: dict[int, float]) -> Callable[[Version, Version], bool]:
    return lambda version, champion: areas[version.version] > areas[champion.version]


def stale_once(look: Look) -> Look:
    answers = [lambda _: None]

    def stale_look(opened: TrackingStore, name: str) -> Version | None:
        return answers.pop()(name) if answers else look(opened, name)

    return stale_look


def test_a_lock_lets_one_pipeline_at_a_time_choose_the_champion(store: Store) -> None:
    config, pair = register_versions(store, 2)
    thread = threading.Thread(
        target=registry.promote_best, args=(store.opened, config, pair[1], higher({1: 0.1, 2: 0.2}))
    )
    with locks.alone_at(store.uri):
        thread.start()
        thread.join(1)
        assert thread.is_alive()
        assert registry.current_champion(store.opened, config) is None
    thread.join(60)
    assert alias(store) == pair[1].version


def test_whoever_moves_an_alias_holds_the_lock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    config, (first, second) = register_versions(store, 2)
    opened, held, moved = store.opened, [], []
    lock, set_alias = locks.alone_at, registry._set_alias

    @contextmanager
    def noted_lock(uri: str) -> Iterator[None]:
        with lock(uri):
            held.append(uri)
            yield
            held.remove(uri)

    def noted_alias(at: TrackingStore, name: str, alias: str, version: int) -> None:
        moved.append((alias, version, list(held)))
        set_alias(at, name, alias, version)

    monkeypatch.setattr(locks, "alone_at", noted_lock)
    monkeypatch.setattr(registry, "_set_alias", noted_alias)
    registry.register_version(opened, config, "", first.run_id, {})
    registry.promote_best(opened, config, first, lambda *_: False)
    registry.promote(opened, config, second.version, "so")
    registry.rollback(opened, config, "so")
    aliases = [("challenger", first), ("champion", first), ("champion", second), ("champion", first)]
    assert moved == [(name, version.version, [store.uri]) for name, version in aliases]


@pytest.mark.parametrize("allowed", [True, False])
def test_the_rule_decides_and_not_the_auc_in_the_tags(store: Store, allowed: bool) -> None:
    config, pair = register_versions(store, 2)
    store.client.set_registered_model_alias(NAME, "champion", str(pair[0].version))
    for version, auc in zip(pair, (0.9, 0.8), strict=True):
        model = {"output.model_uri": "models:/m-1", "output.model_uri.digest": "any"}
        tables = {"output.test_uri": "/tables/d1", **table_tags("test", 9, "d1")}
        store.opened.set_tags(version.run_id, {**model, **tables, "output.test_uri": "/tables/d1"})
        store.client.set_model_version_tag(NAME, str(version.version), "test_auc", str(auc))
    run_id, experiment = pair[1].run_id, store.opened.experiment_id("models")
    context: TrackedContext[Any] = TrackedContext(store.opened, config, "model_qa", run_id, run_id, experiment)
    tables = {"train": "/tables/d1", "test": "/tables/d1"}
    context.register(run_id, "passed", ("auc", 0.8), lambda _: 0.8, lambda *_: allowed, tables)
    assert alias(store) == pair[allowed].version


def test_a_rival_that_passed_against_another_champion_is_not_a_candidate(store: Store) -> None:
    config, (rival, mine) = register_versions(store, 2)
    store.client.set_model_version_tag(NAME, str(rival.version), "judged_against", "7")
    registry.promote_best(store.opened, config, mine, lambda *_: False)
    assert alias(store) == mine.version


def test_a_model_that_did_not_pass_never_becomes_champion(store: Store) -> None:
    config, (first, second) = register_versions(store, 2)
    for version, verdict in ((first, "undecided"), (second, "warned")):
        store.client.set_model_version_tag(NAME, str(version.version), "verdict", verdict)
    undecided = first._replace(tags={"verdict": "undecided"})
    assert registry.promote_best(store.opened, config, undecided, lambda *_: True) == (None, None)


def test_if_neither_may_replace_the_other_the_champion_or_the_oldest_version_has_the_alias(store: Store) -> None:
    config, (first, second) = register_versions(store, 2)
    registry.promote_best(store.opened, config, second, lambda *_: False)  # no champion yet
    assert alias(store) == first.version
    store.client.set_registered_model_alias(NAME, "champion", str(second.version))
    registry.promote_best(store.opened, config, first, lambda *_: False)
    assert alias(store) == second.version


# -- other registries


@pytest.mark.slow
def test_the_registry_of_a_server_works_like_that_of_a_file(
    store: Store,
    drive: Drive,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert " · champion is version 1 (auc 0." in drive().out
    assert ", was 0." in drive(BETTER).out
    assert command("rollback", "--reason=so").code == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [("a/b", "which takes a name without / and :"), ("a:b", "which takes a name without / and :")],
)
def test_an_invalid_model_name_is_refused_before_anything_runs(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"registry.model: '{name}' can't name a model in this registry, {message}"):
        load("local", [f"registry.model={name}"])


@pytest.mark.parametrize("name", ["null", "model", "schema.model"])
def test_unity_catalog_requires_a_name_of_three_parts(name: str) -> None:
    with pytest.raises(ConfigError, match=r"which takes catalog\.schema\.model"):
        load("local", ["mlflow.registry_uri=databricks-uc", f"registry.model={name}"])


@pytest.mark.parametrize("profile", ["dev", "prod"])
def test_the_databricks_profiles_register_in_their_own_schema(profile: str) -> None:
    config = load(profile)
    assert config.mlflow.registry_uri == "databricks-uc"
    assert registry.model_name(config) == f"ml_artifacts.{profile}.ml_pipeline"


# -- serving


@pytest.mark.slow
def test_mlflow_predicts_a_csv_with_the_champion(
    store: Store, drive: Drive, shell: Callable[..., Result], tmp_path: Path
) -> None:
    """The CSV has text, a code with a leading zero, missing values, an unused column, and another order of columns."""
    source = tmp_path / "rows.csv"
    source.write_text(rows(400).replace("kind", "code").replace(",a,", ",007,").replace(",b,", ",7,"))
    columns = "data.columns={code: category}"
    assert drive(f"--set=data.source.kind=file,data.source.path={source}", f"--set={columns}").code == 0

    input_csv = tmp_path / "asked.csv"
    input_csv.write_text("more,code,x,id\n1,007,0.05,1\n2,7,0.95,2\n3,,0.95,3\n4,007,,4\n5,new,0.05,5\n")
    model, answers = f"models:/{NAME}@champion", tmp_path / "answers.json"
    options = ["--env-manager", "local", "-t", "csv", "-i", str(input_csv), "-o", str(answers)]
    result = shell("mlflow", "models", "predict", "-m", model, *options, cwd=tmp_path)
    assert result.code == 0, result.text
    frame = pd.DataFrame({"x": [0.05, 0.95, 0.95, None, 0.05], "code": ["007", "7", None, "007", "new"]})
    expected = mlflow.pyfunc.load_model(model).predict(frame).to_dict("records")
    assert json.loads(answers.read_text())["predictions"] == expected
    assert [row["prediction"] for row in expected[:2]] == ["0", "1"]
