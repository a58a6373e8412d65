"""Bad input, as a user meets it: the exit code, one line that says what and where, no run left running, no table.

The modules' own tests hold each rule in detail; this is what driver.py makes of it. docs/bad-input.md is written here
(`WRITE_PAGE=1 pytest tests/test_bad_input.py`), and each test holds its own line of it.
"""

import datetime as dt
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT, Result, Store, drive_in, use

Tell = Callable[..., tuple[Result, list[str]]]
Content = str | bytes | pl.DataFrame | None
INFINITY = float("inf")
PAGE = ROOT / "docs" / "bad-input.md"
HEAD = """# Bad input

What was put in, what is said, and driver.py's exit code. Written by `tests/test_bad_input.py`, which gives each of
these to driver.py and holds that the line is this one; no table is written in any of them, and no run stays RUNNING.
Paths are shortened to `...`, lines to 160 characters; the first word of an input is its name in that file.
[docs/data.md](data.md#what-stops-and-what-it-says) says more of them.

| input | what is said | exit code |
|---|---|---|
"""
WARNINGS = """
## Warnings

What stops nothing, and is said in prepare_data's log and in `data_warnings.json`; the terminal says how many there
are. That one column gives the label away, and that train and test drift apart, the gate says ([docs/qa.md](qa.md)).

| input | what is said |
|---|---|
"""


@dataclass(frozen=True)
class Case:
    """A source (CSV text, Parquet rows, or none) and settings; what is said of them."""

    name: str
    content: Content
    said: str
    settings: str = ""
    file: str = ""  # the file's name, where it isn't cells.csv or rows.parquet


def rows(**columns: list[object]) -> pl.DataFrame:
    """Return 40 good rows, with some columns as given: a list is repeated to 40 cells."""
    good = {"id": list(range(40)), "x": [i / 7 for i in range(40)], "label": [0, 1]}
    filled = {name: (cells * 40)[:40] for name, cells in {**good, **columns}.items()}
    return pl.DataFrame(filled, strict=False)


def many(**columns: list[object]) -> pl.DataFrame:
    """Return 1,000 good rows, with some columns as given."""
    good = {"id": list(range(1000)), "x": [i * 7 % 999 / 7 for i in range(1000)], "label": [0, 1] * 500}
    return pl.DataFrame({**good, **columns}, strict=False)


def csv(header: str, *lines: str) -> str:
    """Return a CSV of 40 lines: those given, again and again; `{i}` is the line's number."""
    body = [lines[i % len(lines)].replace("{i}", str(i)) for i in range(40)]
    return "\n".join([header, *body]) + "\n"


