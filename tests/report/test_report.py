"""report.html: what it shows of a pipeline run, what it leaves out, and that its content can't execute anything."""

import errno
import re
import shlex
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import pytest
import reporting
from conftest import Result, Store
from reporting import STEPS, Made, everything, qa_report, read

from ml_pipelines.backends.inline import InlineBackend
from ml_pipelines.cli import main
from ml_pipelines.config.loading import load
from ml_pipelines.errors import ConfigError, Interrupted, StepFailed
from ml_pipelines.problems import binary
from ml_pipelines.report import charts, gather, publishing, render
from ml_pipelines.tracking import run_page
from ml_pipelines.tracking.store import Store as TrackingStore

Drive = Callable[..., Result]
CHAMPION = {
    **{"name": "loans", "version": 2, "auc": 0.879, "low": 0.865, "high": 0.893},
    **{"difference": 0.0051, "difference_low": -0.0021, "difference_high": 0.0123, "p_value": 0.0412, "run_id": "gone"},
}


def page(made: Made) -> str:
    """Return the report of a pipeline run."""
    return render.render(read(made.log()[0]))


def text(html: str) -> str:
    """Return the visible text, without attributes."""
    body = html.partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def part(html: str, id: str) -> str:
    """Return the text of a section, empty if the page has no such section."""
    return text("<body>" + html.partition(f'<section id="{id}">')[2].partition("</section>")[0])


