"""Tests of driver.py as a user calls it: the whole pipeline, selected steps, and errors."""

import functools
import importlib
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from conftest import Result, Store, drive_in, failing, use

from ml_pipelines.errors import BadData
from ml_pipelines.system import terminal
from ml_pipelines.system.events import StepEnded

Drive = Callable[..., Result]
Shell = Callable[..., Result]

NAMES = ["01_prepare_data", "02_train", "03_evaluate", "04_feature_importance", "05_model_qa"]


def resume_command(result: Result) -> list[str]:
    """Return the arguments of the command that a failed run prints, without reuse and with the inline backend."""
    command = result.out.rpartition("Continue with: python driver.py ")[2].splitlines()[0]
    return [*shlex.split(command), "--set=reuse=false", "--backend=inline"]


# -- the whole pipeline


def test_five_steps_run_under_one_parent_run(finished: Store) -> None:
    assert finished.statuses() == dict.fromkeys(NAMES, "FINISHED")
    assert finished.parent().info.status == "FINISHED"
    assert len(finished.runs()) == 6


def test_the_terminal_shows_a_line_for_each_step(store: Store, drive: Drive) -> None:
    lines = drive().out.splitlines()
    assert lines[0].startswith(f"pipeline_run {store.parent().info.run_id[:8]} · local · sail · inline · ")
    matches = [re.fullmatch(r"  ✓ (\w+) +\d+\.\d s   (.+)", line) for line in lines[1:6]]
    assert sorted(match[1] for match in matches if match) == NAMES
    assert store.parent().info.run_id in lines[6]


def test_the_same_seed_gives_exactly_the_same_metrics(finished: Store, store: Store, drive: Drive) -> None:
    assert drive().code == 0
    assert store.metrics() == finished.metrics()


@pytest.mark.slow
def test_the_sample_data_needs_no_download(store: Store, drive: Drive) -> None:
    quick = "steps.train.params.options.max_iter=20,steps.feature_importance.params.repeats=1"
    result = drive(f"--set=data.source.kind=sample,{quick}", small=False)
    assert result.code == 0, result.text
    assert "class 1 is label = malignant (data.positive: the rarer value, 37.3% of the rows)" in result.out
    assert store.child("evaluate").data.metrics["test_auc"] > 0.97
    assert store.child("train").data.metrics["features"] == 30


@pytest.mark.slow
def test_headers_of_any_script_and_length_go_through_the_whole_pipeline(
    store: Store, drive: Drive, tmp_path: Path
) -> None:
    question = f"How old are you [years]? <18; {{65}}> = {'x' * 300}"
    headers = ["\u0906\u092f\u0941", "\u0906\u092f", f"{question}1", f"{question}2"]
    cells = {name: [(7 * i + k) % 100 / 7 for i in range(300)] for k, name in enumerate(headers)}
    rows = pl.DataFrame({"id": range(300), **cells, "label": [i % 100 > 50 for i in range(300)]})
    rows.write_csv(tmp_path / "survey.csv")
    source = f"data.source.kind=file,data.source.path={tmp_path / 'survey.csv'}"
    result = drive(f"--set={source},steps.model_qa.params.on_failure=warn", small=False)
    assert result.code == 0, result.text
    assert len([name for name in store.child("feature_importance").data.metrics if "importance" in name]) == 4
    decisions = json.loads(store.artifact(store.child("prepare_data"), "columns.json").read_text())
    asked = rows.head(3).rename(decisions["renamed"]).select(list(decisions["features"]))
    assert headers[:2] == asked.columns[:2]
    model = mlflow.pyfunc.load_model(store.child("train").data.tags["output.model_uri"])
    assert len(model.predict(asked.to_pandas())) == 3


def test_the_configuration_selects_the_estimator(earlier: Store, drive: Drive) -> None:
    result = drive(
        "--from=train",
        "--set=steps.train.params.estimator=sklearn.linear_model.LogisticRegression",
        "--set=steps.train.params.options.max_iter=200,steps.train.params.missing=median",
    )
    assert result.code == 0, result.text
    assert earlier.child("train").data.params["estimator"] == "sklearn.linear_model.LogisticRegression"
    assert earlier.statuses() == dict.fromkeys(NAMES[1:], "FINISHED")


@pytest.mark.slow
def test_a_forest_runs_if_its_types_are_trusted(earlier: Store, drive: Drive) -> None:
    forest = "--set=steps.train.params.estimator=sklearn.ensemble.RandomForestClassifier"
    refusal = drive("--only=train", forest, small=False)
    assert refusal.code == 2
    [override] = re.findall(r"--set '(model\.trusted_types=[^']+)'", refusal.out)
    result = drive("--only=train", "--only=evaluate", forest, f"--set={override}", small=False)
    assert result.code == 0, result.text