GOOD = csv("id,x,label", "{i},1.5,no", "{i},2.5,yes")
FILE = [
    Case("csv-empty", "", "cells.csv is empty"),
    Case("csv-header-only", "id,x,label\n", "The source has 0 rows"),
    Case("csv-one-row", "id,x,label\n1,2,0\n", "The source has 1 rows"),
    Case("csv-short-line", GOOD + "41,2\n", "line 42 has 2 cells, the header has 3: '41,2'"),
    Case("csv-long-line", GOOD + "41,2,no,9\n", "line 42 has 4 cells, the header has 3: '41,2,no,9'"),
    Case("csv-open-quote", GOOD + '41,"2,no\n', "line 42 has a quote that is never closed"),
    Case("csv-not-utf-8", GOOD.replace("yes", "é").encode("latin-1"), "is no CSV in UTF-8"),
    Case("csv-is-parquet", b"PAR1" + bytes(200) + b"PAR1", "is no CSV in UTF-8"),
    Case("csv-other-separator", GOOD.replace(",", ";"), "Set data.source.separator, perhaps to ';'"),
    Case("csv-name-twice", csv("id,x,x,label", "{i},1,2,0", "{i},1,2,1"), "the header names x twice"),
    Case("parquet-is-text", GOOD, "rows.parquet is no Parquet file", file="rows.parquet"),
    Case("parquet-empty", rows().clear(), "The source has 0 rows"),
    Case("unknown-suffix", GOOD, "ends in .xlsx. Set data.source.format", file="cells.xlsx"),
    Case("pattern-in-the-name", GOOD, "for a pattern. Rename the file", file="cells[1].csv"),
    Case("not-a-delta-table", GOOD, "is no Delta table: it has no _delta_log", "data.source.format=delta"),
]
COLUMNS = [
    Case("names-by-case", rows(X=[1.0]), "Columns 'x' and 'X' would have one name"),
    Case("feature-inf", rows(x=[1.0, INFINITY]), "Column x: 20 of 40 values are infinite ("),
    Case("feature-beyond-float32", rows(x=[1.0, 1e39]), "Column x: 20 of 40 values are beyond what a 32-bit"),
    Case("feature-all-null", rows(x=[None]), "Column x is empty in all 40 rows"),
    Case("feature-all-nan", rows(x=[float("nan")]), "Column x is empty in all 40 rows"),
    Case("feature-date", rows(when=[dt.date(2024, 1, 1)]), "Column when is of type date, which is no feature"),
    Case("feature-list", rows(many=[[1.0, 2.0]]), "Column many is of type array<double>"),
    Case("feature-struct", rows(pair=[{"a": 1}]), "Column pair is of type struct<a:bigint>"),
    Case("feature-binary", rows(blob=[b"a"]), "Column blob is of type binary"),
    Case("numbers-as-text", rows(x=["1", "2.5"]), "Column x holds numbers stored as text"),
    Case("text-among-numbers", csv("id,x,label", "{i},1,0", "{i},2,1", "{i},ten,0"), "13 of 40 values are no numbers"),
    Case("declared-number", rows(x=["a", "b"]), "40 of 40 values are no numbers ('", "data.columns={x: number}"),
    Case("only-the-label-left", rows(), "The source has no feature: only id, x, label", "data.drop=[x]"),
    Case("drop-absent", rows(), "data.drop: the source has no column 'y'. Its columns: id, x, label", "data.drop=[y]"),
    Case("key-absent", rows(), "data.key: the source has no column 'pk'", "data.key=pk"),
    Case("key-null", rows(id=[1, None, 3, 4]), "data.key: 10 of 40 rows have no id"),
]
LABEL = [
    Case("label-absent", rows(), "no column 'target'. Its columns: id, x, label", "data.label=target"),
    Case("label-null", rows(label=[0, 1, None, 1]), "Label label: 10 of 40 rows have none"),
    Case("label-nan", rows(label=[0.0, 1.0, float("nan"), 1.0]), "Label label: 10 of 40 rows have none"),
    Case("label-empty-cell", csv("id,x,label", "{i},1,no", "{i},2,", "{i},3,yes"), "Label label: 13 of 40 rows"),
    Case("label-one-class", rows(label=[1]), "Label label has one class, 1; a classifier needs two"),
    Case("label-three-classes", rows(label=["a", "b", "c"]), "Label label has 3 classes (a, b, c)"),
    Case("label-continuous", rows(label=[i / 3 for i in range(40)]), "has more than 20 values"),
    Case("label-date", rows(label=[dt.date(2024, 1, 1), dt.date(2024, 1, 2)]), "Label label is of type date"),
    Case("positive-absent", rows(label=["a", "b"]), "has the values a and b, not 'c'", "data.positive=c"),
]
SPLIT = [
    Case("no-test-rows", rows(), "The test side has 0 rows of class 0 (of 20 in all)", "data.test_fraction=0.0001"),
    Case("no-train-rows", rows(), "The training side has 0 rows of class 0", "data.test_fraction=0.9999"),
    Case("rare-class", rows(label=[1] + [0] * 39), "rows of class 1 (of 1 in all); at least 2 are needed"),
    Case("one-key", rows(id=[7]), "side has 0 rows of class 0 (of 20 in all)"),
]


