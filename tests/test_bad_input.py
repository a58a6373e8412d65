"""Bad input in driver.py: the exit code, a one-line message, no run left running, and no table.

The tests of each module check the rules in detail. `WRITE_PAGE=1 pytest tests/test_bad_input.py` writes
docs/bad-input.md. Without WRITE_PAGE, each test compares its message with its line of that page.
"""

import datetime as dt
import gzip
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

Prepare = Callable[..., tuple[Result, list[str]]]
Content = str | bytes | pl.DataFrame | None
INFINITY = float("inf")
PAGE = ROOT / "docs" / "bad-input.md"
HEAD = """# Bad input

This page lists invalid inputs, the message of driver.py for each, and its exit code.
`tests/test_bad_input.py` writes the page and checks each line of it.
No input leaves a table, or a run that stays RUNNING.
Paths are shortened to `...`, and messages to 160 characters.
The first word of an input is its name in that file; the rest are settings (`--set`).
[data.md](data.md#what-stops-and-what-it-says) has the rules.

| input | message | exit code |
|---|---|---|
"""
WARNINGS = """
## Warnings

These inputs stop nothing.
The terminal shows the first three and the number of warnings; prepare_data's log and `data_warnings.json` list them.
The [quality gate](qa.md) reports a column that gives the label away, and drift since the champion's data.

| input | message |
|---|---|
"""


@dataclass(frozen=True)
class Case:
    """A source (CSV text, Parquet rows, or none) with settings, and the message that they cause."""

    name: str
    content: Content
    message: str
    settings: str = ""
    file: str = ""  # the file's name if it isn't cells.csv or rows.parquet


def rows(**columns: list[object]) -> pl.DataFrame:
    """Return 40 good rows; `columns` replaces or adds columns, and repeats each list to 40 cells."""
    good = {"id": list(range(40)), "x": [i / 7 for i in range(40)], "label": [0, 1]}
    filled = {name: (cells * 40)[:40] for name, cells in {**good, **columns}.items()}
    return pl.DataFrame(filled, strict=False)


def many_rows(**columns: list[object]) -> pl.DataFrame:
    """Return 1,000 good rows; `columns` replaces or adds columns."""
    good = {"id": list(range(1000)), "x": [i * 7 % 999 / 7 for i in range(1000)], "label": [0, 1] * 500}
    return pl.DataFrame({**good, **columns}, strict=False)


def csv(header: str, *lines: str) -> str:
    """Return a CSV of 40 lines that repeats `lines`; `{i}` is the line's number."""
    body = [lines[i % len(lines)].replace("{i}", str(i)) for i in range(40)]
    return "\n".join([header, *body]) + "\n"