# -- selected steps


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (["--only=evaluate", "--only=feature_importance"], NAMES[2:4]),
        (["--from=evaluate"], [NAMES[2], NAMES[4]]),
        (["--from=train", "--to=evaluate"], NAMES[1:3]),
    ],
)
def test_selected_steps_run_on_the_outputs_of_an_earlier_run(
    finished: Store, earlier: Store, drive: Drive, selection: list[str], names: list[str]
) -> None:
    result = drive(*selection)
    assert result.code == 0, result.text
    assert earlier.statuses() == dict.fromkeys(names, "FINISHED")
    assert f"reused from pipeline run {finished.parent().info.run_id[:8]}" in result.out
    assert earlier.parent().data.tags["inputs_from"] == finished.parent().info.run_id


def test_selected_steps_give_the_same_metrics_as_the_whole_pipeline(
    finished: Store, earlier: Store, drive: Drive
) -> None:
    assert drive("--from=train", "--to=evaluate").code == 0
    whole = finished.metrics()
    assert earlier.metrics() == {name: whole[name] for name in NAMES[1:3]}


def test_to_needs_no_earlier_run(store: Store, drive: Drive) -> None:
    assert drive("--to=train").code == 0
    assert list(store.statuses()) == NAMES[:2]


def test_selected_steps_without_an_earlier_run_are_refused_before_any_run(store: Store, drive: Drive) -> None:
    result = drive("--only=evaluate")
    assert result.code == 2
    assert "No earlier pipeline run of profile local has test_uri, train_run_id" in result.err
    assert store.runs() == []


def test_selected_steps_use_the_newest_outputs(earlier: Store, drive: Drive) -> None:
    assert drive("--only=train", "--set=steps.train.params.options.max_iter=6").code == 0
    newest = earlier.child("train").info.run_id
    assert drive("--only=evaluate").code == 0
    assert earlier.child("evaluate").data.params["train_run_id"] == newest


@pytest.mark.slow
def test_selected_steps_do_not_mix_outputs_of_different_models(finished: Store, earlier: Store, drive: Drive) -> None:
    assert drive("--only=train").code == 0
    assert drive("--only=model_qa").code == 0
    params = earlier.child("model_qa").data.params
    for step in ("train", "evaluate", "feature_importance"):  # one run has all of these outputs
        assert params[f"{step}_run_id"] == finished.child(step).info.run_id


# -- a step that fails


BRANCHES = ["--only=evaluate", "--only=feature_importance", "--only=model_qa"]


@pytest.fixture(scope="module")
def failed_run(finished: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Result]:
    """Return a store in which one of two branches of the last pipeline run failed, and the result of that run."""
    folder = tmp_path_factory.mktemp("failed_run")
    store = Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "delta")
    finished.copy_to(store)
    with pytest.MonkeyPatch.context() as environment, failing("steps.evaluate.problem_of"):
        use(store, environment)
        return store, drive_in(store, *BRANCHES)


def test_a_failed_step_keeps_its_traceback_its_log_and_its_cause(failed_run: tuple[Store, Result]) -> None:
    store, result = failed_run
    assert result.code == 4
    run = store.child("evaluate")
    assert run.info.status == "FAILED"
    assert run.data.tags["cause"] == "ZeroDivisionError: of this test"
    assert run.data.tags["exit_code"] == "4"
    traceback = store.artifact(run, "traceback.txt").read_text()
    assert "in run" in traceback
    assert traceback.endswith("ZeroDivisionError: of this test\n")
    assert "ZeroDivisionError: of this test" in store.artifact(run, "evaluate.log").read_text()


def test_a_failed_step_fails_the_pipeline_run(failed_run: tuple[Store, Result]) -> None:
    parent = failed_run[0].parent()
    assert parent.info.status == "FAILED"
    assert (parent.data.tags["failed_step"], parent.data.tags["exit_code"]) == ("evaluate", "4")
    assert "ZeroDivisionError: of this test" in parent.data.tags["mlflow.note.content"]


def test_the_terminal_shows_a_failed_step_in_one_line(failed_run: tuple[Store, Result]) -> None:
    _, result = failed_run
    assert re.search(r"✗ 03_evaluate +\d+\.\d s   ZeroDivisionError: of this test\n", result.out)
    assert "Traceback" not in result.text