SOURCES = [
    ("data.source.kind=file,data.source.path=/no/such/rows.csv", "/no/such/rows.csv does not exist"),
    ("data.source.kind=file,data.source.path=no/such/rows.csv", "A relative path is taken from"),
    ("data.source.kind=table,data.source.table=main.sales.orders", "data.source.table: main.sales.orders can't be"),
    ("data.source.rows=0", "The source has 0 rows"),
    ("data.source.rows=3", "rows of class"),
]
SETTINGS = [
    ("data.test_fraction=0", "data.test_fraction: 0.0 is not between 0 and 1"),
    ("data.test_fraction=1", "data.test_fraction: 1.0 is not between 0 and 1"),
    ("data.test_fraction=1.5", "data.test_fraction: 1.5 is not between 0 and 1"),
    ("data.test_fraction=-0.1", "data.test_fraction: -0.1 is not between 0 and 1"),
    ("data.test_fraction=.nan", "data.test_fraction: nan is not between 0 and 1"),
    ("data.test_fraction=a fifth", "data.test_fraction"),
    ("data.source.kind=file", "data.source.path: a source of kind file needs it"),
    ("data.source.kind=table", "data.source.table: a source of kind table needs it"),
    ("data.source.kind=table,data.source.table=a b; drop", "is not catalog.schema.table"),
    ("data.source.kind=excel", "data.source.kind"),
    ("data.source.format=xlsx", "data.source.format"),
    ("data.source.separator=", "data.source.separator: "),
    ("data.source.separator=--", "data.source.separator: '--' is not one character"),
    ("data.source.rows=-1", "synthetic rows and features are counts"),
    ("data.source.features=0", "features is at least 1"),
    ("data.source.rows=many", "data.source.rows"),
    ("data.source.version=newest", "data.source.version"),
    ("data.label=id", "label and key are two columns"),
    ("data.drop=[label]", "neither stands in data.drop or data.columns"),
    ("data.columns={id: number}", "neither stands in data.drop or data.columns"),
    ("data.columns={f0: date}", "data.columns"),
    ("data.labels=y", "data.labels"),
    ("spark.engine=duckdb", "spark.engine: 'duckdb' is none of sail, jvm, databricks, sc://host:port"),
]


def write(case: Case, folder: Path) -> Path:
    path = folder / (case.file or ("rows.parquet" if isinstance(case.content, pl.DataFrame) else "cells.csv"))
    if isinstance(case.content, pl.DataFrame):
        case.content.write_parquet(path)
    elif case.content is not None:
        path.write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    return path.parent if "format=delta" in case.settings else path