GOOD = csv("id,x,label", "{i},1.5,no", "{i},2.5,yes")
FILE = [
    Case("csv-empty", "", "cells.csv is empty"),
    Case("csv-header-only", "id,x,label\n", "The source has too few rows: 0."),
    Case("csv-one-row", "id,x,label\n1,2,0\n", "The source has too few rows: 1."),
    Case("csv-short-line", GOOD + "41,2\n", "line 42 has 2 cells, but the header has 3: '41,2'"),
    Case("csv-long-line", GOOD + "41,2,no,9\n", "line 42 has 4 cells, but the header has 3: '41,2,no,9'"),
    Case("csv-open-quote", GOOD + '41,"2,no\n', "line 42 has a quote that is never closed"),
    Case("csv-not-utf-8", GOOD.replace("yes", "é").encode("latin-1"), "is not a CSV in UTF-8"),
    Case("csv-in-utf-16", GOOD.encode("utf-16"), "It is in UTF-16"),
    Case("csv-spark-quotes", GOOD + '41,"2\\"","no"\n', "It has a backslash before a quote, as Spark writes it."),
    Case("csv-gzip-cut", gzip.compress(GOOD.encode())[:-9], "cells.csv is damaged"),
    Case("csv-zip", b"PK\x03\x04" + bytes(99), "is a zip archive or an Excel workbook"),
    Case("csv-too-many-columns", GOOD + "41,2\n", "The source has 3 columns, but data.max_c", "data.max_columns=2"),
    Case("csv-header-without-end", "a" * 9 * 2**20, "the header has more than 8 MB"),
    Case("csv-is-parquet", b"PAR1" + bytes(200) + b"PAR1", "is not a CSV in UTF-8"),
    Case("csv-other-separator", GOOD.replace(",", ";"), "Set data.source.separator, perhaps to ';'"),
    Case("csv-name-twice", csv("id,x,x,label", "{i},1,2,0", "{i},1,2,1"), "the header has two columns named x."),
    Case("parquet-is-text", GOOD, "rows.parquet is not a Parquet file", file="rows.parquet"),
    Case("parquet-too-many-columns", rows(), "The source has 3 columns, but data.max_columns", "data.max_columns=2"),
    Case("parquet-empty", rows().clear(), "The source has too few rows: 0."),
    Case(
        "parquet-duration",
        rows(waited=[dt.timedelta(1)]),
        "rows.parquet has type duration[us], which can't be a feature. Write it as a number",
    ),
    Case("unknown-suffix", GOOD, "ends in .xlsx. Set data.source.format", file="cells.xlsx"),
    Case("name-passed-over", GOOD, "Spark passes over names with _ or . in front. Rename", file="_cells.csv"),
    Case("pattern-in-the-name", GOOD, "as a pattern. Rename the file", file="cells[1].csv"),
    Case("not-a-delta-table", GOOD, "is not a Delta table: it has no _delta_log", "data.source.format=delta"),
]
COLUMNS = [
    Case("names-in-two-forms", rows(**{"caf\xe9": [1.0], "cafe\u0301": [1.0]}), "would get the same name, 'caf\xe9'"),
    Case("names-by-case", rows(X=[1.0]), "Columns 'x' and 'X' would get the same name"),
    Case("feature-inf", rows(x=[1.0, INFINITY]), "Column x: 20 of 40 values are infinite ("),
    Case("feature-beyond-float32", rows(x=[1.0, 1e39]), "Column x: 20 of 40 values are beyond the range of a 32-bit"),
    Case("feature-all-null", rows(x=[None]), "Column x is empty in all 40 rows"),
    Case("feature-all-nan", rows(x=[float("nan")]), "Column x is empty in all 40 rows"),
    Case("feature-date", rows(when=[dt.date(2024, 1, 1)]), "Column when has type date, which can't be a feature"),
    Case("feature-list", rows(many=[[1.0, 2.0]]), "Column many has type array<double>"),
    Case("feature-struct", rows(pair=[{"a": 1}]), "Column pair has type struct<a:bigint>"),
    Case("feature-binary", rows(blob=[b"a"]), "Column blob has type binary"),
    Case("numbers-as-text", rows(x=["1", "2.5"]), "Column x has numbers stored as text"),
    Case("text-among-numbers", csv("id,x,label", "{i},1,0", "{i},2,1", "{i},ten,0"), "13 of 40 values are not numbers"),
    Case(
        "thousands", csv("id,x,label", '{i},"1,234.5",0', '{i},"7,000.0",1'), "numbers in another spelling ('1,234.5',"
    ),
    Case("decimal-comma", rows(x=["1,5", "22,75"]), "Set data.source.decimal to ',', or set data.columns.x=category."),
    Case("signs", csv("id,x,label", "{i},$5,0", "{i},26 %,1"), "Remove signs such as $ and % in the source"),
    Case("question-marks", csv("id,x,label", "{i},?,0", "{i},2,1"), "20 of 40 values look like missing values ('?')"),
    Case("declared-number", rows(x=["a", "b"]), "40 of 40 values are not numbers ('", "data.columns={x: number}"),
    Case("only-the-label-left", rows(), "The source has no features. Its columns (id, x, label)", "data.drop=[x]"),
    Case(
        "drop-absent",
        rows(),
        "data.drop: the source has no column 'y'. The columns of the source are: id, x, label",
        "data.drop=[y]",
    ),
    Case("key-absent", rows(), "data.key: the source has no column 'pk'", "data.key=pk"),
    Case("key-null", rows(id=[1, None, 3, 4]), "data.key: 10 of 40 rows have no id"),
]
LABEL = [
    Case("label-absent", rows(), "no column 'target'. Set data.label to one of: id, x, label", "data.label=target"),
    Case("label-null", rows(label=[0, 1, None, 1]), "Label label: 10 of 40 rows have no label"),
    Case("label-nan", rows(label=[0.0, 1.0, float("nan"), 1.0]), "Label label: 10 of 40 rows have no label"),
    Case("label-empty-cell", csv("id,x,label", "{i},1,no", "{i},2,", "{i},3,yes"), "Label label: 13 of 40 rows"),
    Case("label-one-class", rows(label=[1]), "Label label has only one class, 1, but a classifier needs two."),
    Case("label-three-classes", rows(label=["a", "b", "c"]), "Label label has 3 classes (a, b, c)"),
    Case("label-free-text", rows(label=[f"t{i}" for i in range(40)]), "has more than 20 values"),
    Case("label-few-numbers", rows(label=[1, 2, 3, 4]), "or set data.problem=regression to predict the number"),
    Case(
        "label-nearly-a-number",
        rows(label=[*(str(i / 3) for i in range(39)), "n/k"]),
        "Label label: 1 of 40 values are not numbers ('n/k')",
    ),
    Case(
        "label-constant-number",
        rows(label=[7.5]),
        "Label label has the value 7.5 in all rows, so it can't be predicted.",
        "data.problem=regression",
    ),
    Case(
        "positive-of-a-number",
        rows(label=[i / 3 for i in range(40)]),
        "data.positive: a number has no classes. Remove data.positive=1.",
        "data.problem=regression,data.positive=1",
    ),
    Case("label-date", rows(label=[dt.date(2024, 1, 1), dt.date(2024, 1, 2)]), "Label label has type date"),
    Case("positive-unclear", rows(label=["paid", "default"]), "and paid (50%), so neither is clearly rarer. Set"),
    Case(
        "positive-absent",
        rows(label=["a", "b"]),
        "label label has no value 'c'. Set data.positive to a or b",
        "data.positive=c",
    ),
]
SPLIT = [
    Case("no-test-rows", rows(), "The test side has 0 rows with label = 0 (of 20 in all)", "data.test_fraction=0.0001"),
    Case("no-train-rows", rows(), "The training side has 0 rows with label = 0", "data.test_fraction=0.9999"),
    Case(
        "no-test-rows-of-a-number",
        rows(label=[i / 3 for i in range(40)]),
        "The test side has 0 rows (of 40 in all)",
        "data.test_fraction=0.0001",
    ),
    Case("rare-class", rows(label=[1] + [0] * 39), "rows with label = 1 (of 1 in all); at least 2 are needed"),
    Case("one-key", rows(id=[7]), "data.key: all 40 rows have the same value in column id, so they are on one side."),
]


