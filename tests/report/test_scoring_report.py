"""scoring.html: what it shows of a scored batch, and what it says if numbers are missing."""

import dataclasses
import re

import pytest
from conftest import Store
from reporting import COLUMNS, Made, read, scoring_facts, scoring_run
from test_report import EVIL, Parsed, page, part, sections, text

from ml_pipelines.backends.inline import InlineBackend
from ml_pipelines.errors import StepFailed
from ml_pipelines.report import publishing, render


def test_the_scores_stand_beside_those_of_the_test_table(store: Store) -> None:
    html = page(scoring_run())
    assert sections(html) == ["scores", "shadow", "columns", "steps"]
    scores = part(html, "scores")
    assert "no 60% 85% yes 40% 15%" in scores
    assert "up to 0.1 30% 30% 0.1 to 0.25 30% 50% 0.25 to 0.5 30% 20% above 0.5 10% 0%" in scores
    assert "The test table has 100 rows, the batch 40." in scores
    assert re.search(r"PSI 0\.\d{3}, p = 0\.\d{3}", scores)
    assert "loans, version 3, of 2026-11-18 09:12 UTC (12 days old)" in text(html)
    assert "80 rows per second" in text(html)


def test_the_two_models_are_compared(store: Store) -> None:
    shadow = part(page(scoring_run()), "shadow")
    assert "differ by 0.123 on average and by at most 0.400. On average they are 0.020 lower." in shadow
    assert "Model: no 30 75% 4 10% Model: yes 0 0% 6 15%" in shadow
    assert "up to 0.1 30% 25%" in shadow
    assert sections(page(scoring_run(is_shadowed=False))) == ["scores", "columns", "steps"]


def test_columns_with_suspicious_values_come_first_and_the_others_are_counted(store: Store) -> None:
    columns = part(page(scoring_run()), "columns")
    assert "amount 2.5% 97.5% - age_years 5% 95% - purpose 7.5% 92.5% -" in columns
    assert "1 other column has no missing, unseen or outside values." in columns
    assert "income" not in columns
    many = part(page(scoring_run(columns=[f"c{i}" for i in range(60)])), "columns")
    assert len(re.findall(r"\bc\d+", many)) == 40
    assert "19 more columns are in scoring.json." in many


def test_a_batch_without_the_scores_of_the_test_table_says_so(store: Store) -> None:
    html = page(scoring_run(is_tested=False, is_shadowed=False))
    scores = part(html, "scores")
    assert "The scores of the test table are unknown" in scores
    assert "Test table" not in scores
    assert "PSI" not in scores
    assert "no 85% yes 15%" in scores


def test_the_page_is_well_formed_and_harmless(store: Store) -> None:
    made = scoring_run(columns=(*COLUMNS, EVIL))
    facts = scoring_facts(columns=(*COLUMNS, EVIL))
    facts["predicted"][0]["value"] = facts["batch_id"] = facts["model"]["name"] = EVIL
    for html in (page(made), page(dataclasses.replace(made, artifacts={"score": {"scoring.json": facts}}))):
        parsed = Parsed(html)
        assert not parsed.all("script", "img")
        ids = [str(attributes["id"]) for _, attributes in parsed.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        labelled = ("aria-hidden", "aria-label", "aria-labelledby")
        assert all(any(drawing.get(name) for name in labelled) for drawing in parsed.all("svg"))
        assert all(header.get("scope") in ("row", "col") for header in parsed.all("th"))


def test_a_scoring_run_that_failed_has_a_page_without_numbers(store: Store) -> None:
    made = dataclasses.replace(scoring_run(), status={"score": "FAILED"}, artifacts={}, parent_status="FAILED")
    assert sections(page(made)) == ["failures", "steps"]


@pytest.mark.parametrize("content", ["[1]", '{"model": 1}', '{"model": {"threshold": "x"}}'])
def test_a_changed_artifact_is_one_line(store: Store, content: str) -> None:
    run = dataclasses.replace(scoring_run(), artifacts={"score": {"scoring.json": content}}).log()[0]
    with pytest.raises(StepFailed, match=f"The report of run {run} can't be made"):
        publishing.publish(store.opened, run, InlineBackend().page_address)


def test_the_report_has_the_name_of_its_pipeline(store: Store) -> None:
    for made, name in ((scoring_run(), "scoring.html"), (Made(), "report.html")):
        run = made.log()[0]
        publishing.publish(store.opened, run, InlineBackend().page_address)
        parent = store.client.get_run(run)
        assert parent.data.tags["report"] == name
        assert name in store.artifacts(parent)
        assert store.artifact(parent, name).read_text() == render.render(read(run))
