"""Tests of the commands that show pipeline runs: runs, show, compare, logs."""

import re

import pytest
from click.testing import CliRunner
from conftest import Result, Store, drive_in, failing
from reporting import Made, everything, table_tags

from ml_pipelines.cli import main, tables
from ml_pipelines.errors import ConfigError

LEAVES = "--set=steps.train.params.options.max_leaf_nodes=5"
METRICS = ("AUC", "Log loss", "Brier score", "F1")


def run_cli(*arguments: str) -> Result:
    """Run `ml-pipelines` in this process."""
    result = CliRunner().invoke(main.commands, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


def cells(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())


def test_runs_lists_pipeline_runs_with_verdict_headline_and_reused_steps(finished: Store, earlier: Store) -> None:
    first = earlier.parent().info.run_id
    with failing("steps.train.problem_of"):
        drive_in(Store(earlier.uri, finished.tables), "--to=train", LEAVES)
    second = earlier.parent().info.run_id
    head, newest, oldest = run_cli("runs").out.splitlines()
    assert cells(head) == ["run", "pipeline", "started (UTC)", "result", "time", "reused", "headline"]
    assert cells(newest)[:2] == [second[:8], "train"] and cells(newest)[3:4] == ["failed"]
    assert cells(newest)[5:] == ["1 of 2", "-"]
    auc = earlier.metrics(earlier.client.get_run(first))["03_evaluate"]["test_auc"]
    assert cells(oldest)[3] == "passed" and cells(oldest)[5:] == ["0 of 5", f"auc {auc:.3f}"]


def test_a_scoring_run_and_a_refused_one_stand_in_the_list(store: Store) -> None:
    tags = {"": {"pipeline": "score", "profile": "local"}}
    scored, _ = Made(status={"score": "FINISHED"}, tags=tags).log()
    store.client.log_metric(scored, "scored_rows", 200_000)
    Made(tags={"": {"verdict": "refused"}}, parent_status="FAILED").log()
    Made(status={"train": "FAILED"}, tags={"": {"verdict": "passed"}}, parent_status="FAILED").log()
    Made(tags={"": {"profile": "loans"}}).log()
    _, failed, refused, scoring = map(cells, run_cli("runs").out.splitlines())
    assert (failed[3], refused[3]) == ("failed", "refused")
    assert (scoring[1], scoring[3], scoring[6]) == ("score", "finished", "scored_rows 200,000")


def test_runs_says_what_to_do_if_there_is_none(store: Store) -> None:
    with pytest.raises(ConfigError, match="has no experiment local_pipeline_experiment"):
        run_cli("runs")
    store.client.create_experiment("local_pipeline_experiment")
    with pytest.raises(ConfigError, match="has no pipeline run of profile local"):
        run_cli("runs")


def test_show_has_steps_metrics_with_intervals_and_the_report(earlier: Store) -> None:
    out = run_cli("show").out
    assert out.startswith(f"pipeline_run {earlier.parent().info.run_id}\nPassed: Checks: ")
    for step in earlier.below():
        assert re.search(rf"✓ {step} +\d+\.\d s +\S", out), step
    for metric in METRICS:
        assert re.search(rf"^{metric} .* -?\d\.\d{{3}} \(-?\d\.\d{{3}} to -?\d\.\d{{3}}\)$", out, re.MULTILINE), metric
    path = re.search(r"^Report +(.+)$", out, re.MULTILINE)
    assert path and path[1] == f"{earlier.parent().info.artifact_uri}/report.html"
    assert "Continue with" not in out


def test_show_names_the_failure_and_how_to_go_on(store: Store) -> None:
    run_id, _ = Made(
        status={"prepare_data": "FINISHED", "train": "FAILED"},
        tags={"train": {"cause": "ZeroDivisionError: of this test"}, "": {"skipped.evaluate": "train"}},
        parent_status="FAILED",
    ).log()
    out = run_cli("show", run_id[:8]).out
    assert "Failed: 02_train: ZeroDivisionError: of this test" in out
    assert re.search(r"✗ 02_train +\d+\.\d s  ZeroDivisionError: of this test\n", out)
    assert re.search(r"- 03_evaluate +skipped \(02_train failed\)\n", out)
    assert re.search(rf"Report +ml-pipelines report {run_id[:8]}\n", out)
    assert re.search(rf"Continue with +python driver.py --profile local --resume {run_id[:8]}\n", out)


def test_compare_names_each_setting_the_data_and_the_metrics_of_both(store: Store) -> None:
    before, _ = Made(artifacts=everything()).log()
    changed = {"prepare_data": {**table_tags("train", 9000, "d7d7d7d7d7"), **table_tags("test", 2000)}}
    now, runs = Made(artifacts=everything(), tags=changed, parent_status="KILLED").log()
    config = store.artifact(store.client.get_run(now), "config.json").read_text().replace('"seed": 42', '"seed": 7')
    store.client.log_text(now, config, "config.json")
    store.client.log_metric(runs["evaluate"], "test_auc", 0.91)
    lines = [cells(line) for line in run_cli("compare", before[:8], now[:8]).out.splitlines()]
    assert lines[0] == ["changed", f"{before[:8]} -> {now[:8]}"]
    assert ["result", "Passed -> Stopped"] in lines
    assert ["seed", "42 -> 7"] in lines
    assert ["train", "8,012 rows, content d1 -> 9,000 rows, content d7d7d7d7"] in lines
    assert len(lines) == 4 + 2 + 8  # nothing else has changed; then a blank line, a head, and eight metrics
    auc = next(line for line in lines if line[0] == "AUC")
    assert re.fullmatch(r"0\.\d{3} \(0\.870 to 0\.898\)", auc[1]) and auc[2].startswith("0.910 (")


def test_compare_says_that_nothing_differs(store: Store) -> None:
    (before, _), (now, _) = Made(artifacts=everything()).log(), Made(artifacts=everything()).log()
    assert run_cli("compare", before, now).out.splitlines()[1] == "nothing"


def test_logs_prints_the_log_of_a_step_with_its_traceback(finished: Store, earlier: Store) -> None:
    with failing("steps.train.problem_of"):
        drive_in(Store(earlier.uri, finished.tables), "--to=train", LEAVES)
    run = earlier.parent().info.run_id[:8]
    assert "ZeroDivisionError: of this test" in run_cli("logs", run, "train").out
    reused = run_cli("logs", run, "prepare_data").out  # the log of the run that computed the result
    assert f"run {earlier.below()['01_prepare_data'].data.tags['reused_from']}" in reused
    with pytest.raises(ConfigError, match=r"no step trian\. Did you mean train\? It ran: prepare_data, train"):
        run_cli("logs", run, "trian")


def test_a_run_without_a_log_is_told(store: Store) -> None:
    run_id, _ = Made(status={"prepare_data": "KILLED"}, parent_status="KILLED").log()
    with pytest.raises(ConfigError, match="has no log: it is still running, or was killed"):
        run_cli("logs", run_id, "prepare_data")


@pytest.mark.parametrize("command", ["show", "logs", "compare"])
def test_an_unknown_run_is_refused_with_the_latest_ones(store: Store, command: str) -> None:
    run_id, _ = Made().log()
    absent = "00000000" if run_id[0] != "0" else "11111111"
    arguments = {"show": [absent], "logs": [absent, "train"], "compare": [run_id[:8], absent]}[command]
    with pytest.raises(ConfigError, match=f"begins with '{absent}'. The latest are: {run_id[:8]}."):
        run_cli(command, *arguments)


def test_at_80_columns_no_word_is_cut(earlier: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = [run_cli("show").out, run_cli("runs").out]
    monkeypatch.setattr(tables, "terminal_width", lambda: 80)
    narrow = [run_cli("show").out, run_cli("runs").out]
    assert max(map(len, wide[0].splitlines())) > 80
    for before, after in zip(wide, narrow, strict=True):
        assert sorted(before.split()) == sorted(after.split())
        too_long = [line for line in after.splitlines() if len(line) > 80]
        assert all("/" in line.split()[-1] for line in too_long), too_long  # a path stays in one piece


def test_a_long_last_cell_gets_lines_of_its_own() -> None:
    rows = [("a", "one two three four five six seven"), ("bcd", "x")]
    assert tables.lines_of(rows, 24, "  ") == [
        "  a    one two three",
        "       four five six",
        "       seven",
        "  bcd  x",
    ]
    assert tables.lines_of(rows, None)[0] == "a    one two three four five six seven"