SOURCES = [
    ("data.source.kind=file,data.source.path=/no/such/rows.csv", "/no/such/rows.csv does not exist"),
    ("data.source.kind=file,data.source.path=no/such/rows.csv", "A relative path starts at"),
    ("data.source.kind=table,data.source.table=main.sales.orders", "data.source.table: main.sales.orders can't be"),
    ("data.source.features=20000", "The source has 20,002 columns, but data.max_columns is 10,000."),
    ("data.source.rows=0", "The source has too few rows: 0."),
    ("data.source.rows=3", "rows with label"),
]
SETTINGS = [
    ("data.max_columns=0", "data.max_columns: 0 is not at least 1"),
    ("data.test_fraction=0", "data.test_fraction: 0.0 is not between 0 and 1"),
    ("data.test_fraction=1", "data.test_fraction: 1.0 is not between 0 and 1"),
    ("data.test_fraction=1.5", "data.test_fraction: 1.5 is not between 0 and 1"),
    ("data.test_fraction=-0.1", "data.test_fraction: -0.1 is not between 0 and 1"),
    ("data.test_fraction=.nan", "data.test_fraction: nan is not between 0 and 1"),
    ("data.test_fraction=a fifth", "data.test_fraction"),
    ("data.source.kind=file", "data.source.path: a source of kind file needs this key"),
    ("data.source.kind=table", "data.source.table: a source of kind table needs this key"),
    ("data.source.kind=table,data.source.table=a b; drop", "is not catalog.schema.table"),
    ("data.source.kind=excel", "data.source.kind"),
    ("data.source.format=xlsx", "data.source.format"),
    ("data.source.separator=", "data.source.separator: "),
    ("data.source.separator=--", "data.source.separator: '--' is not one character"),
    ("data.source.rows=-1", "for synthetic data, rows must be at least 0"),
    ("data.source.features=0", "features at least 1"),
    ("data.source.rows=many", "data.source.rows"),
    ("data.source.version=newest", "data.source.version"),
    ("data.source.version=-1", "data.source.version: -1 is not a version of a table"),
    ("data.source.version=12345678901234567890", "is not a version of a table"),
    ("data.source.encoding=cp1253x", "data.source.encoding: 'cp1253x' is not an encoding of text"),
    ("data.source.escape=ab", "data.source.escape: 'ab' is not a single sign"),
    ("data.label=id", "label and key must be two columns"),
    ("data.drop=[label]", "neither may be in data.drop or data.columns"),
    ("data.columns={id: number}", "neither may be in data.drop or data.columns"),
    ("data.columns={f0: date}", "data.columns"),
    ("data.labels=y", "data.labels"),
    ("data.drop=[Unnamed: 0]", "--set data.drop: YAML reads 'Unnamed: 0' as a mapping."),
    ("data.columns.petal.length=category", 'Quote a name that has dots: data.columns."petal.length"=category.'),
    ('experiment_name="\\x24{oc.env:HOME}"', "interpolations (${...}) are not allowed"),
    ("spark.engine=duckdb", "spark.engine: 'duckdb' is not one of: sail, jvm, databricks, sc://host:port"),
]