def test_after_a_failure_the_sibling_finishes_and_downstream_steps_are_skipped(
    failed_run: tuple[Store, Result],
) -> None:
    store, result = failed_run
    assert store.statuses() == {NAMES[2]: "FAILED", NAMES[3]: "FINISHED"}
    assert re.search(r"- 05_model_qa +skipped \(03_evaluate failed\)", result.out)


def test_the_printed_command_runs_only_the_missing_steps(
    failed_run: tuple[Store, Result], store: Store, drive: Drive
) -> None:
    failed_run[0].copy_to(store)
    result = drive(*resume_command(failed_run[1]), small=False)
    assert result.code == 0, result.text
    assert store.statuses() == {NAMES[2]: "FINISHED", NAMES[4]: "FINISHED"}
    assert store.parent().data.tags["inputs_from"] == failed_run[0].parent().info.run_id


@pytest.mark.slow
def test_a_resumed_run_can_be_resumed(failed_run: tuple[Store, Result], store: Store, drive: Drive) -> None:
    failed_run[0].copy_to(store)
    with failing("steps.model_qa.run_checks"):
        failed_again = drive(*resume_command(failed_run[1]), small=False)
    assert store.statuses() == {NAMES[2]: "FINISHED", NAMES[4]: "FAILED"}
    result = drive(*resume_command(failed_again), small=False)
    assert result.code == 0, result.text
    assert store.statuses() == {NAMES[4]: "FINISHED"}


def test_a_skipped_step_names_the_step_that_failed_first(earlier: Store, drive: Drive) -> None:
    with failing("steps.train.problem_of"):
        result = drive("--from=train")
    assert earlier.statuses() == {NAMES[1]: "FAILED"}
    for name in NAMES[2:]:
        assert re.search(rf"- {name} +skipped \(02_train failed\)", result.out)


def test_resuming_an_unknown_run_is_refused_before_any_run(store: Store, drive: Drive) -> None:
    result = drive("--resume=abcdef12")
    assert result.code == 2
    assert "there is no run to continue: the store has no experiment local_pipeline_experiment" in result.err
    assert store.runs() == []


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ((BadData("a"), ZeroDivisionError("b")), 3),
        ((ZeroDivisionError("a"), BadData("b")), 3),
        ((ZeroDivisionError("a"), ZeroDivisionError("b")), 4),
    ],
)
def test_the_exit_code_is_the_lowest_of_the_failed_steps(
    earlier: Store, drive: Drive, errors: tuple[Exception, Exception], code: int
) -> None:
    with (
        failing("steps.evaluate.problem_of", errors[0]),
        failing("steps.feature_importance.importance", errors[1]),
    ):
        assert drive("--only=evaluate", "--only=feature_importance").code == code


@pytest.mark.parametrize("outputs", [{}, {"qa_complete": True}, {"qa_complete": True, "qa_passed": True, "more": 1.0}])
def test_a_step_that_does_not_return_its_declared_outputs_fails(
    earlier: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch, outputs: dict[str, Any]
) -> None:
    step = importlib.import_module("steps.model_qa")
    monkeypatch.setattr(step, "run", functools.wraps(step.run)(lambda *_, **__: outputs))
    result = drive("--only=model_qa")
    assert result.code == 4
    assert (
        f"returned the outputs {sorted(outputs)}, but the configuration declares ['qa_complete', 'qa_passed']"
        in result.out
    )
    assert not [tag for tag in earlier.child("model_qa").data.tags if tag.startswith("output.")]


# -- bad data and refused models


def test_a_column_that_the_source_lacks_is_refused_before_any_run(store: Store, drive: Drive) -> None:
    result = drive("--set=data.label=nowhere")
    assert result.code == 3
    assert "data.label: the source has no column 'nowhere'" in result.err
    assert store.runs() == []


def test_a_missing_source_file_is_refused_before_any_run(store: Store, drive: Drive) -> None:
    result = drive("--set=data.source={kind: file, path: nowhere.csv}")
    assert result.code == 3
    assert "nowhere.csv does not exist" in result.err
    assert store.runs() == []


def test_a_refused_model_gives_exit_code_5(earlier: Store, drive: Drive) -> None:
    result = drive("--only=model_qa", "--set=steps.model_qa.params.checks.min_auc.threshold=1")
    assert result.code == 5
    parent = earlier.parent()
    assert parent.info.status == "FAILED"
    assert parent.data.tags["verdict"] == "refused"
    assert re.search(
        r"min_auc: test auc is 0\.\d+ \(95% interval 0\.\d+ to 0\.\d+\), below 1\. Use more",
        result.out,
    )
    run = earlier.child("model_qa")
    assert run.data.tags["output.qa_passed"] == "false"
    assert "qa_report.json" in earlier.artifacts(run)
    assert "Use more rows, other features or another estimator." in result.out
    assert "Continue with" not in result.out  # the same model would be refused again