def sections(html: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', html)


class Parsed(HTMLParser):
    """Elements with their attributes; asserts that every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


# -- what the report shows


@pytest.mark.parametrize(
    ("verdict", "status", "word"),
    [
        ("passed", "FINISHED", "Passed"),
        ("undecided", "FINISHED", "Undecided"),
        ("warned", "FINISHED", "Warned"),
        ("refused", "FAILED", "Refused"),
    ],
)
def test_the_verdict_comes_first(store: Store, verdict: str, status: str, word: str) -> None:
    html = page(Made(artifacts=everything(qa_report(verdict)), parent_status=status, tags={"": {"verdict": verdict}}))
    assert text(html).startswith(word)
    assert re.search(rf"<title>{word}: pipeline run \w{{8}}</title>", html)
    assert ("✗ drift : income has moved most" in text(html)) == (verdict in ("warned", "refused"))
    assert ("? min_auc (undecided): about 800 test rows would be enough" in text(html)) == (verdict == "undecided")


def test_the_report_says_how_many_models_the_test_rows_have_judged(store: Store) -> None:
    html = page(Made(artifacts=everything(qa_report(selection="7 models were judged on these test rows."))))
    assert "95% interval). 7 models were judged on these test rows." in text(html)


def test_the_report_of_a_complete_run_has_every_section(store: Store) -> None:
    html = page(Made(artifacts=everything(), tags={"": {"conclusion": "champion is version 3 (auc 0.884)"}}))
    parts = ["checks", "champion", "metrics", "curves", "importance", "slices", "data", "steps"]
    assert sections(html) == parts
    assert re.findall(r'<a href="#(\w+)"', html) == parts
    assert "5 passed, 1 not compared; champion is version 3 (auc 0.884)" in text(html)
    assert "AUC 0.884 (0.870 to 0.898, 95% interval)" in text(html)


def test_each_metric_has_its_interval(store: Store) -> None:
    from scipy.stats import binomtest

    report = read(Made(artifacts=everything()).log()[0])
    metrics = {metric.name: metric for metric in report.metrics}
    truth, predicted = reporting.LABEL.to_numpy() == 1, reporting.SCORE >= 0.5
    hits = int((truth & predicted).sum())
    counts = {
        "Accuracy": (int((truth == predicted).sum()), len(truth)),
        "Precision": (hits, int(predicted.sum())),
        "Recall": (hits, int(truth.sum())),
    }
    for name, (right, rows) in counts.items():
        expected = binomtest(right, rows).proportion_ci(method="wilson")
        shown = (metrics[name].value, metrics[name].low, metrics[name].high)
        assert shown == pytest.approx((right / rows, expected.low, expected.high), abs=1e-6), name
    auc = report.metrics[0]
    assert (auc.name, auc.low, auc.high, auc.training, auc.champion) == ("AUC", 0.8702, 0.8979, 0.985, None)
    assert all(metric.low < metric.value < metric.high for metric in report.metrics)  # type: ignore[operator]
    assert [metric.name for metric in report.metrics if not metric.higher_is_better] == ["Log loss", "Brier score"]


@pytest.mark.parametrize(("hits", "rows"), [(0, 10), (10, 10), (3, 7), (790, 2000)])
def test_the_interval_of_a_proportion_is_wilsons(hits: int, rows: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(hits, rows).proportion_ci(method="wilson")
    assert render.wilson(hits, rows) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_each_point_of_the_calibration_has_its_interval(store: Store) -> None:
    from scipy.stats import binomtest

    points = binary.curves(reporting.LABEL, reporting.SCORE)["calibration"]
    expected = []
    for predicted, observed, rows in zip(*points.values(), strict=True):
        interval = binomtest(round(observed * rows), int(rows)).proportion_ci(method="wilson")
        expected.append(f"M{charts.x_of(predicted)},{charts.y_of(interval.low)}V{charts.y_of(interval.high)}")
    assert re.findall(r'<path class="error" d="(.*?)"', page(Made(artifacts=everything()))) == expected


@pytest.mark.parametrize(
    ("value", "text_shown"),
    [
        (1988, "1,988"),
        (0.88412, "0.884"),
        (1.0, "1.000"),
        (20.0, "20"),
        (None, "-"),
        (float("nan"), "-"),
        ("1.9", "1.9"),
    ],
)
def test_numbers_are_formatted_for_people(value: object, text_shown: str) -> None:
    assert render.format_number(value) == text_shown


def test_the_report_says_which_value_is_class_1_and_why(store: Store) -> None:
    class_1 = "outcome = fraud (data.positive: the rarer value, 3% of the rows)"
    html = page(
        Made(artifacts={"prepare_data": {"columns.json": {"label": {"legit": 0, "fraud": 1}, "class_1": class_1}}})
    )
    assert f"Class 1 {class_1}" in text(html)


def test_each_step_shows_its_duration_reason_and_summary(store: Store) -> None:
    why = {"train": {"reason": "param options.max_iter 100 -> 200", "summary": "auc 0.985 in training"}}
    section = part(page(Made(artifacts=everything(), tags=why)), "steps")
    assert "✓ 02_train param options.max_iter 100 → 200 auc 0.985 in training" in section
    assert re.search(r"✓ 03_evaluate first run evaluate is done \d+\.\d s \w{8}", section)
    assert "05_model_qa needs evaluate, feature_importance, prepare_data, train." in section  # the text of the graph


def test_a_run_is_shown_by_its_id_if_the_store_is_not_a_server(store: Store) -> None:
    made = Made(artifacts=everything())
    html = page(made)
    run = store.child("train").info.run_id
    assert f'<code title="{run}">{run[:8]}</code>' in html
    assert "http" not in html.replace("http-equiv", "")


def test_a_retried_step_shows_its_attempt(store: Store) -> None:
    assert "first run, attempt 2" in part(page(Made(tags={"train": {"attempt": "2"}})), "steps")


@pytest.mark.parametrize("user", ["", "ada:password@"])
def test_the_address_of_a_run_contains_no_password(user: str) -> None:
    address = InlineBackend().page_address(TrackingStore(f"http://{user}127.0.0.1:5000/"), "1", "abc")
    assert address == "http://127.0.0.1:5000/#/experiments/1/runs/abc"


# -- the champion


def report_with_champion(store: Store, digest: str = "d1", **overrides: object) -> str:
    """Return the report of a run whose champion comes from an earlier run."""
    earlier = Made().log()[1]["train"]
    champion = {**CHAMPION, "run_id": earlier, **overrides}
    parts = {**reporting.PARTS, "param options.max_iter": 200, "code steps.train": "ffff"}
    parts |= {"source": f"csv , {'b' * 64}", "data.positive": "null", "param options.max_depth": 6}
    tags = {"prepare_data": {**reporting.table_tags("train", 9000, "d2"), **reporting.table_tags("test", 2000, digest)}}
    artifacts = {**everything(qa_report(champion=champion)), "train": {"fingerprint.json": parts}}
    return page(Made(artifacts=artifacts, tags=tags))


def test_the_changes_since_the_champion_are_listed(store: Store) -> None:
    section = part(report_with_champion(store), "champion")
    assert (
        "the difference in AUC is +0.005 (-0.002 to +0.012, 95% paired interval; p = 0.041, on the same rows)"
        in section
    )
    assert "train.options.max_iter 100 200" in section and "train.options.max_depth - 6" in section
    assert "train 8,012 rows, content d1 9,000 rows, content d2" in section
    assert "code steps.train" in section
    assert "source csv , content aaaaaaaa csv , content bbbbbbbb" in section
    assert "data.positive null &#34;null&#34;" in section
    assert "scikit-learn" not in section and "seed" not in section  # they are the same


def test_the_metrics_of_the_champion_are_shown_only_if_its_test_rows_are_the_same(store: Store) -> None:
    assert "Metric Test Training Champion" in part(report_with_champion(store), "metrics")
    assert "Champion" not in part(report_with_champion(store, digest="d3"), "metrics")


def test_a_champion_without_a_score_is_named(store: Store) -> None:
    numbers = dict.fromkeys(("auc", "low", "high", "difference", "difference_low", "difference_high", "p_value"))
    section = part(report_with_champion(store, **numbers), "champion")
    assert "its model can't score this test table" in section and "options.max_iter" in section


def test_a_champion_that_is_not_compared_has_its_reason(store: Store) -> None:
    numbers = dict.fromkeys(("auc", "low", "high", "difference", "p_value"))
    section = part(report_with_champion(store, **numbers, problem="its class 1 is paid = no."), "champion")
    assert "not compared, because its class 1 is paid = no." in section


def test_a_comparison_on_some_of_the_rows_says_so(store: Store) -> None:
    assert "on the 149 rows that neither has seen)" in part(report_with_champion(store, rows=149), "champion")


def test_a_champion_whose_run_no_longer_exists_is_still_compared(store: Store) -> None:
    section = part(page(Made(artifacts=everything(qa_report(champion=CHAMPION)))), "champion")
    assert "+0.005" in section and "the changes are unknown" in section


def test_the_same_model_again_shows_no_changes(store: Store) -> None:
    champion = {**CHAMPION, "run_id": Made().log()[1]["train"]}
    section = part(page(Made(artifacts=everything(qa_report(champion=champion)))), "champion")
    assert "Nothing that the model depends on has changed" in section


# -- incomplete runs


def test_a_failed_run_shows_failed_and_skipped_steps_and_how_to_resume(store: Store) -> None:
    skipped = {f"skipped.{step}": "train" for step in STEPS[2:]}
    made = Made(
        status={"prepare_data": "FINISHED", "train": "FAILED"},
        artifacts={"train": {"traceback.txt": "Traceback\n" + "deep\n" * 100 + "ZeroDivisionError: of this test"}},
        tags={"": skipped, "train": {"cause": "ZeroDivisionError: of this test"}},
        parent_status="FAILED",
    )
    html = page(made)
    section = part(html, "failures")
    assert text(html).startswith("Failed 02_train: ZeroDivisionError: of this test")
    assert "✗ 02_train ZeroDivisionError: of this test" in section
    assert "Traceback of 02_train" in section and section.count("deep") == gather.TRACEBACK_LINES - 1
    assert "05_model_qa was skipped: 02_train failed." in section
    assert f"python driver.py --profile local --resume {store.parent().info.run_id[:8]}" in section
    assert sections(html) == ["failures", "steps"]


@pytest.mark.parametrize(("code", "is_offered"), [("2", True), ("3", False), ("4", True), ("5", False), ("124", True)])
def test_the_report_offers_to_resume_only_if_that_can_help(store: Store, code: str, is_offered: bool) -> None:
    tags = {"train": {"cause": "this was wrong", "exit_code": code}}
    html = page(Made(status={"prepare_data": "FINISHED", "train": "FAILED"}, tags=tags, parent_status="FAILED"))
    assert "this was wrong" in part(html, "failures")
    assert ("Continue with" in html) is ("--resume" in html) is is_offered


def test_the_report_lists_the_data_warnings(store: Store) -> None:
    rows = [["constant", f"c{i}", f"Column c{i} is <constant>."] for i in range(gather.SHOWN_WARNINGS + 5)]
    artifact = {"data_warnings.json": {"columns": ["kind", "column", "message"], "data": rows}}
    html = page(Made(artifacts={**everything(), "prepare_data": artifact}))
    section = part(html, "warnings")
    assert "Column c0 is &lt;constant&gt;." in section and "Column c20" not in section
    assert "5 more are in data_warnings.json" in section
    assert sections(html).index("warnings") == sections(html).index("data") + 1
    assert '<a href="#warnings">' in html


def test_the_command_that_continues_has_only_the_overrides_that_lead_to_the_run(store: Store) -> None:
    overrides = "experiment_name=of a colleague,seed=7"
    run_id = Made(status={"prepare_data": "FAILED"}, parent_status="FAILED").log()[0]
    store.client.log_dict(run_id, run_page.config_json(load("local", [overrides])), "config.json")
    shown = unescape(part(render.render(read(run_id)), "failures"))
    assert shown.rstrip().endswith(f"--resume {run_id[:8]} --set 'experiment_name=of a colleague'")


def test_a_stopped_run_shows_that_it_was_stopped(store: Store) -> None:
    status = {"prepare_data": "FINISHED", "train": "KILLED"}
    html = page(Made(status=status, tags={"": {"cause": "stopped by signal 15"}}, parent_status="KILLED"))
    assert text(html).startswith("Stopped stopped by signal 15")
    assert "✗ 02_train" in part(html, "failures")


def test_the_report_of_a_partial_run_covers_that_part(store: Store) -> None:
    earlier, runs = Made().log()
    run_tags = {"": {"kept.prepare_data": runs["prepare_data"], "inputs_from": earlier}}
    html = page(Made(status={"train": "FINISHED"}, tags=run_tags))
    assert text(html).startswith("Finished No step of this pipeline run checked the model.")
    assert sections(html) == ["steps"]
    section = part(html, "steps")
    assert f"= 01_prepare_data reused from pipeline run {earlier[:8]}" in section
    assert "- 03_evaluate not part of this pipeline run" in section
    assert "8,012 train rows, 2,000 test rows" in text(html)


@pytest.mark.parametrize(
    ("step", "name", "missing"),
    [
        ("evaluate", "curves.json", {"curves"}),
        ("feature_importance", "feature_importance.json", {"importance"}),
        ("model_qa", "drift.json", {"data"}),
        ("model_qa", "qa_report.json", {"checks", "champion", "slices"}),
    ],
)
def test_a_section_without_its_artifact_is_left_out(store: Store, step: str, name: str, missing: set[str]) -> None:
    all_sections = set(sections(page(Made(artifacts=everything()))))
    artifacts_without_it = {key: {n: c for n, c in files.items() if n != name} for key, files in everything().items()}
    assert all_sections - set(sections(page(Made(artifacts=artifacts_without_it)))) == missing


def test_a_reused_step_shows_the_artifacts_of_the_run_that_computed_it(store: Store) -> None:
    _, runs = Made(artifacts=everything()).log()
    tags = {step: {"reused_from": runs[step], "reason": "unchanged"} for step in STEPS}
    html = page(Made(tags=tags))
    assert {"curves", "importance", "data"} <= set(sections(html))
    assert "= 03_evaluate reused: unchanged evaluate is done" in part(html, "steps")
    assert runs["evaluate"] in html


def test_missing_numbers_are_shown_as_dashes(store: Store) -> None:
    missing = {"value": None, "low": None, "high": None, "level": 0.95}
    slices = [reporting.slice_row("purpose=rare", 3, None)]
    html = page(Made(artifacts=everything(qa_report(auc=missing, slices=slices))))
    assert "misses - of class 1 alarms in 0% (0% to 56.1%) of class 0 -" in part(html, "slices")


def test_slices_show_their_intervals_and_those_that_can_t_be_judged(store: Store) -> None:
    section = part(page(Made(artifacts=everything())), "slices")
    assert "0.891 (0.861 to 0.921) difference from version 3: 0.011 (-0.039 to 0.061)" in section
    assert "odds, observed / expected: 1.020 (0.820 to 1.220)" in section
    assert "misses 19.7% (" in section and "alarms in 13.3% (" in section
    assert "Not judged: purpose is missing, 52 rows: 52 rows; about 100 rows of this slice would be enough" in section


def test_slices_of_an_earlier_state_are_left_out(store: Store) -> None:
    html = page(Made(artifacts=everything(qa_report(slices=[{"slice": "a=1", "rows": 9, "auc": 0.8, "low": None}]))))
    assert "slices" not in sections(html)


def test_only_the_columns_with_the_largest_drift_are_shown(store: Store) -> None:
    names = [f"c{i}" for i in range(gather.SHOWN + 5)]
    html = page(Made(artifacts=everything(columns=names)))
    section = part(html, "data")
    assert "The ten columns with the largest drift" in section and "5 columns with less drift are not shown" in section
    assert "c0 " in section and f"c{gather.SHOWN + 4} " not in section
    assert len(html) < 200_000


def test_the_colour_of_a_column_follows_what_has_moved(store: Store) -> None:
    drift = reporting.drift(("a", "b", "c", "d"))
    for row in (*drift["train_test"], *drift["champion"]):
        row |= {"psi": 0.2, "moved": []}
    drift["train_test"][1]["moved"] = ["values"]
    drift["champion"][2] |= {"moved": ["missing"], "missing_reference": 0.02, "missing_current": 0.6}
    drift["champion"][3] |= {"moved": ["type"], "kind": "changed", "psi": None, "p_value": None}
    artifacts = everything()
    artifacts["model_qa"]["drift.json"] = drift
    html = page(Made(artifacts=artifacts))
    rows = re.findall(
        r'<tr><th scope="row">([a-d])</th><td class="picture">.*?<rect class="(bad|warn|now)"', html, re.S
    )
    assert rows == [("c", "bad"), ("d", "bad"), ("b", "warn"), ("a", "now")]
    section = part(html, "data")
    assert "missing 2% to 60% moved: missing" in section and "a number in only one table moved: type" in section
    assert "Only in the training table of the champion: region" in section


# -- the HTML


def test_the_page_is_self_contained_and_loads_nothing(store: Store) -> None:
    parsed = Parsed(page(Made(artifacts=everything())))
    assert not parsed.all("script", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "source")
    html = page(Made(artifacts=everything()))
    assert not re.search(r"@import|url\((?!#)|src=|srcset| on\w+=", html)
    external_links = [
        link["href"] for link in parsed.all("a", "link") if not str(link["href"]).startswith(("#", "data:,"))
    ]
    assert external_links == []


def test_drawings_have_labels_tables_have_headers_and_ids_are_unique(store: Store) -> None:
    html = page(Made(artifacts=everything()))
    parsed = Parsed(html)
    ids = [str(attributes["id"]) for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for drawing in parsed.all("svg"):
        label_ids = set(str(drawing.get("aria-labelledby", "")).split())
        assert (
            drawing.get("aria-hidden") == "true" or drawing.get("aria-label") or (label_ids and label_ids <= set(ids))
        )
    assert all(header.get("scope") in ("row", "col") for header in parsed.all("th"))
    assert html.count("<table") == html.count("<tbody>")
    assert parsed.all("html") == [{"lang": "en"}]
    assert next(tag for tag, _ in parsed.elements if tag in ("h1", "h2")) == "h1"
    assert "Precision at a recall of 0.25: 0.9" in html  # a curve in words


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def test_text_from_data_and_names_is_escaped(store: Store) -> None:
    drift_report = reporting.drift(columns=("purpose", EVIL))
    drift_report["train_test"][0]["bins"][0]["label"] = EVIL
    slices = [reporting.slice_row(f"purpose={EVIL}", 30, 0.8), reporting.slice_row(EVIL, 3, None, problem=EVIL)]
    artifacts = {
        "evaluate": everything()["evaluate"],
        "prepare_data": {"columns.json": {"label": {"no": 0, EVIL: 1}}},
        "feature_importance": {"feature_importance.json": reporting.importances((EVIL,))},
        "model_qa": {
            "qa_report.json": qa_report("refused", {**CHAMPION, "name": EVIL}, slices=slices),
            "drift.json": drift_report,
        },
    }
    tags = {step: {"summary": EVIL, "cause": EVIL, "reason": EVIL} for step in STEPS}
    tags["train"] |= {"summary": "\x1b[2J\u202e", "cause": "\x07"}
    tags[""] = {"verdict": "refused", "engine": EVIL, "mlflow.user": EVIL, "conclusion": EVIL}
    made = Made(artifacts=artifacts, tags=tags, experiment=EVIL.replace("/", ""), parent_status="FAILED")
    html = page(made)
    parsed = Parsed(html)
    assert not parsed.all("script", "img")
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert html.count("&lt;script&gt;") > 10
    assert r"\x1b[2J\u202e" in html or r"\x07" in html
    assert not set(html) & {"\x1b", "\x07", "\u202e"}


def test_the_same_run_gives_the_same_page(store: Store) -> None:
    run = Made(artifacts=everything()).log()[0]
    assert render.render(read(run)) == render.render(read(run))


# -- when the report is written


def report_of(store: Store) -> str:
    return store.artifact(store.parent(), render.NAME).read_text()


def test_a_pipeline_run_logs_its_report(store: Store, drive: Drive) -> None:
    result = drive()
    assert result.code == 0, result.text
    assert "\nLook at it: ml-pipelines report --open · mlflow ui" in result.out
    html = report_of(store)
    assert text(html).startswith("Passed")
    assert {"metrics", "curves", "importance", "checks", "steps"} <= set(sections(html))
    assert f"{int(store.child('evaluate').data.metrics['test_rows'])} test rows" in text(html)
    assert "label = 1" in text(html)


def test_a_failed_pipeline_run_logs_its_report(store: Store, drive: Drive) -> None:
    with patch("steps.train.fit", side_effect=ZeroDivisionError("of this test")):
        result = drive()
    assert result.code == 4
    assert "ml-pipelines report --open" in result.out
    html = report_of(store)
    assert text(html).startswith("Failed 02_train: ZeroDivisionError: of this test")
    assert "05_model_qa was skipped: 02_train failed." in part(html, "failures")


@pytest.mark.parametrize(
    ("error", "message"),
    [(ZeroDivisionError("of this test"), "ZeroDivisionError: of this test"), (Interrupted(2), "stopped by signal 2")],
)
def test_an_error_in_the_report_does_not_fail_the_pipeline_run(
    store: Store, drive: Drive, error: BaseException, message: str
) -> None:
    with patch("ml_pipelines.report.publishing.render", side_effect=error):
        result = drive("--only=prepare_data")
    assert result.code == 0
    assert store.parent().info.status == "FINISHED"
    assert f"\nThere is no report: {message}\n" in result.out
    assert render.NAME not in store.artifacts(store.parent())


@pytest.mark.slow
def test_the_next_start_makes_a_report_that_failed(store: Store, drive: Drive) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/store/report.html")

    def leave_half(self: TrackingStore, run_id: str, text: str, name: str) -> None:
        self.client.log_text(run_id, text[:1000], name)
        raise full

    with patch.object(TrackingStore, "log_text", leave_half):
        first = drive("--to=prepare_data")
    assert first.code == 0
    place = store.parent().info.artifact_uri
    expected = f"There is no report: No space left on device for /store/report.html. Free: {place} "
    assert expected in first.out, first.text
    again = drive("--to=prepare_data")
    assert again.code == 0
    run_id = store.parent().info.run_id
    assert f"Pipeline run {run_id[:8]} had no report. It has one now.\n" in again.out, again.text
    assert f"Up to date: nothing has changed since pipeline run {run_id}" in again.out
    assert report_of(store).endswith("</html>")
    assert "had no report" not in drive("--to=prepare_data").out


def test_the_next_start_makes_a_deleted_report(store: Store, drive: Drive) -> None:
    assert drive("--to=prepare_data").code == 0
    Path(store.parent().info.artifact_uri, render.NAME).unlink()
    assert "had no report. It has one now." in drive("--to=prepare_data").out
    assert sections(report_of(store)) == ["steps"]


@pytest.mark.parametrize("command", ["report", "contract"])
def test_without_a_pipeline_run_a_command_says_so_and_creates_nothing(store: Store, command: str) -> None:
    with pytest.raises(ConfigError, match=r"has no experiment \S+\. Run the pipeline once, or choose a profile\."):
        main.commands([command], standalone_mode=False)
    assert [experiment.name for experiment in store.client.search_experiments()] == ["Default"]


@pytest.mark.slow
def test_the_printed_command_writes_the_report_again_and_opens_it(
    store: Store, drive: Drive, shell: Callable[..., Result], tmp_path: Path
) -> None:
    command_line = drive("--only=prepare_data", "--set=experiment_name=other").out.splitlines()[-1]
    command_line = command_line.removeprefix("Look at it: ").partition(" · ")[0]
    opened_address = tmp_path / "seen.txt"
    (tmp_path / "browser").write_text(f'#!/bin/sh\necho "$1" > {opened_address}\n')
    (tmp_path / "browser").chmod(0o755)
    result = shell(*shlex.split(command_line), BROWSER=f"{tmp_path / 'browser'} %s")
    assert result.code == 0, result.text
    path = Path(result.out.strip())
    assert path.name == render.NAME
    assert sections(path.read_text()) == ["steps"]
    assert store.child("prepare_data").info.run_id in path.read_text()
    assert opened_address.read_text().strip() == path.as_uri()


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["ml-pipelines", "report", *arguments])
    try:
        main.commands(standalone_mode=False)
    except ConfigError as error:
        return error.exit_code
    return 0


@pytest.mark.parametrize("name", ["config.json", "fingerprint.json", "qa_report.json", "drift.json", "columns.json"])
@pytest.mark.parametrize("content", ["[1]", '{"steps": 1, "checks": 1, "train_test": 1, "label": 1}'])
def test_an_odd_artifact_gives_a_report_or_one_line(store: Store, name: str, content: str) -> None:
    runs = {"": Made(artifacts=everything()).log()[0]}
    runs |= {str(run.data.tags.get("step")): run.info.run_id for run in store.runs()}
    for run_id in runs.values():
        store.client.log_text(run_id, content, name)
    try:
        publishing.publish(store.opened, runs[""], InlineBackend().page_address)
    except StepFailed as error:
        assert runs[""] in str(error) and str(error).isprintable()
    else:
        assert "report.html" in store.artifacts(store.client.get_run(runs[""]))


def test_the_command_reports_the_newest_run_or_the_requested_run(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = Made().log()[0], Made().log()[0]
    for arguments, run in (((), second), ((first[:10],), first), ((first,), first)):
        assert command(monkeypatch, *arguments) == 0
        assert f"/{run}/artifacts/{render.NAME}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["0" * 32]])
def test_the_command_refuses_an_unknown_run(
    store: Store, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    assert command(monkeypatch, *arguments) == 2


def test_the_command_refuses_the_run_of_a_step(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, Made().log()[1]["train"]) == 2