def write_source(case: Case, folder: Path) -> Path:
    path = folder / (case.file or ("rows.parquet" if isinstance(case.content, pl.DataFrame) else "cells.csv"))
    if isinstance(case.content, pl.DataFrame):
        case.content.write_parquet(path)
    elif case.content is not None:
        path.write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    return path.parent if "format=delta" in case.settings else path


@pytest.fixture(scope="module")
def opened(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return one store for all tests of this file: opening a store takes longer than refusing a file."""
    folder = tmp_path_factory.mktemp("bad_input")
    shutil.copy(migrated, folder / "mlflow.db")
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "delta")


@pytest.fixture(scope="module")
def page() -> Iterator[dict[str, list[str]]]:
    """Collect the lines of the page by section, and write the page if WRITE_PAGE is set."""
    page_lines: dict[str, list[str]] = {HEAD: [], WARNINGS: []}
    yield page_lines
    if os.environ.get("WRITE_PAGE"):
        parts = (head + "".join(f"{row}\n" for row in dict.fromkeys(rows)) for head, rows in page_lines.items())
        PAGE.write_text("".join(parts), encoding="utf-8")


def check_page_line(page: dict[str, list[str]], head: str, row: str) -> None:
    """Record the line, and check that the page has it unless WRITE_PAGE is set."""
    page[head].append(row)
    assert os.environ.get("WRITE_PAGE") or f"{row}\n" in PAGE.read_text(encoding="utf-8"), f"not in the page: {row}"


def _page_row(inputs: list[str], line: str, code: int, folder: Path) -> str:
    """Return a line of the page without the step's name, its time and this machine's paths."""
    message = re.sub(r"^  ✗ \S+ +[\d.]+ s   ", "", line)
    message = re.sub(r"more than 20 values \([^)]*\)", "more than 20 values (...)", message)  # the examples vary
    case = " ".join(part for part in inputs if part.strip("`"))
    message, case = (text.replace(str(folder), "...").replace(str(ROOT), "...") for text in (message, case))
    message = message if len(message) <= 160 else f"{message[:157]}..."
    return f"| {case} | `{message}` | {code} |".replace("\\", "\\\\")


@pytest.fixture
def prepare(opened: Store, page: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Return a function that runs prepare_data with settings, and returns the result and the new runs' status.

    The function fails if the command leaves a table or prints a traceback.
    """
    store = Store(opened.uri, tmp_path / "delta")
    use(store, monkeypatch)

    def run(message: str, *settings: str, name: str = "") -> tuple[Result, list[str]]:
        before = {run.info.run_id for run in store.runs()}
        result = drive_in(store, "--only=prepare_data", *(f"--set={setting}" for setting in settings if setting))
        assert not store.tables.exists()
        assert "Traceback" not in result.text
        lines = [line for line in result.text.splitlines() if message in line]
        assert len(lines) == 1, result.text
        row = _page_row(
            [name, *(f"`{setting}`" for setting in settings[bool(name) :])], lines[0], result.code, tmp_path
        )
        check_page_line(page, HEAD, row)
        return result, [run.info.status for run in store.runs() if run.info.run_id not in before]

    return run


@pytest.mark.parametrize("case", FILE + COLUMNS + LABEL + SPLIT, ids=lambda case: case.name)
def test_bad_data_gives_exit_code_3_one_message_and_no_table(prepare: Prepare, tmp_path: Path, case: Case) -> None:
    source = write_source(case, tmp_path)
    result, runs = prepare(
        case.message, f"data.source.kind=file,data.source.path={source}", case.settings, name=case.name
    )
    assert result.code == 3, result.text
    assert set(runs) <= {"FAILED"}


@pytest.mark.parametrize(("settings", "message"), SOURCES)
def test_an_unusable_source_gives_exit_code_3(prepare: Prepare, settings: str, message: str) -> None:
    result, runs = prepare(message, settings)
    assert result.code == 3, result.text
    assert set(runs) <= {"FAILED"}


REFUSED_EARLY = ["gone.csv", "empty.csv", "rows.xlsx", "rows[1].csv"]


@pytest.mark.parametrize("name", REFUSED_EARLY)
def test_an_unusable_file_is_refused_before_any_run(prepare: Prepare, tmp_path: Path, name: str) -> None:
    if name != "gone.csv":
        (tmp_path / name).write_text("" if name == "empty.csv" else GOOD)
    result, runs = prepare(str(tmp_path / name), f"data.source.kind=file,data.source.path={tmp_path / name}")
    assert result.code == 3, result.text
    assert runs == []


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_a_bad_setting_gives_exit_code_2_and_no_run(prepare: Prepare, settings: str, message: str) -> None:
    result, runs = prepare(message, settings)
    assert result.code == 2, result.text
    assert runs == []


SUSPICIOUS = [
    Case(
        "column-without-a-name",
        csv(",id,x,label", "{i},{i},1,0", "{i},{i},2,1"),
        "Column _c0 has no name in the header",
    ),
    Case("constant-column", rows(one=[1.0]), "Column one is constant: each row has the value 1.0 or no value."),
    Case(
        "id-like-column",
        many_rows(code=[f"c{i}" for i in range(1000)]),
        "Column code has a different value in each row",
    ),
    Case(
        "few-rows-many-columns", rows(**{f"f{i}": [i / 7, 1.5] for i in range(60)}), "The table has more features (61)"
    ),
    Case(
        "rare-class-among-many",
        many_rows(label=["yes" if i % 111 == 7 else "no" for i in range(1000)]),
        "training rows have label = yes.",
    ),
    Case(
        "dates-as-categories",
        rows(opened=[f"2024-01-{i % 28 + 1:02}" for i in range(40)]),
        "Column opened has dates. Each date became a category",
    ),
    Case(
        "rows-without-a-label",
        csv("id,x,label", "{i},1,no", "{i},2,", "{i},3,yes"),
        "13 of 40 rows have no label and were dropped",
        "data.missing_label=drop",
    ),
    Case("rows-in-both", rows(x=[1.0, 2.0]), "Test rows with the same features as a training row"),
]


@pytest.mark.parametrize("case", SUSPICIOUS, ids=lambda case: case.name)
def test_suspicious_data_gives_a_warning_and_the_run_continues(
    store: Store, page: dict[str, list[str]], drive: Callable[..., Result], tmp_path: Path, case: Case
) -> None:
    source = f"data.source.kind=file,data.source.path={write_source(case, tmp_path)}"
    settings = [f"--set={setting}" for setting in (source, case.settings) if setting]
    result = drive("--only=prepare_data", *settings)
    assert result.code == 0, result.text
    run = store.child("prepare_data")
    warnings = json.loads(store.artifact(run, "data_warnings.json").read_text())["data"]
    [message] = [message for *_, message in warnings if case.message in message]
    assert f" · {len(warnings)} warning" in result.out
    assert message in store.artifact(run, "prepare_data.log").read_text()
    assert f"\nwarning: {message[:150]}" in f"\n{result.out}"
    name = f"{case.name} `{case.settings}`" if case.settings else case.name
    check_page_line(page, WARNINGS, f"| {name} | `{message}` |")


@pytest.mark.skipif("WRITE_PAGE" in os.environ, reason="it is being written")
def test_the_page_lists_each_case_and_nothing_else() -> None:
    stops, warnings = PAGE.read_text(encoding="utf-8").removeprefix(HEAD).split(WARNINGS)
    assert len(stops.splitlines()) == len(FILE + COLUMNS + LABEL + SPLIT) + len(SOURCES) + len(SETTINGS) + len(
        REFUSED_EARLY
    )
    assert len(warnings.splitlines()) == len(SUSPICIOUS)