@pytest.mark.slow
def test_the_advice_of_a_refusal_leads_to_a_model_that_passes(store: Store, drive: Drive, tmp_path: Path) -> None:
    lines = [f"{i},{i * 37 % 101},{'ab'[i % 7 % 2]},{i * 37 % 101 + i % 29 - 64}" for i in range(400)]
    lines = [f"{line},{'yes' if int(line.rpartition(',')[2]) > 0 else 'no'}" for line in lines]
    (tmp_path / "births.csv").write_text("\n".join(["id,age,kind,birth weight,low", *lines]) + "\n")
    source = f"--set=data.source.kind=file,data.source.path={tmp_path / 'births.csv'},data.label=low"
    refused = drive(source)
    assert refused.code == 5, refused.text
    assert "single_column: auc of birth_weight alone is 1, above the threshold of 0.999." in refused.out
    [advice] = re.findall(r"If the column gives the label away, set (data\.drop=.*?\])\.", refused.out)
    passed = drive(source, f"--set={advice}")
    assert (advice, passed.code) == ("data.drop=[birth weight]", 0), passed.text


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_an_auc_that_is_not_finite_is_refused_at_any_threshold(
    earlier: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    step = importlib.import_module("steps.evaluate")
    real = step.run
    not_finite = functools.wraps(real)(lambda *args, **inputs: {**real(*args, **inputs), "test_headline": float(value)})
    monkeypatch.setattr(step, "run", not_finite)
    assert drive("--from=evaluate", "--set=steps.model_qa.params.checks.min_auc.threshold=0").code == 5
    assert earlier.parent().data.tags["verdict"] == "refused"


# -- options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only=nothing"], "Step nothing doesn't exist. The steps are: prepare_data, train"),
        (["--step=nothing"], "Step nothing doesn't exist. conf/config.yaml declares: prepare_data, train"),
        (["--profile=nothing"], "Profile 'nothing' doesn't exist"),
        (["--backend=nothing"], "There is no backend 'nothing'. Set backend to one of: inline"),
        (["--nothing=1"], "driver.py has no option --nothing. The options are --profile, --set"),
        (["--sett", "seed=7"], "driver.py has no option --sett. Did you mean --set? The options are --profile,"),
        (["nothing"], "driver.py has no argument nothing."),
        (["--resume=zzzz"], "--resume: 'zzzz' is not the id of a run: an id has 32 characters"),
    ],
)
def test_a_wrong_option_gives_exit_code_2_and_makes_no_run(
    store: Store, drive: Drive, arguments: list[str], message: str
) -> None:
    result = drive(*arguments)
    assert result.code == 2
    assert message in result.err
    assert store.runs() == []


def test_help_shows_the_main_options_and_an_example(drive: Drive) -> None:
    result = drive("--help", small=False)
    assert result.code == 0
    for words in ("--profile", "--set", "--resume", "python driver.py --set data.source.kind=sample"):
        assert words in result.out


# -- terminals that show only ASCII


def test_an_ascii_terminal_shows_plain_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    for state in ("done", "failed", "skipped", "reused"):
        terminal.say(str(StepEnded("02_train", state, 1.0, "auc · Größe")))
    terminal.say("Look at it: ml-pipelines report --open · mlflow ui")
    stdout.seek(0)
    lines = stdout.read().splitlines()
    assert [line[:6] for line in lines[:4]] == ["  ok 0", "  x  0", "  -  0", "  =  0"]
    assert lines[0].endswith("auc | Gr??e")
    assert lines[4] == "Look at it: ml-pipelines report --open | mlflow ui"


@pytest.mark.slow
def test_a_pipeline_runs_in_an_ascii_terminal(store: Store, shell: Shell) -> None:
    prefix = f"--set=data.delta_prefix.local={store.tables}"
    result = shell(sys.executable, "driver.py", prefix, "--only=prepare_data", PYTHONIOENCODING="ascii")
    assert result.code == 0, result.text
    assert "  ok 01_prepare_data" in result.out
    assert result.text.isascii()


@pytest.mark.slow
def test_an_ascii_terminal_shows_an_error(shell: Shell) -> None:
    result = shell(sys.executable, "driver.py", "--set=data.label=Größe", "--only=nirgendwö", PYTHONIOENCODING="ascii")
    assert result.code == 2
    assert "Step nirgendw" in result.err
    assert os.linesep not in result.err.rstrip()