@pytest.fixture(scope="module")
def opened(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return one store for all that is tried here: opening it takes longer than to refuse a file."""
    folder = tmp_path_factory.mktemp("bad_input")
    shutil.copy(migrated, folder / "mlflow.db")
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "delta")


@pytest.fixture(scope="module")
def page() -> Iterator[dict[str, list[str]]]:
    """Collect the lines of the page below their heads, and write it where that is asked for."""
    found: dict[str, list[str]] = {HEAD: [], WARNINGS: []}
    yield found
    if os.environ.get("WRITE_PAGE"):
        parts = (head + "".join(f"{row}\n" for row in dict.fromkeys(rows)) for head, rows in found.items())
        PAGE.write_text("".join(parts), encoding="utf-8")


def hold(page: dict[str, list[str]], head: str, row: str) -> None:
    """Hold that the line stands in the page, or note it down."""
    page[head].append(row)
    assert os.environ.get("WRITE_PAGE") or f"{row}\n" in PAGE.read_text(encoding="utf-8"), f"not in the page: {row}"


def _row(given: list[str], line: str, code: int, folder: Path) -> str:
    """Return a line of the page: without the step's name and time, and without this machine's paths."""
    said = re.sub(r"^  ✗ \S+ +[\d.]+ s   ", "", line)
    said = re.sub(r"more than 20 values \([^)]*\)", "more than 20 values (...)", said)  # any that it met first
    what = " ".join(part for part in given if part.strip("`"))
    said, what = (text.replace(str(folder), "...").replace(str(ROOT), "...") for text in (said, what))
    said = said if len(said) <= 160 else f"{said[:157]}..."
    return f"| {what} | `{said}` | {code} |".replace("\\", "\\\\")


@pytest.fixture
def tell(opened: Store, page: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Return a function that runs prepare_data with settings, and gives the result and the new runs' status.

    Nothing of it may leave a table or a traceback in the terminal, whatever is wrong.
    """
    store = Store(opened.uri, tmp_path / "delta")
    use(store, monkeypatch)

    def run(said: str, *settings: str, name: str = "") -> tuple[Result, list[str]]:
        before = {run.info.run_id for run in store.runs()}
        result = drive_in(store, "--only=prepare_data", *(f"--set={setting}" for setting in settings if setting))
        assert not store.tables.exists()
        assert "Traceback" not in result.text
        lines = [line for line in result.text.splitlines() if said in line]
        assert len(lines) == 1, result.text
        row = _row([name, *(f"`{setting}`" for setting in settings[bool(name) :])], lines[0], result.code, tmp_path)
        hold(page, HEAD, row)
        return result, [run.info.status for run in store.runs() if run.info.run_id not in before]

    return run


@pytest.mark.parametrize("case", FILE + COLUMNS + LABEL + SPLIT, ids=lambda case: case.name)
def test_bad_data_ends_with_exit_code_3_and_one_line_and_no_table(tell: Tell, tmp_path: Path, case: Case) -> None:
    source = write(case, tmp_path)
    result, runs = tell(case.said, f"data.source.kind=file,data.source.path={source}", case.settings, name=case.name)
    assert result.code == 3, result.text
    assert set(runs) <= {"FAILED"}


@pytest.mark.parametrize(("settings", "said"), SOURCES)
def test_a_source_that_is_not_there_ends_so_too(tell: Tell, settings: str, said: str) -> None:
    result, runs = tell(said, settings)
    assert result.code == 3, result.text
    assert set(runs) <= {"FAILED"}


BEFORE = ["gone.csv", "empty.csv", "rows.xlsx", "rows[1].csv"]


@pytest.mark.parametrize("name", BEFORE)
def test_what_is_known_before_makes_no_run(tell: Tell, tmp_path: Path, name: str) -> None:
    if name != "gone.csv":
        (tmp_path / name).write_text("" if name == "empty.csv" else GOOD)
    result, runs = tell(str(tmp_path / name), f"data.source.kind=file,data.source.path={tmp_path / name}")
    assert result.code == 3, result.text
    assert runs == []


@pytest.mark.parametrize(("settings", "said"), SETTINGS)
def test_a_bad_setting_ends_with_exit_code_2_and_no_run(tell: Tell, settings: str, said: str) -> None:
    result, runs = tell(said, settings)
    assert result.code == 2, result.text
    assert runs == []


ODD = [
    Case("constant-column", rows(one=[1.0]), "Column one has the value 1.0 or none in each row."),
    Case("id-like-column", many(code=[f"c{i}" for i in range(1000)]), "Column code has another value in each row"),
    Case("few-rows-many-columns", rows(**{f"f{i}": [i / 7, 1.5] for i in range(60)}), "There are more features (61)"),
    Case("rare-class-among-many", many(label=[i % 111 == 7 for i in range(1000)]), "training rows are of class 1."),
    Case("rows-in-both", rows(x=[1.0, 2.0]), "Test rows that have the features of a training row"),
]


@pytest.mark.parametrize("case", ODD, ids=lambda case: case.name)
def test_odd_data_is_a_warning_that_stops_nothing(
    store: Store, page: dict[str, list[str]], drive: Callable[..., Result], tmp_path: Path, case: Case
) -> None:
    source = f"data.source.kind=file,data.source.path={write(case, tmp_path)}"
    result = drive("--only=prepare_data", f"--set={source}")
    assert result.code == 0, result.text
    run = store.child("prepare_data")
    warnings = json.loads(store.artifact(run, "data_warnings.json").read_text())["data"]
    [said] = [said for *_, said in warnings if case.said in said]
    assert f" · {len(warnings)} warning" in result.out
    assert said in store.artifact(run, "prepare_data.log").read_text()
    hold(page, WARNINGS, f"| {case.name} | `{said}` |")


@pytest.mark.skipif("WRITE_PAGE" in os.environ, reason="it is being written")
def test_the_page_has_a_line_for_each_of_these_and_no_other() -> None:
    stops, warnings = PAGE.read_text(encoding="utf-8").removeprefix(HEAD).split(WARNINGS)
    assert len(stops.splitlines()) == len(FILE + COLUMNS + LABEL + SPLIT) + len(SOURCES) + len(SETTINGS) + len(BEFORE)
    assert len(warnings.splitlines()) == len(ODD)
